//! Who may call what: every route by every kind of caller, and what each sees of the others.

use std::collections::BTreeSet;
use std::path::Path;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::AUTHORIZATION;
use axum::http::{Request, StatusCode};
use protocol::agent::Report;
use protocol::rights::{AuditEntry, Role};
use protocol::{AgentId, TokenId, envelope};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{openapi_json, router};
use crate::blobs::hex_digest;
use crate::clock::Millis;
use crate::state::AppState;
use crate::state::tests::opened;
use crate::store::audit;
use crate::store::tokens::{self, NewToken};
use crate::token;

/// Every kind of caller. Jobs, blobs and agents that are asked for are those of the owner.
const CALLERS: [&str; 10] = [
    "no token",
    "malformed",
    "unknown",
    "expired",
    "revoked",
    "submit, the owner",
    "submit, another",
    "agent, the owner",
    "agent, another",
    "admin",
];

/// What each route answers to each caller, in the order of [`CALLERS`].
#[rustfmt::skip]
const MATRIX: &[(&str, [u16; 10])] = &[
    ("POST /v1/jobs",                  [401, 401, 401, 401, 401, 202, 202, 403, 403, 202]),
    ("GET /v1/jobs",                   [401, 401, 401, 401, 401, 200, 200, 403, 403, 200]),
    ("POST /v1/jobs:batch",            [401, 401, 401, 401, 401, 202, 202, 403, 403, 202]),
    ("GET /v1/jobs/{id}",              [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    // Deleting what is not there is fine; the owner's job has not ended.
    ("DELETE /v1/jobs/{id}",           [401, 401, 401, 401, 401, 409, 204, 403, 403, 409]),
    ("GET /v1/jobs/{id}/value",        [401, 401, 401, 401, 401, 202, 404, 403, 403, 202]),
    ("GET /v1/jobs/{id}/outcomes",     [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("GET /v1/jobs/{id}/events",       [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("GET /v1/jobs/{id}/logs",         [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("POST /v1/jobs/{id}/cancel",      [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("POST /v1/jobs/{id}/retry",       [401, 401, 401, 401, 401, 409, 404, 403, 403, 409]),
    // The owner had it; to another it is new.
    ("PUT /v1/blobs/{digest}",         [401, 401, 401, 401, 401, 200, 201, 403, 403, 200]),
    ("HEAD /v1/blobs/{digest}",        [401, 401, 401, 401, 401, 200, 404, 200, 200, 200]),
    ("GET /v1/blobs/{digest}",         [401, 401, 401, 401, 401, 200, 404, 200, 200, 200]),
    ("GET /v1/agents",                 [401, 401, 401, 401, 401, 200, 200, 403, 403, 200]),
    ("POST /v1/agents",                [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/drain",     [401, 401, 401, 401, 401, 403, 403, 403, 403, 202]),
    ("DELETE /v1/agents/{id}",         [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/agents/{id}/lease",     [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/report",    [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/logs",      [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/agents/{id}/heartbeat", [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/release",   [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/tokens",                [401, 401, 401, 401, 401, 403, 403, 403, 403, 201]),
    ("GET /v1/tokens",                 [401, 401, 401, 401, 401, 403, 403, 403, 403, 200]),
    ("DELETE /v1/tokens/{id}",         [401, 401, 401, 401, 401, 403, 403, 403, 403, 204]),
    ("GET /v1/audit",                  [401, 401, 401, 401, 401, 403, 403, 403, 403, 200]),
    ("GET /metrics",                   [401, 401, 401, 401, 401, 200, 200, 200, 200, 200]),
    ("GET /healthz",                   [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /readyz",                    [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /openapi.json",              [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /docs",                      [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
];

/// A server and a token for each kind of caller.
struct House {
    state: AppState,
    router: Router,
    /// The values of the header `Authorization`, by [`CALLERS`].
    authorizations: Vec<Option<String>>,
}

/// What was answered.
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

const ADA: usize = 5;
const BOB: usize = 6;
const AGENT: usize = 7;
const OTHER_AGENT: usize = 8;
const ADMIN: usize = 9;

/// A blob of the owner's.
const BLOB: &str = "[1, 2]\n";

impl House {
    async fn new(folder: &Path) -> Self {
        let state = opened(folder).await;
        let admin = std::fs::read_to_string(folder.join(crate::TOKEN_FILE)).unwrap();
        let mut house = Self { router: router(state.clone()), state, authorizations: Vec::new() };
        let now = house.state.clock.now();
        let bearer = |secret: &str| Some(format!("Bearer {secret}"));
        let revoked = house.token("revoked", Role::Submit, None).await;
        let expired = house.token("expired", Role::Submit, Some(now - 1)).await;
        let mut authorizations = vec![None, Some("Basic YTpi".to_owned()), bearer("farrow_not")];
        authorizations.extend([bearer(&expired.1), bearer(&revoked.1)]);
        for (name, role) in [
            ("ada", Role::Submit),
            ("bob", Role::Submit),
            ("agents", Role::Agent),
            ("other agents", Role::Agent),
        ] {
            authorizations.push(bearer(&house.token(name, role, None).await.1));
        }
        authorizations.push(bearer(admin.trim()));
        house.authorizations = authorizations;
        house.revoke(revoked.0).await;
        let put = format!("PUT /v1/blobs/{}", hex_digest(BLOB.as_bytes()));
        assert_eq!(house.send(ADA, &put, BLOB).await.status, 201);
        house
    }

    async fn token(&self, name: &str, role: Role, end: Option<Millis>) -> (TokenId, String) {
        let (id, secret) = (TokenId::new(), token::random().unwrap());
        let hash = token::hash(&secret);
        let new = NewToken { id, hash, name: name.to_owned(), role, expires_at: end };
        let now = self.state.clock.now();
        let created = self
            .state
            .store
            .write(move |tx| Box::pin(async move { tokens::create(tx, new, now).await }));
        assert!(created.await.unwrap());
        (id, secret)
    }

    /// Revokes a token as another server on the same database does.
    async fn revoke(&self, id: TokenId) {
        let now = self.state.clock.now();
        let revoked = self
            .state
            .store
            .write(move |tx| Box::pin(async move { tokens::revoke(tx, id, now).await }));
        revoked.await.unwrap();
    }

    async fn open(
        &self,
        caller: usize,
        route: &str,
        body: impl Into<Body>,
    ) -> axum::response::Response {
        let (method, uri) = route.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(authorization) = &self.authorizations[caller] {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    async fn send(&self, caller: usize, route: &str, body: impl Into<Body>) -> Answer {
        let answer = self.open(caller, route, body).await;
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        Answer { status, body: String::from_utf8_lossy(&body).into_owned() }
    }

    async fn submit(&self, caller: usize, job: &Value) -> String {
        let answer = self.send(caller, "POST /v1/jobs", job.to_string()).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    async fn register(&self, caller: usize, id: AgentId) -> Answer {
        self.send(caller, "POST /v1/agents", agent(id).to_string()).await
    }

    /// A cell of the matrix, with a job, a blob, an agent, a token of its own.
    async fn cell(&self, caller: usize, route: &str) -> StatusCode {
        let id = AgentId::new();
        let blob = format!("[\"{id}\"]\n");
        let mut uri = route.replace("{digest}", &hex_digest(blob.as_bytes()));
        if route.contains("{digest}") {
            let put = uri.split_once(' ').map(|(_, path)| format!("PUT {path}")).unwrap();
            assert_eq!(self.send(ADA, &put, blob.clone()).await.status, 201);
        } else if route.contains("/jobs/{id}") {
            uri = uri.replace("{id}", &self.submit(ADA, &map()).await);
        } else if route.contains("/tokens/{id}") {
            let (token, _) = self.token(&id.to_string(), Role::Submit, None).await;
            uri = uri.replace("{id}", &token.to_string());
        } else if route.contains("/agents") {
            assert_eq!(self.register(AGENT, id).await.status, 200);
            uri = uri.replace("{id}", &id.to_string());
        }
        let body = match route {
            "POST /v1/jobs" => map().to_string().into_bytes(),
            "POST /v1/jobs:batch" => json!({"jobs": [map()]}).to_string().into_bytes(),
            "PUT /v1/blobs/{digest}" => blob.into_bytes(),
            "POST /v1/agents" => agent(id).to_string().into_bytes(),
            "POST /v1/tokens" => {
                json!({"name": format!("of cell {id}"), "role": "agent"}).to_string().into_bytes()
            }
            route if route.ends_with("/lease") => {
                json!({"free": 0, "held": [], "known_jobs": [], "wait": 0}).to_string().into_bytes()
            }
            route if route.ends_with("/report") => {
                envelope::seal(&Report { pieces: Vec::new() }, &[]).unwrap()
            }
            "POST /v1/agents/{id}/logs" => {
                json!({"batch": 1, "entries": []}).to_string().into_bytes()
            }
            route if route.ends_with("/heartbeat") => {
                json!({"held": [], "draining": false, "wait": 0}).to_string().into_bytes()
            }
            route if route.ends_with("/release") => json!({"leases": []}).to_string().into_bytes(),
            _ => Vec::new(),
        };
        // Events go on: the head of the answer is what is looked at.
        self.open(caller, &uri, body).await.status()
    }

    async fn audit(&self) -> Vec<AuditEntry> {
        let read = self
            .state
            .store
            .read(|tx| Box::pin(async move { audit::list(tx, None, None, 1000).await }));
        read.await.unwrap().into_iter().map(|(_, entry)| entry).collect()
    }
}

fn map() -> Value {
    json!({"runtime": "python", "function": "lambda x: x", "elements": [1]})
}

fn agent(id: AgentId) -> Value {
    json!({
        "id": id, "name": "host", "protocol": protocol::PROTOCOL_VERSION, "version": "0", "slots": 1,
        "physical_cores": 1, "logical_cores": 1, "memory": 1, "runtimes": {"python": "3"},
        "labels": {}
    })
}

fn described() -> BTreeSet<String> {
    let description: Value = serde_json::from_str(&openapi_json()).unwrap();
    let paths = description["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

#[test]
fn it_is_said_of_every_route_who_may_call_it() {
    let said: BTreeSet<String> =
        super::ACCESS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(said, described(), "the table ACCESS is not that of the routes");
    assert_eq!(said.len(), super::ACCESS.len(), "a route stands twice in the table ACCESS");
    let shown: BTreeSet<String> = MATRIX.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(shown, described(), "a route is not tested");
}

#[tokio::test]
async fn every_route_answers_every_caller_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let mut wrong = Vec::new();
    for (route, wanted) in MATRIX {
        for (caller, wanted) in wanted.iter().enumerate() {
            let status = house.cell(caller, route).await;
            if status.as_u16() != *wanted {
                wrong.push(format!("{route} by {}: {status}, not {wanted}", CALLERS[caller]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    for (caller, says) in [
        (0, ["no token", "Authorization: Bearer"]),
        (1, ["holds no token", "Authorization: Bearer"]),
        (2, ["not known", "farrow token create"]),
        (3, ["\"expired\" has expired at 20", "farrow token create --role submit"]),
        (4, ["\"revoked\" was revoked at 20", "farrow token create --role submit"]),
    ] {
        let refused = house.send(caller, "GET /v1/jobs", "").await;
        assert_eq!(refused.json()["type"], "urn:farrow:unauthorized");
        let detail = refused.detail();
        assert!(says.iter().all(|says| detail.contains(says)), "{detail}");
    }
    for (caller, route, says) in [
        (ADA, "POST /v1/tokens", ["\"ada\" has the role `submit`", "needs the role `admin`"]),
        (AGENT, "POST /v1/jobs", ["\"agents\" has the role `agent`", "`submit` or `admin`"]),
        (ADA, "POST /v1/agents", ["the role `submit`", "`agent` or `admin`"]),
    ] {
        let refused = house.send(caller, route, "").await;
        assert_eq!(
            (refused.status, &refused.json()["type"]),
            (403, &json!("urn:farrow:forbidden"))
        );
        let detail = refused.detail();
        assert!(says.iter().all(|says| detail.contains(says)), "{detail}");
    }
}

/// Word for word: not even that it is there is told.
#[tokio::test]
async fn another_owners_job_is_as_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let none = protocol::JobId::new().to_string();
    for (route, _) in MATRIX.iter().filter(|(route, _)| route.contains("/jobs/{id}")) {
        let job = house.submit(ADA, &map()).await;
        let theirs = house.send(BOB, &route.replace("{id}", &job), "").await;
        let nothing = house.send(BOB, &route.replace("{id}", &none), "").await;
        assert_eq!(theirs.status, nothing.status, "{route}");
        assert_eq!(theirs.body.replace(&job, &none), nothing.body, "{route}");
        let status = house.send(ADA, &format!("GET /v1/jobs/{job}"), "").await;
        assert_eq!(status.json()["state"], "queued", "after {route}");
    }
    let job = house.submit(ADA, &map()).await;
    let mine = house.submit(BOB, &map()).await;
    // In its lists, among many, as what to come after.
    for (caller, wanted) in [(BOB, vec![&mine]), (ADMIN, vec![&job, &mine])] {
        let many = house.send(caller, &format!("GET /v1/jobs?id={job}&id={mine}"), "").await.json();
        let ids: Vec<&str> = many["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, wanted);
    }
    for query in ["", "?state=queued"] {
        let listed = house.send(BOB, &format!("GET /v1/jobs{query}"), "").await;
        assert!(listed.body.contains(&mine) && !listed.body.contains(&job), "{}", listed.body);
    }
    let after = |job: &str| {
        let mut after = map();
        after["after"] = json!([job]);
        after.to_string()
    };
    for route in ["POST /v1/jobs", "POST /v1/jobs:batch"] {
        let body = |job: &str| match route {
            "POST /v1/jobs" => after(job),
            _ => format!("{{\"jobs\": [{}]}}", after(job)),
        };
        let theirs = house.send(BOB, route, body(&job)).await;
        let nothing = house.send(BOB, route, body(&none)).await;
        assert_eq!((theirs.status, nothing.status), (422, 422));
        assert_eq!(theirs.body.replace(&job, &none), nothing.body);
        assert_eq!(house.send(BOB, route, body(&mine)).await.status, 202);
        assert_eq!(house.send(ADMIN, route, body(&job)).await.status, 202);
    }
}

/// To know the digest gives no right to the bytes, neither by themselves nor through a job.
#[tokio::test]
async fn a_blob_is_read_and_named_only_by_who_has_uploaded_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let digest = format!("sha256:{}", hex_digest(BLOB.as_bytes()));
    let none = format!("sha256:{}", "0".repeat(64));
    let jobs = |digest: &str| {
        let mut jobs = [map(), map(), map(), map()];
        jobs[0]["elements"] = json!({"blob": digest});
        jobs[1]["args"] = json!({"k": {"blob": digest}});
        jobs[2]["globals"] = json!({"k": {"blob": digest}});
        jobs[3]["files"] = json!({"blob": digest});
        jobs
    };
    for (theirs, nothing) in jobs(&digest).iter().zip(jobs(&none)) {
        let refused = house.send(BOB, "POST /v1/jobs", theirs.to_string()).await;
        assert_eq!(refused.status, 422, "{theirs}");
        let nothing = house.send(BOB, "POST /v1/jobs", nothing.to_string()).await;
        assert_eq!(refused.body.replace(&digest, &none), nothing.body);
        for caller in [ADA, ADMIN] {
            house.submit(caller, theirs).await;
        }
    }
    let read = format!("GET /v1/blobs/{digest}");
    assert_eq!(house.send(BOB, &read, "").await.status, 404);
    // Who can send the bytes had them. Others' uploads are not told of: to Bob it is new.
    for status in [201, 200] {
        assert_eq!(house.send(BOB, &format!("PUT /v1/blobs/{digest}"), BLOB).await.status, status);
    }
    assert_eq!(house.send(BOB, &read, "").await.body, BLOB);
    house.submit(BOB, &jobs(&digest)[0]).await;
}

#[tokio::test]
async fn an_agent_is_its_tokens_for_as_long_as_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let id = AgentId::new();
    assert_eq!(house.register(AGENT, id).await.status, 200);
    let refused = house.register(OTHER_AGENT, id).await;
    assert_eq!(refused.status, 403);
    assert!(refused.detail().contains("registered with another token"), "{}", refused.body);
    let beat = |caller| {
        let beat = json!({"held": [], "draining": false, "wait": 0}).to_string();
        house.send(
            caller,
            Box::leak(format!("POST /v1/agents/{id}/heartbeat").into_boxed_str()),
            beat,
        )
    };
    assert_eq!(beat(OTHER_AGENT).await.status, 403);

    // With another server on the same database, and after an administrator has spoken for it.
    let again = House {
        router: router(reopened(&house.state)),
        state: house.state.clone(),
        authorizations: house.authorizations.clone(),
    };
    assert_eq!(again.register(ADMIN, id).await.status, 200);
    assert_eq!(again.register(OTHER_AGENT, id).await.status, 403);
    assert_eq!(again.register(AGENT, id).await.status, 200);
    assert_eq!(beat(AGENT).await.status, 200);

    // One that registered before tokens had roles was an administrator's.
    let old = AgentId::new();
    assert_eq!(house.register(ADMIN, old).await.status, 200);
    let sql = "update agents set token_id = null where id = $1";
    let forgotten = house.state.store.write(move |tx| {
        Box::pin(async move { tx.execute(sql, crate::store::db::args![old]).await })
    });
    forgotten.await.unwrap();
    assert_eq!(again.register(AGENT, old).await.status, 403);
    assert_eq!(again.register(ADMIN, old).await.status, 200);
}

/// Another server's memory on the same database.
fn reopened(state: &AppState) -> AppState {
    AppState { tokens: std::sync::Arc::default(), ..state.clone() }
}

#[tokio::test]
async fn a_token_lets_nobody_in_from_the_moment_at_which_it_is_revoked_here() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let body = json!({"name": "temporary", "role": "submit"}).to_string();
    let created = house.send(ADMIN, "POST /v1/tokens", body).await.json();
    let mut guest = House {
        authorizations: vec![None],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    guest.authorizations[0] = Some(format!("Bearer {}", created["token"].as_str().unwrap()));
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    let path = format!("DELETE /v1/tokens/{}", created["id"].as_str().unwrap());
    assert_eq!(house.send(ADMIN, &path, "").await.status, 204);
    assert!(guest.send(0, "GET /v1/jobs", "").await.detail().contains("was revoked"));
    assert_eq!(house.send(ADMIN, &path, "").await.status, 204);
}

/// Another server revokes it: this one hears nothing, and must look again.
#[tokio::test]
async fn a_token_that_was_revoked_elsewhere_is_soon_good_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let (id, secret) = house.token("guest", Role::Submit, None).await;
    let hash: std::sync::Arc<str> = token::hash(&secret).into();
    let state = &house.state;
    let is_good = async || state.tokens.identify(&state.store, &state.clock, &hash).await.is_ok();
    assert!(is_good().await);
    house.revoke(id).await;
    let soon = async {
        while is_good().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), soon).await.unwrap();
}

/// Also while what is known of it is trusted.
#[tokio::test]
async fn a_token_ends_with_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let end = house.state.clock.now() + 3_600_000;
    let (_, secret) = house.token("guest", Role::Submit, Some(end)).await;
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    house.state.clock.not_before(end);
    assert!(guest.send(0, "GET /v1/jobs", "").await.detail().contains("has expired"));
}

/// A wait may be longer than the life of the token with which it began.
#[tokio::test]
async fn who_waits_with_a_token_that_is_revoked_meanwhile_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let (id, secret) = house.token("guest", Role::Submit, None).await;
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    let job = guest.submit(0, &map()).await;
    let route = format!("GET /v1/jobs/{job}/value?wait=60");
    let waiting = guest.send(0, &route, "");
    let ending = async {
        while house.state.metrics.n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let revoke = format!("DELETE /v1/tokens/{id}");
        assert_eq!(house.send(ADMIN, &revoke, "").await.status, 204);
        let cancel = format!("POST /v1/jobs/{job}/cancel");
        assert_eq!(house.send(ADMIN, &cancel, "").await.status, 200);
    };
    let (answer, ()) = tokio::join!(waiting, ending);
    assert_eq!(answer.status, 401, "{}", answer.body);
}

#[tokio::test]
async fn the_last_administrator_cannot_lock_everybody_out() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let listed = house.send(ADMIN, "GET /v1/tokens", "").await.json();
    let is_admin = |token: &&Value| token["role"] == "admin";
    let admin = listed["items"].as_array().unwrap().iter().find(is_admin).unwrap();
    let revoke = format!("DELETE /v1/tokens/{}", admin["id"].as_str().unwrap());
    let refused = house.send(ADMIN, &revoke, "").await;
    assert_eq!(refused.status, 409);
    assert!(refused.detail().contains("farrow token create --role admin"), "{}", refused.body);
    house.token("another", Role::Admin, None).await;
    assert_eq!(house.send(ADMIN, &revoke, "").await.status, 204);
    assert_eq!(house.send(ADMIN, "GET /v1/tokens", "").await.status, 401);
}

#[tokio::test]
async fn bad_tokens_are_refused_with_the_field_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    for (body, says) in [
        (json!({"name": " ", "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": "a\nb", "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": "a".repeat(101), "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": TokenId::new(), "role": "submit"}), "name: is a UUID"),
        (json!({"name": "x", "role": "root"}), "role: unknown variant `root`"),
        (
            json!({"name": "x", "role": "agent", "expires_in": 0}),
            "expires_in: is 0, must be seconds",
        ),
        (json!({"name": "x", "role": "agent", "expires_in": 1e10}), "expires_in: is 10000000000"),
        (json!({"name": "x", "role": "agent", "expires": 5}), "expires"),
    ] {
        let refused = house.send(ADMIN, "POST /v1/tokens", body.to_string()).await;
        assert_eq!(refused.status, 422, "{body}");
        assert!(refused.detail().contains(says), "{body}: {}", refused.detail());
    }
    let taken = json!({"name": " ada ", "role": "submit"}).to_string();
    let refused = house.send(ADMIN, "POST /v1/tokens", taken).await;
    assert_eq!(refused.status, 409);
    assert!(refused.detail().contains("called \"ada\" already"), "{}", refused.body);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_kept_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let body = json!({"name": "guest", "role": "submit", "expires_in": 60}).to_string();
    let created = house.send(ADMIN, "POST /v1/tokens", body).await;
    let secret = created.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(secret.len(), "farrow_".len() + 64);
    assert!(!created.json()["expires_at"].is_null());
    for route in ["GET /v1/tokens", "GET /v1/audit"] {
        let read = house.send(ADMIN, route, "").await;
        assert!(!read.body.contains(&secret) && !read.body.contains(&token::hash(&secret)));
    }
    let database = std::fs::read(folder.path().join("farrow.db")).unwrap();
    let journal = std::fs::read(folder.path().join("farrow.db-wal")).unwrap_or_default();
    let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    assert!(!is_in(&database) && !is_in(&journal));
    // Used or not is told at once, by the server at which it was.
    let listed = house.send(ADMIN, "GET /v1/tokens?name=guest", "").await.json();
    assert!(listed["items"][0]["last_used_at"].is_null(), "{listed}");
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    let listed = house.send(ADMIN, "GET /v1/tokens?name=guest", "").await.json();
    assert!(listed["items"][0]["last_used_at"].is_string(), "{listed}");
}

#[tokio::test]
async fn every_act_is_in_the_audit_log_once() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let job = house.submit(ADA, &map()).await;
    let id = AgentId::new();
    house.register(AGENT, id).await;
    for _ in 0..2 {
        house.send(ADA, &format!("POST /v1/jobs/{job}/cancel"), "").await;
    }
    let mut retried = String::new();
    for _ in 0..2 {
        let answer = house.send(ADMIN, &format!("POST /v1/jobs/{job}/retry"), "").await;
        retried = answer.json()["id"].as_str().unwrap().to_owned();
    }
    for _ in 0..2 {
        house.send(ADA, &format!("DELETE /v1/jobs/{job}"), "").await;
        house.send(BOB, &format!("POST /v1/jobs/{retried}/cancel"), "").await;
    }
    house.send(ADMIN, &format!("POST /v1/agents/{id}/drain"), "").await;
    let body = json!({"name": "guest", "role": "submit"}).to_string();
    let token = house.send(ADMIN, "POST /v1/tokens", body).await.json()["id"].clone();
    let token = token.as_str().unwrap().to_owned();
    for _ in 0..2 {
        house.send(ADMIN, &format!("DELETE /v1/tokens/{token}"), "").await;
    }
    let mut told: Vec<_> = house
        .audit()
        .await
        .into_iter()
        .map(|entry| (entry.token_name, entry.action.as_str(), entry.object))
        .collect();
    told.reverse();
    let admin = "first administrator";
    let wanted = [
        ("ada", "job-submitted", &job),
        ("ada", "job-cancelled", &job),
        (admin, "job-retried", &job),
        (admin, "job-submitted", &retried),
        ("ada", "job-deleted", &job),
        (admin, "agent-drained", &id.to_string()),
        (admin, "token-created", &token),
        (admin, "token-revoked", &token),
    ];
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|(name, action, id)| (name.to_owned(), action, id.clone()))
        .collect();
    assert_eq!(told, wanted);

    // The retry is the owner's, whoever has asked for it.
    assert_eq!(house.send(ADA, &format!("GET /v1/jobs/{retried}"), "").await.status, 200);
    // By object, in pages.
    let of_job = house.send(ADMIN, &format!("GET /v1/audit?object={job}&limit=3"), "").await.json();
    assert_eq!(of_job["items"].as_array().unwrap().len(), 3);
    let next = of_job["next"].as_str().unwrap();
    let rest = format!("GET /v1/audit?object={job}&after={next}");
    let rest = house.send(ADMIN, &rest, "").await.json();
    assert_eq!(rest["items"][0]["action"], "job-submitted");
    assert_eq!(rest["next"], Value::Null);
    let refused = house.send(ADMIN, "GET /v1/audit?after=x", "").await;
    assert!(refused.detail().contains("`next`"), "{}", refused.body);
}
