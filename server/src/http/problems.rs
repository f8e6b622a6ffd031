//! What the framework itself would answer in plain text, as problems.

use std::any::Any;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse as _, Response};
use protocol::{Problem, problem};

use crate::error::ApiError;

/// No route has this path.
pub async fn no_such_route(uri: Uri) -> ApiError {
    ApiError::NotFound(format!("no route is called {}; /openapi.json lists them all", uri.path()))
}

/// The path's route does not take the method.
pub async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::MethodNotAllowed { method }
}

/// A handler panicked: a bug. The connection and the server go on.
#[expect(clippy::needless_pass_by_value, reason = "the layer calls it so")]
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    ApiError::Internal(format!("a handler panicked: {text}")).into_response()
}

/// Writes the request's path into a problem that does not name an instance.
pub async fn with_instance(response: Response, path: String) -> Response {
    let is_problem = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|media_type| media_type == problem::MEDIA_TYPE);
    if !is_problem {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already, so that it needs no bound.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Response::from_parts(parts, Body::empty());
    };
    let named = serde_json::from_slice::<Problem>(&bytes).ok().and_then(|mut problem| {
        problem.instance.get_or_insert(path);
        serde_json::to_vec(&problem).ok()
    });
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(named.unwrap_or_else(|| bytes.into())))
}
