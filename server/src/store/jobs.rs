//! Jobs: written down, looked at.

use std::collections::HashMap;

use protocol::agent::JobSpec;
use protocol::job::{ElementCounts, JobState, Level, Options, Runtime};
use protocol::{JobId, Problem};
use serde::{Deserialize, Serialize};

use super::blocks::{self, Kind};
use super::db::{Row, Tx, args, json_text};
use super::ends::{self, Ended, Ending, Waits};
use super::tokens::Scope;
use super::{StoreError, drafts, leases, offers, references, specs};
use crate::clock::Millis;
use crate::elements::Elements;

/// A job as it is submitted, checked and with its large parts stored.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// The id of the token that submits it.
    pub owner: String,
    /// A name for people.
    pub name: Option<String>,
    /// Its topology.
    pub plan: Vec<Level>,
    /// How it is run.
    pub options: Options,
    /// Jobs that must be resolved before.
    pub after: Vec<JobId>,
    /// The `Idempotency-Key` of its submission.
    pub idempotency_key: Option<String>,
    /// What agents must know.
    pub spec: JobSpec,
    /// Its elements.
    pub elements: Elements,
}

/// Where the elements of a job are, and how its value is put together again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Element `i` is the integer `range + i`; `None`: they are in blocks.
    pub range: Option<i64>,
    /// Whether the value is an object, by the elements' names.
    pub named: bool,
    /// Whether the value is nested.
    pub nested: bool,
    /// Whether the outer level of a nested value is an object, by the outer elements' names.
    pub outer_named: bool,
    /// Whether it is a call: one element without an input, whose value is bare.
    #[serde(default)]
    pub is_call: bool,
}

/// Writes a job down. One without elements that waits for no other is resolved at once; one that
/// comes after a job that has failed fails at once: says what that came to.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx<'_>, job: NewJob, now: Millis) -> Result<Ending, StoreError> {
    let (id, elements) = (job.id, job.elements);
    if elements.is_begun && !drafts::close(tx, id).await? {
        return Err(StoreError::corrupt("drafts", "a draft was given up before its end"));
    }
    // Most jobs wait for nothing, and are written as what they are.
    let is_runnable = job.after.is_empty() && elements.total > 0;
    tx.execute(
        "insert into jobs (id, owner, name, runtime, state, priority, total, input_bytes, shape,
             plan, options, spec, chunk, runnable, submitted_at, started_at, finished_at, error,
             after_jobs, idempotency_key, requires)
         values ($1, $2, $3, $4, 'queued', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, null, null,
             null, $15, $16, $17)",
        args![
            id,
            job.owner,
            job.name,
            job.spec.runtime.as_str(),
            job.options.priority,
            elements.total,
            elements.input_bytes,
            json_text(&elements.shape)?,
            json_text(&job.plan)?,
            json_text(&job.options)?,
            json_text(&job.spec)?,
            job.options.chunk_size.and_then(|n| i64::try_from(n).ok()),
            is_runnable,
            now,
            json_text(&job.after)?,
            job.idempotency_key,
            offers::required(job.spec.runtime, &job.options.labels)?
        ],
    )
    .await?;
    tx.execute(
        "insert into progress (job_id, cursor, done, failed, running, slots, busy_us, version)
         values ($1, 0, 0, 0, 0, 0, 0, 0)",
        args![id],
    )
    .await?;
    references::insert(tx, id, &job.spec).await?;
    blocks::insert(tx, id, Kind::Element, elements.blocks).await?;
    blocks::insert(tx, id, Kind::Name, elements.names).await?;
    blocks::insert(tx, id, Kind::OuterName, elements.outer_names).await?;
    insert_groups(tx, id, &elements.groups).await?;
    if is_runnable {
        return Ok(Ending::default());
    }
    begin(tx, id, &job.after, elements.total == 0, now).await
}

/// Says of a job that was just written what it waits for, or lets it run, or ends it at once.
///
/// # Errors
/// The database's.
pub(super) async fn begin(
    tx: &mut Tx<'_>,
    job: JobId,
    after: &[JobId],
    is_empty: bool,
    now: Millis,
) -> Result<Ending, StoreError> {
    let ended = match ends::wait_for(tx, job, after).await? {
        Waits::Yes => return Ok(Ending::default()),
        Waits::InVain(on, state) => {
            let problem = ends::dependency_failed(job, on, state);
            ends::end(tx, job, JobState::Failed, Some(&problem), now).await?
        }
        Waits::No if is_empty => ends::end(tx, job, JobState::Resolved, None, now).await?,
        Waits::No => {
            leases::refresh_runnable(tx, job).await?;
            return Ok(Ending::default());
        }
    };
    match ended {
        Ended::Now(ending) => Ok(ending),
        _ => Err(StoreError::corrupt("jobs.state", "an end of a job that was just written")),
    }
}

/// Outer elements that one statement writes.
const GROUPS: usize = 10_000;

