//! What is done to a job as a whole: cancelled, retried, deleted.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::job::{JobState, JobStatus};
use protocol::rights::Action;
use protocol::{JobId, Problem};

use super::caller::Caller;
use super::extract::Id;
use super::{status, submit, wait};
use crate::error::ApiError;
use crate::retry::{work_out, write};
use crate::state::AppState;
use crate::store::ends::{self, Ended};
use crate::store::retries::Retried;
use crate::store::trash::{self, Deleted};
use crate::store::{audit, jobs};

/// Cancels a job.
///
/// What runs is stopped within a second, what was accepted stays. Jobs that come after it fail.
/// Cancelling again changes nothing.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job.")),
    responses(
        (status = 200, description = "It is cancelled.", body = JobStatus),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is resolved or has failed already.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
) -> Result<axum::Json<JobStatus>, ApiError> {
    let (scope, actor, now) = (caller.scope(), caller.actor(), state.clock.now());
    let ended = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                if !jobs::is_in(tx, job, &scope).await? {
                    return Ok(Ended::Unknown);
                }
                let ended = ends::end(tx, job, JobState::Cancelled, None, now).await?;
                if matches!(ended, Ended::Now(_)) {
                    audit::record(tx, &actor, Action::JobCancelled, &[job], now).await?;
                }
                Ok(ended)
            })
        })
        .await?;
    match ended {
        Ended::Now(ending) => state.all_ended(&ending),
        // A server that was killed when it had cancelled the job may not have told its agents.
        Ended::Before(JobState::Cancelled) => state.look_for_orders(),
        Ended::Before(before) => {
            return Err(ApiError::Conflict(format!(
                "job {job} is {} already and cannot be cancelled",
                before.as_str()
            )));
        }
        Ended::Unknown => return Err(wait::no_job(job)),
    }
    Ok(axum::Json(status::of(&state, wait::find(&state, &caller, job).await?).await?))
}

/// Runs again what failed or is missing.
///
/// The job must have ended. A new job takes over the values there are, with the same function,
/// elements and options. Asked again, it answers with the same new job.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", operation_id = "retry_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job.")),
    responses(
        (status = 202, description = "The new job; its `retry_of` is the old one.", body = JobStatus,
            headers(
                ("Location" = String, description = "The new job."),
                ("Retry-After" = u32, description = "Seconds after which to ask for the value.")
            )),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has not ended, there is nothing to retry, or a job that it comes after was not resolved.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn retry(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
) -> Result<Response, ApiError> {
    let row = wait::find(&state, &caller, job).await?;
    if !row.state.is_final() {
        return Err(ApiError::Conflict(format!(
            "job {job} is {}: wait for its end, or cancel it, and retry it then",
            row.state.as_str()
        )));
    }
    if let Some(before) = row.retried_as {
        return submit::accepted(&state, &caller, before).await;
    }
    state.limits.submission(&caller.identity.owner, 1, 0, state.clock.now())?;
    let retry = work_out(&state.store, &state.blobs, &row).await?;
    if retry.rows.is_empty() && row.state == JobState::Resolved {
        return Err(ApiError::Conflict(format!(
            "job {job} has a value for every element: there is nothing to retry; submit it again to \
             run all of it"
        )));
    }
    let (id, now) = (retry.id, state.clock.now());
    let (store, actor) = (state.store.clone(), caller.actor());
    // It is written to its end also when the client does not wait for it.
    let writing = tokio::spawn(async move { write(&store, retry, actor, now).await });
    let retried = writing.await.map_err(|error| ApiError::Internal(error.to_string()))??;
    // What came to nothing is left to be cleared.
    state.deleted.notify_one();
    match retried {
        Retried::Now => {
            state.metrics.jobs_submitted.add(1);
            state.job_watchers.wake(&job);
            state.dispatcher.wake();
            submit::accepted(&state, &caller, id).await
        }
        Retried::Before(before) => submit::accepted(&state, &caller, before).await,
        Retried::Unknown => Err(wait::no_job(job)),
        Retried::Dependency(on, Some(state)) => Err(ApiError::Conflict(format!(
            "job {job} comes after job {on}, which is {}: retry that one first",
            state.as_str()
        ))),
        Retried::Dependency(on, None) => Err(ApiError::Conflict(format!(
            "job {job} comes after job {on}, which was deleted before it was seen to be resolved: \
             submit {job} again without it"
        ))),
    }
}

/// Deletes a job that has ended.
///
/// Its value, outcomes and logs go with it. Deleting what is not there changes nothing.
#[utoipa::path(delete, path = "/v1/jobs/{id}", operation_id = "delete_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job.")),
    responses(
        (status = 204, description = "It is not there, or not any more."),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has not ended.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
) -> Result<StatusCode, ApiError> {
    let (scope, actor, now) = (caller.scope(), caller.actor(), state.clock.now());
    let deleted = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                if !jobs::is_in(tx, job, &scope).await? {
                    return Ok(Deleted::Before);
                }
                let deleted = trash::delete(tx, job).await?;
                if deleted == Deleted::Now {
                    audit::record(tx, &actor, Action::JobDeleted, &[job], now).await?;
                }
                Ok(deleted)
            })
        })
        .await?;
    match deleted {
        Deleted::Now => state.was_deleted(job),
        Deleted::Before => {}
        Deleted::NotEnded(now) => {
            return Err(ApiError::Conflict(format!(
                "job {job} is {}: cancel it before you delete it",
                now.as_str()
            )));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
