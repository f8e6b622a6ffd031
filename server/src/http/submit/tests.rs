//! When a submission is answered, and what is done with it by then. No timer runs, and no rounds.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use protocol::AgentId;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::http::{lone_agent, router};
use crate::state::AppState;
use crate::state::tests::opened;

struct Server {
    state: AppState,
    token: String,
}

impl Server {
    async fn new(folder: &Path) -> Self {
        let state = opened(folder).await;
        let token = std::fs::read_to_string(folder.join(crate::TOKEN_FILE)).unwrap();
        Self { state, token: token.trim().to_owned() }
    }

    async fn post(&self, uri: &str, key: Option<&str>, body: Value) -> u16 {
        let mut request =
            Request::post(uri).header(AUTHORIZATION, format!("Bearer {}", self.token));
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        router(self.state.clone()).oneshot(request).await.unwrap().status().as_u16()
    }

    /// Whether all that was written would outlive the machine.
    fn is_flushed(&self) -> bool {
        self.state.store.n_flushed() == self.state.store.n_committed()
    }
}

fn map() -> Value {
    json!({"runtime": "python", "function": "lambda x: x", "elements": [1]})
}

#[tokio::test]
async fn whoever_is_told_of_a_submission_may_rely_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(folder.path()).await;
    for uri in ["/v1/jobs", "/v1/jobs?wait=0.001"] {
        server.state.store.settle().await;
        assert_eq!(server.post(uri, None, map()).await, 202);
        assert!(server.is_flushed(), "{uri}");
    }
    // One waits for its value; another one, which knows of it by its key, is told at once.
    let before = server.state.store.n_committed();
    let waiting = server.post("/v1/jobs?wait=60", Some("a-key"), map());
    let other = async {
        while server.state.store.n_committed() == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.post("/v1/jobs", Some("a-key"), map()).await, 202);
        assert!(server.is_flushed());
    };
    tokio::select! {
        status = waiting => panic!("nobody runs it: {status}"),
        () = other => {}
    }
}

#[tokio::test]
async fn who_waits_has_a_lease_in_the_transaction_of_the_submission() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(folder.path()).await;
    let id = AgentId::new();
    assert_eq!(server.post("/v1/agents", None, lone_agent::registration(id)).await, 200);
    let agent = lone_agent::waiting(id);
    let dispatcher = &server.state.dispatcher;
    let waiting = dispatcher.wait_for_work(agent, &[], Duration::from_secs(60));
    let submitting = async {
        while dispatcher.n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        server.state.store.settle().await;
        let before = server.state.store.n_committed();
        assert_eq!(server.post("/v1/jobs", None, map()).await, 202);
        server.state.store.n_committed() - before
    };
    let (given, n_commits) = tokio::join!(waiting, submitting);
    assert_eq!((given.unwrap().grants.len(), n_commits), (1, 1));
}
