//! The one error of the HTTP side: it knows its status and its problem.

use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::job::ElementError;
use protocol::{FieldError, Problem, problem};
use serde_json::Value;

use crate::store::StoreError;

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The body is not what the route takes.
    #[error("{0}")]
    BadRequest(String),
    /// The body is JSON, but the fields named cannot be.
    #[error("invalid fields")]
    Invalid(Vec<FieldError>),
    /// No token, or one that is not good; why, and what to do.
    #[error("{0}")]
    Unauthorized(String),
    /// The request asks for a host that is not this server.
    #[error(
        "the request asks for the host {0:?}, which is no name of this server: if it is one, start the \
         server with --host and the name"
    )]
    ForbiddenHost(String),
    /// A page of another site sent the request.
    #[error(
        "a page of {0} sent this request, and only pages of this server may: if it is this server's \
         own address, start the server with --host and the name"
    )]
    ForbiddenOrigin(String),
    /// A token that may not do this; which may.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing; which, and what to do.
    #[error("{0}")]
    NotFound(String),
    /// The route exists, but not for this method.
    #[error("{method} is not allowed here")]
    MethodNotAllowed {
        /// The method asked for.
        method: Method,
    },
    /// An agent that is not registered.
    #[error("this server does not know the agent: register again with the leases you hold")]
    UnknownAgent,
    /// An agent of another protocol version.
    #[error("{0}")]
    ProtocolVersion(String),
    /// The body is larger than the limit, in bytes.
    #[error(
        "the body is larger than {0} bytes: send less, or start the server with a larger --max-body"
    )]
    TooLarge(usize),
    /// The blob is larger than the limit, in bytes.
    #[error(
        "the blob is larger than {0} bytes: send less, or start the server with a larger --max-blob"
    )]
    BlobTooLarge(u64),
    /// The body is larger than the limit, in bytes, once it is inflated.
    #[error(
        "the body is larger than {0} bytes when it is inflated: send less, or start the server with a \
         larger --max-inflated-body"
    )]
    InflatedTooLarge(usize),
    /// There is more of something than the server takes.
    #[error("{what}: the server takes at most {limit}; send less, or start it with a higher limit")]
    TooMany {
        /// How much of what.
        what: String,
        /// How much it takes, and by which flag.
        limit: String,
    },
    /// It comes too often, or too many wait.
    #[error("{limit}: ask again in {retry_after} s")]
    RateLimited {
        /// What is allowed, and by which flag.
        limit: String,
        /// Seconds after which to ask again.
        retry_after: u64,
    },
    /// An `Idempotency-Key` comes again with another body.
    #[error(
        "the Idempotency-Key {0:?} was used before with another body or route: send the same again, or \
         another key"
    )]
    IdempotencyKeyReused(String),
    /// The job has failed.
    #[error("the job has failed")]
    JobFailed(Box<Problem>),
    /// The job was cancelled.
    #[error("{0}")]
    JobCancelled(String),
    /// A request that contradicts what is.
    #[error("{0}")]
    Conflict(String),
    /// The server is stopping.
    #[error("the server is stopping: ask again in a moment")]
    Stopping,
    /// The database or the folder of the blobs is away; why is logged and told to nobody.
    #[error("the server cannot reach its database or its blobs: ask again in a moment")]
    Unavailable(String),
    /// The disk of the database or of the blobs is full.
    #[error(
        "the server's disk is full: make room on it, or delete jobs that are not needed, and ask again"
    )]
    NoRoom(String),
    /// Something that is not the client's fault; its cause is logged and told to nobody.
    #[error("the server failed to answer: try again, and look at its log")]
    Internal(String),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::Stopping,
            StoreError::Unavailable(cause) | StoreError::Blobs(cause) => {
                Self::Unavailable(cause.to_string())
            }
            StoreError::Full(cause) => Self::NoRoom(cause.to_string()),
            error => Self::Internal(error.to_string()),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::NoRoom(error.to_string())
            }
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::NotConnected => {
                Self::Unavailable(error.to_string())
            }
            _ => Self::Internal(error.to_string()),
        }
    }
}