async fn insert_groups(tx: &mut Tx<'_>, job: JobId, groups: &[u64]) -> Result<(), StoreError> {
    let mut first = 0;
    let mut position = 0_u64;
    for sizes in groups.chunks(GROUPS) {
        // One statement for many rows, because each costs a hop to the database.
        tx.execute(
            "insert into groups (job_id, position, first, n)
             select $1, $3 + key,
                 $4 + cast(sum(cast(value as bigint)) over (order by key) as bigint)
                     - cast(value as bigint),
                 cast(value as bigint)
             from json_each($2)",
            args![job, json_text(&sizes)?, position, first],
        )
        .await?;
        position += sizes.len() as u64;
        first += sizes.iter().sum::<u64>();
    }
    Ok(())
}

/// The sizes of a nested job's outer elements from `position` on, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn groups(
    tx: &mut Tx<'_>,
    job: JobId,
    position: u64,
    limit: u32,
) -> Result<Vec<u64>, StoreError> {
    let rows = tx
        .all(
            "select n from groups where job_id = $1 and position >= $2 order by position limit $3 + 0",
            args![job, position, limit],
        )
        .await?;
    rows.iter().map(|row| row.count("n")).collect()
}

/// An outer element of a nested job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its index among the outer elements.
    pub position: u64,
    /// The index of its first inner element.
    pub first: u64,
    /// Its inner elements.
    pub n: u64,
}

impl Group {
    /// Whether element `index` is in it.
    pub fn holds(&self, index: u64) -> bool {
        (self.first..self.first + self.n).contains(&index)
    }
}

/// The outer element that holds element `index` of a nested job.
///
/// # Errors
/// The database's.
pub async fn group_of(
    tx: &mut Tx<'_>,
    job: JobId,
    index: u64,
) -> Result<Option<Group>, StoreError> {
    let row = tx
        .first(
            "select position, first, n from groups
             where job_id = $1 and first <= $2 and n > 0 order by first desc limit 1",
            args![job, index],
        )
        .await?;
    let group = |row: Row| {
        Ok(Group {
            position: row.count("position")?,
            first: row.count("first")?,
            n: row.count("n")?,
        })
    };
    row.map(group).transpose()
}

/// A job and its progress.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// The id of the token that submitted it.
    pub owner: String,
    /// A name for people.
    pub name: Option<String>,
    /// What runs it.
    pub runtime: Runtime,
    /// Where it is in its life.
    pub state: JobState,
    /// How many elements are where.
    pub counts: ElementCounts,
    /// Slots at work.
    pub slots: u64,
    /// Where its elements are.
    pub shape: Shape,
    /// Its topology.
    pub plan: Vec<Level>,
    /// How it is run.
    pub options: Options,
    /// What failed it.
    pub error: Option<Problem>,
    /// The jobs that it still waits for.
    pub after: Vec<JobId>,
    /// The job of which it runs again what failed or was missing.
    pub retry_of: Option<JobId>,
    /// The job that does so for it.
    pub retried_as: Option<JobId>,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When its first element was leased.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
}

/// The statement that reads the jobs that `$which` names.
macro_rules! select_jobs {
    ($which:literal) => {
        concat!(
            "select j.id, j.owner, j.name, j.runtime, j.state, j.total, j.shape, j.plan, j.options, j.error,
                 j.submitted_at, j.started_at, j.finished_at, j.retry_of, j.retried_as,
                 exists (select 1 from dependencies d where d.job_id = j.id) as waits,
                 p.done, p.failed, p.running, p.slots
             from jobs j join progress p on p.job_id = j.id where ",
            $which
        )
    };
}

const SELECT_ONE: &str = select_jobs!("j.id = $1");
const SELECT_PAGE: &str = select_jobs!("j.id < $1 order by j.id desc limit $2");
// Of jobs that go on and of those that have ended by an index each.
pub(super) const SELECT_PAGE_GOING: &str = select_jobs!(
    "j.id < $1 and j.state = $3 and j.finished_at is null order by j.id desc limit $2"
);
pub(super) const SELECT_PAGE_ENDED: &str = select_jobs!(
    "j.id < $1 and j.state = $3 and j.finished_at is not null order by j.id desc limit $2"
);
pub(super) const SELECT_PAGE_OF_OWNER: &str =
    select_jobs!("j.id < $1 and j.owner = $3 order by j.id desc limit $2");
pub(super) const SELECT_PAGE_OF_OWNER_GOING: &str = select_jobs!(
    "j.id < $1 and j.owner = $3 and j.state = $4 and j.finished_at is null
     order by j.id desc limit $2"
);
pub(super) const SELECT_PAGE_OF_OWNER_ENDED: &str = select_jobs!(
    "j.id < $1 and j.owner = $3 and j.state = $4 and j.finished_at is not null
     order by j.id desc limit $2"
);

/// What is known of a job.
///
/// # Errors
/// The database's.
pub async fn find(tx: &mut Tx<'_>, job: JobId) -> Result<Option<JobRow>, StoreError> {
    match tx.first(SELECT_ONE, args![job]).await? {
        Some(row) => job_row(tx, &row).await.map(Some),
        None => Ok(None),
    }
}

