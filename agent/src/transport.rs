//! One request to the server, and what its answer means for trying again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::problem::{self, Problem};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::Secret;
use crate::servers::{AddressError, Servers};
use crate::storage::{Answer, Storage};
use crate::trust::{self, Trust, TrustError};

/// For how long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How many addresses of a blob in the storage are tried, before its bytes are asked for.
const ADDRESSES: usize = 2;
/// For how long the body of an answer may stand still. There is no limit for the whole: what is
/// large on a slow link would be cut off again at each attempt.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Pieces of a body that may wait to be written.
const CHUNKS_AHEAD: usize = 16;

/// The way to the servers, with what lets the agent in. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Transport {
    http: Arc<RwLock<reqwest::Client>>,
    servers: Arc<Servers>,
    how: Arc<How>,
    storage: Arc<Storage>,
}

/// How connections are made.
#[derive(Debug)]
struct How {
    authorization: HeaderValue,
    trust: Trust,
}

/// Why a request was not answered as it was meant to be.
#[derive(Debug, Error)]
pub enum Failure {
    /// The server does not know the agent.
    #[error("the server does not know this agent")]
    UnknownAgent,
    /// The server has heard the request and will not do it.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// What answers at the server's address cannot prove over TLS that it is the server.
    #[error("the server is not trusted: {0}")]
    Untrusted(String),
    /// Another server is asked from now on, because this one does not answer the heartbeat.
    #[error("the server does not answer")]
    Left,
    /// The server could not be reached or could not do it now.
    #[error("{what}")]
    Unavailable {
        /// What happened.
        what: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server takes no more of this agent's requests for now.
    #[error("the server asks for patience")]
    TooMany {
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
}

impl Failure {
    /// Whether another server may do what this one did not. One that takes no more of this agent's
    /// requests speaks for all.
    pub fn is_of_server(&self) -> bool {
        !matches!(self, Self::TooMany { .. })
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } | Self::TooMany { retry_after } => *retry_after,
            _ => None,
        }
    }
}

/// The settings of the way to the servers make no sense.
#[derive(Debug, Error)]
pub enum TransportError {
    /// An address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The file of authorities.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No token.
    #[error("the token holds characters that no token has; copy it anew")]
    Token,
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up: {0}")]
    Http(#[from] reqwest::Error),
}

impl Transport {
    /// A way to the servers at `addresses`.
    ///
    /// # Errors
    /// When addresses or token make no sense.
    pub fn new(addresses: &[String], token: &Secret, trust: Trust) -> Result<Self, TransportError> {
        let servers = Arc::new(Servers::starting_anywhere(addresses)?);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.0))
            .map_err(|_| TransportError::Token)?;
        authorization.set_sensitive(true);
        let how = Arc::new(How { authorization, trust });
        let http = Arc::new(RwLock::new(how.connect(CONNECT_LIMIT)?));
        Ok(Self { http, servers, how, storage: Arc::default() })
    }

    /// Another way to the same servers, with connections of its own, for leases of this time. Both
    /// ask the same server, and leave it together.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn beside(&self, lease: Duration) -> Result<Self, TransportError> {
        let http = self.how.connect(connect_limit(lease, self.servers.count()))?;
        Ok(Self { http: Arc::new(RwLock::new(http)), ..self.clone() })
    }

    /// Makes connections as they must be made for leases of this time.
    pub fn connect_for(&self, lease: Duration) {
        let limit = connect_limit(lease, self.servers.count());
        if limit < CONNECT_LIMIT
            && let Ok(http) = self.how.connect(limit)
        {
            *self.http.write().unwrap_or_else(PoisonError::into_inner) = http;
        }
    }

    /// Where the servers are, and which is asked.
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Begins a request to a path below `/v1/` of the server that is asked now.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.url(path);
        self.http.read().unwrap_or_else(PoisonError::into_inner).request(method, url)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.servers.url(self.servers.current()).clone();
        url.set_path(&format!("{}v1/{path}", url.path()));
        url
    }

    /// Fetches a blob, whose bytes `read` takes: from the storage if the server names its address
    /// there, else from the server. Each must begin to answer within `limit`.
    ///
    /// # Errors
    /// When the server does not give it.
    pub async fn fetch<T, F>(
        &self,
        digest: &str,
        limit: Duration,
        read: impl Fn(Response) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let path = format!("blobs/{digest}");
        let How { authorization, trust } = &*self.how;
        for _ in 0..ADDRESSES {
            if !self.storage.may_be_asked() {
                break;
            }
            let answer = self.storage.ask(self.url(&path), authorization, trust, limit).await?;
            let address = match answer {
                Answer::Bytes(response) => return read(response).await,
                Answer::At(address) => address,
            };
            let fetching = async { read(self.storage.get(&address, trust, limit).await?).await };
            match fetching.await {
                Ok(read) => {
                    tracing::debug!(digest, "a blob came from the storage");
                    return Ok(read);
                }
                Err(failure) => {
                    let failure = address.hidden(failure);
                    tracing::warn!(digest, %failure, "a blob does not come from the storage");
                }
            }
        }
        read(send(self.request(Method::GET, &path), limit).await?).await
    }
}

