//! The server's client API over HTTP: one method a request, and one attempt a call. Who wants to
//! try again uses [`crate::persistence`].

use std::error::Error;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use protocol::job::{AgentStatus, JobState, JobStatus, Page};
use protocol::{JobId, Problem};
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::connection::Connection;
use crate::failure::{Exit, Failure};

/// Seconds that the server is asked to hold a request for which there is nothing to say yet.
const WAIT: u32 = 30;

/// How long an answer may take, the held time included, before the connection counts as dead: a
/// machine that vanished sends no error.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A server, and the right to talk to it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// When to say how a job is.
#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    /// At once.
    Now,
    /// As soon as its status is not the one of this tag.
    Change(&'a str),
    /// As soon as it has ended.
    End,
}

/// What a request for a job's status came back with.
#[derive(Debug)]
pub enum Polled {
    /// Nothing has changed.
    Same,
    /// The status now, and the tag that names it.
    Status(Box<JobStatus>, Option<String>),
}

/// What a request for a value came back with.
#[derive(Debug)]
pub enum Value {
    /// The value's bytes follow.
    Here(Body),
    /// The job goes on.
    NotYet(Box<JobStatus>),
}

/// The bytes of an answer, as they arrive.
#[derive(Debug)]
pub struct Body {
    response: Response,
    url: String,
}

impl Client {
    /// A client of the server that the command line names.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let token = connection.token.token()?;
        let mut builder = reqwest::Client::builder()
            .default_headers(authorization(&token)?)
            .user_agent(concat!("farrow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_WITHIN);
        if is_loopback(&connection.url) {
            // A proxy from the environment cannot know what listens on this machine.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            Failure::new(Exit::Server, format!("cannot set up HTTP: {}", reason(&error)))
        })?;
        Ok(Self { http, url: connection.url.clone() })
    }

    /// Submits a job. Large bodies take the time they need, so this has no deadline.
    pub async fn submit(&self, body: Bytes) -> Result<JobStatus, CallError> {
        let request =
            self.request(Method::POST, "/v1/jobs").header("content-type", "application/json");
        let response = request.body(body).send().await.map_err(|error| self.lost(&error))?;
        self.read_json(self.accept(response).await?).await
    }

    /// A job's status now.
    pub async fn status(&self, id: JobId) -> Result<JobStatus, CallError> {
        self.get_json(self.request(Method::GET, &format!("/v1/jobs/{id}"))).await
    }

    /// A job's status when the time has come, or when the server has held the request long enough.
    pub async fn poll(&self, id: JobId, until: Until<'_>) -> Result<Polled, CallError> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{id}"));
        let response = self.send(match until {
            Until::Now => request,
            Until::Change(tag) => request.query(&[("wait", WAIT)]).header(IF_NONE_MATCH, tag),
            Until::End => request.query(&[("wait", WAIT)]),
        });
        let response = response.await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Polled::Same);
        }
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Polled::Status(Box::new(self.read_json(response).await?), tag))
    }

    /// A job's value, if it is there.
    pub async fn value(&self, id: JobId) -> Result<Value, CallError> {
        let response =
            self.send(self.request(Method::GET, &format!("/v1/jobs/{id}/value"))).await?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(Value::NotYet(Box::new(self.read_json(response).await?))),
            _ => Ok(Value::Here(Body { response, url: self.url.clone() })),
        }
    }

    /// Cancels a job; one that has ended stays as it is.
    pub async fn cancel(&self, id: JobId) -> Result<JobStatus, CallError> {
        self.get_json(self.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await
    }

    /// A page of the jobs, the newest first.
    pub async fn jobs(
        &self,
        state: Option<JobState>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<JobStatus>, CallError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(state.map(|state| ("state", state.as_str().to_owned())));
        query.extend(after.map(|after| ("after", after.to_owned())));
        self.get_json(self.request(Method::GET, "/v1/jobs").query(&query)).await
    }

    /// A page of the agents.
    pub async fn agents(&self, after: Option<&str>) -> Result<Page<AgentStatus>, CallError> {
        let query: Vec<_> = after.map(|after| ("after", after)).into_iter().collect();
        self.get_json(self.request(Method::GET, "/v1/agents").query(&query)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    async fn get_json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        self.read_json(self.send(request).await?).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send());
        let response =
            answer.await.map_err(|_| self.silent())?.map_err(|error| self.lost(&error))?;
        self.accept(response).await
    }

    /// Turns an answer that says no into the problem that it carries.
    async fn accept(&self, response: Response) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.lost(&error))?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CallError::Refused(Box::new(problem)),
            Err(_) => CallError::Stranger { url: self.url.clone(), status },
        })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, CallError> {
        let status = response.status();
        let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes());
        let body = body.await.map_err(|_| self.silent())?.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&body)
            .map_err(|_| CallError::Stranger { url: self.url.clone(), status })
    }

    fn lost(&self, error: &reqwest::Error) -> CallError {
        CallError::lost(&self.url, error)
    }

    fn silent(&self) -> CallError {
        CallError::Lost { url: self.url.clone(), reason: "no answer in time".to_owned() }
    }
}

