//! The ends of jobs, and what they mean for the jobs that come after.
//!
//! A job that waits for others has a row in `dependencies` for each that is not resolved yet. When
//! one is resolved its rows go, and who has none left can run; when one fails or is cancelled, who
//! waits for it fails, and so on, all in the transaction that ended the first.
//!
//! Thousands of jobs may come after a thousand others, so nothing here is done job by job: a
//! statement takes the ids of many, as a JSON array.

use protocol::job::JobState;
use protocol::{AgentId, JobId, Problem};

use super::StoreError;
use super::db::{Tx, args, json_text};
use super::jobs;
use super::spares;
use super::tokens::Scope;
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
    /// Jobs of which leases have begun that waited for a slot behind what has ended.
    pub begun: Vec<JobId>,
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
    let first = [(job, error.map(json_text).transpose()?)];
    end_all(tx, &first, to, now, &mut ending).await?;
    if to == JobState::Resolved {
        free_dependents(tx, job, now, &mut ending).await?;
    } else {
        fail_dependents(tx, job, to, now, &mut ending).await?;
    }
    Ok(Ended::Now(ending))
}

/// Lets those run that waited for `resolved` and wait for nothing more. Maps of nothing among them
/// are resolved, and so are those that waited for these.
async fn free_dependents(
    tx: &mut Tx<'_>,
    resolved: JobId,
    now: Millis,
    ending: &mut Ending,
) -> Result<(), StoreError> {
    let mut resolved = vec![resolved];
    while !resolved.is_empty() {
        let (complete, others) = no_longer_waiting(tx, &resolved).await?;
        if !others.is_empty() {
            tx.execute(
                // What has waited until now was never leased, so there is something to lease.
                "update jobs set runnable = $2 where id in (select value from json_each($1))",
                args![json_text(&others)?, true],
            )
            .await?;
        }
        ending.freed.extend(others);
        let ends: Vec<End> = complete.iter().map(|&job| (job, None)).collect();
        end_all(tx, &ends, JobState::Resolved, now, ending).await?;
        resolved = complete;
    }
    Ok(())
}

/// Takes `resolved` away from what jobs wait for. Says who waits for nothing more: first those that
/// have nothing to run, then the others, oldest first.
async fn no_longer_waiting(
    tx: &mut Tx<'_>,
    resolved: &[JobId],
) -> Result<(Vec<JobId>, Vec<JobId>), StoreError> {
    let rows = tx
        .all(
            "delete from dependencies where on_id in (select value from json_each($1))
             returning job_id",
            args![json_text(&resolved)?],
        )
        .await?;
    let waited: Vec<JobId> = rows.iter().map(|row| row.id("job_id")).collect::<Result<_, _>>()?;
    if waited.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let rows = tx
        .all(
            "select j.id, p.done + p.failed >= j.total as is_complete
             from jobs j join progress p on p.job_id = j.id
             where j.id in (select value from json_each($1))
                 and not exists (select 1 from dependencies where job_id = j.id)
             order by j.id",
            args![json_text(&waited)?],
        )
        .await?;
    let (mut complete, mut others) = (Vec::new(), Vec::new());
    for row in rows {
        let jobs = if row.flag("is_complete")? { &mut complete } else { &mut others };
        jobs.push(row.id("id")?);
    }
    Ok((complete, others))
}

/// Fails those that wait for `job`, which has ended as `state` says, and those that wait for these.
async fn fail_dependents(
    tx: &mut Tx<'_>,
    job: JobId,
    mut state: JobState,
    now: Millis,
    ending: &mut Ending,
) -> Result<(), StoreError> {
    let mut unresolved = vec![job];
    while !unresolved.is_empty() {
        let rows = tx
            .all(
                "select job_id, min(on_id) as on_id from dependencies
                 where on_id in (select value from json_each($1)) group by job_id order by job_id",
                args![json_text(&unresolved)?],
            )
            .await?;
        let mut ends = Vec::with_capacity(rows.len());
        for row in rows {
            let dependent = row.id("job_id")?;
            let problem = dependency_failed(dependent, row.id("on_id")?, state);
            ends.push((dependent, Some(json_text(&problem)?)));
        }
        state = JobState::Failed;
        end_all(tx, &ends, state, now, ending).await?;
        unresolved = ends.into_iter().map(|(job, _)| job).collect();
    }
    Ok(())
}

/// A job that ends, and the JSON of the problem that fails it.
type End = (JobId, Option<String>);

