//! What agents are promised by a server whose writer is slow, and of reports that do not arrive as they should.

use std::collections::HashSet;
use std::path::Path;
use std::pin::pin;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use futures::{FutureExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use crate::clock::Millis;
use crate::dispatcher::decide;
use crate::http::lone_agent::{self, registration};
use crate::http::router;
use crate::state::AppState;
use crate::state::tests::{opened, opened_with};
use crate::store::agents;
use protocol::{AgentId, JobId, LeaseId, envelope};

/// A server without its timers, whose writer can be held up.
struct Slow {
    state: AppState,
    router: Router,
    token: String,
}

impl Slow {
    async fn new(folder: &Path) -> Self {
        Self::of(opened(folder).await, folder)
    }

    fn of(state: AppState, folder: &Path) -> Self {
        let token = std::fs::read_to_string(folder.join(crate::TOKEN_FILE)).unwrap();
        Self { router: router(state.clone()), state, token: token.trim().to_owned() }
    }

    async fn send(&self, uri: &str, body: Value) -> u16 {
        self.send_by(&self.token, "POST", uri, body).await.0
    }

    async fn send_by(&self, token: &str, method: &str, uri: &str, body: Value) -> (u16, Value) {
        self.send_body(token, method, uri, Body::from(body.to_string())).await
    }

    async fn send_body(&self, token: &str, method: &str, uri: &str, body: Body) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(body)
            .unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
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

    /// Leases something to an agent of one slot, as a round would.
    async fn lease(&self, id: AgentId) -> LeaseId {
        let agent = lone_agent::waiting(id);
        let now = self.state.clock.now();
        let deciding = self.state.store.write(move |tx| {
            Box::pin(async move { decide(tx, vec![agent], &HashSet::new(), now).await })
        });
        deciding.await.unwrap().unwrap().grants[0].id
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
    let register = registration(id);
    let beat = json!({"held": [], "draining": false, "wait": 0});
    for (uri, body) in
        [("/v1/agents".to_owned(), register), (format!("/v1/agents/{id}/heartbeat"), beat)]
    {
        assert_eq!(server.send_held_up(&uri, body, 2 * lease).await, 200, "{uri}");
        assert!(!server.overdue().await.contains(&id), "{uri}");
    }
}

/// Its token ends in either way while its request for work is held.
#[tokio::test]
async fn an_agent_whose_token_ends_while_it_waits_keeps_nothing_from_others() {
    for is_revoked in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let server = Slow::new(folder.path()).await;
        let new = json!({"name": "fleet", "role": "agent", "expires_in": 3600});
        let (status, made) = server.send_by(&server.token, "POST", "/v1/tokens", new).await;
        assert_eq!(status, 201, "{made}");
        let (token, token_id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
        let id = AgentId::new();
        let (status, _) = server.send_by(token, "POST", "/v1/agents", registration(id)).await;
        assert_eq!(status, 200);

        let ask = json!({"free": 1, "ahead": 0, "held": [], "known_jobs": [], "wait": 60});
        let uri = format!("/v1/agents/{id}/lease");
        let waiting = server.send_by(token, "POST", &uri, ask);
        let rest = async {
            while server.state.dispatcher.n_waiting() == 0 {
                tokio::task::yield_now().await;
            }
            if is_revoked {
                let uri = format!("/v1/tokens/{token_id}");
                assert_eq!(server.send_by(&server.token, "DELETE", &uri, json!(null)).await.0, 204);
                assert_eq!(server.state.dispatcher.n_waiting(), 0);
            } else {
                server.state.clock.not_before(server.state.clock.now() + 3_700_000);
            }
            server.state.store.settle().await;
            let map = json!({"runtime": "python", "function": "abs", "elements": [1]});
            server.send_by(&server.token, "POST", "/v1/jobs", map).await.1
        };
        let ((status, _), job) = tokio::join!(waiting, rest);
        assert_eq!(status, 401, "revoked: {is_revoked}");
        let uri = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        let (_, job) = server.send_by(&server.token, "GET", &uri, json!(null)).await;
        assert_eq!(job["elements"]["running"], 0, "revoked: {is_revoked}: {job}");
    }
}

#[tokio::test]
async fn whoever_is_said_to_be_dead_is_gone_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Slow::new(folder.path()).await;
    let (dead, other, unknown) = (AgentId::new(), AgentId::new(), AgentId::new());
    for id in [dead, other] {
        assert_eq!(server.send("/v1/agents", registration(id)).await, 200);
    }
    // Also to whom repeats it, and of whom nobody knows.
    for id in [dead, dead, unknown] {
        let uri = format!("/v1/agents/{id}?dead=true");
        assert_eq!(server.send_by(&server.token, "DELETE", &uri, json!(null)).await.0, 204);
    }
    let beat = json!({"held": [], "draining": false, "wait": 0});
    for (id, status) in [(dead, 404), (other, 200), (unknown, 404)] {
        assert_eq!(server.send(&format!("/v1/agents/{id}/heartbeat"), beat.clone()).await, status);
    }
    let uri = format!("/v1/agents/{other}?death=true");
    assert_eq!(server.send_by(&server.token, "DELETE", &uri, json!(null)).await.0, 422);
}

/// What it held is lost with it, and not given back: it may come back to it, or report it.
#[tokio::test]
async fn a_dead_agent_that_lives_goes_on_and_one_that_has_left_does_not() {
    for (ending, goes_on) in [("?dead=true", true), ("?dead=false", false), ("", false)] {
        let folder = tempfile::tempdir().unwrap();
        let server = Slow::new(folder.path()).await;
        let id = AgentId::new();
        assert_eq!(server.send("/v1/agents", registration(id)).await, 200);
        let map = json!({"runtime": "python", "function": "abs", "elements": [1]});
        assert_eq!(server.send("/v1/jobs", map).await, 202);
        let lease = server.lease(id).await;
        let uri = format!("/v1/agents/{id}{ending}");
        assert_eq!(server.send_by(&server.token, "DELETE", &uri, json!(null)).await.0, 204);
        let mut again = registration(id);
        again["leases"] = json!([lease]);
        let (_, registered) = server.send_by(&server.token, "POST", "/v1/agents", again).await;
        let revoked = if goes_on { json!([]) } else { json!([lease]) };
        assert_eq!(registered["revoked"], revoked, "{ending}");
    }
}

/// With it its elements run again, of which nobody else would tell.
#[tokio::test]
async fn who_watches_a_job_is_told_that_its_agent_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Slow::new(folder.path()).await;
    let id = AgentId::new();
    assert_eq!(server.send("/v1/agents", registration(id)).await, 200);
    let map = json!({"runtime": "python", "function": "abs", "elements": [1]});
    let (_, job) = server.send_by(&server.token, "POST", "/v1/jobs", map).await;
    let lease = server.lease(id).await;
    let dead = format!("/v1/agents/{id}?dead=true");
    assert_eq!(server.send_by(&server.token, "DELETE", &dead, json!(null)).await.0, 204);
    let job: JobId = job["id"].as_str().unwrap().parse().unwrap();
    let watcher = server.state.job_watchers.register(&job);
    let mut moved = pin!(watcher.notified());
    moved.as_mut().enable();
    let mut again = registration(id);
    again["leases"] = json!([lease]);
    assert_eq!(server.send("/v1/agents", again).await, 200);
    assert!(moved.now_or_never().is_some());
}