impl Body {
    /// The next bytes; none at the end of a whole body. A body cut short is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        match tokio::time::timeout(ANSWER_WITHIN, self.response.chunk()).await {
            Ok(bytes) => bytes.map_err(|error| CallError::lost(&self.url, &error)),
            Err(_) => Err(CallError::Lost {
                url: self.url.clone(),
                reason: "the value stopped coming".to_owned(),
            }),
        }
    }
}

/// Why a request has not brought what it asked for.
#[derive(Debug)]
pub enum CallError {
    /// No connection could be made: the server has seen nothing of the request.
    Unreachable {
        /// The server.
        url: String,
        /// The operating system's words.
        reason: String,
    },
    /// The connection broke; what the server has done is not known.
    Lost {
        /// The server.
        url: String,
        /// What broke.
        reason: String,
    },
    /// The server said no, and why.
    Refused(Box<Problem>),
    /// Something answered that does not speak as a farrow server does.
    Stranger {
        /// The address that it answered at.
        url: String,
        /// The HTTP status of its answer.
        status: StatusCode,
    },
}

impl CallError {
    fn lost(url: &str, error: &reqwest::Error) -> Self {
        let (url, reason) = (url.to_owned(), reason(error));
        match error.is_connect() {
            true => Self::Unreachable { url, reason },
            false => Self::Lost { url, reason },
        }
    }

    /// Whether the same question may bring an answer later: the server is away, or overloaded, or
    /// a proxy before it says that it is.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => true,
            Self::Refused(problem) => problem.status >= 500 || problem.status == 429,
            Self::Stranger { status, .. } => matches!(status.as_u16(), 502..=504),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, reason } => {
                write!(f, "cannot reach the server at {url}: {reason}")
            }
            Self::Lost { url, reason } => {
                write!(f, "lost the connection to the server at {url}: {reason}")
            }
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Stranger { url, status } => {
                write!(
                    f,
                    "what answers at {url} is not a farrow server: it says {status} without a problem document"
                )
            }
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Refused(problem) => refusal(problem),
            CallError::Unreachable { .. } => Self::new(Exit::Server, error.to_string())
                .remedy("is it running (`farrow server`), and is --url or FARROW_URL right?"),
            CallError::Lost { .. } => Self::new(Exit::Server, error.to_string()),
            CallError::Stranger { .. } => {
                Self::new(Exit::Server, error.to_string()).remedy("is --url or FARROW_URL right?")
            }
        }
    }
}

fn refusal(problem: &Problem) -> Failure {
    let failure = Failure::of_problem(problem);
    match problem.status {
        401 | 403 => failure.remedy("is this the server's token (FARROW_TOKEN, --token-file)?"),
        404 => failure.remedy("`farrow jobs` lists the jobs that there are"),
        _ => failure,
    }
}

fn authorization(token: &str) -> Result<HeaderMap, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        Failure::usage("the token holds characters that no token has")
            .remedy("take it anew from the server's token file: one line, no spaces")
    })?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

fn is_loopback(url: &str) -> bool {
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127."))
}

/// The innermost cause: "Connection refused (os error 111)" rather than "error sending request".
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
