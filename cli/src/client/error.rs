//! Why a request has not brought what it asked for.

use std::error::Error;
use std::fmt;

use agent::trust;
use protocol::Problem;
use reqwest::header::HeaderName;
use reqwest::{Request, StatusCode};

use crate::failure::{Exit, Failure};

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
    /// What answers cannot prove over TLS that it is the server.
    Untrusted {
        /// The server.
        url: String,
        /// What is wrong, and what to do.
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
    /// What came cannot be written.
    Unwritable(std::io::Error),
    /// What was to be uploaded cannot be read.
    Unreadable(std::io::Error),
}

/// Whether the same question may bring an answer later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// The server is away, overloaded, or a proxy before it says that it is: this passes.
    Passing,
    /// The server has stumbled over the request. It may have been a bad moment; when it stumbles
    /// each time, it is a fault that waiting does not mend.
    Doubtful,
    /// The answer will be the same.
    Hopeless,
}

impl CallError {
    /// A request that came to nothing, or an answer cut short.
    pub fn lost(url: &str, error: &reqwest::Error) -> Self {
        let url = url.to_owned();
        if let Some(reason) = trust::complaint(error) {
            return Self::Untrusted { url, reason };
        }
        let reason = reason(error);
        match error.is_connect() {
            true => Self::Unreachable { url, reason },
            false => Self::Lost { url, reason },
        }
    }

    /// Whether the same question may bring an answer later.
    pub fn outlook(&self) -> Outlook {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => Outlook::Passing,
            Self::Refused(problem) => match problem.status {
                429 | 502..=504 => Outlook::Passing,
                500.. => Outlook::Doubtful,
                _ => Outlook::Hopeless,
            },
            Self::Stranger { status, .. } => match status.as_u16() {
                502..=504 => Outlook::Passing,
                _ => Outlook::Hopeless,
            },
            Self::Untrusted { .. } | Self::Unwritable(_) | Self::Unreadable(_) => Outlook::Hopeless,
        }
    }

    /// Whether it is the server that failed, so that another one of its database may not.
    pub fn is_of_server(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Untrusted { .. } => true,
            Self::Refused(_) | Self::Stranger { .. } => self.status() >= Some(500),
            Self::Unwritable(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the request can be sent to another server at once: this one has done nothing of it,
    /// or it does no harm twice.
    pub fn allows_another(&self, request: &Request) -> bool {
        let is_harmless = request.method().is_idempotent()
            || request.headers().contains_key(HeaderName::from_static("idempotency-key"));
        match self {
            Self::Unreachable { .. } | Self::Untrusted { .. } => true,
            Self::Refused(problem) if problem.status == 503 => true,
            _ => is_harmless && self.is_of_server(),
        }
    }

    /// Tells also of the servers that were asked before. Of servers that have all failed, in different
    /// ways, the one that may come back counts: which was asked last is chance.
    pub fn after(mut self, mut earlier: Vec<Self>) -> Self {
        let comes_back = |error: &Self| error.outlook() == Outlook::Passing;
        if self.is_of_server()
            && !comes_back(&self)
            && let Some(at) = earlier.iter().position(comes_back)
        {
            std::mem::swap(&mut self, &mut earlier[at]);
        }
        if let Self::Unreachable { reason, .. } | Self::Lost { reason, .. } = &mut self {
            earlier.iter().for_each(|error| reason.push_str(&format!("; and also, {error}")));
        }
        self
    }

    /// The HTTP status of the answer, if one came.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            Self::Stranger { status, .. } => Some(status.as_u16()),
            _ => None,
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
            Self::Untrusted { url, reason } => {
                write!(f, "the server at {url} is not trusted: {reason}")
            }
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Stranger { url, status } => {
                write!(
                    f,
                    "what answers at {url} is not a farrow server: it says {status} without a problem document"
                )
            }
            Self::Unwritable(error) => write!(f, "cannot write the output: {error}"),
            Self::Unreadable(error) => write!(f, "cannot read what is to be uploaded: {error}"),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Refused(problem) => refusal(problem),
            CallError::Unreachable { .. } => Self::new(Exit::Server, error.to_string()).remedy(
                "is it running (`farrow up`, `farrow server`), and is --url or FARROW_URL right?",
            ),
            CallError::Lost { .. } | CallError::Untrusted { .. } => {
                Self::new(Exit::Server, error.to_string())
            }
            CallError::Unreadable(_) => Self::new(Exit::Failed, error.to_string()),
            CallError::Stranger { .. } => {
                Self::new(Exit::Server, error.to_string()).remedy("is --url or FARROW_URL right?")
            }
            CallError::Unwritable(error) => Self::output(error),
        }
    }
}

fn refusal(problem: &Problem) -> Failure {
    let failure = Failure::of_problem(problem);
    match problem.status {
        401 => failure.remedy(
            "is this the server's token? It is the one of --token-file or FARROW_TOKEN_FILE, else of FARROW_TOKEN, \
             else of the server of this user on this machine",
        ),
        404 if problem.instance.as_deref().is_some_and(|path| path.starts_with("/v1/jobs")) => {
            failure.remedy("`farrow jobs` lists the jobs that there are")
        }
        500.. => failure.remedy("the server's log says more, under the time of this request"),
        _ => failure,
    }
}

/// The innermost cause: "Connection refused (os error 111)" rather than "error sending request".
pub fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> CallError {
        let problem = serde_json::json!({
            "type": "urn:farrow:x", "title": "x", "status": status, "detail": "x"
        });
        CallError::Refused(Box::new(serde_json::from_value(problem).unwrap()))
    }

    #[test]
    fn a_server_that_is_away_comes_back_and_a_fault_may_stay() {
        for status in [429, 502, 503, 504] {
            assert_eq!(refused(status).outlook(), Outlook::Passing, "{status}");
        }
        assert_eq!(refused(500).outlook(), Outlook::Doubtful);
        for status in [401, 404, 409, 410, 422] {
            assert_eq!(refused(status).outlook(), Outlook::Hopeless, "{status}");
        }
    }
}
