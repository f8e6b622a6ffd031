//! Tokens: made, listed, revoked. For administrators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::response::{IntoResponse, Response};
use protocol::job::Page;
use protocol::rights::{Action, CreateToken, CreatedToken, TokenStatus};
use protocol::{Problem, TokenId};
use serde::Deserialize;

use super::caller::Caller;
use super::extract::{Id, Json, Params};
use super::page::{self, Cursor};
use crate::clock::{Millis, rfc3339};
use crate::error::ApiError;
use crate::presence;
use crate::state::AppState;
use crate::store::audit;
use crate::store::tokens::{self, NewToken, Revoked};
use crate::{token, upkeep};

/// Characters of a name at the most.
const MAX_NAME: usize = 100;

/// Seconds for which a token may be good at the most: a hundred years.
const MAX_LIFE: f64 = 3.2e9;

/// Makes a token.
///
/// The secret is in the answer and never shown again: the server keeps its SHA-256 only.
#[utoipa::path(post, path = "/v1/tokens", operation_id = "create_token", tag = "rights",
    request_body(content = CreateToken, content_type = "application/json"),
    responses(
        (status = 201, description = "The token.", body = CreatedToken,
            headers(("Location" = String, description = "The token, without its secret."))),
        (status = 409, description = "A token that is good has this name.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(wanted): Json<CreateToken>,
) -> Result<Response, ApiError> {
    let name = checked_name(&wanted.name)?;
    let now = state.clock.now();
    let expires_at = wanted.expires_in.map(|seconds| end_of(seconds, now)).transpose()?;
    let secret = token::random()?;
    let (id, actor) = (TokenId::new(), caller.actor());
    let hash = token::hash(&secret);
    let new = NewToken { id, hash, name: name.clone(), role: wanted.role, expires_at };
    let is_new = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                let is_new = tokens::create(tx, new, now).await?;
                if is_new {
                    audit::record(tx, &actor, Action::TokenCreated, &[id], now).await?;
                }
                Ok(is_new)
            })
        })
        .await?;
    if !is_new {
        return Err(ApiError::Conflict(format!(
            "there is a token called {name:?} already: revoke that one, or choose another name"
        )));
    }
    let created = CreatedToken {
        id,
        name,
        role: wanted.role,
        token: secret,
        created_at: rfc3339(now),
        expires_at: expires_at.map(rfc3339),
    };
    let headers = [(LOCATION, format!("/v1/tokens/{id}")), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, axum::Json(created)).into_response())
}

/// A name without the spaces around it.
fn checked_name(name: &str) -> Result<String, ApiError> {
    let name = name.trim();
    let n_characters = name.chars().count();
    if !(1..=MAX_NAME).contains(&n_characters) || name.chars().any(char::is_control) {
        let message =
            format!("must be 1 to {MAX_NAME} characters, none of them a control character");
        return Err(ApiError::field("name", message));
    }
    if name.parse::<TokenId>().is_ok() {
        return Err(ApiError::field("name", "is a UUID, as ids are: choose one for people"));
    }
    Ok(name.to_owned())
}

/// When a token ends that is good for so many seconds from now on.
fn end_of(seconds: f64, now: Millis) -> Result<Millis, ApiError> {
    if seconds > 0.0 && seconds <= MAX_LIFE {
        return Ok(now + (seconds * 1000.0).ceil() as Millis);
    }
    let message = format!(
        "is {seconds}, must be seconds above 0, {MAX_LIFE} at the most; leave it out for a token that \
         is good until it is revoked"
    );
    Err(ApiError::field("expires_in", message))
}

/// Which tokens to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTokens {
    /// Only those of this name: one that is good at the most, and any number that are not.
    #[param(example = "ada's laptop")]
    name: Option<String>,
    /// Go on behind this: `next` of the page before.
    #[param(value_type = Option<String>, example = "YWZ0ZXI6MDE5YWFiMWU")]
    after: Option<Cursor<TokenId>>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u32>,
}

/// Lists the tokens, also those that are not good any more; never their secrets.
#[utoipa::path(get, path = "/v1/tokens", operation_id = "list_tokens", tag = "rights", params(ListTokens),
    responses(
        (status = 200, description = "A page of them, oldest first.", body = Page<TokenStatus>),
        (status = 422, description = "A parameter cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListTokens>,
) -> Result<axum::Json<Page<TokenStatus>>, ApiError> {
    let limit = page::checked_limit(params.limit)?;
    let after = params.after.map_or(String::new(), |Cursor(id)| id.to_string());
    // Whoever looks wants to know what was used just now.
    upkeep::write_uses(&state).await?;
    let (name, now) = (params.name, state.clock.now());
    let tokens = state
        .store
        .read(|tx| {
            Box::pin(async move { tokens::list(tx, &after, name.as_deref(), limit + 1, now).await })
        })
        .await?;
    Ok(axum::Json(page::cut(tokens, limit, |token| token.id)))
}

/// Revokes a token.
///
/// From now on it lets nobody in; at other servers of the same database within a second. What it has
/// submitted stays. Its agents are gone, and what they have not reported runs elsewhere. Revoking again
/// changes nothing.
#[utoipa::path(delete, path = "/v1/tokens/{id}", operation_id = "revoke_token", tag = "rights",
    params(("id" = TokenId, Path, description = "The token.")),
    responses(
        (status = 204, description = "It is revoked."),
        (status = 404, description = "There is no such token.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is the last of an administrator.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Id(id): Id<TokenId>,
) -> Result<StatusCode, ApiError> {
    let (actor, now) = (caller.actor(), state.clock.now());
    let (revoked, left) = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                let revoked = tokens::revoke(tx, id, now).await?;
                let mut left = Default::default();
                if matches!(revoked, Revoked::Now(_)) {
                    audit::record(tx, &actor, Action::TokenRevoked, &[id], now).await?;
                    left = presence::leave_with_token(tx, &id.to_string()).await?;
                }
                Ok((revoked, left))
            })
        })
        .await?;
    match revoked {
        Revoked::Now(hash) => {
            state.tokens.forget(&hash);
            let (agents, jobs) = left;
            agents.into_iter().for_each(|agent| state.dispatcher.waits_elsewhere(agent));
            jobs.iter().for_each(|job| state.job_watchers.wake(job));
            state.wake_for_agents();
            Ok(StatusCode::NO_CONTENT)
        }
        Revoked::Before => Ok(StatusCode::NO_CONTENT),
        Revoked::Unknown => Err(ApiError::NotFound(format!(
            "there is no token {id}: GET /v1/tokens lists them, and it takes their ids"
        ))),
        Revoked::LastAdmin => Err(ApiError::Conflict(format!(
            "token {id} is the last of an administrator that is good, and without one nobody could \
             make another: make one first, by `farrow token create --role admin`"
        ))),
    }
}
