//! The value of a job: every outcome in element order, whole or not at all.

use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::job::{JobState, JobStatus};
use protocol::{JobId, Problem};

use super::caller::Caller;
use super::extract::{Id, Params};
use super::wait::{JobWaiter, Wait};
use super::{ndjson, status};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::jobs::JobRow;
use crate::value::ValueReader;

/// Gives the value once the job is resolved.
///
/// Until then it says how far the job is. Only 202 means: ask again.
#[utoipa::path(get, path = "/v1/jobs/{id}/value", operation_id = "get_value", tag = "jobs",
    params(("id" = JobId, Path, description = "The job."), Wait,
        ("Prefer" = Option<String>, Header, description = "`wait=` and seconds, as the parameter.", example = "wait=30")),
    responses(
        (status = 200, description = "Every element's value, in order: an array; an object if the elements had names; nested as they were; of a call the bare value. With `on_error: collect`, `{\"error\": …}` where an element failed. For an encoding other than `json`, frames: each is the length of its payload (4 bytes, little endian), a letter, the payload; `v` is a value, `e` an error as JSON, `k` the name of what follows, `g` the beginning of an outer element, as JSON.",
            headers(("Preference-Applied" = String, description = "The wait, if it was a preference.")),
            content(
                (serde_json::Value = "application/json", example = json!([1, 4, 9])),
                (Vec<u8> = "application/vnd.farrow.frames", example = "\u{2}\u{0}\u{0}\u{0}v49")
            )),
        (status = 202, description = "Not yet.", body = JobStatus,
            headers(("Retry-After" = u32, description = "Seconds after which to ask again."))),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has failed; `element` says which element and why.", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The job was cancelled.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id, or a wait that cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn value(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
    Params(wait): Params<Wait>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let patience = wait.or_preferred(&headers)?;
    let waiter = JobWaiter::for_end(&state, &caller, job, patience.time)?;
    Ok(patience.applied(within(&state, waiter).await))
}

/// The answer about the value of a job at its end, or at that of the wait.
///
/// # Errors
/// When the job has no value or is not there, or the database fails.
pub async fn within(state: &AppState, mut waiter: JobWaiter) -> Result<Response, ApiError> {
    let mut goes_on = waiter.is_due() || waiter.has_news().await;
    let mut row = waiter.look().await?;
    while goes_on && !row.state.is_final() {
        goes_on = waiter.has_news().await;
        row = waiter.look().await?;
    }
    match row.state {
        JobState::Resolved => whole(state, &row).await,
        JobState::Failed => Err(failed(row)),
        JobState::Cancelled => Err(ApiError::JobCancelled(format!(
            "job {} was cancelled, so it has no value; submit it again to get one",
            row.id
        ))),
        JobState::Queued | JobState::Running => {
            let status = status::of(state, row).await?;
            Ok((StatusCode::ACCEPTED, [(RETRY_AFTER, "1")], axum::Json(status)).into_response())
        }
    }
}

fn failed(row: JobRow) -> ApiError {
    match row.error {
        Some(problem) => ApiError::JobFailed(Box::new(problem)),
        None => ApiError::Internal(format!("job {} has failed without an error", row.id)),
    }
}

/// The value: one that is small at once, else in parts. With its length wherever that is known, which takes clients less
/// to read: they need not join what they do not know the end of.
async fn whole(state: &AppState, row: &JobRow) -> Result<Response, ApiError> {
    let mut reader = ValueReader::new(state, row);
    let media_type = [(CONTENT_TYPE, reader.media_type())];
    let first = reader.next_chunk().await?;
    if reader.is_at_end() {
        return Ok((media_type, first.unwrap_or_default()).into_response());
    }
    let n_bytes = reader.n_bytes().await?;
    let parts = ndjson::streamed((first, reader), |(first, mut reader)| async move {
        let chunk = match first {
            Some(first) => Some(first),
            None => reader.next_chunk().await?,
        };
        Ok(chunk.map(|chunk| (chunk, (None, reader))))
    });
    let length = n_bytes.map(|n_bytes| [(CONTENT_LENGTH, n_bytes)]);
    Ok((media_type, length, parts).into_response())
}
