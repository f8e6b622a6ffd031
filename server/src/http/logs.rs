//! What a job says while it runs: sent by agents, read live.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use protocol::agent::Logs;
use protocol::job::{LogLine, LogSource};
use protocol::{AgentId, JobId, Problem};
use serde::Deserialize;

use super::caller::{Caller, OwnAgent};
use super::extract::{Id, Json, Params};
use super::follow;
use super::wait::{JobWaiter, Wait};
use crate::error::ApiError;
use crate::logs::{self as lines, LogReader};
use crate::state::AppState;
use crate::store::logs::{self, Added, Packed};

/// Which lines to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadLogs {
    /// Go on behind the line of this `cursor`.
    #[param(example = 4096)]
    after: Option<u64>,
    /// Only what the element of this index said.
    #[param(example = 7)]
    element: Option<u64>,
    /// Only what this part of the job said.
    #[param(inline, example = "prepare")]
    source: Option<LogSource>,
    /// Seconds for which lines are streamed as they come, at most 60; the answer ends sooner when
    /// the job does. `Prefer: wait=30` is the same.
    #[param(minimum = 0, maximum = 60, example = 30)]
    wait: Option<f64>,
}

/// Reads what a job's elements, set-ups and `prepare` script have said.
///
/// With a wait the lines are streamed as they come. The last 16 MiB are kept: where older lines are
/// gone, the cursor of a line is further ahead than its text is long.
#[utoipa::path(get, path = "/v1/jobs/{id}/logs", operation_id = "read_logs", tag = "jobs",
    params(("id" = JobId, Path, description = "The job."), ReadLogs,
        ("Prefer" = Option<String>, Header, description = "`wait=` and seconds, as the parameter.", example = "wait=30")),
    responses(
        (status = 200, description = "A line of JSON for each line.", body = LogLine, content_type = "application/x-ndjson",
            headers(("Preference-Applied" = String, description = "The wait, if it was a preference."))),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id, or a parameter that cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn logs(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
    Params(params): Params<ReadLogs>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let patience = Wait { wait: params.wait }.or_preferred(&headers)?;
    let mut waiter = JobWaiter::for_log(&state, &caller, job, patience.time)?;
    let row = waiter.look().await?;
    let after = params.after.unwrap_or(0);
    let reader = LogReader::new(&state, job, after, params.element, params.source);
    follow::lines(reader, waiter, &row, patience).await
}

/// An agent sends what the jobs that it runs have said.
///
/// Lines of jobs that it never held are dropped.
#[utoipa::path(post, path = "/v1/agents/{id}/logs", operation_id = "add_logs", tag = "agent protocol", request_body = Logs,
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 204, description = "They are kept, now or by an earlier sending of the same batch."),
        (status = 400, description = "Not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The agent must register.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn add(
    State(state): State<AppState>,
    OwnAgent(agent): OwnAgent,
    Json(logs): Json<Logs>,
) -> Result<StatusCode, ApiError> {
    if logs.batch == 0 {
        return Err(ApiError::field("batch", "is 0, must count from 1"));
    }
    let batch = logs.batch;
    let packed = of_its_jobs(&state, agent, lines::pack(logs.entries)?).await?;
    let jobs: Vec<JobId> = packed.iter().map(|(job, _)| *job).collect();
    let added = state
        .store
        .write(move |tx| Box::pin(async move { logs::add(tx, agent, batch, packed).await }))
        .await?;
    match added {
        Added::Now => jobs.iter().for_each(|job| state.log_watchers.wake(job)),
        Added::Before => {}
        Added::UnknownAgent => return Err(ApiError::UnknownAgent),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Without the lines of jobs that the agent never held.
async fn of_its_jobs(
    state: &AppState,
    agent: AgentId,
    packed: Vec<(JobId, Vec<Packed>)>,
) -> Result<Vec<(JobId, Vec<Packed>)>, ApiError> {
    let its = state.store.read(|tx| {
        Box::pin(async move {
            let mut its = Vec::with_capacity(packed.len());
            for (job, lines) in packed {
                if logs::may_speak(tx, agent, job).await? {
                    its.push((job, lines));
                }
            }
            Ok(its)
        })
    });
    Ok(its.await?)
}
