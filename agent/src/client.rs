//! The server's API for agents. Retries with back-off live here and nowhere else: every method
//! goes on until the server has answered, however long it is away, and registers the agent again
//! when the server does not know it. The server's refusals are passed on.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use protocol::agent::{
    Heartbeat, LeaseRequest, Leases, Logs, Orders, Register, Registered, Release, Reported,
};
use protocol::{AgentId, DatabaseId, Problem, envelope};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use sha2::Sha256;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::attempts::Attempts;
use crate::held::Held;
use crate::parcel::{self, Parcel};
use crate::transport::{self, Failure, Transport};
use crate::upload::{Upload, upload_time};

/// For how long a request that the server does not hold may take.
const LIMIT: Duration = Duration::from_secs(30);
/// For how long a report may take, besides what its bytes take.
const REPORT_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a report that is sent again from its beginning only if it must be.
const LARGE: u64 = 256 << 10;
/// For how long the answer to a request for work is waited for that another one has superseded.
const SUPERSEDED_LIMIT: Duration = Duration::from_secs(5);
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
    /// Of the server, as far as it has said.
    database: std::sync::Mutex<Option<DatabaseId>>,
}

impl Registration {
    /// An agent that has not registered yet; its leases are those in `held`.
    pub fn new(register: Register, held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self {
            register,
            held,
            count: Mutex::new(0),
            lease_millis: AtomicU64::new(30_000),
            database: std::sync::Mutex::default(),
        })
    }

    /// The database that the server speaks for, if it has said so.
    pub fn database(&self) -> Option<DatabaseId> {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// When the server refuses: the token is not good, or it speaks another version; or when none
    /// of the servers can prove that it is one.
    pub async fn register(&self) -> Result<(), NotRegistered> {
        let mut count = self.registration.count.lock().await;
        let mut n_untrusted = 0;
        let gives_up = |failure: &Failure| {
            let is_untrusted = matches!(failure, Failure::Untrusted(_));
            n_untrusted = if is_untrusted { n_untrusted + 1 } else { 0 };
            n_untrusted == self.transport.servers().count()
        };
        self.register_unless(gives_up, &mut count).await
    }

    /// Registers the agent, unless a failure is one at which it `gives_up`.
    async fn register_unless(
        &self,
        mut gives_up: impl FnMut(&Failure) -> bool,
        count: &mut u64,
    ) -> Result<(), NotRegistered> {
        let leases = self.registration.held.ids();
        let register = Register { leases, ..self.registration.register.clone() };
        let mut attempts = Attempts::new("registering", self.registration.lease_time());
        let registered: Registered = loop {
            let server = self.transport.servers().current();
            let request = self.transport.request(Method::POST, "agents").json(&register);
            let failure = match answer(request, LIMIT).await {
                Ok(registered) => break registered,
                Err(failure) => failure,
            };
            if gives_up(&failure) || matches!(failure, Failure::Refused(_)) {
                let server = self.transport.servers().name(server).to_owned();
                return Err(NotRegistered { server, failure });
            }
            attempts.wait(&self.transport, server, &failure).await;
        };
        attempts.succeeded(&self.transport);
        let lease_time = Duration::try_from_secs_f64(registered.lease_seconds).unwrap_or(LIMIT);
        let millis = u64::try_from(lease_time.as_millis()).unwrap_or(u64::MAX);
        self.registration.lease_millis.store(millis, Ordering::Relaxed);
        self.transport.connect_for(lease_time);
        let mut database =
            self.registration.database.lock().unwrap_or_else(PoisonError::into_inner);
        *database = registered.database;
        drop(database);
        self.registration.held.revoke(&registered.revoked);
        *count += 1;
        Ok(())
    }

    /// Waits for leases, until the server has some or the wait of the request is over. A request that
    /// is `superseded` by another is not sent again, and its answer is waited for only for a moment:
    /// the server answers it with nothing when the other one comes, unless leases were on their way.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn lease(
        &self,
        request: impl Fn() -> LeaseRequest,
        superseded: &CancellationToken,
    ) -> Result<Option<(Leases, Bytes)>, Problem> {
        let asking = self.persist("asking for work", Stay::No, || async {
            if superseded.is_cancelled() {
                return std::future::pending().await;
            }
            let body = request();
            let path = self.path("/lease");
            let request = self.transport.request(Method::POST, &path).json(&body);
            transport::send(request, held_for(body.wait, MARGIN)).await
        });
        let given_up = async {
            superseded.cancelled().await;
            sleep(SUPERSEDED_LIMIT).await;
        };
        let response = tokio::select! {
            response = asking => response?,
            () = given_up => return Ok(None),
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
    pub async fn report(&self, parcels: &[Arc<Parcel>]) -> Result<Reported, Problem> {
        self.send_report(self.registration.register.id, parcels).await
    }

    /// Reports elements that another agent has finished, which is dead.
    ///
    /// # Errors
    /// When the server will not take the report.
    pub async fn report_for(
        &self,
        agent: AgentId,
        parcels: &[Arc<Parcel>],
    ) -> Result<Reported, Problem> {
        self.send_report(agent, parcels).await
    }

    async fn send_report(
        &self,
        agent: AgentId,
        parcels: &[Arc<Parcel>],
    ) -> Result<Reported, Problem> {
        let (report, bodies) = parcel::report_of(parcels);
        let head = envelope::seal(&report, &[]).map(Bytes::from).unwrap_or_default();
        let upload = Upload::new(std::iter::once(head).chain(bodies).collect());
        let is_large = upload.n_bytes() > LARGE;
        let stay = if is_large { Stay::WhileItMoves(&upload) } else { Stay::No };
        self.persist("reporting", stay, || async {
            let request = self.transport.request(Method::POST, &format!("agents/{agent}/report"));
            let request = request
                .header(CONTENT_TYPE, envelope::MEDIA_TYPE)
                .header(CONTENT_LENGTH, upload.n_bytes());
            let limit = REPORT_LIMIT + upload_time(upload.n_bytes());
            let body = if is_large { upload.begin() } else { upload.whole() };
            answer(request.body(body), limit).await
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
        self.persist("sending heartbeats", Stay::Yes, || async {
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
        self.persist("fetching a blob", Stay::Yes, || async {
            self.transport.fetch(digest, LIMIT, |response| transport::save(response, path)).await
        })
        .await
    }

    /// Tells what jobs have said.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn logs(&self, logs: &Logs) -> Result<(), Problem> {
        self.persist("sending logs", Stay::No, || async {
            let request = self.transport.request(Method::POST, &self.path("/logs"));
            transport::send(request.json(logs), LIMIT).await.map(drop)
        })
        .await
    }

    /// Whether the server has a blob; then it keeps it for a while, whether it is used or not.
    ///
    /// # Errors
    /// When the server refuses to say.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, Problem> {
        let asked = self.persist("looking for a blob", Stay::No, || async {
            let request = self.transport.request(Method::HEAD, &format!("blobs/{digest}"));
            transport::send(request, LIMIT).await.map(drop)
        });
        match asked.await {
            Ok(()) => Ok(true),
            Err(Problem { status: 404, .. }) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// Sends a blob of so many bytes from a file.
    ///
    /// # Errors
    /// When the server will not have it, or the file holds something else.
    pub async fn put_blob(&self, digest: &str, file: Arc<File>, bytes: u64) -> Result<(), Problem> {
        let upload = Upload::of_file(file, bytes);
        self.persist("sending an artifact", Stay::WhileItMoves(&upload), || async {
            let request = self.transport.request(Method::PUT, &format!("blobs/{digest}"));
            // Without a length: a file that has changed is to be refused by its digest.
            let limit = REPORT_LIMIT + upload_time(upload.n_bytes());
            transport::send(request.body(upload.begin()), limit).await.map(drop)
        })
        .await
    }

    /// Gives leases back.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn release(&self, release: &Release) -> Result<(), Problem> {
        self.persist("releasing", Stay::No, || async {
            let request = self.transport.request(Method::POST, &self.path("/release"));
            transport::send(request.json(release), LIMIT).await.map(drop)
        })
        .await
    }

    /// Takes leave, asking each server only once: one that does not hear it will notice.
    pub async fn leave(&self) {
        let servers = self.transport.servers();
        for _ in 0..servers.count() {
            let server = servers.current();
            let request = self.transport.request(Method::DELETE, &self.path(""));
            match transport::send(request, MARGIN).await {
                Ok(_) | Err(Failure::UnknownAgent) => return tracing::info!("left the server"),
                Err(failure) => {
                    tracing::warn!(%failure, "the server did not hear that the agent left");
                }
            }
            servers.leave(server);
        }
    }

    /// Fetches a blob.
    ///
    /// # Errors
    /// When the server has none of that digest.
    pub async fn blob(&self, digest: &str) -> Result<Bytes, Problem> {
        self.persist("fetching a blob", Stay::Yes, || async {
            self.transport.fetch(digest, LIMIT, transport::body).await
        })
        .await
    }

    /// The database that the server speaks for, if it has said so.
    pub fn database(&self) -> Option<DatabaseId> {
        self.registration.database()
    }

    /// Says that another agent is dead, so that what it held need not wait until that shows.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn bury(&self, agent: AgentId) -> Result<(), Problem> {
        self.persist("reporting a dead agent", Stay::No, || async {
            let request = self.transport.request(Method::DELETE, &format!("agents/{agent}"));
            transport::send(request.query(&[("dead", true)]), LIMIT).await.map(drop)
        })
        .await
    }

    fn path(&self, rest: &str) -> String {
        format!("agents/{}{rest}", self.registration.register.id)
    }

    /// Tries until a server has answered yes or no.
    async fn persist<T, F>(
        &self,
        what: &'static str,
        stay: Stay<'_>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = Attempts::new(what, self.registration.lease_time());
        let servers = self.transport.servers();
        loop {
            let known_as = *self.registration.count.lock().await;
            let server = servers.current();
            let answer = tokio::select! {
                answer = attempt() => answer,
                () = self.given_up(server, stay) => Err(Failure::Left),
            };
            match answer {
                Ok(answer) => {
                    attempts.succeeded(&self.transport);
                    return Ok(answer);
                }
                Err(Failure::UnknownAgent) => self.register_again(known_as).await?,
                Err(Failure::Refused(problem)) => return Err(*problem),
                Err(failure) => attempts.wait(&self.transport, server, &failure).await,
            }
        }
    }

    /// Waits until nothing is hoped for any more of a request to this server.
    async fn given_up(&self, server: usize, stay: Stay<'_>) {
        self.transport.servers().left(server).await;
        match stay {
            Stay::Yes => std::future::pending().await,
            Stay::WhileItMoves(upload) => {
                upload.stands_still(self.registration.lease_time() / 3).await;
            }
            Stay::No => {}
        }
    }

    async fn register_again(&self, known_as: u64) -> Result<(), Problem> {
        let mut count = self.registration.count.lock().await;
        if *count > known_as {
            return Ok(());
        }
        tracing::warn!("the server does not know this agent any more; registering again");
        let registered = self.register_unless(|_| false, &mut count).await;
        registered.map_err(|refused| match refused.failure {
            Failure::Refused(problem) => *problem,
            other => unreadable(&other.to_string()),
        })
    }
}

/// Whether a request that is on its way stays with its server though another one is asked from now
/// on: the heartbeat has got no answer there. Whoever waits does not, nor who sends a little.
#[derive(Clone, Copy, Debug)]
enum Stay<'a> {
    Yes,
    /// What is large may be why the heartbeat was late.
    WhileItMoves(&'a Upload),
    No,
}

/// The agent is not registered.
#[derive(Debug)]
pub struct NotRegistered {
    /// The server that was asked last.
    pub server: String,
    /// What it said, or why it is not trusted.
    pub failure: Failure,
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
