//! The server's client API over HTTP: one method a request, and one attempt a call. Who wants to
//! try again uses [`crate::persistence`].

mod blobs;
mod body;
mod error;
mod jobs;
mod streams;

pub use body::{Body, Lines};
pub use error::{CallError, Outlook};
pub use jobs::{Polled, Until, Value};
pub use streams::{LogQuery, Order, OutcomeQuery};

use std::time::Duration;

use protocol::Problem;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::connection::Connection;
use crate::failure::{Exit, Failure};

/// Seconds that the server is asked to hold a request for which there is nothing to say yet.
pub const WAIT: u32 = 30;

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
            Failure::new(Exit::Server, format!("cannot set up HTTP: {}", error::reason(&error)))
        })?;
        Ok(Self { http, url: connection.url.clone() })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    async fn get_json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        self.read_json(self.send(request).await?).await
    }

    /// Sends a request whose body is small or none.
    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send());
        let response =
            answer.await.map_err(|_| self.silent())?.map_err(|error| self.lost(&error))?;
        self.accept(response).await
    }

    /// Sends a request whose body takes the time that it needs: it has no deadline.
    async fn send_large(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let response = request.send().await.map_err(|error| self.lost(&error))?;
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
            Err(_) => self.stranger(status),
        })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, CallError> {
        let status = response.status();
        let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes());
        let body = body.await.map_err(|_| self.silent())?.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&body).map_err(|_| self.stranger(status))
    }

    fn body(&self, response: Response) -> Body {
        Body::new(response, self.url.clone())
    }

    fn stranger(&self, status: StatusCode) -> CallError {
        CallError::Stranger { url: self.url.clone(), status }
    }

    fn lost(&self, error: &reqwest::Error) -> CallError {
        CallError::lost(&self.url, error)
    }

    fn silent(&self) -> CallError {
        CallError::Lost { url: self.url.clone(), reason: "no answer in time".to_owned() }
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
