//! Lets a client's request in if its token has not made too many.

use axum::extract::Request;
use axum::http::Method;
use protocol::rights::Role;

use super::caller::Caller;
use crate::error::ApiError;
use crate::state::AppState;

/// Counts the request of a client.
///
/// # Errors
/// 429 when its token makes too many.
pub fn count(state: &AppState, request: &Request) -> Result<(), ApiError> {
    // Public paths have no caller.
    if let Some(caller) = request.extensions().get::<Caller>()
        && !is_of_agents(request.method(), request.uri().path(), caller)
    {
        state.limits.request(&caller.identity.owner)?;
    }
    Ok(())
}

/// Whether it is an agent that asks: a thousand of them may share a token.
fn is_of_agents(method: &Method, path: &str, caller: &Caller) -> bool {
    caller.identity.role == Role::Agent || (path.starts_with("/v1/agents") && method != Method::GET)
}
