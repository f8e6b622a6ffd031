//! The ends of jobs, and what they mean for the jobs that come after.
//!
//! A job that waits for others has a row in `dependencies` for each that is not resolved yet. When
//! one is resolved its rows go, and who has none left can run; when one fails or is cancelled, who
//! waits for it fails, and so on, all in the transaction that ended the first.

use std::collections::VecDeque;

use protocol::job::JobState;
use protocol::{AgentId, JobId, Problem};

use super::StoreError;
use super::db::{Tx, args, json_text};
use super::jobs;
use super::leases::refresh_runnable;
use crate::clock::Millis;

/// What the end of a job came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Agents that run elements of what has ended and must be told.
    pub holders: Vec<AgentId>,
    /// The jobs that have ended: the one itself, then those that came after it and failed with it.
    pub ended: Vec<JobId>,
    /// Jobs that waited for it and can run now.
    pub freed: Vec<JobId>,
}

/// What an attempt to end a job came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has ended now.
    Now(Ending),
    /// It had ended before, so.
    Before(JobState),
    /// There is no such job.
    Unknown,
}

/// Ends a job for good: takes back its leases, frees those that waited for it if it is resolved,
/// and fails them otherwise.
///
/// # Errors
/// The database's.
pub async fn end(
    tx: &mut Tx<'_>,
    job: JobId,
    to: JobState,
    error: Option<&Problem>,
    now: Millis,
) -> Result<Ended, StoreError> {
    let Some(before) = state_of(tx, job).await? else { return Ok(Ended::Unknown) };
    if before.is_final() {
        return Ok(Ended::Before(before));
    }
    let mut ending = Ending::default();
    end_one(tx, job, to, error, now, &mut ending).await?;
    let mut ended = VecDeque::from([(job, to)]);
    while let Some((job, to)) = ended.pop_front() {
        for dependent in dependents(tx, job).await? {
            let Some(to) = pass_on(tx, dependent, job, to, now, &mut ending).await? else {
                continue;
            };
            ended.push_back((dependent, to));
        }
    }
    Ok(Ended::Now(ending))
}

/// What the end of `job` means for `dependent`: the state in which that ends by it, if it does.
async fn pass_on(
    tx: &mut Tx<'_>,
    dependent: JobId,
    job: JobId,
    state: JobState,
    now: Millis,
    ending: &mut Ending,
) -> Result<Option<JobState>, StoreError> {
    if state != JobState::Resolved {
        let problem = dependency_failed(dependent, job, state);
        end_one(tx, dependent, JobState::Failed, Some(&problem), now, ending).await?;
        return Ok(Some(JobState::Failed));
    }
    tx.execute("delete from dependencies where job_id = $1 and on_id = $2", args![dependent, job])
        .await?;
    if !waits_for(tx, dependent).await?.is_empty() {
        return Ok(None);
    }
    if has_no_elements(tx, dependent).await? {
        end_one(tx, dependent, JobState::Resolved, None, now, ending).await?;
        return Ok(Some(JobState::Resolved));
    }
    refresh_runnable(tx, dependent).await?;
    ending.freed.push(dependent);
    Ok(None)
}

async fn end_one(
    tx: &mut Tx<'_>,
    job: JobId,
    to: JobState,
    error: Option<&Problem>,
    now: Millis,
    ending: &mut Ending,
) -> Result<(), StoreError> {
    let holders = tx
        .all(
            "select distinct agent_id from leases where job_id = $1 and state = 'live'",
            args![job],
        )
        .await?;
    tx.execute("delete from leases where job_id = $1", args![job]).await?;
    tx.execute("delete from dependencies where job_id = $1", args![job]).await?;
    tx.execute(
        // A map of nothing starts when it is resolved.
        "update jobs set state = $2, error = $3, finished_at = $4, runnable = $5,
             started_at = case when $2 = 'resolved' then coalesce(started_at, $4)
                 else started_at end
         where id = $1",
        args![job, to.as_str(), error.map(json_text).transpose()?, now, false],
    )
    .await?;
    tx.execute(
        "update progress set running = 0, slots = 0, version = version + 1 where job_id = $1",
        args![job],
    )
    .await?;
    ending.ended.push(job);
    for row in holders {
        ending.holders.push(row.id("agent_id")?);
    }
    Ok(())
}

/// Makes `job`, just written, wait for those of `after` that are not resolved. Says which of them
/// can never be, if one can: it has failed, was cancelled, or is not there.
///
/// # Errors
/// The database's.
pub async fn wait_for(
    tx: &mut Tx<'_>,
    job: JobId,
    after: &[JobId],
) -> Result<Option<(JobId, JobState)>, StoreError> {
    for &on in after {
        match state_of(tx, on).await? {
            Some(JobState::Resolved) => {}
            Some(state) if state.is_final() => return Ok(Some((on, state))),
            Some(_) => {
                tx.execute(
                    "insert into dependencies (job_id, on_id) values ($1, $2)
                     on conflict do nothing",
                    args![job, on],
                )
                .await?;
            }
            None => return Err(StoreError::corrupt("dependencies.on_id", &on.to_string())),
        }
    }
    Ok(None)
}

/// The jobs that `job` still waits for, oldest first.
///
/// # Errors
/// The database's.
pub async fn waits_for(tx: &mut Tx<'_>, job: JobId) -> Result<Vec<JobId>, StoreError> {
    let rows = tx
        .all("select on_id from dependencies where job_id = $1 order by on_id", args![job])
        .await?;
    rows.iter().map(|row| row.id("on_id")).collect()
}

async fn dependents(tx: &mut Tx<'_>, job: JobId) -> Result<Vec<JobId>, StoreError> {
    let rows = tx
        .all("select job_id from dependencies where on_id = $1 order by job_id", args![job])
        .await?;
    rows.iter().map(|row| row.id("job_id")).collect()
}

async fn has_no_elements(tx: &mut Tx<'_>, job: JobId) -> Result<bool, StoreError> {
    let row = tx.first("select 1 from jobs where id = $1 and total = 0", args![job]).await?;
    Ok(row.is_some())
}

/// Where a job is in its life; `None`: there is no such job.
///
/// # Errors
/// The database's.
pub async fn state_of(tx: &mut Tx<'_>, job: JobId) -> Result<Option<JobState>, StoreError> {
    let row = tx.first("select state from jobs where id = $1", args![job]).await?;
    row.map(|row| jobs::state(&row)).transpose()
}

/// The problem of `job`, which comes after `on`, which was not resolved.
pub fn dependency_failed(job: JobId, on: JobId, state: JobState) -> Problem {
    let what = if state == JobState::Cancelled { "was cancelled" } else { "has failed" };
    Problem {
        kind: "urn:farrow:dependency-failed".to_owned(),
        title: "A job that this one comes after was not resolved".to_owned(),
        status: 409,
        detail: format!(
            "job {on}, which this one comes after, {what}, so this one was not run: look at \
             /v1/jobs/{on}; when that is retried and resolved, retry this one"
        ),
        instance: Some(format!("/v1/jobs/{job}/value")),
        errors: Vec::new(),
        element: None,
    }
}
