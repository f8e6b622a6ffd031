//! Running again what failed or was missing of a job: a new job that takes its values over.

use protocol::agent::{JobSpec, Note};
use protocol::job::{JobState, Options};
use protocol::{JobId, Range, RangeSet};

use super::StoreError;
use super::blocks::StoredBlock;
use super::db::{Row, Tx, args, json_text};
use super::{drafts, jobs, references, specs};
use crate::clock::Millis;

/// What is known of outcomes without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The index of the first.
    pub first: u64,
    /// How many.
    pub n: u64,
    /// Which of them are errors: positions from 0, ascending.
    pub errors: Vec<u32>,
    /// Microseconds that they took together.
    pub micros: u64,
}

/// A retry as it is worked out from the outcomes of the job, which do not change any more.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The job that failed, was cancelled, or has errors in its value.
    pub of: JobId,
    /// The new one.
    pub id: JobId,
    /// Whether there is nothing to run.
    pub is_complete: bool,
    /// About how many rows of the job are copied.
    pub n_rows: u64,
    /// How many values it takes over.
    pub n_kept: u64,
    /// Microseconds that these took.
    pub micros: u64,
    /// Those of them that stand beside errors, cut out. All others are copied.
    pub cut: Vec<Cut>,
    /// What it is to run: each set a row of returned elements.
    pub rows: Vec<RangeSet>,
}

/// Values that are cut out of outcomes that hold errors too.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The first of the outcomes that they are cut out of.
    pub of: u64,
    /// The values.
    pub block: StoredBlock,
    /// What else is to say of them.
    pub notes: Vec<Note>,
    /// Microseconds that they took together.
    pub micros: u64,
}

/// What a retry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is a job now.
    Now,
    /// It was one before: this.
    Before(JobId),
    /// The job that was to be retried is not there any more.
    Unknown,
    /// It has not begun because of a job that it comes after, and that is not resolved.
    Dependency(JobId, Option<JobState>),
}

/// Where the outcomes of a job lie from element `from` on, at most `limit` rows.
///
/// # Errors
/// The database's.
pub async fn survey(
    tx: &mut Tx<'_>,
    job: JobId,
    from: u64,
    limit: u32,
) -> Result<Vec<Piece>, StoreError> {
    let rows = tx
        .all(
            "select first, n, errors, micros from outcomes
             where job_id = $1 and first >= $2 order by first limit $3",
            args![job, from, limit],
        )
        .await?;
    let piece = |row: &Row| {
        Ok(Piece {
            first: row.count("first")?,
            n: row.count("n")?,
            errors: row.json("errors")?,
            micros: row.count("micros")?,
        })
    };
    rows.iter().map(piece).collect()
}

/// Where the outer elements of a nested job lie from `position` on, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn groups(
    tx: &mut Tx<'_>,
    job: JobId,
    position: u64,
    limit: u32,
) -> Result<Vec<Range>, StoreError> {
    let rows = tx
        .all(
            "select first, n from groups where job_id = $1 and position >= $2
             order by position limit $3",
            args![job, position, limit],
        )
        .await?;
    let range = |row: &Row| {
        let first = row.count("first")?;
        Ok(Range(first, first + row.count("n")?))
    };
    rows.iter().map(range).collect()
}

/// Writes the new job down in one transaction, unless there is one already.
///
/// # Errors
/// The database's.
pub async fn insert(tx: &mut Tx<'_>, retry: Retry, now: Millis) -> Result<Retried, StoreError> {
    let source = match source(tx, retry.of).await? {
        Ok(source) => source,
        Err(refused) => return Ok(refused),
    };
    drafts::copy_groups(tx, retry.of, retry.id, 0, u32::MAX).await?;
    drafts::copy_outcomes(tx, retry.of, retry.id, 0, u32::MAX).await?;
    drafts::insert_cuts(tx, retry.of, retry.id, &retry.cut).await?;
    drafts::return_all(tx, retry.id, &retry.rows, now).await?;
    begin(tx, &retry, source, now).await
}

/// Makes a job of a draft whose groups, outcomes and elements to run are written, unless there is
/// one already.
///
/// # Errors
/// The database's.
pub async fn publish(tx: &mut Tx<'_>, retry: &Retry, now: Millis) -> Result<Retried, StoreError> {
    match source(tx, retry.of).await? {
        Ok(source) => {
            if !drafts::close(tx, retry.id).await? {
                return Err(StoreError::corrupt("drafts", "a draft was given up before its end"));
            }
            begin(tx, retry, source, now).await
        }
        Err(refused) => Ok(refused),
    }
}

