//! What agents are promised by a server whose writer is slow.

use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use crate::clock::Millis;
use crate::http::router;
use crate::state::AppState;
use crate::state::tests::opened;
use crate::store::agents;
use protocol::AgentId;

/// A server without its timers, whose writer can be held up.
struct Slow {
    state: AppState,
    router: Router,
    token: String,
}

impl Slow {
    async fn new(folder: &Path) -> Self {
        let state = opened(folder).await;
        let token = std::fs::read_to_string(folder.join(crate::TOKEN_FILE)).unwrap();
        Self { router: router(state.clone()), state, token: token.trim().to_owned() }
    }

    async fn send(&self, uri: &str, body: Value) -> u16 {
        let request = Request::post(uri)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Body::from(body.to_string()))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    /// Sends while the writer is held up, until the request waits for it and `late` has passed.
    async fn send_held_up(&self, uri: &str, body: Value, late: Millis) -> u16 {
        let (begun, has_begun) = oneshot::channel();
        let (go_on, may_go_on) = oneshot::channel();
        let holding = self.state.store.write(move |_| {
            Box::pin(async move {
                begun.send(()).unwrap();
                may_go_on.await.unwrap();
                Ok(())
            })
        });
        let passing = async {
            while self.state.store.n_writes_waiting() == 0 {
                tokio::task::yield_now().await;
            }
            self.state.clock.not_before(self.state.clock.now() + late);
            go_on.send(()).unwrap();
        };
        let rest = async {
            // From here on what waits for the writer is the request.
            has_begun.await.unwrap();
            tokio::join!(self.send(uri, body), passing).0
        };
        let (held, status) = tokio::join!(holding, rest);
        held.unwrap();
        status
    }

    /// The agents that the timer takes for lost.
    async fn overdue(&self) -> Vec<AgentId> {
        let now = self.state.clock.now();
        let read = self.state.store.read(|tx| Box::pin(agents::overdue(tx, now)));
        read.await.unwrap()
    }
}

/// It is told that its lease is good from now on: it must be, however long the request has waited.
#[tokio::test]
async fn who_has_just_been_answered_is_not_lost_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Slow::new(folder.path()).await;
    let lease = super::lease_millis(&server.state);
    let id = AgentId::new();
    let register = json!({"id": id, "name": "a", "protocol": protocol::PROTOCOL_VERSION, "slots": 1,
        "physical_cores": 1, "logical_cores": 1, "memory": 1, "runtimes": {}, "labels": {},
        "leases": [], "version": "0"});
    let beat = json!({"held": [], "draining": false, "wait": 0});
    for (uri, body) in
        [("/v1/agents".to_owned(), register), (format!("/v1/agents/{id}/heartbeat"), beat)]
    {
        assert_eq!(server.send_held_up(&uri, body, 2 * lease).await, 200, "{uri}");
        assert!(!server.overdue().await.contains(&id), "{uri}");
    }
}
