//! Large payloads, by their digest.

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use protocol::Problem;

use crate::error::ApiError;
use crate::state::AppState;

/// Reads a blob.
#[utoipa::path(get, path = "/v1/blobs/{digest}", tag = "agent protocol",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits.")),
    responses(
        (status = 200, description = "Its bytes.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such blob.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a digest.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn get(
    State(state): State<AppState>,
    Path(digest): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let bytes = state.blobs.get(&digest).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => ApiError::field(
            "digest",
            format!("{digest:?} is not `sha256:` and 64 hex digits in lower case"),
        ),
        std::io::ErrorKind::NotFound => ApiError::NotFound(format!("there is no blob {digest}")),
        _ => error.into(),
    })?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes))
}
