//! Answers that are written while they are sent.

use std::future::Future;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;

use crate::error::ApiError;

/// The media type of JSON, a line each.
pub const MEDIA_TYPE: &str = "application/x-ndjson";

/// An answer of lines: `next` gives some of them and what is left, or `None` at the end.
pub fn body<S, F>(lines: S, next: impl Fn(S) -> F + Send + 'static) -> Response
where
    S: Send + 'static,
    F: Future<Output = Result<Option<(Bytes, S)>, ApiError>> + Send + 'static,
{
    ([(CONTENT_TYPE, MEDIA_TYPE), (CACHE_CONTROL, "no-store")], streamed(lines, next))
        .into_response()
}

/// A body in parts. One that cannot be read to its end breaks off, so that nobody takes it for
/// whole; why stands in the log.
pub fn streamed<S, F>(parts: S, next: impl Fn(S) -> F + Send + 'static) -> Body
where
    S: Send + 'static,
    F: Future<Output = Result<Option<(Bytes, S)>, ApiError>> + Send + 'static,
{
    Body::from_stream(stream::try_unfold(parts, move |parts| {
        let part = next(parts);
        async move { part.await.inspect_err(|error| tracing::warn!(%error, "an answer breaks off")) }
    }))
}
