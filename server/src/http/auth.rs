//! Who may call: bearer tokens.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use super::is_public;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::tokens::{self, Identity};
use crate::token;

/// Tokens that were seen and are good, by their SHA-256. Looking a hash up in a table takes the
/// same time whether the secret is nearly right or not at all.
#[derive(Debug, Default)]
pub struct Tokens {
    known: Mutex<HashMap<String, Identity>>,
}

/// Tokens that are remembered at the most.
const MAX_KNOWN: usize = 10_000;

impl Tokens {
    fn get(&self, hash: &str) -> Option<Identity> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    fn insert(&self, hash: String, identity: Identity) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(hash, identity);
    }
}

/// Lets a request through if its path is public or its token is good; says to the handler who calls.
///
/// # Errors
/// 401 when there is no token or a wrong one.
pub async fn require_token(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if is_public(request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let hash = token::hash(bearer(request.headers())?);
    let identity = match state.tokens.get(&hash) {
        Some(identity) => identity,
        None => find(&state, hash).await?,
    };
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

async fn find(state: &AppState, hash: String) -> Result<Identity, ApiError> {
    let wanted = hash.clone();
    let found =
        state.store.read(|tx| Box::pin(async move { tokens::find(tx, &wanted).await })).await?;
    let identity = found.ok_or(ApiError::Unauthorized(
        "this token is not known: give the one in the file admin.token of the server's data folder, \
         or the FARROW_TOKEN with which the server was started",
    ))?;
    state.tokens.insert(hash, identity.clone());
    Ok(identity)
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or(ApiError::Unauthorized(
            "the request has no token: send the header `Authorization: Bearer TOKEN`",
        ))
}