/// How often each of `jobs` has moved; those that are not there are left out.
///
/// # Errors
/// The database's.
pub async fn versions(tx: &mut Tx<'_>, jobs: &[JobId]) -> Result<HashMap<JobId, i64>, StoreError> {
    let rows = tx
        .all(
            "select job_id, version from progress
             where job_id in (select value from json_each($1))",
            args![json_text(&jobs)?],
        )
        .await?;
    rows.iter().map(|row| Ok((row.id("job_id")?, row.int("version")?))).collect()
}

/// What is known of a job, if it is one of those that `scope` means.
///
/// # Errors
/// The database's.
pub async fn find_in(
    tx: &mut Tx<'_>,
    job: JobId,
    scope: &Scope,
) -> Result<Option<JobRow>, StoreError> {
    Ok(find(tx, job).await?.filter(|row| scope.covers(&row.owner)))
}

/// Whether a job is there and one of those that `scope` means.
///
/// # Errors
/// The database's.
pub async fn is_in(tx: &mut Tx<'_>, job: JobId, scope: &Scope) -> Result<bool, StoreError> {
    let row = tx.first("select owner from jobs where id = $1", args![job]).await?;
    row.map_or(Ok(false), |row| Ok(scope.covers(&row.text("owner")?)))
}

/// Jobs, the youngest first, older than the id `before`, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn list(
    tx: &mut Tx<'_>,
    before: &str,
    state: Option<JobState>,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let rows = match state {
        None => tx.all(SELECT_PAGE, args![before, limit]).await?,
        Some(state) => {
            let page = if state.is_final() { SELECT_PAGE_ENDED } else { SELECT_PAGE_GOING };
            tx.all(page, args![before, limit, state.as_str()]).await?
        }
    };
    job_rows(tx, rows).await
}

/// Jobs of one owner, the youngest first, older than the id `before`, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn list_of(
    tx: &mut Tx<'_>,
    owner: &str,
    before: &str,
    state: Option<JobState>,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let rows = match state {
        None => tx.all(SELECT_PAGE_OF_OWNER, args![before, limit, owner]).await?,
        Some(state) => {
            let page = if state.is_final() {
                SELECT_PAGE_OF_OWNER_ENDED
            } else {
                SELECT_PAGE_OF_OWNER_GOING
            };
            tx.all(page, args![before, limit, owner, state.as_str()]).await?
        }
    };
    job_rows(tx, rows).await
}

async fn job_rows(tx: &mut Tx<'_>, rows: Vec<Row>) -> Result<Vec<JobRow>, StoreError> {
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        match job_row(tx, &row).await {
            Ok(job) => jobs.push(job),
            // One that cannot be read must not hide the others.
            Err(error) => {
                tracing::error!(%error, "a job cannot be read and is left out of the list");
            }
        }
    }
    Ok(jobs)
}

async fn job_row(tx: &mut Tx<'_>, row: &Row) -> Result<JobRow, StoreError> {
    let (total, done) = (row.count("total")?, row.count("done")?);
    let (failed, running) = (row.count("failed")?, row.count("running")?);
    let waiting = total.saturating_sub(done + failed + running);
    let id = row.id("id")?;
    let after = if row.flag("waits")? { ends::waits_for(tx, id).await? } else { Vec::new() };
    Ok(JobRow {
        id,
        owner: row.text("owner")?,
        name: row.maybe_text("name")?,
        runtime: runtime(row)?,
        state: state(row)?,
        counts: ElementCounts { total, done, failed, running, waiting },
        slots: row.count("slots")?,
        shape: row.json("shape")?,
        plan: row.json("plan")?,
        options: row.json("options")?,
        error: row.maybe_text("error")?.and_then(|text| serde_json::from_str(&text).ok()),
        after,
        retry_of: row.maybe_id("retry_of")?,
        retried_as: row.maybe_id("retried_as")?,
        submitted_at: row.int("submitted_at")?,
        started_at: row.maybe_int("started_at")?,
        finished_at: row.maybe_int("finished_at")?,
    })
}

/// The column `runtime`.
pub(super) fn runtime(row: &Row) -> Result<Runtime, StoreError> {
    let name = row.text("runtime")?;
    Runtime::parse(&name).ok_or_else(|| StoreError::corrupt("runtime", &name))
}

/// The column `state`.
pub(super) fn state(row: &Row) -> Result<JobState, StoreError> {
    let name = row.text("state")?;
    JobState::parse(&name).ok_or_else(|| StoreError::corrupt("state", &name))
}

/// What agents must know of a job, and where its elements are.
///
/// # Errors
/// The database's.
pub async fn spec(tx: &mut Tx<'_>, job: JobId) -> Result<Option<(JobSpec, Shape)>, StoreError> {
    let row = tx.first("select spec, options, shape from jobs where id = $1", args![job]).await?;
    row.map(|row| Ok((specs::spec(&row)?, row.json("shape")?))).transpose()
}