impl How {
    fn connect(&self, limit: Duration) -> reqwest::Result<reqwest::Client> {
        let authorization = (AUTHORIZATION, self.authorization.clone());
        self.trust.client(|| {
            reqwest::Client::builder()
                .user_agent(concat!("farrow-agent/", env!("CARGO_PKG_VERSION")))
                .default_headers([authorization.clone()].into_iter().collect())
                // A proxy may offer more; but what waits long has a connection of its own.
                .http1_only()
                .connect_timeout(limit)
                .tcp_nodelay(true)
        })
    }
}

/// For how long a connection may take to be made. Where there is another server, one that is gone
/// without a word costs no more than a sixth of a lease.
fn connect_limit(lease: Duration, n_servers: usize) -> Duration {
    if n_servers > 1 { CONNECT_LIMIT.min(lease / 6) } else { CONNECT_LIMIT }
}

/// Sends a request, and waits no longer than `limit` for the head of an answer that says yes.
///
/// # Errors
/// When there is none, or it says no.
pub async fn send(request: RequestBuilder, limit: Duration) -> Result<Response, Failure> {
    successful(sent(request, limit).await?).await
}

/// Sends a request, and waits no longer than `limit` for the head of an answer, whatever it says.
///
/// # Errors
/// When there is none.
pub async fn sent(request: RequestBuilder, limit: Duration) -> Result<Response, Failure> {
    let response = timeout(limit, request.send()).await.map_err(|_| {
        let what = format!("no answer within {} s", limit.as_secs_f64());
        Failure::Unavailable { what, retry_after: None }
    })?;
    response.map_err(|error| unavailable(&error))
}

/// An answer, if it says yes.
///
/// # Errors
/// When it says no.
pub async fn successful(response: Response) -> Result<Response, Failure> {
    if response.status().is_success() { Ok(response) } else { Err(failure(response).await) }
}

/// The body of an answer.
///
/// # Errors
/// When the connection breaks or nothing more comes before its end.
pub async fn body(response: Response) -> Result<Bytes, Failure> {
    body_within(response, STALL_LIMIT).await
}

async fn body_within(mut response: Response, stall: Duration) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, stall, body.len()).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Writes the body of an answer to a file, in the place of what is there, and returns its SHA-256; or
/// what the file system said.
///
/// # Errors
/// When the connection breaks or nothing more comes before its end.
pub async fn save(mut response: Response, path: &Path) -> Result<io::Result<Sha256>, Failure> {
    let mut file = match new_file(path) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    // To hash and to write takes longer than to receive, so it has a thread of its own meanwhile.
    let (chunks, mut arriving) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
    let writing = spawn_blocking(move || {
        let mut digest = Sha256::new();
        while let Some(chunk) = arriving.blocking_recv() {
            digest.update(&chunk);
            file.write_all(&chunk)?;
        }
        Ok(digest)
    });
    let mut length = 0;
    while let Some(chunk) = next_chunk(&mut response, STALL_LIMIT, length).await? {
        length += chunk.len();
        // A thread that has ended says why.
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    drop(chunks);
    Ok(writing.await.unwrap_or_else(|panic| Err(io::Error::other(panic))))
}

/// A new file, the agent's alone, in the place of what is there: who may still be writing to that one does no
/// harm.
fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// What comes next of a body of which `length` bytes are there.
async fn next_chunk(
    response: &mut Response,
    stall: Duration,
    length: usize,
) -> Result<Option<Bytes>, Failure> {
    let chunk = timeout(stall, response.chunk()).await.map_err(|_| {
        let seconds = stall.as_secs_f64();
        let what = format!("the answer stood still for {seconds} s after {length} bytes");
        Failure::Unavailable { what, retry_after: None }
    })?;
    chunk.map_err(|error| unavailable(&error))
}

async fn failure(response: Response) -> Failure {
    let status = response.status();
    let retry_after = retry_after(response.headers().get(RETRY_AFTER));
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(problem::MEDIA_TYPE.as_bytes()));
    let body = body(response).await.unwrap_or_default();
    let problem = Some(body).filter(|_| is_problem);
    let problem = problem.and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
    match problem {
        Some(problem) if status == StatusCode::NOT_FOUND && problem.slug() == "unknown-agent" => {
            Failure::UnknownAgent
        }
        _ if status == StatusCode::TOO_MANY_REQUESTS => Failure::TooMany { retry_after },
        problem if is_passing(status) => {
            let said = problem.map_or(String::new(), |problem| format!(": {problem}"));
            Failure::Unavailable {
                what: format!("the server answered {status}{said}"),
                retry_after,
            }
        }
        problem => Failure::Refused(Box::new(problem.unwrap_or_else(|| unnamed(status)))),
    }
}

