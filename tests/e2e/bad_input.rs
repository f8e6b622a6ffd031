//! What cannot be is refused with a problem that names the field and the remedy, and nothing else
//! suffers by it.

use serde_json::{Value, json};
use tests::{Answer, World};

/// Bytes of a body at the most, on the server of these tests.
const MAX_BODY: usize = 1 << 20;

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

    async fn check(&self, world: &World) -> Answer {
        let Self { name, says, .. } = self;
        let answer =
            world.client.send(self.method, &self.path, &self.headers, self.body.clone()).await;
        assert_eq!(answer.status, self.status, "{name}: {}", answer.text());
        let problem = answer.problem(self.status, self.slug);
        let detail = problem["detail"].as_str().expect("a detail");
        for part in says {
            assert!(detail.contains(part), "{name}: no {part:?} in {detail:?}");
        }
        if let Some(field) = self.field {
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            assert!(errors.iter().any(|e| e["field"] == field), "{name}: {problem:#}");
        }
        answer
    }
}

const UNREADABLE: (u16, &str) = (400, "bad-request");
const INVALID: (u16, &str) = (422, "invalid-field");
const UNAUTHORIZED: (u16, &str) = (401, "unauthorized");
const NOT_FOUND: (u16, &str) = (404, "not-found");
const NOT_ALLOWED: (u16, &str) = (405, "method-not-allowed");

/// A submission that is sound but for `change`, and refused for `field`.
fn submission(change: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    let mut job = json!({"runtime": "python", "function": "abs", "elements": [1]});
    for (name, value) in change.as_object().expect("an object") {
        job[name] = value.clone();
    }
    let refusal = refusal("POST", "/v1/jobs", job.to_string(), INVALID, says);
    Refusal { field: Some(field), ..refusal }
}

fn option(name: &str, value: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    submission(&json!({"options": {name: value}}), field, says)
}

