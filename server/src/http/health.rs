//! Whether the server is there, and what it can do.

use std::sync::OnceLock;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::error::ApiError;
use crate::state::AppState;

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain", example = "ok\n")))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the server can take requests.
///
/// It can if its database answers and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "server", security(()),
    responses(
        (status = 200, description = "It can.", body = String, content_type = "text/plain", example = "ready\n"),
        (status = 503, description = "It is stopping.", body = protocol::Problem, content_type = "application/problem+json")
    ))]
pub async fn readyz(State(state): State<AppState>) -> Result<&'static str, ApiError> {
    if state.shutdown.is_cancelled() {
        return Err(ApiError::Stopping);
    }
    state.store.ping().await?;
    Ok("ready\n")
}

/// The description, which is the same as long as the program is.
static DESCRIPTION: OnceLock<String> = OnceLock::new();

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "server", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object, content_type = "application/json", example = json!({"openapi": "3.1.0"}))))]
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION.get_or_init(super::openapi_json).as_str())
}
