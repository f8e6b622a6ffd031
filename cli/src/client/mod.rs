//! The server's client API over HTTP: one method a request, and one attempt a call. Who wants to
//! try again uses [`crate::persistence`].

mod blobs;
mod body;
mod error;
mod jobs;
mod rights;
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

/// Bytes that the slowest connection worth waiting for carries in a second.
const SLOWEST_LINK: u64 = 10_000;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A server, and the right to talk to it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    answer_within: Duration,
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
        Ok(Self { http, url: connection.url.clone(), answer_within: ANSWER_WITHIN })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    async fn get_json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, CallError> {
        self.read_json(self.send(request).await?).await
    }

    /// Sends a request whose body is small or none.
    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        self.send_within(self.answer_within, request).await
    }

    /// Sends a request whose body has so many bytes, and takes the time that they need.
    async fn send_large(&self, bytes: u64, request: RequestBuilder) -> Result<Response, CallError> {
        self.send_within(self.answer_within + upload_time(bytes), request).await
    }

    async fn send_within(
        &self,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Response, CallError> {
        self.accept(self.in_time(limit, request.send()).await?).await
    }

    /// What `work` brings, unless the server stays silent for longer than `limit`.
    async fn in_time<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result.map_err(|error| CallError::lost(&self.url, &error)),
            Err(_) => Err(CallError::Lost {
                url: self.url.clone(),
                reason: "no answer in time".to_owned(),
            }),
        }
    }

    /// Turns an answer that says no into the problem that it carries.
    async fn accept(&self, response: Response) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let body = self.in_time(self.answer_within, response.bytes()).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CallError::Refused(Box::new(problem)),
            Err(_) => self.stranger(status),
        })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, CallError> {
        let status = response.status();
        let body = self.in_time(self.answer_within, response.bytes()).await?;
        serde_json::from_slice(&body).map_err(|_| self.stranger(status))
    }

    fn body(&self, response: Response) -> Body {
        Body::new(response, self.url.clone())
    }

    fn stranger(&self, status: StatusCode) -> CallError {
        CallError::Stranger { url: self.url.clone(), status }
    }
}

/// How long an upload of so many bytes may take before its answer is waited for.
fn upload_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_LINK)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Submits to what accepts a connection, says `says` and then nothing more, though it stays.
    async fn submitted_to_one_that_falls_silent(says: &str) -> Result<(), CallError> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer_within = Duration::from_millis(100);
        let client = Client { http: reqwest::Client::new(), url, answer_within };
        let submitting =
            tokio::spawn(async move { client.submit("{}".into(), "key").await.map(drop) });
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_exact(&mut [0; 4]).await.unwrap();
        connection.write_all(says.as_bytes()).await.unwrap();
        submitting.await.unwrap()
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_counts_as_lost() {
        let begun = "content-type: application/problem+json\r\ncontent-length: 100\r\n\r\n{";
        for says in [
            String::new(),
            format!("HTTP/1.1 201 Created\r\n{begun}"),
            format!("HTTP/1.1 500 Internal Server Error\r\n{begun}"),
        ] {
            let error = submitted_to_one_that_falls_silent(&says).await.unwrap_err();
            assert_eq!(error.outlook(), Outlook::Passing, "{error}");
            assert!(error.to_string().contains("no answer in time"), "{error}");
        }
    }

    #[test]
    fn an_upload_takes_the_time_that_a_slow_connection_needs() {
        assert_eq!(upload_time(0), Duration::ZERO);
        assert_eq!(upload_time(3_600 * SLOWEST_LINK), Duration::from_secs(3_600));
    }
}
