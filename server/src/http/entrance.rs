//! What every request passes on its way to its handler, and its answer on the way back.
//!
//! Two middlewares, and not one for each step: for each request the framework copies all that lies inside a
//! middleware, and keeps a future of each while the request is held; ten thousand agents hold one each.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, Entry};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::{admission, auth, caller, problems};
use crate::error::ApiError;
use crate::listening::{Names, note_request};
use crate::state::AppState;

/// Takes a request in: notes on its connection that one has come, hides its token from logs, gives it its id;
/// and counts its answer.
pub async fn receive(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    note_request(&request);
    hide_token(request.headers_mut());
    let id = caller::number(&mut request);
    let mut response = next.run(request).await;
    state.metrics.answered(response.status());
    caller::tell_number(&mut response, &id);
    response
}

/// Sees to it that no log shows what lets the caller in.
fn hide_token(headers: &mut HeaderMap) {
    if let Entry::Occupied(mut tokens) = headers.entry(AUTHORIZATION) {
        tokens.iter_mut().for_each(|token| token.set_sensitive(true));
    }
}

/// Who is let in.
#[derive(Clone)]
pub struct Entrance {
    /// The server.
    pub state: AppState,
    /// By what names it may be asked.
    pub names: Arc<Names>,
}

/// Lets a request in to its handler, or says why it may not; problems tell which path they are of.
pub async fn admit(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = match entrance.check(&mut request).await {
        Ok(()) => {
            // Held requests do not hold it.
            drop(entrance);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    problems::with_instance(response, path).await
}

impl Entrance {
    /// # Errors
    /// The refusal.
    async fn check(&self, request: &mut Request) -> Result<(), ApiError> {
        self.names.check(request.method(), request.uri(), request.headers())?;
        auth::require_token(&self.state, request).await?;
        admission::count(&self.state, request)
    }
}
