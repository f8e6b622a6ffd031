//! A fake server: real HTTP on a port of its own, grants that the test chooses, and a record of
//! all that an agent says. Why not a fake client inside the agent? Because much of what can go
//! wrong goes wrong on the wire.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use protocol::agent::{
    Heartbeat, JobSpec, Lease, LeaseRequest, Leases, Logs, Orders, Register, Registered, Release,
    Report, Reported,
};
use protocol::{AgentId, LeaseId, Problem, envelope};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::record::{Outcome, Record};

/// No wait of a test is longer: what has not happened by then never will.
pub const HANG: Duration = Duration::from_secs(60);

/// A server, and all that it knows.
pub struct FakeServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    own: Arc<Own>,
    runtime: Option<Runtime>,
}

/// What one of several servers has of its own.
#[derive(Default)]
struct Own {
    /// How often it was asked anything.
    asked: AtomicU32,
    /// Takes requests and answers none.
    is_frozen: AtomicBool,
    /// Is frozen as soon as a report comes.
    freezes_at_report: AtomicBool,
    /// Refuses for now whatever is asked.
    is_stopping: AtomicBool,
}

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    changed: Notify,
}

impl FakeServer {
    pub fn start() -> Self {
        Self::with(Arc::default())
    }

    /// Starts another server, which knows and says the same as this one: they share a database.
    pub fn another(&self) -> Self {
        Self::with(Arc::clone(&self.shared))
    }

    fn with(shared: Arc<Shared>) -> Self {
        let own = Arc::default();
        let (runtime, address) = serve(&shared, &own, ([127, 0, 0, 1], 0).into());
        Self { address, shared, own, runtime: Some(runtime) }
    }

    /// How often this one was asked anything.
    pub fn asked(&self) -> u32 {
        self.own.asked.load(Ordering::SeqCst)
    }

    /// From now on it answers nothing, though it is there.
    pub fn freeze(&self) {
        self.own.is_frozen.store(true, Ordering::SeqCst);
    }

    /// From the next report on, of which it takes nothing, it answers nothing.
    pub fn freeze_at_the_next_report(&self) {
        self.own.freezes_at_report.store(true, Ordering::SeqCst);
    }

    /// From now on it answers to everything that it is stopping, also to what it holds.
    pub fn begin_to_stop(&self) {
        self.own.is_stopping.store(true, Ordering::SeqCst);
    }

    /// Ends as by a kill: the port is closed, and every connection. What it knows, it keeps.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own, because it waits until all is closed.
            let closing = std::thread::spawn(move || runtime.shutdown_timeout(HANG));
            closing.join().unwrap();
        }
    }

    /// Starts again at the same address.
    pub fn start_again(&mut self) {
        self.runtime = Some(serve(&self.shared, &self.own, self.address).0);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record.lock().unwrap()
    }

    /// Changes what the server knows or says, and wakes whoever waits.
    pub fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let changed = change(&mut self.record());
        self.shared.changed.notify_waiters();
        changed
    }

    pub fn grant(&self, lease: Lease, payload: &[u8], job: &JobSpec) {
        self.change(|record| record.grant(lease, payload, job));
    }

    /// Grants leases in one answer.
    pub fn grant_together<const N: usize>(&self, leases: [(Lease, &JobSpec); N]) {
        self.change(|record| leases.map(|(lease, job)| record.grant(lease, b"", job)));
    }

    pub fn put_blob(&self, digest: &str, bytes: &[u8]) {
        self.change(|record| record.blobs.insert(digest.to_owned(), bytes.to_vec()));
    }

    pub fn forget_the_agent(&self) {
        self.change(|record| record.knows_the_agent = false);
    }

    /// Waits until the record has what is looked for.
    pub async fn until<T>(&self, what: &str, look: impl Fn(&Record) -> Option<T>) -> T {
        let found = timeout(HANG, self.shared.until(look)).await;
        found.unwrap_or_else(|_| panic!("waited in vain until {what}"))
    }

    /// Waits until a lease has all its outcomes, in the order of their indexes.
    pub async fn outcomes(&self, lease: LeaseId) -> Vec<Outcome> {
        self.until("all outcomes are there", |record| {
            record.remaining[&lease].is_empty().then(|| record.outcomes_of(lease))
        })
        .await
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    async fn until<T>(&self, look: impl Fn(&Record) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&self.record.lock().unwrap()) {
                return found;
            }
            changed.await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let changed = change(&mut self.record.lock().unwrap());
        self.changed.notify_waiters();
        changed
    }

    /// Waits for at most `seconds` until the change has a result.
    async fn hold<T>(&self, seconds: f64, change: impl Fn(&mut Record) -> Option<T>) -> Option<T> {
        let held = async {
            loop {
                let changed = self.changed.notified();
                if let Some(answer) = change(&mut self.record.lock().unwrap()) {
                    return answer;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs_f64(seconds), held).await.ok()
    }
}

type App = State<Arc<Shared>>;

/// Listens at `address`; for port 0 at one below those that the system hands out by itself, so that
/// nobody takes it while the server is away.
fn listen(address: SocketAddr) -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if address.port() != 0 {
        // A process that some other test is just starting holds a copy of all that is open here, also of
        // the listener that was closed, until it runs its program.
        let pause = Duration::from_millis(1);
        let n_tries = HANG.as_millis() / pause.as_millis();
        let bound = (0..n_tries).find_map(|_| match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                std::thread::sleep(pause);
                None
            }
            bound => Some(bound),
        });
        return bound.expect("the address stays in use").unwrap();
    }
    // Test programs that run at the same time begin at different places.
    let start = std::process::id() % 10_000;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = u16::try_from(port).unwrap();
        if let Ok(listener) = TcpListener::bind(SocketAddr::new(address.ip(), port)) {
            return listener;
        }
    }
}