async fn end_all(
    tx: &mut Tx<'_>,
    ends: &[End],
    to: JobState,
    now: Millis,
    ending: &mut Ending,
) -> Result<(), StoreError> {
    if ends.is_empty() {
        return Ok(());
    }
    ending.ended.extend(ends.iter().map(|(job, _)| *job));
    let jobs = json_text(&ends.iter().map(|(job, _)| *job).collect::<Vec<_>>())?;
    let errors: Vec<&Option<String>> = ends.iter().map(|(_, error)| error).collect();
    let holders = tx
        .all(
            "select distinct agent_id from leases
             where job_id in (select value from json_each($1)) and state = 'live'",
            args![jobs.as_str()],
        )
        .await?;
    let holders: Vec<AgentId> =
        holders.iter().map(|row| row.id("agent_id")).collect::<Result<_, _>>()?;
    tx.execute(
        // A map of nothing starts when it is resolved. Whoever retries a job must know what it still
        // waited for: what was resolved may be deleted by then.
        "update jobs set state = $2, finished_at = $3, runnable = $4,
             error = why.value,
             started_at = case when $2 = 'resolved' then coalesce(started_at, $3)
                 else started_at end,
             after_jobs = (select '[' || coalesce(string_agg('\"' || on_id || '\"', ','), '') || ']'
                 from dependencies where job_id = jobs.id)
         from json_each($1) as ended join json_each($5) as why on why.key = ended.key
         where jobs.id = ended.value",
        args![jobs.as_str(), to.as_str(), now, false, json_text(&errors)?],
    )
    .await?;
    for sql in [
        "delete from dependencies where job_id in (select value from json_each($1))",
        "delete from needs where job_id in (select value from json_each($1))",
        "delete from leases where job_id in (select value from json_each($1))",
        "update progress set running = 0, slots = 0, version = version + 1
         where job_id in (select value from json_each($1))",
    ] {
        tx.execute(sql, args![jobs.as_str()]).await?;
    }
    ending.begun.extend(spares::begin_ahead_at(tx, &holders).await?);
    ending.holders.extend(holders);
    Ok(())
}

/// What a job that was just written waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: all of it is resolved.
    No,
    /// Jobs that may be resolved yet.
    Yes,
    /// This one, which never can be: it has ended, so.
    InVain(JobId, JobState),
}

/// Makes `job`, just written, wait for those of `after` that are not resolved.
///
/// # Errors
/// The database's, and that one of `after` is not there.
pub async fn wait_for(tx: &mut Tx<'_>, job: JobId, after: &[JobId]) -> Result<Waits, StoreError> {
    if after.is_empty() {
        return Ok(Waits::No);
    }
    let list = json_text(&after)?;
    tx.execute(
        "insert into needs (job_id, on_id) select distinct $1, value from json_each($2)",
        args![job, list.as_str()],
    )
    .await?;
    let n_waiting = tx
        .execute(
            "insert into dependencies (job_id, on_id)
             select distinct $1, one.value from json_each($2) as one
             left join jobs on_job on on_job.id = one.value
             where coalesce(on_job.state, 'missing') <> 'resolved'",
            args![job, list],
        )
        .await?;
    if n_waiting == 0 {
        return Ok(Waits::No);
    }
    let in_vain = tx
        .first(
            "select d.on_id, on_job.state from dependencies d
             left join jobs on_job on on_job.id = d.on_id
             where d.job_id = $1 and coalesce(on_job.state, 'missing') not in ('queued', 'running')
             order by d.on_id limit 1",
            args![job],
        )
        .await?;
    in_vain.map_or(Ok(Waits::Yes), |row| Ok(Waits::InVain(row.id("on_id")?, jobs::state(&row)?)))
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

/// Where a job is in its life; `None`: there is no such job.
///
/// # Errors
/// The database's.
pub async fn state_of(tx: &mut Tx<'_>, job: JobId) -> Result<Option<JobState>, StoreError> {
    let row = tx.first("select state from jobs where id = $1", args![job]).await?;
    row.map(|row| jobs::state(&row)).transpose()
}

/// The first of `jobs` that is not there, or not one of those that `scope` means, if one is not.
///
/// # Errors
/// The database's.
pub async fn first_missing(
    tx: &mut Tx<'_>,
    jobs: &[JobId],
    scope: &Scope,
) -> Result<Option<JobId>, StoreError> {
    let (all, owner) = match scope {
        Scope::All => (true, ""),
        Scope::Of(owner) => (false, owner.as_str()),
    };
    let row = tx
        .first(
            "select value as id from json_each($1)
             where not exists (select 1 from jobs where id = value and (owner = $2 or $3))
             order by key limit 1",
            args![json_text(&jobs)?, owner, all],
        )
        .await?;
    row.map(|row| row.id("id")).transpose()
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
