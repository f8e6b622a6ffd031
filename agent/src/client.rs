//! The server's API for agents. Retries with back-off live here and nowhere else: every method
//! goes on until the server has answered, however long it is away, and registers the agent again
//! when the server does not know it. The server's refusals are passed on.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use protocol::agent::{
    Heartbeat, LeaseRequest, Leases, Logs, Orders, Register, Registered, Release, Reported,
};
use protocol::{Problem, envelope};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use sha2::Sha256;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::backoff::{self, Backoff};
use crate::held::Held;
use crate::outbox::{self, Parcel};
use crate::transport::{self, Failure, Transport};

/// For how long a request that the server does not hold may take.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long a report may take, besides what its bytes take.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Bytes a second of the slowest link over which a report is expected to arrive.
const SLOWEST_LINK: usize = 10_000;
/// What a request that the server holds may take beyond the time for which it holds it.
const MARGIN: Duration = Duration::from_secs(10);

/// The server, as one agent sees it. Cheap to clone; clones share the registration.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    registration: Arc<Registration>,
}

/// The agent's standing with the server.
#[derive(Debug)]
pub struct Registration {
    register: Register,
    held: Arc<Held>,
    /// How often the agent has registered. Whoever is told that the server does not know the agent
    /// registers it only if nobody else has since.
    count: Mutex<u64>,
    lease_millis: AtomicU64,
}

impl Registration {
    /// An agent that has not registered yet; its leases are those in `held`.
    pub fn new(register: Register, held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self {
            register,
            held,
            count: Mutex::new(0),
            lease_millis: AtomicU64::new(30_000),
        })
    }

    /// For how long a lease is good without a heartbeat.
    pub fn lease_time(&self) -> Duration {
        Duration::from_millis(self.lease_millis.load(Ordering::Relaxed))
    }
}

impl Client {
    /// The server behind `transport`, for the agent of `registration`.
    pub fn new(transport: Transport, registration: Arc<Registration>) -> Self {
        Self { transport, registration }
    }

    /// Registers the agent for the first time.
    ///
    /// # Errors
    /// When the server refuses: the token is not good, or it speaks another version.
    pub async fn register(&self) -> Result<(), Problem> {
        let mut count = self.registration.count.lock().await;
        self.register_with(&mut count).await
    }

    async fn register_with(&self, count: &mut u64) -> Result<(), Problem> {
        let leases = self.registration.held.ids();
        let register = Register { leases, ..self.registration.register.clone() };
        let mut attempts = Attempts::new("registering", &self.registration);
        let registered: Registered = loop {
            let request = self.transport.request(Method::POST, "agents").json(&register);
            match answer(request, LIMIT).await {
                Ok(registered) => break registered,
                Err(Failure::Refused(problem)) => return Err(*problem),
                Err(failure) => attempts.wait(&self.transport, &failure).await,
            }
        };
        attempts.succeeded(&self.transport);
        let lease_time = Duration::try_from_secs_f64(registered.lease_seconds).unwrap_or(LIMIT);
        let millis = u64::try_from(lease_time.as_millis()).unwrap_or(u64::MAX);
        self.registration.lease_millis.store(millis, Ordering::Relaxed);
        self.registration.held.revoke(&registered.revoked);
        *count += 1;
        Ok(())
    }

