//! Large payloads, by their digest.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use protocol::Problem;
use protocol::rights::Role;
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::extract::{Params, Segment};
use crate::blobs::{Opened, UploadError, parse_digest};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::tokens::Scope;
use crate::store::{agents, uploads};

/// The media type of every blob.
const MEDIA_TYPE: &str = "application/octet-stream";

/// A blob that is stored.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BlobStatus {
    /// Names it wherever a blob can be given: `sha256:` and 64 hex digits.
    #[schema(example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    pub digest: String,
    /// Its bytes.
    #[schema(example = 0)]
    pub size: u64,
}

/// Uploads a blob, to be named in submissions; or, by an agent, an artifact.
///
/// The path says the SHA-256 of the body, which is checked. Uploading what is there changes nothing.
#[utoipa::path(put, path = "/v1/blobs/{digest}", operation_id = "put_blob", tag = "jobs",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits, or these alone.",
        example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "Its bytes.", example = "…"),
    responses(
        (status = 200, description = "It was there before.", body = BlobStatus),
        (status = 201, description = "It is stored, and on disk.", body = BlobStatus),
        (status = 400, description = "The body breaks off.", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "An agent's token, and no agent of it has anything to report.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "It is larger than the server takes (`--max-blob`).", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a digest, or not that of the body.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn put(
    State(state): State<AppState>,
    caller: Caller,
    Segment(digest): Segment,
    request: Request,
) -> Result<Response, ApiError> {
    let digest = checked(&digest)?;
    let is_agent = caller.identity.role == Role::Agent;
    if is_agent {
        must_hold_a_lease(&state, &caller).await?;
    }
    // Also of artifacts: an agent waits for room, and values can be written down meanwhile.
    state.limits.room(state.clock.now())?;
    let limit = state.config.settings.max_blob;
    let body = request.into_body().into_data_stream();
    let uploaded = state.blobs.upload(&digest, body, limit).await.map_err(|error| match error {
        UploadError::Mismatch(found) => ApiError::field(
            "digest",
            format!(
                "is not that of the body, which is sha256:{found}: send the bytes that it names, \
                 or put them under their own digest"
            ),
        ),
        UploadError::TooLarge(limit) => ApiError::BlobTooLarge(limit),
        UploadError::Interrupted(why) => {
            ApiError::BadRequest(format!("the body ends early: {why}"))
        }
        UploadError::Io(error) => error.into(),
    })?;
    if is_agent {
        // It is nobody's until an outcome lists it.
        let status = if uploaded.is_new { StatusCode::CREATED } else { StatusCode::OK };
        return Ok((status, axum::Json(BlobStatus { digest, size: uploaded.size })).into_response());
    }
    let (owner, named, now) = (caller.identity.owner.clone(), digest.clone(), state.clock.now());
    let is_first = state
        .store
        .write(move |tx| Box::pin(async move { uploads::add(tx, &owner, &named, now).await }))
        .await?;
    // Whether others have uploaded it is not said.
    let is_new = uploaded.is_new || (is_first && caller.blob_scope() != Scope::All);
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let stored = BlobStatus { digest, size: uploaded.size };
    Ok((status, axum::Json(stored)).into_response())
}

/// Agents send what elements leave behind, and nothing else.
async fn must_hold_a_lease(state: &AppState, caller: &Caller) -> Result<(), ApiError> {
    let token = caller.identity.owner.clone();
    let holds = state
        .store
        .read(|tx| Box::pin(async move { agents::hold_leases(tx, &token).await }))
        .await?;
    if holds {
        return Ok(());
    }
    Err(ApiError::Forbidden(format!(
        "the token {:?} has the role `agent`, and none of its agents holds a lease: agents upload what \
         elements leave behind, and nothing else. Use a token of the role `submit`",
        caller.identity.name
    )))
}

/// Says whether a blob is there, and how large it is.
#[utoipa::path(head, path = "/v1/blobs/{digest}", operation_id = "find_blob", tag = "jobs",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits, or these alone.",
        example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
    responses(
        (status = 200, description = "It is there.",
            headers(("Content-Length" = u64, description = "Its bytes."))),
        (status = 400, description = "The path is not UTF-8."),
        (status = 401, description = "No token, or a wrong one."),
        (status = 404, description = "There is no such blob."),
        (status = 422, description = "Not a digest.")
    ))]
pub async fn head(
    State(state): State<AppState>,
    caller: Caller,
    Segment(digest): Segment,
) -> Result<Response, ApiError> {
    let digest = checked(&digest)?;
    let blobs = state.blobs.seen_by(&state.store, caller.blob_scope());
    // Who asks means to submit something with it.
    let size = blobs.find(&digest).await?.ok_or_else(|| no_blob(&digest))?;
    let headers = [(CONTENT_TYPE, MEDIA_TYPE.to_owned()), (CONTENT_LENGTH, size.to_string())];
    Ok((headers, Body::empty()).into_response())
}

/// How a blob is to be read.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadBlob {
    /// Whether the answer may be the address of the blob in the storage where it is: then its bytes
    /// do not pass through the server.
    #[serde(default)]
    #[param(required = false, example = false)]
    redirect: bool,
}

/// Reads a blob.
///
/// Who can go to the blob itself asks for that with `redirect=true`. Where blobs are in a bucket, the
/// answer is an address that is good for two minutes, for whoever has it; it is asked without a token.
/// The bytes that come must have the digest.
#[utoipa::path(get, path = "/v1/blobs/{digest}", operation_id = "get_blob", tag = "jobs",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits, or these alone.",
        example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), ReadBlob),
    responses(
        (status = 200, description = "Its bytes.", body = Vec<u8>, content_type = "application/octet-stream", example = "…"),
        (status = 307, description = "They are there, with `redirect=true`.",
            headers(("Location" = String, description = "A secret address, good for two minutes."))),
        (status = 400, description = "The path is not UTF-8.", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such blob.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a digest.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    Segment(digest): Segment,
    Params(wanted): Params<ReadBlob>,
) -> Result<Response, ApiError> {
    let digest = checked(&digest)?;
    let blobs = state.blobs.seen_by(&state.store, caller.blob_scope());
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => no_blob(&digest),
        _ => error.into(),
    };
    if wanted.redirect
        && let Some(url) = blobs.signed_url(&digest).await.map_err(failed)?
        && let Ok(location) = HeaderValue::from_str(url.as_str())
    {
        state.metrics.blobs_redirected.add(1);
        return Ok(redirect(location));
    }
    let Opened { size, parts } = blobs.open_blob(&digest).await.map_err(failed)?;
    let metrics = Arc::clone(&state.metrics);
    let parts = parts.inspect_ok(move |part| metrics.blob_bytes_sent.add(part.len() as u64));
    let headers = [(CONTENT_TYPE, MEDIA_TYPE.to_owned()), (CONTENT_LENGTH, size.to_string())];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// Sends the caller to a secret address, which nobody on the way may keep.
fn redirect(mut location: HeaderValue) -> Response {
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    location.set_sensitive(true);
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn no_blob(digest: &str) -> ApiError {
    ApiError::NotFound(format!("there is no blob {digest}; upload it by PUT /v1/blobs/{digest}"))
}

/// The digest in the path, with or without `sha256:`, with it.
fn checked(digest: &str) -> Result<String, ApiError> {
    let whole = if digest.contains(':') { digest.to_owned() } else { format!("sha256:{digest}") };
    if parse_digest(&whole).is_some() {
        return Ok(whole);
    }
    let message = format!("{digest:?} is not `sha256:` and 64 hex digits in lower case");
    Err(ApiError::field("digest", message))
}
