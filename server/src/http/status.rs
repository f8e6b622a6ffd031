//! The status of a job in words: what its row, its progress and the agents say together.

use protocol::JobId;
use protocol::job::{AgentState, AgentStatus, JobKind, JobStatus, Slots};

use crate::clock::{Millis, rfc3339};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::agents;
use crate::store::jobs::JobRow;

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

/// What is to say of each of `jobs`. The agents are read once, and only if a job waits.
///
/// # Errors
/// When the database fails.
pub async fn of_all(state: &AppState, jobs: Vec<JobRow>) -> Result<Vec<JobStatus>, ApiError> {
    let now = state.clock.now();
    let agents = if jobs.iter().any(waits) {
        state
            .store
            .read(|tx| Box::pin(async move { agents::list(tx, "", MAX_AGENTS, false, now).await }))
            .await?
    } else {
        Vec::new()
    };
    Ok(jobs.into_iter().map(|job| status(job, &agents, now)).collect())
}

fn waits(job: &JobRow) -> bool {
    !job.state.is_final() && job.slots == 0
}

fn status(job: JobRow, agents: &[AgentStatus], now: Millis) -> JobStatus {
    let waiting_for = if waits(&job) { explain(&job, agents) } else { None };
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

/// Jobs that are named in words at the most.
const MAX_NAMED: usize = 3;

fn for_jobs(after: &[JobId]) -> String {
    let named: Vec<String> = after.iter().take(MAX_NAMED).map(JobId::to_string).collect();
    let jobs = if after.len() == 1 { "job" } else { "jobs" };
    let more = match after.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{jobs} {}{more} to be resolved", named.join(", "))
}

/// Why nothing of `job` runs, if nothing can.
fn explain(job: &JobRow, agents: &[AgentStatus]) -> Option<String> {
    if !job.after.is_empty() {
        return Some(for_jobs(&job.after));
    }
    let live: Vec<_> = agents.iter().filter(|agent| agent.state == AgentState::Live).collect();
    if live.is_empty() {
        return Some("no agent is connected: start one with `farrow agent`".to_owned());
    }
    let runtime = job.runtime;
    let able: Vec<_> =
        live.into_iter().filter(|agent| agent.runtimes.contains_key(&runtime)).collect();
    if able.is_empty() {
        return Some(format!("no agent has runtime {}", runtime.as_str()));
    }
    let wanted = &job.options.labels;
    let labelled: Vec<_> = able
        .into_iter()
        .filter(|agent| wanted.iter().all(|(key, value)| agent.labels.get(key) == Some(value)))
        .collect();
    if labelled.is_empty() {
        let labels: Vec<_> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Some(format!("no agent carries the labels {}", labels.join(", ")));
    }
    if let Slots::Count(n) = job.options.slots
        && labelled.iter().all(|agent| agent.slots < n)
    {
        return Some(format!("no agent has {n} slots, which one element occupies"));
    }
    if let Some(bytes) = job.options.memory
        && labelled.iter().all(|agent| agent.memory < bytes)
    {
        return Some(format!("no agent has {bytes} bytes of memory, which one element may use"));
    }
    labelled
        .iter()
        .all(|agent| agent.busy >= agent.slots)
        .then(|| "a free slot: all are busy with other work".to_owned())
}
