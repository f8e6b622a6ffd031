//! Lets a client's request in if its token has not made too many.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::state::AppState;
use crate::store::tokens::Identity;

/// Counts the request of a client.
///
/// # Errors
/// 429 when its token makes too many.
pub async fn count(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // Public paths have no identity.
    if let Some(identity) = request.extensions().get::<Identity>()
        && !is_of_agents(request.method(), request.uri().path(), identity)
    {
        state.limits.request(&identity.owner)?;
    }
    Ok(next.run(request).await)
}

/// Whether it is an agent that asks: a thousand of them may share a token.
fn is_of_agents(method: &Method, path: &str, identity: &Identity) -> bool {
    identity.role == "agent" || (path.starts_with("/v1/agents") && method != Method::GET)
}
