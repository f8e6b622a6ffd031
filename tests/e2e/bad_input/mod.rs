//! What cannot be is refused with a problem that names the field and the remedy, and nothing else
//! suffers by it.

mod requests;
mod semantics;
mod submissions;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::World;

/// Bytes of a body at the most, on the server of these tests.
const MAX_BODY: usize = 1 << 20;

/// Bytes of a blob at the most, on that server.
const MAX_BLOB: usize = 1000;

/// The blob that is there, and its digest: neither JSON nor frames.
const TEXT: &str = "no\n";
const BLOB: &str = "sha256:564739ea8fa5926d4fa5c9734fed462061960a22e6b8d5c06e94969d97891bf2";

/// The digest of a blob that is not there.
const NO_BLOB: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A UUID that is nobody's id.
const NOBODY: &str = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";

/// A request and how it is refused.
struct Refusal {
    name: String,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    slug: &'static str,
    /// What the problem's detail has to say.
    says: Vec<&'static str>,
    /// The field at fault, if one is.
    field: Option<&'static str>,
}

fn refusal(
    method: &'static str,
    path: impl Into<String>,
    body: impl Into<Vec<u8>>,
    (status, slug): (u16, &'static str),
    says: &[&'static str],
) -> Refusal {
    let path = path.into();
    let (body, says) = (body.into(), says.to_vec());
    let name = format!("{method} {path} {}", String::from_utf8_lossy(&body[..body.len().min(200)]));
    Refusal { name, method, path, headers: Vec::new(), body, status, slug, says, field: None }
}

impl Refusal {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What is wrong with the answer; nothing, if it is refused as it should be.
    async fn complaints(&self, world: &World) -> Vec<String> {
        let answer =
            world.client.send(self.method, &self.path, &self.headers, self.body.clone()).await;
        let mut complaints = Vec::new();
        let mut unless = |fine: bool, what: String| {
            if !fine {
                complaints.push(format!(
                    "{}: {what} in {} {}",
                    self.name,
                    answer.status,
                    answer.text()
                ));
            }
        };
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_problem = answer.header("content-type") == "application/problem+json";
        unless(is_problem && answer.status == self.status, format!("no problem {}", self.status));
        unless(problem["status"] == self.status, "another status".to_owned());
        unless(problem["type"] == format!("urn:farrow:{}", self.slug), format!("no {}", self.slug));
        unless(problem["instance"].is_string(), "no instance".to_owned());
        let detail = problem["detail"].as_str().unwrap_or_default();
        for part in &self.says {
            unless(detail.contains(part), format!("no {part:?}"));
        }
        if let Some(field) = self.field {
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            unless(errors.iter().any(|e| e["field"] == field), format!("no field {field}"));
        }
        unless((self.status == 405) != answer.header("allow").is_empty(), "Allow".to_owned());
        let is_challenge = answer.header("www-authenticate").starts_with("Bearer");
        unless((self.status == 401) == is_challenge, "WWW-Authenticate".to_owned());
        complaints
    }
}

const UNREADABLE: (u16, &str) = (400, "bad-request");
const INVALID: (u16, &str) = (422, "invalid-field");
const UNAUTHORIZED: (u16, &str) = (401, "unauthorized");
const NOT_FOUND: (u16, &str) = (404, "not-found");
const NOT_ALLOWED: (u16, &str) = (405, "method-not-allowed");

fn all() -> Vec<Refusal> {
    [
        submissions::submissions(),
        semantics::of_options(),
        semantics::of_commands_and_calls(),
        semantics::of_blobs_and_others(),
        semantics::of_batches(),
        requests::requests(),
        requests::of_agents(),
        requests::of_blobs(),
        requests::of_keys(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_the_server_goes_on() {
    let (max_body, max_blob) = (MAX_BODY.to_string(), MAX_BLOB.to_string());
    let mut world = World::start_with(&["--max-body", &max_body, "--max-blob", &max_blob]).await;
    let _agent = world.python_agent("one", 1).await;
    let sound = json!({"runtime": "python", "function": "abs", "elements": [-1, 2]});
    let before = world.client.submit(&sound).await;
    let put = world.client.send("PUT", &format!("/v1/blobs/{BLOB}"), &[], TEXT.into()).await;
    assert_eq!(put.status, 201, "{}", put.text());

    let refusals = all();
    let names: BTreeSet<_> =
        refusals.iter().map(|refusal| (&refusal.name, &refusal.headers)).collect();
    assert_eq!(names.len(), refusals.len(), "the same refusal twice");
    let mut complaints = Vec::new();
    for refusal in &refusals {
        complaints.extend(refusal.complaints(&world).await);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));

    let jobs = world.client.get("/v1/jobs").await.json();
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(1), "a job was made: {jobs:#}");
    assert_eq!(world.client.value(&before).await, json!([1, 2]));
    assert_eq!(world.client.run(&sound).await, json!([1, 2]));
    let log = world.server().stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn several_faults_are_told_at_once() {
    let world = World::start().await;
    let job = json!({
        "runtime": "r", "function": "", "elements": 7, "packages": [""],
        "options": {"slots": 0, "timeout": 0}
    });
    let problem = world.client.post("/v1/jobs", &job).await.problem(422, "invalid-field");
    let errors = problem["errors"].as_array().unwrap();
    let fields: Vec<&str> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["function", "packages[0]", "options.slots", "options.timeout", "elements"]);
}