/// Whether an answer of this status may be another one later, without anybody changing anything.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT
}

/// A refusal by something that does not speak as a farrow server does.
fn unnamed(status: StatusCode) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: format!("The server answered {status}"),
        status: status.as_u16(),
        detail: "check that the address is that of a farrow server".to_owned(),
        instance: None,
        errors: Vec::new(),
        element: None,
    }
}

fn retry_after(header: Option<&HeaderValue>) -> Option<Duration> {
    header?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The whole chain of causes: reqwest's own message names the URL alone.
pub fn unavailable(error: &reqwest::Error) -> Failure {
    if let Some(complaint) = trust::complaint(error) {
        return Failure::Untrusted(complaint);
    }
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        what = format!("{what}: {inner}");
        cause = inner.source();
    }
    Failure::Unavailable { what, retry_after: None }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn transport(address: &str) -> Result<Transport, TransportError> {
        rustls::crypto::ring::default_provider().install_default().ok();
        Transport::new(&[address.to_owned()], &Secret("t".to_owned()), Trust::default())
    }

    #[test]
    fn paths_are_put_below_the_address() {
        for (address, url) in [
            ("http://host:1", "http://host:1/v1/agents"),
            ("http://host/queue", "http://host/queue/v1/agents"),
            ("http://host/queue/", "http://host/queue/v1/agents"),
        ] {
            let transport = transport(address).unwrap();
            let request = transport.request(Method::POST, "agents");
            assert_eq!(request.build().unwrap().url().as_str(), url);
        }
    }

    /// Asks a server that sends the head and the first half of a body, and the second half only if
    /// and when it is told to.
    async fn half_answered(limit: Duration) -> (Response, tokio::sync::oneshot::Sender<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (go_on, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut BytesMut::new()).await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
            stream.write_all(head).await.unwrap();
            if told.await.is_ok() {
                stream.write_all(b"half").await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let request = transport(&address).unwrap().request(Method::GET, "blobs/large");
        (send(request, limit).await.unwrap(), go_on)
    }

    #[tokio::test]
    async fn a_body_may_take_longer_than_its_head_might() {
        let limit = Duration::from_secs(1);
        let (response, go_on) = half_answered(limit).await;
        // Not for luck: that the limit has passed is what is to happen here.
        tokio::time::sleep(limit * 2).await;
        go_on.send(()).unwrap();
        assert_eq!(body(response).await.unwrap(), "halfhalf");
    }

    #[tokio::test]
    async fn a_body_that_stands_still_is_given_up() {
        let (response, _go_on) = half_answered(Duration::from_secs(30)).await;
        let failure = body_within(response, Duration::from_millis(50)).await.unwrap_err();
        assert!(failure.to_string().contains("stood still for 0.05 s after"), "{failure}");
    }

    #[test]
    fn a_server_that_is_gone_costs_little_where_there_is_another() {
        for (lease, n_servers, limit) in [(30, 1, 5000), (30, 2, 5000), (3, 2, 500), (3, 1, 5000)] {
            let found = connect_limit(Duration::from_secs(lease), n_servers);
            assert_eq!(found.as_millis(), limit, "{lease} s, {n_servers} servers");
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        let read = |text| retry_after(Some(&HeaderValue::from_static(text)));
        assert_eq!(read("3"), Some(Duration::from_secs(3)));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