impl ApiError {
    /// One field at fault.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(_) => {
                (StatusCode::BAD_REQUEST, "bad-request", "The request cannot be read")
            }
            Self::Invalid(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-field",
                "The request has fields that cannot be",
            ),
            Self::Unauthorized(_) => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed")
            }
            Self::Forbidden(_) => {
                (StatusCode::FORBIDDEN, "forbidden", "The token does not let you do this")
            }
            Self::ForbiddenHost(_) => {
                (StatusCode::FORBIDDEN, "forbidden-host", "The request asks for another host")
            }
            Self::ForbiddenOrigin(_) => (
                StatusCode::FORBIDDEN,
                "forbidden-origin",
                "The request comes from a page of another site",
            ),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed { .. } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The method is not allowed here",
            ),
            Self::UnknownAgent => {
                (StatusCode::NOT_FOUND, "unknown-agent", "The agent is not registered")
            }
            Self::ProtocolVersion(_) => (
                StatusCode::CONFLICT,
                "protocol-version",
                "Agent and server speak different versions",
            ),
            Self::TooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large")
            }
            Self::BlobTooLarge(_) | Self::InflatedTooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large")
            }
            Self::TooMany { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "It is more than the server takes")
            }
            Self::RateLimited { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "It is too often, or too many wait")
            }
            Self::IdempotencyKeyReused(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The Idempotency-Key was used before",
            ),
            Self::JobFailed(_) => (StatusCode::CONFLICT, "job-failed", "The job has failed"),
            Self::JobCancelled(_) => (StatusCode::GONE, "job-cancelled", "The job was cancelled"),
            Self::Conflict(_) => {
                (StatusCode::CONFLICT, "conflict", "The request contradicts what is")
            }
            Self::Stopping => {
                (StatusCode::SERVICE_UNAVAILABLE, "stopping", "The server is stopping")
            }
            Self::Unavailable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "database-unavailable",
                "The database cannot be reached",
            ),
            Self::NoRoom(_) => (
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient-storage",
                "The server's disk is full",
            ),
            Self::Internal(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed")
            }
        }
    }

    fn problem(self) -> Problem {
        let (status, slug, title) = self.kind();
        let detail = match &self {
            Self::Invalid(errors) => errors
                .iter()
                .map(|error| format!("{}: {}", error.field, error.message))
                .collect::<Vec<_>>()
                .join("; "),
            other => other.to_string(),
        };
        match self {
            Self::JobFailed(problem) => *problem,
            other => Problem {
                kind: format!("urn:farrow:{slug}"),
                title: title.to_owned(),
                status: status.as_u16(),
                detail,
                instance: None,
                errors: if let Self::Invalid(errors) = other { errors } else { Vec::new() },
                element: None,
            },
        }
    }
}

/// What stands for an error that an agent reported and that cannot be read.
pub fn unreadable() -> ElementError {
    ElementError {
        kind: "Unreadable".to_owned(),
        message: "the agent reported an error that cannot be read".to_owned(),
        call: None,
        traceback: Vec::new(),
        fatal: false,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Internal(cause) | Self::Unavailable(cause) | Self::NoRoom(cause) = &self {
            tracing::error!(%cause, "a request failed");
        }
        let (status, ..) = self.kind();
        let is_unauthorized = matches!(self, Self::Unauthorized(_));
        let passes = matches!(self, Self::Stopping | Self::Unavailable(_));
        let retry_after = match &self {
            Self::NoRoom(_) => Some(10),
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        let body =
            serde_json::to_vec(&self.problem()).unwrap_or_else(|_| Value::Null.to_string().into());
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
        if is_unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"farrow\""));
        }
        if passes {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