/// Serves in a runtime of its own, so that stopping it ends every connection.
fn serve(shared: &Arc<Shared>, own: &Arc<Own>, address: SocketAddr) -> (Runtime, SocketAddr) {
    let listener = listen(address);
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new()
        .route("/v1/agents", post(register))
        .route("/v1/agents/{id}/lease", post(lease))
        .route("/v1/agents/{id}/report", post(report))
        .route("/v1/agents/{id}/heartbeat", post(heartbeat))
        .route("/v1/agents/{id}/logs", post(logs))
        .route("/v1/agents/{id}/release", post(release))
        .route("/v1/agents/{id}", delete(leave))
        .route("/v1/blobs/{digest}", get(blob).put(put_blob))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(own), as_it_is))
        .with_state(Arc::clone(shared));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        axum::serve(listener, routes).await.unwrap();
    });
    (runtime, address)
}

/// Answers as a server in this state does.
async fn as_it_is(State(own): State<Arc<Own>>, request: Request, next: Next) -> Response {
    own.asked.fetch_add(1, Ordering::SeqCst);
    if request.uri().path().ends_with("/report") && own.freezes_at_report.load(Ordering::SeqCst) {
        own.is_frozen.store(true, Ordering::SeqCst);
    }
    let answer = match own.is_frozen.load(Ordering::SeqCst) {
        true => std::future::pending().await,
        false => next.run(request).await,
    };
    if own.is_frozen.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if own.is_stopping.load(Ordering::SeqCst) {
        let mut stopping = problem(503, "stopping");
        stopping.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("3600"));
        return stopping;
    }
    answer
}

async fn register(State(app): App, Json(register): Json<Register>) -> Response {
    app.change(|record| {
        if let Some(status) = record.refuses_registration {
            return problem(status, "unauthorized");
        }
        let revoked = record.revoked_at_registration(&register);
        record.registers.push(register);
        record.knows_the_agent = true;
        let (lease_seconds, database) = (record.lease_seconds, Some(record.database));
        Json(Registered { lease_seconds, revoked, database }).into_response()
    })
}

/// Does what is asked if the agent is known.
async fn if_known(app: &Shared, answer: impl Future<Output = Response>) -> Response {
    if app.record.lock().unwrap().knows_the_agent {
        answer.await
    } else {
        problem(404, "unknown-agent")
    }
}

async fn lease(State(app): App, Json(request): Json<LeaseRequest>) -> Response {
    if_known(&app, async {
        let number = app.change(|record| {
            record.notice_lost_grants(&request.held);
            record.lease_requests.push(request.clone());
            record.lease_requests.len()
        });
        let nothing = || envelope::seal(&Leases::default(), b"").unwrap();
        let answer = app.hold(request.wait, |record| {
            // A newer request takes the place of this one.
            let replaced = record.lease_requests.len() > number;
            match (replaced, record.late_answer) {
                (false, _) => record.next_leases(&request),
                (true, Some((late, is_time))) if late == number => {
                    is_time.then(|| record.granted_again(&request))
                }
                (true, _) => Some(nothing()),
            }
        });
        // Not reached by a request whose connection was closed.
        let answer = answer.await.unwrap_or_else(nothing);
        app.change(|record| record.answered_leases += 1);
        if app.change(|record| std::mem::take(&mut record.loses_next_lease)) {
            return broken_off();
        }
        enveloped(answer)
    })
    .await
}