/// What a retry takes from the row of its job.
struct Source {
    spec: JobSpec,
    options: Options,
    after: Vec<JobId>,
}

/// Reads what a retry takes from the row of job `of`; or why there is to be none.
async fn source(tx: &mut Tx<'_>, of: JobId) -> Result<Result<Source, Retried>, StoreError> {
    let row = tx
        .first("select retried_as, spec, options, after_jobs from jobs where id = $1", args![of])
        .await?;
    let Some(row) = row else { return Ok(Err(Retried::Unknown)) };
    if let Some(before) = row.maybe_id("retried_as")? {
        return Ok(Err(Retried::Before(before)));
    }
    match latest(tx, row.json("after_jobs")?).await? {
        Ok(after) => {
            Ok(Ok(Source { spec: specs::spec(&row)?, options: row.json("options")?, after }))
        }
        Err((job, state)) => Ok(Err(Retried::Dependency(job, state))),
    }
}

/// Writes the rows by which the new job is there, and lets it run.
async fn begin(
    tx: &mut Tx<'_>,
    retry: &Retry,
    mut source: Source,
    now: Millis,
) -> Result<Retried, StoreError> {
    source.spec.id = retry.id;
    copy_job(tx, retry, &source.spec, &source.options, &source.after, now).await?;
    references::insert(tx, retry.id, &source.spec).await?;
    copy_blocks(tx, retry).await?;
    tx.execute("update jobs set retried_as = $2 where id = $1", args![retry.of, retry.id]).await?;
    jobs::begin(tx, retry.id, &source.after, retry.is_complete, now).await?;
    Ok(Retried::Now)
}

/// The jobs `after`, each replaced by its latest retry; or the one that can never be resolved.
async fn latest(
    tx: &mut Tx<'_>,
    after: Vec<JobId>,
) -> Result<Result<Vec<JobId>, (JobId, Option<JobState>)>, StoreError> {
    let mut latest = Vec::with_capacity(after.len());
    for mut job in after {
        loop {
            let row =
                tx.first("select state, retried_as from jobs where id = $1", args![job]).await?;
            let Some(row) = row else { return Ok(Err((job, None))) };
            let state = jobs::state(&row)?;
            match row.maybe_id("retried_as")? {
                _ if state == JobState::Resolved => break,
                Some(younger) => job = younger,
                None if state.is_final() => return Ok(Err((job, Some(state)))),
                None => break,
            }
        }
        latest.push(job);
    }
    Ok(Ok(latest))
}

async fn copy_job(
    tx: &mut Tx<'_>,
    retry: &Retry,
    spec: &JobSpec,
    options: &Options,
    after: &[JobId],
    now: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "insert into jobs (id, owner, name, runtime, state, priority, total, input_bytes, shape,
             plan, options, spec, chunk, runnable, submitted_at, started_at, finished_at, error,
             after_jobs, retry_of, requires)
         select $2, owner, name, runtime, 'queued', priority, total, input_bytes, shape,
             plan, options, $3, $4, $5, $6, null, null, null, $7, id, requires
         from jobs where id = $1",
        args![
            retry.of,
            retry.id,
            json_text(spec)?,
            options.chunk_size.and_then(|n| i64::try_from(n).ok()),
            false,
            now,
            json_text(&after)?
        ],
    )
    .await?;
    tx.execute(
        // Nothing is new: what is to run stands in the job's leases, as if it had come back.
        "insert into progress (job_id, cursor, done, failed, running, slots, busy_us, version)
         select $2, total, $3, 0, 0, 0, $4, 0 from jobs where id = $1",
        args![retry.of, retry.id, retry.n_kept, retry.micros],
    )
    .await?;
    Ok(())
}

/// Copies elements and names. Their rows hold a few MiB at the most: what is more is in blobs.
async fn copy_blocks(tx: &mut Tx<'_>, retry: &Retry) -> Result<(), StoreError> {
    tx.execute(
        "insert into blocks (job_id, kind, first, n, lengths, data, digest)
         select $2, kind, first, n, lengths, data, digest from blocks where job_id = $1",
        args![retry.of, retry.id],
    )
    .await?;
    Ok(())
}