/// A report of a value of 2 MB under a lease that does not exist, and that value's digest.
fn large_report() -> (Vec<u8>, String) {
    let value = vec![b'7'; 2_000_000];
    let piece = json!({"lease": LeaseId::new(), "job": JobId::new(), "first": 0, "lengths": [value.len()],
        "slot": 0, "pid": 1, "started_at": 1, "seconds": 0.5});
    let digest = format!("sha256:{}", crate::blobs::hex_digest(&value));
    (envelope::seal(&json!({"pieces": [piece]}), &value).unwrap(), digest)
}

#[tokio::test]
async fn a_report_is_stored_whole_or_not_at_all_and_says_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Slow::of(opened_with(folder.path(), &["--max-body", "4MiB"]).await, folder.path());
    let id = AgentId::new();
    assert_eq!(server.send("/v1/agents", registration(id)).await, 200);
    let (sealed, digest) = large_report();
    let blob = format!("/v1/blobs/{digest}");
    let n = sealed.len();
    let parts = |end: usize| {
        let parts: Vec<_> = sealed[..end].chunks(300_000).map(|part| Ok(part.to_vec())).collect();
        parts.into_iter().map(|part: Result<_, std::io::Error>| part)
    };
    let cut = parts(n - 1).chain([Err(std::io::Error::other("gone"))]);
    let cases = [
        (Body::from_stream(stream::iter(cut)), 400, "ends early"),
        (Body::from_stream(stream::iter(parts(n - 1))), 400, "ends early"),
        (Body::from(sealed[..n - 1].to_vec()), 422, "sum to 2000000 bytes, the body holds 1999999"),
        (Body::from([&sealed[..], &vec![0; 4 << 20]].concat()), 413, "--max-body"),
        (Body::from("x"), 400, "not a report"),
    ];
    let report = format!("/v1/agents/{id}/report");
    for (body, status, why) in cases {
        let (found, problem) = server.send_body(&server.token, "POST", &report, body).await;
        assert!(
            found == status && problem.to_string().contains(why),
            "{found}, not {status}: {problem}"
        );
        assert_eq!(server.send_by(&server.token, "HEAD", &blob, json!({})).await.0, 404);
    }
    for body in [Body::from_stream(stream::iter(parts(n))), Body::from(sealed.clone())] {
        let (status, judged) = server.send_body(&server.token, "POST", &report, body).await;
        assert_eq!((status, &judged["verdicts"]), (200, &json!(["stale"])));
        assert_eq!(server.send_by(&server.token, "HEAD", &blob, json!({})).await.0, 200);
    }
}