async fn report(State(app): App, Path(agent): Path<AgentId>, body: Bytes) -> Response {
    // Also of an agent that is not known, as the real server does: its leases may be good.
    let (report, start) = envelope::open::<Report>(&body).unwrap();
    let payload = body[start..].to_vec();
    app.change(|record| {
        if let Some(status) = record.refuses_reports {
            return problem(status, "as-the-test-wants");
        }
        if record.largest_report.is_some_and(|largest| payload.len() > largest) {
            return problem(413, "too-large");
        }
        record.reported_for.push(agent);
        let verdicts = record.accept(&report, &payload);
        record.reports.push((report, payload));
        if record.loses_report_answers || std::mem::take(&mut record.loses_next_report_answer) {
            return broken_off();
        }
        Json(Reported { verdicts, ended: Vec::new() }).into_response()
    })
}

async fn heartbeat(State(app): App, Json(heartbeat): Json<Heartbeat>) -> Response {
    if_known(&app, async {
        let wait = heartbeat.wait;
        let fails = app.change(|record| {
            record.heartbeats.push(heartbeat);
            let fails = record.fails_heartbeats > 0;
            record.fails_heartbeats -= usize::from(fails);
            fails
        });
        if fails {
            return problem(500, "internal");
        }
        let orders = app.hold(wait, |record| {
            let orders = std::mem::take(&mut record.orders);
            (orders != Orders::default()).then_some(orders)
        });
        Json(orders.await.unwrap_or_default()).into_response()
    })
    .await
}

async fn logs(State(app): App, Json(logs): Json<Logs>) -> Response {
    if_known(&app, async {
        app.change(|record| {
            if record.most_log_entries.is_some_and(|most| logs.entries.len() > most) {
                record.refused_logs += 1;
                return problem(413, "too-large");
            }
            record.logs.push(logs);
            if std::mem::take(&mut record.loses_next_logs_answer) {
                return broken_off();
            }
            StatusCode::NO_CONTENT.into_response()
        })
    })
    .await
}

async fn release(State(app): App, Json(release): Json<Release>) -> Response {
    app.change(|record| record.take_back(release.leases));
    StatusCode::NO_CONTENT.into_response()
}

async fn leave(State(app): App) -> StatusCode {
    app.change(|record| record.left = true);
    StatusCode::NO_CONTENT
}

async fn blob(State(app): App, Path(digest): Path<String>) -> Response {
    app.change(|record| {
        record.blob_fetches += 1;
        match record.blobs.get(&digest) {
            Some(bytes) => bytes.clone().into_response(),
            None => problem(404, "not-found"),
        }
    })
}

async fn put_blob(State(app): App, Path(digest): Path<String>, body: Bytes) -> Response {
    let found = digest_of(&body);
    app.change(|record| {
        record.blobs_put.push(digest.clone());
        if let Some(status) = record.refuses_blobs {
            return problem(status, "as-the-test-wants");
        }
        if found != digest {
            return problem(422, "invalid-field");
        }
        record.blobs.insert(digest, body.to_vec());
        StatusCode::CREATED.into_response()
    })
}

/// The name of a blob of these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hex =
        sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

fn enveloped(sealed: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, envelope::MEDIA_TYPE)], sealed).into_response()
}

/// An answer whose connection breaks before its end.
fn broken_off() -> Response {
    let lost = Err::<Bytes, _>(std::io::Error::other("lost"));
    Body::from_stream(futures::stream::iter([lost])).into_response()
}

fn problem(status: u16, slug: &str) -> Response {
    let problem = Problem {
        kind: format!("urn:farrow:{slug}"),
        title: "No".to_owned(),
        status,
        detail: "as the test wants".to_owned(),
        instance: None,
        errors: Vec::new(),
        element: None,
    };
    let kind = [(header::CONTENT_TYPE, protocol::problem::MEDIA_TYPE)];
    (StatusCode::from_u16(status).unwrap(), kind, serde_json::to_vec(&problem).unwrap())
        .into_response()
}
