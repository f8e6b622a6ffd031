//! Who may call what, and what each sees of the others: a server, and a token for each kind of caller.
//!
//! * [`matrix`]: every route by every kind of caller.
//! * [`owners`]: jobs, blobs and agents of others.
//! * [`tokens`]: how tokens end, and what is said of them.
//! * [`acts`]: the audit log.

mod acts;
mod matrix;
mod owners;
mod tokens;

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

use super::router;
use crate::blobs::hex_digest;
use crate::clock::Millis;
use crate::state::tests::opened;
use crate::state::{AppState, Parts};
use crate::store::audit;
use crate::store::tokens::{self as token_rows, NewToken};
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
            .write(move |tx| Box::pin(async move { token_rows::create(tx, new, now).await }));
        assert!(created.await.unwrap());
        (id, secret)
    }

    /// Revokes a token as another server on the same database does.
    async fn revoke(&self, id: TokenId) {
        let now = self.state.clock.now();
        let revoked = self
            .state
            .store
            .write(move |tx| Box::pin(async move { token_rows::revoke(tx, id, now).await }));
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

/// Another server's memory on the same database.
fn reopened(state: &AppState) -> AppState {
    Parts { tokens: std::sync::Arc::default(), ..Parts::clone(state) }.into()
}
