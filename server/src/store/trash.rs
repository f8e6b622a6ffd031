//! Deleted jobs. A job is gone for its clients at once; its large tables are cleared in slices, so
//! that no transaction takes long, and from where they were after a restart.

use protocol::JobId;
use protocol::job::JobState;

use super::db::{Tx, args};
use super::{StoreError, ends, references};
use crate::clock::Millis;

/// What an attempt to delete a job came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Now,
    /// It is not there.
    Before,
    /// It has not ended.
    NotEnded(JobState),
}

/// Deletes a job that has ended. What it held in large tables is left to [`clear`].
///
/// # Errors
/// The database's.
pub async fn delete(tx: &mut Tx<'_>, job: JobId) -> Result<Deleted, StoreError> {
    match ends::state_of(tx, job).await? {
        None => return Ok(Deleted::Before),
        Some(state) if !state.is_final() => return Ok(Deleted::NotEnded(state)),
        Some(_) => {}
    }
    erase(tx, job).await?;
    Ok(Deleted::Now)
}

async fn erase(tx: &mut Tx<'_>, job: JobId) -> Result<(), StoreError> {
    tx.execute("insert into trash (job_id) values ($1)", args![job]).await?;
    // The key of a submission goes with the last of its jobs.
    tx.execute(
        "delete from idempotency_keys where (owner, key) in (
             select owner, idempotency_key from jobs where id = $1)
         and not exists (select 1 from jobs where owner = idempotency_keys.owner
             and idempotency_key = idempotency_keys.key and id <> $1)",
        args![job],
    )
    .await?;
    // The job that it retried can be retried once more.
    tx.execute(
        "update jobs set retried_as = null
         where id = (select retry_of from jobs where id = $1) and retried_as = $1",
        args![job],
    )
    .await?;
    references::delete(tx, job).await?;
    tx.execute("delete from progress where job_id = $1", args![job]).await?;
    tx.execute("delete from jobs where id = $1", args![job]).await?;
    Ok(())
}

/// What one step of deleting old jobs came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// The jobs that are gone.
    pub deleted: Vec<JobId>,
    /// How far it looked: behind the job that ended then, of this id. `None`: at all that are old.
    pub next: Option<(Millis, String)>,
}

/// Each look for whoever needs a job is a subquery of one value: of `exists` and `or` PostgreSQL makes
/// a table of all jobs that have not ended, however few are looked at.
pub(super) const ENDED_BEFORE: &str = "
    select j.id, j.finished_at,
        (select min(job_id) from needs where on_id = j.id) is not null
        or (select min(job_id) from drafts where source = j.id) is not null
        or (select r.id from jobs r where r.id = j.retried_as and r.finished_at is null) is not null
            as is_held
    from jobs j
    where j.finished_at < $1 and (j.finished_at, j.id) > ($2, $3)
    order by j.finished_at, j.id limit $4";

/// Deletes jobs that ended before `before`, looking at those behind `from` and at most at `limit`.
/// Those stay that a job needs that has not ended: it comes after them, or runs again what failed of
/// them. What has become of that is looked at anew the next time.
///
/// # Errors
/// The database's.
pub async fn expire(
    tx: &mut Tx<'_>,
    before: Millis,
    from: Option<(Millis, String)>,
    limit: u32,
) -> Result<Expired, StoreError> {
    let (finished_at, id) = from.unwrap_or((Millis::MIN, String::new()));
    let rows = tx.all(ENDED_BEFORE, args![before, finished_at, id, limit]).await?;
    let mut expired = Expired::default();
    for row in &rows {
        if !row.flag("is_held")? {
            let job: JobId = row.id("id")?;
            erase(tx, job).await?;
            expired.deleted.push(job);
        }
    }
    if let (Some(last), true) = (rows.last(), rows.len() == limit as usize) {
        expired.next = Some((last.int("finished_at")?, last.text("id")?));
    }
    Ok(expired)
}

/// Statements that clear a slice of `$2` rows of the deleted job `$1`.
const SLICES: [&str; 6] = [
    "delete from artifacts where job_id = $1 and (element, digest) in (
         select element, digest from artifacts where job_id = $1 order by element, digest limit $2)",
    "delete from outcomes where job_id = $1 and first in (
         select first from outcomes where job_id = $1 order by first limit $2)",
    "delete from leases where job_id = $1 and id in (
         select id from leases where job_id = $1 order by id limit $2)",
    "delete from logs where job_id = $1 and ends in (
         select ends from logs where job_id = $1 order by ends limit $2)",
    "delete from groups where job_id = $1 and position in (
         select position from groups where job_id = $1 order by position limit $2)",
    "delete from blocks where job_id = $1 and (kind, first) in (
         select kind, first from blocks where job_id = $1 order by kind, first limit $2)",
];

/// Clears at most `limit` rows of a deleted job. `false`: there is nothing left to clear.
///
/// # Errors
/// The database's.
pub async fn clear(tx: &mut Tx<'_>, limit: u32) -> Result<bool, StoreError> {
    let row = tx.first("select job_id from trash order by job_id limit 1", args![]).await?;
    let Some(row) = row else { return Ok(false) };
    let job: JobId = row.id("job_id")?;
    for slice in SLICES {
        if tx.execute(slice, args![job, limit]).await? > 0 {
            return Ok(true);
        }
    }
    tx.execute("delete from trash where job_id = $1", args![job]).await?;
    Ok(true)
}
