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

use std::sync::Arc;
use std::time::Duration;

use agent::trust::Trust;
use agent::{Servers, upload_time};
use protocol::Problem;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::connection::{Connection, is_on_this_machine};
use crate::failure::{Exit, Failure};

/// Seconds that the server is asked to hold a request for which there is nothing to say yet.
pub const WAIT: u32 = 30;

/// How long an answer may take, the held time included, before the connection counts as dead: a
/// machine that vanished sends no error.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The same where another server can be asked.
const CONNECT_WITHIN_IF_ANOTHER: Duration = Duration::from_secs(4);

/// Stands for the server's address in a request that has none yet.
const NOWHERE: &str = "http://nowhere.invalid";

/// The servers of one database, and the right to talk to them. One is asked as long as it answers,
/// then the next. Cheap to clone; clones ask the same server.
#[derive(Clone, Debug)]
pub struct Client {
    servers: Arc<Servers>,
    /// A client for each server: whether a proxy is used depends on where it is.
    http: Arc<Vec<reqwest::Client>>,
    answer_within: Duration,
}

impl Client {
    /// A client of the servers that the command line names.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let token = connection.token.token_for(&connection.url)?;
        let trust = Trust::new(connection.ca_file.as_deref())
            .map_err(|error| Failure::usage(error.to_string()))?;
        let servers = Servers::starting_anywhere(&connection.url)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let headers = authorization(&token)?;
        let connect = |server| {
            let connected =
                trust.client(|| builder(&servers, server).default_headers(headers.clone()));
            connected.map_err(|error| {
                Failure::new(Exit::Server, format!("cannot set up HTTP: {}", error::reason(&error)))
            })
        };
        let http = (0..servers.count()).map(connect).collect::<Result<_, _>>()?;
        Ok(Self::of(servers, http))
    }

    fn of(servers: Servers, http: Vec<reqwest::Client>) -> Self {
        let (servers, http) = (Arc::new(servers), Arc::new(http));
        Self { servers, http, answer_within: ANSWER_WITHIN }
    }

    /// The address of a server.
    fn url(&self, server: usize) -> &str {
        self.servers.name(server)
    }

    /// Asks another server than this one from now on, if there is one.
    fn leave(&self, server: usize) {
        self.servers.leave(server);
    }

    /// The server from which an answer comes.
    fn server_of(&self, response: &Response) -> usize {
        let url = response.url().as_str();
        let is_of = |server: &usize| url.starts_with(self.servers.url(*server).as_str());
        (0..self.servers.count()).find(is_of).unwrap_or_else(|| self.servers.current())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http[0].request(method, format!("{NOWHERE}{path}"))
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

    /// Sends a request to the server that is asked now and, when that one fails, to each of the
    /// others, once.
    async fn send_within(
        &self,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Response, CallError> {
        let server = self.servers.current();
        let built = request.build().map_err(|error| CallError::lost(self.url(server), &error));
        let mut request = built?;
        let mut failed = Vec::new();
        loop {
            let server = self.servers.current();
            let is_last = failed.len() + 1 == self.servers.count();
            // What is read from a file while it is sent cannot be sent twice.
            let spare = if is_last { None } else { request.try_clone() };
            let error = match self.send_to(server, limit, request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.is_of_server() {
                self.leave(server);
            }
            match spare.filter(|spare| error.allows_another(spare)) {
                Some(spare) => request = spare,
                None => return Err(error.after(failed)),
            }
            failed.push(error);
        }
    }

    async fn send_to(
        &self,
        server: usize,
        limit: Duration,
        mut request: Request,
    ) -> Result<Response, CallError> {
        *request.url_mut() = at(self.servers.url(server), request.url());
        let sent = self.http[server].execute(request);
        let response = in_time(self.url(server), limit, sent).await?;
        self.accept(server, response).await
    }

    /// Turns an answer that says no into the problem that it carries.
    async fn accept(&self, server: usize, response: Response) -> Result<Response, CallError> {
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let url = self.url(server);
        let body = in_time(url, self.answer_within, response.bytes()).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CallError::Refused(Box::new(problem)),
            Err(_) => CallError::Stranger { url: url.to_owned(), status },
        })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, CallError> {
        let (status, server) = (response.status(), self.server_of(&response));
        let url = self.url(server);
        let body = in_time(url, self.answer_within, response.bytes()).await;
        let body = body.inspect_err(|_| self.leave(server))?;
        serde_json::from_slice(&body)
            .map_err(|_| CallError::Stranger { url: url.to_owned(), status })
    }

    fn body(&self, response: Response) -> Body {
        let server = self.server_of(&response);
        Body::new(response, self.clone(), server)
    }
}

fn builder(servers: &Servers, server: usize) -> reqwest::ClientBuilder {
    let has_another = servers.count() > 1;
    let connect_within = if has_another { CONNECT_WITHIN_IF_ANOTHER } else { CONNECT_WITHIN };
    let builder = reqwest::Client::builder()
        // A proxy may offer more; but what waits long has a connection of its own.
        .http1_only()
        .user_agent(concat!("farrow/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_within);
    match is_on_this_machine(servers.url(server).as_str()) {
        // A proxy from the environment cannot know what listens on this machine.
        true => builder.no_proxy(),
        false => builder,
    }
}

/// The address of what is asked for at a server.
fn at(server: &Url, asked: &Url) -> Url {
    let mut url = server.clone();
    url.set_path(&format!("{}{}", server.path().trim_end_matches('/'), asked.path()));
    url.set_query(asked.query());
    url
}

/// What `work` brings, unless the server at `url` stays silent for longer than `limit`.
async fn in_time<T>(
    url: &str,
    limit: Duration,
    work: impl Future<Output = reqwest::Result<T>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|error| CallError::lost(url, &error)),
        Err(_) => {
            Err(CallError::Lost { url: url.to_owned(), reason: "no answer in time".to_owned() })
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn client(urls: &[String]) -> Client {
        rustls::crypto::ring::default_provider().install_default().ok();
        let servers = Servers::new(urls, 0).unwrap();
        let http = (0..servers.count()).map(|server| builder(&servers, server).build().unwrap());
        let http = http.collect();
        Client::of(servers, http)
    }

    /// Submits to what accepts a connection, says `says` and then nothing more, though it stays.
    async fn submitted_to_one_that_falls_silent(says: &str) -> Result<(), CallError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer_within = Duration::from_millis(100);
        let client = Client { answer_within, ..client(&[url]) };
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

    /// The address of what says `says` to the first who asks, and then is gone; empty: at once.
    async fn one_that_says(says: &'static str) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        if !says.is_empty() {
            tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                connection.read_exact(&mut [0; 4]).await.unwrap();
                connection.write_all(says.as_bytes()).await.unwrap();
            });
        }
        url
    }

    const STOPPING: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
        content-length: 70\r\n\r\n\
        {\"type\": \"x\", \"title\": \"x\", \"status\": 503, \"detail\": \"it is stopping\"}";
    const DELETED: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    const CANCELLED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";

    #[tokio::test]
    async fn what_one_server_does_not_do_is_asked_of_the_next() {
        for first in ["", "HTTP/1.1 200", STOPPING] {
            let client = client(&[one_that_says(first).await, one_that_says(DELETED).await]);
            client.delete(protocol::JobId::new()).await.unwrap();
            assert_eq!(client.servers.current(), 1, "the one that answered is asked from now on");
        }
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_asked_again_only_where_that_does_no_harm() {
        for (first, is_asked) in [("", true), (STOPPING, true), ("HTTP/1.1 200", false)] {
            let client = client(&[one_that_says(first).await, one_that_says(CANCELLED).await]);
            let error = client.cancel(protocol::JobId::new()).await.unwrap_err();
            // The answer of the second is no job.
            let is_of_the_second = matches!(error, CallError::Stranger { .. });
            assert_eq!(is_of_the_second, is_asked, "{first:?}: {error}");
            assert_eq!(client.servers.current(), 1);
        }
    }

    #[tokio::test]
    async fn all_servers_that_cannot_be_reached_are_named() {
        let urls = [one_that_says("").await, one_that_says("").await];
        let error = client(&urls).status(protocol::JobId::new()).await.unwrap_err();
        assert_eq!(error.outlook(), Outlook::Passing);
        for url in urls {
            assert!(error.to_string().contains(url.trim_end_matches('/')), "{error}");
        }
    }

    #[test]
    fn requests_go_below_the_address_of_their_server() {
        let asked = Url::parse(&format!("{NOWHERE}/v1/jobs?id=1")).unwrap();
        for (server, url) in [
            ("http://host:1/", "http://host:1/v1/jobs?id=1"),
            ("https://host/farrow/", "https://host/farrow/v1/jobs?id=1"),
        ] {
            assert_eq!(at(&Url::parse(server).unwrap(), &asked).as_str(), url);
        }
    }
}