fn submissions() -> Vec<Refusal> {
    let text =
        |text: &str, how, says: &[&'static str]| refusal("POST", "/v1/jobs", text, how, says);
    vec![
        text("", UNREADABLE, &["not JSON"]),
        text("{", UNREADABLE, &["not JSON", "line 1 column 1"]),
        text("runtime=r", UNREADABLE, &["not JSON"]),
        text(
            r#"{"runtime": "r", "function": "~ 1", "elements": [1]} x"#,
            UNREADABLE,
            &["goes on after its JSON"],
        ),
        text(r#"{"runtime": "r", "function": "~ 1", "elements": [1,]}"#, UNREADABLE, &["not JSON"]),
        text("\u{feff}{}", UNREADABLE, &["not JSON"]),
        text("[]", INVALID, &["body"]),
        text("null", INVALID, &["body"]),
        text("{}", INVALID, &["runtime"]),
        text(r#"{"runtime": "r", "elements": [1]}"#, INVALID, &["function"]),
        text(
            r#"{"runtime": "command", "function": "~ 1"}"#,
            INVALID,
            &["function: is a string, must be an array"],
        ),
        text(
            r#"{"runtime": "r", "function": "~ 1", "function": "~ 2", "elements": [1]}"#,
            INVALID,
            &["duplicate field", "function"],
        ),
        submission(&json!({"elments": []}), "elments", &["unknown field", "expected one of"]),
        submission(
            &json!({"runtime": "julia"}),
            "runtime",
            &["unknown variant `julia`", "`r`", "`python`"],
        ),
        submission(&json!({"runtime": 3}), "runtime", &["wrong type", "must be a word"]),
        submission(&json!({"function": ""}), "function", &["is empty", "lambda"]),
        submission(&json!({"function": " \n "}), "function", &["is empty"]),
        submission(&json!({"function": ["abs"]}), "function", &["is an array, must be a string"]),
        submission(&json!({"name": "x".repeat(201)}), "name", &["201 characters", "200"]),
        submission(&json!({"elements": 3}), "elements", &["is a number", "must be an array"]),
        submission(&json!({"elements": "abc"}), "elements", &["is a string"]),
        submission(
            &json!({"elements": {"range": [5, 1]}}),
            "elements.range",
            &["must not end before it starts"],
        ),
        text(
            r#"{"runtime": "r", "function": "~ 1", "elements": {"a": 1, "a": 2}}"#,
            INVALID,
            &["elements: has the name \"a\" twice"],
        ),
        submission(&json!({"args": [1]}), "args", &["invalid type", "an object"]),
        submission(&json!({"args": {"": 1}}), "args", &["without a name"]),
        submission(&json!({"globals": {"": 1}}), "globals", &["without a name"]),
        submission(&json!({"packages": "math"}), "packages", &["invalid type"]),
        submission(
            &json!({"packages": ["math", "a b; system('x')"]}),
            "packages[1]",
            &["not the name of a package"],
        ),
        submission(&json!({"setup": 1}), "setup", &["invalid type"]),
        submission(&json!({"plan": []}), "plan", &["not a topology", "[cluster, multisession]"]),
        submission(
            &json!({"plan": [{"strategy": "multisession"}, {"strategy": "cluster"}]}),
            "plan",
            &["not a topology"],
        ),
        submission(
            &json!({"plan": [{"strategy": "multicore"}]}),
            "plan[0].strategy",
            &["unknown variant `multicore`", "`cluster`"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster", "wrkers": 1}]}),
            "plan[0].wrkers",
            &["unknown field"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster", "workers": 0}]}),
            "plan[0].workers",
            &["must be at least 1"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster"}, {"strategy": "multisession"}], "elements": [[1], 2]}),
            "elements[1]",
            &["is a number", "must be an array"],
        ),
        option("timeut", &json!(1), "options.timeut", &["unknown field"]),
        option(
            "on_error",
            &json!("ignore"),
            "options.on_error",
            &["unknown variant `ignore`", "`collect`"],
        ),
        option("slots", &json!(0), "options.slots", &["must be at least 1"]),
        option("slots", &json!("some"), "options.slots", &["all"]),
        option("slots", &json!(-1), "options.slots", &["all"]),
        option("timeout", &json!(0), "options.timeout", &["greater than 0"]),
        option("timeout", &json!(-2.5), "options.timeout", &["greater than 0"]),
        option("timeout", &json!(1e12), "options.timeout", &["at most"]),
        option("retries", &json!(1_000_000), "options.retries", &["at most 1000"]),
        option("retries", &json!(-1), "options.retries", &["-1"]),
        option("chunk_size", &json!(0), "options.chunk_size", &["at least 1"]),
        option("scheduling", &json!(0), "options.scheduling", &["greater than 0"]),
        option("priority", &json!(1000), "options.priority", &["is 1000", "from -100 to 100"]),
        option("labels", &json!({"zone": 1}), "options.labels.zone", &["invalid type"]),
        refusal(
            "POST",
            "/v1/jobs",
            vec![b' '; MAX_BODY + 1],
            (413, "too-large"),
            &["1048576 bytes", "--max-body"],
        ),
    ]
}

fn requests() -> Vec<Refusal> {
    let get = |path: String, how, says: &[&'static str]| refusal("GET", path, "", how, says);
    let open = |name: &'static str, value: &'static str, says: &[&'static str]| {
        get("/v1/jobs".to_owned(), UNAUTHORIZED, says).header(name, value)
    };
    vec![
        open("authorization", "", &["no token", "Authorization: Bearer"]),
        open("authorization", "Bearer", &["Authorization: Bearer"]),
        open("authorization", "Basic dXNlcjpwYXNz", &["Authorization: Bearer"]),
        open("authorization", "Bearer not-the-token-at-all", &["not known", "FARROW_TOKEN"]),
        refusal("POST", "/v1/jobs", "{", UNAUTHORIZED, &["no token"]).header("authorization", ""),
        get("/v1/nothing".to_owned(), UNAUTHORIZED, &["no token"]).header("authorization", ""),
        get("/v1/nothing".to_owned(), NOT_FOUND, &["/v1/nothing", "/openapi.json"]),
        get("/v1/jobs/".to_owned(), NOT_FOUND, &[]),
        get("/v1/jobs/17".to_owned(), INVALID, &["\"17\"", "UUID"]),
        get("/v1/jobs/%ff/value".to_owned(), UNREADABLE, &["UTF-8"]),
        get(format!("/v1/jobs/{NOBODY}"), NOT_FOUND, &["no job", NOBODY]),
        get(format!("/v1/jobs/{NOBODY}/value"), NOT_FOUND, &["no job"]),
        refusal("POST", format!("/v1/jobs/{NOBODY}/cancel"), "", NOT_FOUND, &["no job"]),
        get(format!("/v1/jobs/{NOBODY}?wait=61"), INVALID, &["wait: is 61", "from 0 to 60"]),
        get(format!("/v1/jobs/{NOBODY}/value?wait=-1"), INVALID, &["wait: is -1"]),
        get(format!("/v1/jobs/{NOBODY}/value?wait=soon"), INVALID, &["wait"]),
        get(format!("/v1/jobs/{NOBODY}?wait=nan"), INVALID, &["wait"]),
        get(format!("/v1/jobs/{NOBODY}/value?wiat=1"), INVALID, &["wiat"]),
        get("/v1/jobs?limit=0".to_owned(), INVALID, &["limit: is 0", "from 1 to 1000"]),
        get("/v1/jobs?limit=1001".to_owned(), INVALID, &["limit: is 1001"]),
        get("/v1/jobs?limit=many".to_owned(), INVALID, &["limit"]),
        get("/v1/jobs?state=done".to_owned(), INVALID, &["unknown variant `done`", "`resolved`"]),
        get("/v1/jobs?after=17".to_owned(), INVALID, &["after"]),
        get("/v1/agents?dead=true".to_owned(), INVALID, &["dead"]),
        refusal("PATCH", format!("/v1/jobs/{NOBODY}"), "", NOT_ALLOWED, &["PATCH"]),
        refusal("PUT", "/v1/jobs", "", NOT_ALLOWED, &["PUT"]),
        refusal("GET", format!("/v1/jobs/{NOBODY}/cancel"), "", NOT_ALLOWED, &["GET"]),
        refusal("POST", "/healthz", "", NOT_ALLOWED, &["POST"]),
    ]
}

fn of_agents() -> Vec<Refusal> {
    let agent = |change: Value| {
        let mut agent = json!({
            "id": NOBODY, "name": "stranger", "protocol": 2, "version": "0.0.1", "slots": 1,
            "physical_cores": 1, "logical_cores": 1, "memory": 0, "runtimes": {}, "labels": {}
        });
        for (name, value) in change.as_object().expect("an object") {
            agent[name] = value.clone();
        }
        agent.to_string()
    };
    let at = |what: &str| format!("/v1/agents/{NOBODY}/{what}");
    let beat = json!({"held": [], "draining": false, "wait": 0}).to_string();
    let lease = json!({"free": 1, "held": [], "known_jobs": [], "wait": 0}).to_string();
    vec![
        refusal(
            "POST",
            "/v1/agents",
            agent(json!({"protocol": 999})),
            (409, "protocol-version"),
            &["protocol 999", "same version"],
        ),
        refusal("POST", "/v1/agents", agent(json!({"slots": 0})), INVALID, &["slots: is 0"]),
        refusal("POST", "/v1/agents", agent(json!({"id": "me"})), INVALID, &["id"]),
        refusal(
            "POST",
            "/v1/agents",
            agent(json!({"runtimes": {"perl": "5"}})),
            INVALID,
            &["perl"],
        ),
        refusal("POST", at("heartbeat"), beat, (404, "unknown-agent"), &["register again"]),
        refusal("POST", at("lease"), lease, (404, "unknown-agent"), &["register again"]),
        refusal("POST", at("lease"), "{}", INVALID, &["missing field"]),
        refusal(
            "POST",
            at("report"),
            "xx",
            UNREADABLE,
            &["not a report", "ends before its header"],
        ),
        refusal("POST", at("report"), "\u{3}\0\0\0{x}", UNREADABLE, &["not a report", "header"]),
        refusal("POST", at("drain"), "", NOT_FOUND, &["no agent"]),
        refusal("GET", "/v1/blobs/sha256:0", "", INVALID, &["64 hex digits"]),
        refusal("GET", format!("/v1/blobs/sha256:{}", "0".repeat(64)), "", NOT_FOUND, &["no blob"]),
    ]
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name_and_the_server_goes_on() {
    let mut world = World::start_with(&["--max-body", &MAX_BODY.to_string()]).await;
    let _agent = world.python_agent("one", 1).await;
    for refusal in submissions().iter().chain(&requests()).chain(&of_agents()) {
        let answer = refusal.check(&world).await;
        assert_eq!(refusal.status == 405, !answer.header("allow").is_empty(), "{}", refusal.name);
        let challenge = answer.header("www-authenticate");
        assert_eq!(refusal.status == 401, challenge.starts_with("Bearer"), "{}", refusal.name);
    }
    assert_eq!(world.client.get("/v1/jobs").await.json()["items"], json!([]), "a job was made");
    let sound = json!({"runtime": "python", "function": "abs", "elements": [-1, 2]});
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
