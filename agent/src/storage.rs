//! Blobs that are fetched from the storage where the servers keep them: the server names an address
//! that is good for a moment and for whoever has it. So it is a secret, told to nobody and written
//! nowhere; and the storage is told nothing of the agent, least of all its token.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::clock;
use crate::transport::{self, Failure};
use crate::trust::Trust;

/// For how long a connection to the storage may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long the storage is left alone that could not be reached: the server has the bytes, too.
const RESPITE: Duration = Duration::from_secs(60);

/// The way to the storage.
#[derive(Debug, Default)]
pub struct Storage {
    /// Follows nobody, and has no token of its own. Made when it is first needed.
    http: OnceLock<Option<Client>>,
    /// When it could not be reached.
    unreachable: Mutex<Option<Instant>>,
}

/// What a server answers who would go to the storage.
#[derive(Debug)]
pub enum Answer {
    /// The bytes themselves.
    Bytes(Response),
    /// They are there.
    At(Address),
}

/// An address in the storage, which is a secret.
pub struct Address(Url);

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(…)")
    }
}

impl Storage {
    /// Whether there is any sense in asking for an address.
    pub fn may_be_asked(&self) -> bool {
        let since = *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_none_or(|since| clock::now() - since > RESPITE)
    }

    /// Asks the server at `url` for a blob, or for its address.
    ///
    /// # Errors
    /// When there is no answer, or it says no.
    pub async fn ask(
        &self,
        mut url: Url,
        authorization: &HeaderValue,
        trust: &Trust,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        url.query_pairs_mut().append_pair("redirect", "true");
        let http = self.http(trust)?;
        let request = http.get(url).header(AUTHORIZATION, authorization.clone());
        let response = transport::sent(request, limit).await?;
        if response.status() != StatusCode::TEMPORARY_REDIRECT {
            return transport::successful(response).await.map(Answer::Bytes);
        }
        let location = response.headers().get(LOCATION).and_then(|at| at.to_str().ok());
        match location.and_then(|at| response.url().join(at).ok()) {
            Some(address) if matches!(address.scheme(), "http" | "https") => {
                Ok(Answer::At(Address(address)))
            }
            _ => Err(unavailable("the server sends the agent to no address".to_owned())),
        }
    }

    /// Asks the storage for what is at an address, which must begin to come within `limit`.
    ///
    /// # Errors
    /// When it does not, in words that do not hold the address.
    pub async fn get(
        &self,
        address: &Address,
        trust: &Trust,
        limit: Duration,
    ) -> Result<Response, Failure> {
        let sending = self.http(trust)?.get(address.0.clone()).send();
        let answered = timeout(limit, sending).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if error.is_connect() {
                    self.is_unreachable();
                }
                return Err(address.hidden(transport::unavailable(&error)));
            }
            Err(_) => {
                self.is_unreachable();
                let limit = limit.as_secs_f64();
                return Err(unavailable(format!("no answer within {limit} s")));
            }
        };
        match response.status() {
            StatusCode::OK => Ok(response),
            // What it says besides is about the address.
            status => Err(unavailable(format!("the storage answered {status}"))),
        }
    }

    fn is_unreachable(&self) {
        let mut since = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        *since = Some(clock::now());
    }

    fn http(&self, trust: &Trust) -> Result<&Client, Failure> {
        let http = self.http.get_or_init(|| {
            let client = trust.client(|| {
                Client::builder()
                    .user_agent(concat!("farrow-agent/", env!("CARGO_PKG_VERSION")))
                    .redirect(Policy::none())
                    .http1_only()
                    .connect_timeout(CONNECT_LIMIT)
                    .tcp_nodelay(true)
            });
            client.ok()
        });
        http.as_ref().ok_or_else(|| unavailable("the HTTP client could not be set up".to_owned()))
    }
}

impl Address {
    /// A failure without what must not be told of this address.
    pub fn hidden(&self, failure: Failure) -> Failure {
        let hide = |what: String| {
            let place = self.0.query().map_or(what.clone(), |query| what.replace(query, "…"));
            place.replace(self.0.path(), "/…")
        };
        match failure {
            Failure::Unavailable { what, retry_after } => {
                Failure::Unavailable { what: hide(what), retry_after }
            }
            Failure::Untrusted(what) => Failure::Untrusted(hide(what)),
            other => other,
        }
    }
}

fn unavailable(what: String) -> Failure {
    Failure::Unavailable { what, retry_after: None }
}

#[cfg(test)]
mod tests;
