//! The status of a job in words: what its row, its progress and the agents say together.

use std::collections::HashMap;

use protocol::job::{JobKind, JobStatus};

use super::waiting::{Cluster, explain};
use crate::clock::{Millis, rfc3339};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::db::Tx;
use crate::store::jobs::JobRow;
use crate::store::{StoreError, agents};

/// Agents that are looked at to say what a job waits for.
const MAX_AGENTS: u32 = 1000;

/// What is to say of a job.
///
/// # Errors
/// When the database fails.
pub async fn of(state: &AppState, job: JobRow) -> Result<JobStatus, ApiError> {
    let mut statuses = of_all(state, vec![job]).await?;
    statuses.pop().ok_or_else(|| ApiError::Internal("a job without a status".to_owned()))
}

/// What is to say of each of `jobs`. The agents are read once, and only if a job waits; what memory
/// is in use on them only if one that waits asks for memory.
///
/// # Errors
/// When the database fails.
pub async fn of_all(state: &AppState, jobs: Vec<JobRow>) -> Result<Vec<JobStatus>, ApiError> {
    let now = state.clock.now();
    let cluster = if jobs.iter().any(waits) {
        let of_memory = jobs.iter().any(|job| waits(job) && job.options.memory.is_some());
        state.store.read(|tx| Box::pin(async move { cluster(tx, of_memory, now).await })).await?
    } else {
        Cluster::default()
    };
    Ok(jobs.into_iter().map(|job| status(job, &cluster, now)).collect())
}

async fn cluster(tx: &mut Tx<'_>, of_memory: bool, now: Millis) -> Result<Cluster, StoreError> {
    let agents = agents::list(tx, "", MAX_AGENTS, false, now).await?;
    let memory_in_use =
        if of_memory { agents::memory_by_agent(tx).await? } else { HashMap::default() };
    Ok(Cluster { agents, memory_in_use })
}

fn waits(job: &JobRow) -> bool {
    !job.state.is_final() && job.slots == 0
}

fn status(job: JobRow, cluster: &Cluster, now: Millis) -> JobStatus {
    let waiting_for = if waits(&job) { explain(&job, cluster) } else { None };
    let (rate, remaining) = pace(&job, now);
    JobStatus {
        id: job.id,
        name: job.name,
        runtime: job.runtime,
        kind: if job.shape.is_call { JobKind::Call } else { JobKind::Map },
        state: job.state,
        elements: job.counts,
        slots: job.slots,
        rate,
        remaining,
        waiting_for,
        error: job.error,
        submitted_at: rfc3339(job.submitted_at),
        started_at: job.started_at.map(rfc3339),
        finished_at: job.finished_at.map(rfc3339),
        plan: job.plan,
        options: job.options,
        after: job.after,
        retry_of: job.retry_of,
        retried_as: job.retried_as,
    }
}

/// Elements a second since the start, and seconds until the end at that rate.
fn pace(job: &JobRow, now: Millis) -> (Option<f64>, Option<f64>) {
    let finished = job.counts.done + job.counts.failed;
    let Some(started) = job.started_at.filter(|_| finished > 0) else { return (None, None) };
    let seconds = (job.finished_at.unwrap_or(now) - started).max(1) as f64 / 1000.0;
    let rate = finished as f64 / seconds;
    let left = job.counts.total.saturating_sub(finished) as f64;
    let remaining = (!job.state.is_final()).then_some(left / rate);
    (Some(rate), remaining)
}
