//! Jobs, looked at.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{ETAG, HeaderMap, IF_NONE_MATCH};
use axum::response::{IntoResponse, Response};
use protocol::job::{JobState, JobStatus, Page};
use protocol::{JobId, Problem};
use serde::Deserialize;

use super::caller::Caller;
use super::extract::{Id, Params};
use super::page::{self, Cursor};
use super::status;
use super::wait::{JobWaiter, Wait};
use crate::blobs::hex_digest;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::StoreError;
use crate::store::db::Tx;
use crate::store::jobs::{self, JobRow};
use crate::store::tokens::Scope;

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobs {
    /// These jobs, at most 1000: `?id=…&id=…`. Those that there are come in the order asked, all
    /// on one page. Goes with no other parameter.
    #[serde(default)]
    #[param(style = Form, explode, max_items = 1000,
        example = json!(["019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42"]))]
    id: Vec<JobId>,
    /// Only those in this state.
    #[param(inline, example = "running")]
    state: Option<JobState>,
    /// Go on behind this: `next` of the page before.
    #[param(value_type = Option<String>, example = "YWZ0ZXI6MDE5YWFiMWU")]
    after: Option<Cursor<JobId>>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u32>,
}

/// Jobs that can be asked for by their ids at once.
const MAX_IDS: usize = 1000;

impl ListJobs {
    /// Refuses what cannot be asked together with ids.
    fn check_ids(&self) -> Result<(), ApiError> {
        if self.id.len() > MAX_IDS {
            let message =
                format!("comes {} times, may come at most {MAX_IDS} times", self.id.len());
            return Err(ApiError::field("id", message));
        }
        if self.state.is_some() || self.after.is_some() || self.limit.is_some() {
            return Err(ApiError::field(
                "id",
                "goes with no other parameter: leave the others out",
            ));
        }
        Ok(())
    }
}

/// Lists the jobs.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(ListJobs),
    responses(
        (status = 200, description = "A page of them, youngest first.", body = Page<JobStatus>),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Params(params): Params<ListJobs>,
) -> Result<axum::Json<Page<JobStatus>>, ApiError> {
    if !params.id.is_empty() {
        params.check_ids()?;
        let scope = caller.scope();
        let rows =
            state.store.read(|tx| Box::pin(async move { find_all(tx, params.id, &scope).await }));
        let items = status::of_all(&state, rows.await?).await?;
        return Ok(axum::Json(Page { items, next: None }));
    }
    let limit = page::checked_limit(params.limit)?;
    // "g" sorts behind every hex digit, so behind every id.
    let before = params.after.map_or("g".to_owned(), |Cursor(id)| id.to_string());
    let (scope, in_state) = (caller.scope(), params.state);
    let rows = state
        .store
        .read(|tx| {
            Box::pin(async move {
                match scope {
                    Scope::All => jobs::list(tx, &before, in_state, limit + 1).await,
                    Scope::Of(owner) => {
                        jobs::list_of(tx, &owner, &before, in_state, limit + 1).await
                    }
                }
            })
        })
        .await?;
    let page = page::cut(rows, limit, |row| row.id);
    let items = status::of_all(&state, page.items).await?;
    Ok(axum::Json(Page { items, next: page.next }))
}

/// Those of the jobs that there are, as far as `scope` means them.
async fn find_all(
    tx: &mut Tx<'_>,
    ids: Vec<JobId>,
    scope: &Scope,
) -> Result<Vec<JobRow>, StoreError> {
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        rows.extend(jobs::find_in(tx, id, scope).await?);
    }
    Ok(rows)
}

/// Says how a job is.
///
/// With `If-None-Match` and `?wait=`, answers as soon as it differs; with `?wait=` alone, as soon as
/// it is finished.
#[utoipa::path(get, path = "/v1/jobs/{id}", operation_id = "get_job", tag = "jobs",
    params(("id" = JobId, Path, description = "The job."), Wait,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an earlier answer.", example = "\"0123456789abcdef\""),
        ("Prefer" = Option<String>, Header, description = "`wait=` and seconds, as the parameter.", example = "wait=30")),
    responses(
        (status = 200, description = "How it is.", body = JobStatus,
            headers(
                ("ETag" = String, description = "Differs whenever the answer does."),
                ("Preference-Applied" = String, description = "The wait, if it was a preference.")
            )),
        (status = 304, description = "As before."),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id, or a wait that cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn find(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
    Params(wait): Params<Wait>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let patience = wait.or_preferred(&headers)?;
    let known = headers.get(IF_NONE_MATCH).and_then(|etags| etags.to_str().ok());
    Ok(patience.applied(status_within(&state, &caller, job, known, patience.time).await))
}

async fn status_within(
    state: &AppState,
    caller: &Caller,
    job: JobId,
    known: Option<&str>,
    wait: Duration,
) -> Result<Response, ApiError> {
    let mut waiter = match known {
        Some(_) => JobWaiter::for_move(state, caller, job, wait)?,
        None => JobWaiter::for_end(state, caller, job, wait)?,
    };
    let mut goes_on = true;
    let (etag, body) = loop {
        let row = waiter.look().await?;
        let is_final = row.state.is_final();
        let status = status::of(state, row).await?;
        let (etag, body) = (tag(&status)?, json(&status)?);
        let differs = known.is_some_and(|known| !is_among(&etag, known));
        if differs || is_final || !goes_on {
            break (etag, body);
        }
        goes_on = waiter.has_news().await;
    };
    if known.is_some_and(|known| is_among(&etag, known)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let content_type = (axum::http::header::CONTENT_TYPE, "application/json".to_owned());
    Ok(([(ETAG, etag), content_type], body).into_response())
}

/// Whether `If-None-Match: etags` names `etag`. Weakly compared, as RFC 9110 has it: a proxy that
/// compresses makes tags weak.
fn is_among(etag: &str, etags: &str) -> bool {
    let mut tags = etags.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// What differs whenever a status does. The pace moves with the clock alone and is left out.
pub(super) fn tag(status: &JobStatus) -> Result<String, ApiError> {
    let still = JobStatus { rate: None, remaining: None, ..status.clone() };
    Ok(format!("\"{}\"", &hex_digest(&json(&still)?)[..16]))
}

fn json(status: &JobStatus) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(status).map_err(|e| ApiError::Internal(e.to_string()))
}
