//! Submissions: one, or many at once; safe to send again with an `Idempotency-Key`.

use std::collections::HashSet;

use axum::extract::State;
use axum::http::header::{HeaderMap, LOCATION, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::job::{JobStatus, Page, SubmitJob, SubmitJobs};
use protocol::rights::Action;
use protocol::{JobId, Problem};

use super::caller::Caller;
use super::extract::{Body, Params};
use super::wait::{JobWaiter, Wait};
use super::{status, value, wait};
use crate::blobs::hex_digest;
use crate::elements::Draft;
use crate::error::ApiError;
use crate::scheduler::requirements::Requirements;
use crate::state::AppState;
use crate::store::jobs::{self, NewJob};
use crate::store::submissions::{self, Accepted, Key};
use crate::store::{Manner, audit};
use crate::submission;

/// Names a submission, so that it is accepted once however often it is sent.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Elements, and bytes of the body, of a submission that takes no longer to write down than the disk does to flush it.
const SMALL: u64 = 1000;
const SMALL_BYTES: usize = 64 << 10;

/// Characters of an `Idempotency-Key` at the most.
const MAX_KEY: usize = 255;

/// Submits a map or a call.
///
/// It is a future: this answers as soon as the job is on disk; a client that prefers to wait gets the
/// value in the same answer, if it is there in time.
/// With an `Idempotency-Key` the same submission may be sent again, after an answer that was lost:
/// it is the same job. The key is kept as long as the job.
#[utoipa::path(post, path = "/v1/jobs", operation_id = "submit_job", tag = "jobs",
    params(Wait, ("Prefer" = Option<String>, Header, description = "`wait=` and seconds, as the parameter.", example = "wait=30"),
        ("Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 visible characters that name this submission; best a random UUID.",
        example = "6f1c2a7e-0b7f-4c1e-9a53-1f7f6f0e9d11")),
    request_body(content = SubmitJob, content_type = "application/json"),
    responses(
        (status = 200, description = "Only to who waits: the job is resolved, and this is its value, as `GET /v1/jobs/{id}/value` gives it.",
            headers(
                ("Location" = String, description = "The job."),
                ("Preference-Applied" = String, description = "The wait, if it was a preference.")
            ),
            content(
                (serde_json::Value = "application/json", example = json!([1, 4, 9])),
                (Vec<u8> = "application/vnd.farrow.frames", example = "\u{2}\u{0}\u{0}\u{0}v49")
            )),
        (status = 202, description = "The job is on disk and will run.", body = JobStatus,
            headers(
                ("Location" = String, description = "The job."),
                ("Retry-After" = u32, description = "Seconds after which to ask for the value.")
            )),
        (status = 400, description = "Not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Only to who waits: the job, which `Location` names, has failed; `element` says which element and why.", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Only to who waits: the job was cancelled meanwhile.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be, and `errors` says which and what to do; or the `Idempotency-Key` was used with another body (`idempotency-key-reused`).", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn submit(
    State(state): State<AppState>,
    caller: Caller,
    Params(wait): Params<Wait>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let patience = wait.or_preferred(&headers)?;
    let key = key_of(&headers, "/v1/jobs", &body)?;
    let before = known(&state, &caller, key.as_ref()).await?;
    let mut early = None;
    let ids = match before {
        Some(before) => before,
        None => {
            // Before anything of it is stored.
            state.limits.room(state.clock.now())?;
            let mut draft = Draft::new(&state);
            let job = prepared(&state, &caller, &body, &mut draft).await?;
            let n_bytes = body.len();
            drop(body);
            let id = job.id;
            if patience.is_some() {
                early = JobWaiter::for_end_of_new(&state, &caller, id, patience.time).ok();
            }
            let is_small = n_bytes <= SMALL_BYTES && job.elements.total <= SMALL;
            let manner = match (is_small, patience.is_some()) {
                (false, _) => Manner::InTurn,
                (true, false) => Manner::AtOnce,
                // Nobody knows of it before it is answered, as below.
                (true, true) => Manner::Unflushed,
            };
            let ids = accept(&state, &caller, key, manner, vec![job], |_| String::new()).await?;
            // Of two that are the same and are sent at once one is given up.
            if ids == [id] {
                draft.done();
            } else {
                early = None;
            }
            ids
        }
    };
    let [id] = ids.as_slice() else {
        return Err(ApiError::Internal("a submission that is not one job".to_owned()));
    };
    if patience.is_some() {
        let written = state.store.n_committed();
        let waiter =
            early.map_or_else(|| JobWaiter::for_end(&state, &caller, *id, patience.time), Ok);
        let answer = ended(&state, &caller, *id, waiter).await;
        // Whoever has its value has it because an outcome was flushed, and the submission with it.
        state.store.flushed(written).await?;
        return Ok(patience.applied(answer));
    }
    accepted(&state, &caller, *id).await
}

/// What a body submits. The body is borrowed, so that of its elements there is one copy.
async fn prepared(
    state: &AppState,
    caller: &Caller,
    body: &[u8],
    draft: &mut Draft,
) -> Result<NewJob, ApiError> {
    let (submission, elements) = submission::read_submission(body)?;
    let blobs = state.blobs.seen_by(&state.store, caller.blob_scope());
    let owner = caller.identity.owner.clone();
    submission::prepare(submission, elements.as_deref(), owner, &blobs, Some(draft)).await
}

/// The answer to who waits for what became the job `id`.
async fn ended(
    state: &AppState,
    caller: &Caller,
    id: JobId,
    waiter: Result<JobWaiter, ApiError>,
) -> Response {
    let answer = match waiter {
        Ok(waiter) => value::within(state, waiter).await,
        // The job is accepted, and who submits may always ask later.
        Err(_) => accepted(state, caller, id).await,
    };
    let mut answer = answer.into_response();
    if let Ok(location) = HeaderValue::try_from(location(id)) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

fn location(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// The answer to what became the job `id`.
///
/// # Errors
/// When the job is not there any more, or the database fails.
pub async fn accepted(state: &AppState, caller: &Caller, id: JobId) -> Result<Response, ApiError> {
    let status = status::of(state, wait::find(state, caller, id).await?).await?;
    let headers = [(LOCATION, location(id)), (RETRY_AFTER, "1".to_owned())];
    Ok((StatusCode::ACCEPTED, headers, axum::Json(status)).into_response())
}

/// Submits up to 1000 jobs at once: all of them are accepted, or none.
///
/// Faults are named by their place, such as `jobs[3].options.timeout`. An `Idempotency-Key` holds
/// for all of them together.
#[utoipa::path(post, path = "/v1/jobs:batch", operation_id = "submit_jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 visible characters that name these submissions; best a random UUID.",
        example = "6f1c2a7e-0b7f-4c1e-9a53-1f7f6f0e9d11")),
    request_body(content = SubmitJobs, content_type = "application/json"),
    responses(
        (status = 202, description = "The jobs are on disk, in the order of the submissions.", body = Page<JobStatus>,
            headers(("Retry-After" = u32, description = "Seconds after which to ask for the values."))),
        (status = 400, description = "Not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was accepted before by its `Idempotency-Key`, and some of its jobs were deleted since.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field of one cannot be, so none was accepted; or the `Idempotency-Key` was used with another body.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn submit_batch(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, ApiError> {
    let key = key_of(&headers, "/v1/jobs:batch", &body)?;
    let before = known(&state, &caller, key.as_ref()).await?;
    let ids = match before {
        Some(before) => all_there(before, &body)?,
        None => {
            state.limits.room(state.clock.now())?;
            let submissions: SubmitJobs = submission::read_json(&body)?;
            let blobs = state.blobs.seen_by(&state.store, caller.blob_scope());
            let owner = &caller.identity.owner;
            let jobs = submission::prepare_all(submissions.jobs, owner, &blobs).await?;
            accept(&state, &caller, key, Manner::InTurn, jobs, |i| format!("jobs[{i}].")).await?
        }
    };
    let rows = state
        .store
        .read(|tx| {
            Box::pin(async move {
                let mut rows = Vec::with_capacity(ids.len());
                for id in ids {
                    rows.extend(jobs::find(tx, id).await?);
                }
                Ok(rows)
            })
        })
        .await?;
    let items = status::of_all(&state, rows).await?;
    let page = axum::Json(Page { items, next: None });
    Ok((StatusCode::ACCEPTED, [(RETRY_AFTER, "1")], page).into_response())
}

/// The jobs that the batch `body` became before, unless one was deleted since: then there is no
/// answer that is right.
fn all_there(before: Vec<JobId>, body: &[u8]) -> Result<Vec<JobId>, ApiError> {
    let batch: Counted = submission::read_json(body)?;
    let (n, left) = (batch.jobs.len(), before.len());
    if left == n {
        return Ok(before);
    }
    Err(ApiError::Conflict(format!(
        "of the {n} jobs that were submitted with this Idempotency-Key {} were deleted since: ask \
         for those that are left, or submit anew with another key",
        n - left
    )))
}

/// A batch of which only the number of jobs counts.
#[derive(serde::Deserialize)]
struct Counted {
    jobs: Vec<serde::de::IgnoredAny>,
}

/// The `Idempotency-Key` of a request, if it has one. It holds for its route and body.
fn key_of(headers: &HeaderMap, route: &str, body: &[u8]) -> Result<Option<Key>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_visible || !(1..=MAX_KEY).contains(&key.len()) {
        return Err(ApiError::field(
            "Idempotency-Key",
            format!("must be 1 to {MAX_KEY} visible ASCII characters, such as a random UUID"),
        ));
    }
    let digest = submission::heavy(body.len(), || hex_digest(body));
    let digest = hex_digest(format!("{route} {digest}").as_bytes());
    Ok(Some(Key { key: key.to_owned(), digest }))
}

/// The jobs that a submission with this key became before.
async fn known(
    state: &AppState,
    caller: &Caller,
    key: Option<&Key>,
) -> Result<Option<Vec<JobId>>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    let (owner, wanted) = (caller.identity.owner.clone(), key.clone());
    let known = state
        .store
        .read(|tx| Box::pin(async move { submissions::known(tx, &owner, &wanted).await }))
        .await?;
    match known {
        Some(Accepted::Before(jobs)) => {
            state.store.all_flushed().await?;
            Ok(Some(jobs))
        }
        Some(_) => Err(ApiError::IdempotencyKeyReused(key.key.clone())),
        None => Ok(None),
    }
}

/// Writes prepared jobs down. `place` says where the submission of a job stands in the body.
async fn accept(
    state: &AppState,
    caller: &Caller,
    key: Option<Key>,
    manner: Manner,
    jobs: Vec<NewJob>,
    place: impl Fn(usize) -> String,
) -> Result<Vec<JobId>, ApiError> {
    let (scope, actor, now) = (caller.scope(), caller.actor(), state.clock.now());
    let largest = jobs.iter().map(|job| job.elements.total).max().unwrap_or(0);
    state.limits.submission(&caller.identity.owner, jobs.len(), largest, now)?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let after: Vec<Vec<JobId>> = jobs.iter().map(|job| job.after.clone()).collect();
    let required = |job: &NewJob| Requirements::new(job.spec.runtime, job.options.labels.clone());
    let required: HashSet<Requirements> = jobs.iter().map(required).collect();
    let (used, submitted) = (key.clone(), ids.clone());
    let accepted = state.dispatcher.submit(manner, required, move |tx| {
        Box::pin(async move {
            let accepted = submissions::accept(tx, &actor.token, &scope, used, jobs, now).await?;
            if matches!(accepted, Accepted::Now(_)) {
                audit::record(tx, &actor, Action::JobSubmitted, &submitted, now).await?;
            }
            Ok(accepted)
        })
    });
    match accepted.await? {
        Accepted::Now(ending) => {
            state.metrics.jobs_submitted.add(ids.len() as u64);
            state.all_ended(&ending);
            Ok(ids)
        }
        Accepted::Before(ids) => {
            state.store.all_flushed().await?;
            Ok(ids)
        }
        Accepted::KeyReused => {
            Err(ApiError::IdempotencyKeyReused(key.map(|key| key.key).unwrap_or_default()))
        }
        Accepted::NoSuchJob { job, after: i } => Err(ApiError::field(
            format!("{}after[{i}]", place(job)),
            format!(
                "there is no job {}: give the id of a job that was submitted and not deleted",
                after[job][i]
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