    /// Waits for leases, until the server has some or the wait of the request is over, or until
    /// `superseded`: then the answer is nothing.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn lease(
        &self,
        request: impl Fn() -> LeaseRequest,
        superseded: impl Future<Output = ()>,
    ) -> Result<Option<(Leases, Bytes)>, Problem> {
        let asking = self.persist("asking for work", || async {
            let body = request();
            let path = self.path("/lease");
            let request = self.transport.request(Method::POST, &path).json(&body);
            transport::send(request, held_for(body.wait, MARGIN)).await
        });
        // Once the head of an answer is here leases may follow: from there on it is read, not
        // given up for a better request.
        let response = tokio::select! {
            response = asking => response?,
            () = superseded => return Ok(None),
        };
        // An answer that breaks off is given again, because the leases in it are not listed as held.
        let Ok(sealed) = transport::body(response).await else { return Ok(None) };
        match envelope::open(&sealed) {
            Ok((leases, start)) => Ok(Some((leases, sealed.slice(start..)))),
            Err(error) => Err(unreadable(&error.to_string())),
        }
    }

    /// Reports finished elements.
    ///
    /// # Errors
    /// When the server will not take the report.
    pub async fn report(&self, parcels: &[Parcel]) -> Result<Reported, Problem> {
        let (report, body) = outbox::report_of(parcels);
        let sealed = envelope::seal(&report, &body).map(Bytes::from).unwrap_or_default();
        self.persist("reporting", || async {
            let request = self.transport.request(Method::POST, &self.path("/report"));
            let request = request.header(CONTENT_TYPE, envelope::MEDIA_TYPE);
            answer(request.body(sealed.clone()), upload_limit(sealed.len())).await
        })
        .await
    }

    /// Says that the agent is alive, and waits for orders; the whole answer must be here within
    /// `margin` of the time for which the server holds the request.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn heartbeat(
        &self,
        heartbeat: impl Fn() -> Heartbeat,
        margin: impl Fn() -> Duration,
    ) -> Result<Orders, Problem> {
        self.persist("sending heartbeats", || async {
            let body = heartbeat();
            let limit = held_for(body.wait, margin());
            let request = self.transport.request(Method::POST, &self.path("/heartbeat"));
            let answered = timeout(limit, answer(request.json(&body), limit)).await;
            answered.unwrap_or_else(|_| {
                Err(Failure::Unavailable {
                    what: format!("no whole answer within {} s", limit.as_secs_f64()),
                    retry_after: None,
                })
            })
        })
        .await
    }

    /// Fetches a blob into a file; its SHA-256, or what the file system said.
    ///
    /// # Errors
    /// When the server has none of that digest.
    pub async fn save_blob(
        &self,
        digest: &str,
        path: &Path,
    ) -> Result<io::Result<Sha256>, Problem> {
        self.persist("fetching a blob", || async {
            let request = self.transport.request(Method::GET, &format!("blobs/{digest}"));
            transport::save(transport::send(request, LIMIT).await?, path).await
        })
        .await
    }

    /// Tells what jobs have said.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn logs(&self, logs: &Logs) -> Result<(), Problem> {
        self.persist("sending logs", || async {
            let request = self.transport.request(Method::POST, &self.path("/logs"));
            transport::send(request.json(logs), LIMIT).await.map(drop)
        })
        .await
    }

    /// Gives leases back.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn release(&self, release: &Release) -> Result<(), Problem> {
        self.persist("releasing", || async {
            let request = self.transport.request(Method::POST, &self.path("/release"));
            transport::send(request.json(release), LIMIT).await.map(drop)
        })
        .await
    }

    /// Takes leave, trying only once: a server that does not hear it will notice.
    pub async fn leave(&self) {
        let request = self.transport.request(Method::DELETE, &self.path(""));
        match transport::send(request, MARGIN).await {
            Ok(_) | Err(Failure::UnknownAgent) => tracing::info!("left the server"),
            Err(failure) => tracing::warn!(%failure, "the server did not hear that the agent left"),
        }
    }

    /// Fetches a blob.
    ///
    /// # Errors
    /// When the server has none of that digest.
    pub async fn blob(&self, digest: &str) -> Result<Bytes, Problem> {
        self.persist("fetching a blob", || async {
            let path = format!("blobs/{digest}");
            let request = self.transport.request(Method::GET, &path);
            transport::body(transport::send(request, LIMIT).await?).await
        })
        .await
    }

    fn path(&self, rest: &str) -> String {
        format!("agents/{}{rest}", self.registration.register.id)
    }

    /// Tries until the server has answered yes or no.
    async fn persist<T, F>(&self, what: &'static str, attempt: impl Fn() -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = Attempts::new(what, &self.registration);
        loop {
            let known_as = *self.registration.count.lock().await;
            match attempt().await {
                Ok(answer) => {
                    attempts.succeeded(&self.transport);
                    return Ok(answer);
                }
                Err(Failure::UnknownAgent) => self.register_again(known_as).await?,
                Err(Failure::Refused(problem)) => return Err(*problem),
                Err(failure) => attempts.wait(&self.transport, &failure).await,
            }
        }
    }

    async fn register_again(&self, known_as: u64) -> Result<(), Problem> {
        let mut count = self.registration.count.lock().await;
        if *count > known_as {
            return Ok(());
        }
        tracing::warn!("the server does not know this agent any more; registering again");
        self.register_with(&mut count).await
    }
}

/// The problem of a server whose answers make no sense.
fn unreadable(why: &str) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: "The server's answer cannot be read".to_owned(),
        status: 502,
        detail: why.to_owned(),
        instance: None,
        errors: Vec::new(),
        element: None,
    }
}

/// How long the answer to a request may take that the server holds for `wait` seconds.
fn held_for(wait: f64, margin: Duration) -> Duration {
    Duration::try_from_secs_f64(wait).unwrap_or_default() + margin
}

/// How long the answer to a request may take that carries this many bytes.
fn upload_limit(bytes: usize) -> Duration {
    REPORT_LIMIT + Duration::from_secs((bytes / SLOWEST_LINK) as u64)
}

/// Sends a request, whose answer must begin within `limit`, and reads the answer.
async fn answer<T: DeserializeOwned>(
    request: RequestBuilder,
    limit: Duration,
) -> Result<T, Failure> {
    let response: Response = transport::send(request, limit).await?;
    let body = transport::body(response).await?;
    serde_json::from_slice(&body).map_err(|error| Failure::Unavailable {
        what: format!("the server's answer cannot be read: {error}"),
        retry_after: None,
    })
}

/// The attempts at one request.
struct Attempts {
    what: &'static str,
    backoff: Backoff,
}

impl Attempts {
    /// Waits stay below a third of a lease, so that a server that was away hears of the agent
    /// before it takes the agent for dead.
    fn new(what: &'static str, registration: &Registration) -> Self {
        Self { what, backoff: Backoff::up_to(registration.lease_time() / 3) }
    }

    async fn wait(&mut self, transport: &Transport, failure: &Failure) {
        let (what, server) = (self.what, transport.base().as_str());
        let jittered = self.backoff.next(backoff::random());
        let asked = match failure {
            Failure::Unavailable { retry_after: Some(asked), .. } => *asked,
            _ => Duration::ZERO,
        };
        // Once loudly, then once in a while: a server may be away for hours.
        if self.backoff.failures() % 20 == 1 {
            tracing::warn!(server, %failure, "{what}: no answer; trying again until there is one");
        } else {
            tracing::debug!(server, %failure, "{what}: no answer");
        }
        sleep(asked + jittered).await;
    }

    fn succeeded(&self, transport: &Transport) {
        if self.backoff.failures() > 0 {
            tracing::info!(server = transport.base().as_str(), "{}: answered again", self.what);
        }
    }
}
