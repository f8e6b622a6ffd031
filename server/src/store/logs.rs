//! What jobs say while they run, as agents send it in batches.
//!
//! A job's lines are numbered by the bytes that it has said so far. Only the last [`KEPT`] bytes of
//! a job are kept: logs are for those who watch, and what an element printed stands in its outcome.

use protocol::{AgentId, JobId};

use super::StoreError;
use super::db::{Row, Tx, args};

/// Bytes of a job's lines that are kept at the most, about.
pub const KEPT: u64 = 16 << 20;

/// Neighbouring lines of one job, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes that they count for.
    pub bytes: u64,
    /// What they are.
    pub data: Vec<u8>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was written.
    Now,
    /// It had been written before.
    Before,
    /// The agent is not known.
    UnknownAgent,
}

pub(super) const MAY_SPEAK: &str = "
    select 1 from jobs where id = $2 and (
        exists (select 1 from logs where job_id = $2 and agent_id = $1)
        or exists (select 1 from leases where job_id = $2 and agent_id = $1)
        or exists (select 1 from outcomes where job_id = $2 and agent_id = $1))";

/// Whether `agent` holds, or held, elements of `job`. An agent that has spoken of a job did.
///
/// # Errors
/// The database's.
pub async fn may_speak(tx: &mut Tx<'_>, agent: AgentId, job: JobId) -> Result<bool, StoreError> {
    let row = tx.first(MAY_SPEAK, args![agent, job]).await?;
    Ok(row.is_some())
}

/// Writes a batch of `agent`, unless it was written before: batches are counted upwards.
///
/// # Errors
/// The database's; then nothing was written.
pub async fn add(
    tx: &mut Tx<'_>,
    agent: AgentId,
    batch: u64,
    jobs: Vec<(JobId, Vec<Packed>)>,
) -> Result<Added, StoreError> {
    let is_new = tx
        .execute(
            "update agents set log_batch = $2 where id = $1 and log_batch < $2",
            args![agent, batch],
        )
        .await?;
    if is_new == 0 {
        let known = tx.first("select 1 from agents where id = $1", args![agent]).await?;
        return Ok(if known.is_some() { Added::Before } else { Added::UnknownAgent });
    }
    for (job, lines) in jobs {
        let mut ends = end(tx, job).await?;
        for packed in lines {
            ends += packed.bytes;
            insert(tx, agent, job, ends, packed).await?;
        }
        tx.execute(
            "delete from logs where job_id = $1 and ends <= $2",
            args![job, ends.saturating_sub(KEPT)],
        )
        .await?;
    }
    Ok(Added::Now)
}

/// Bytes that a job has said so far: the cursor of its last line.
///
/// # Errors
/// The database's.
pub async fn end(tx: &mut Tx<'_>, job: JobId) -> Result<u64, StoreError> {
    let row = tx
        .first("select ends from logs where job_id = $1 order by ends desc limit 1", args![job])
        .await?;
    row.map_or(Ok(0), |row| row.count("ends"))
}

async fn insert(
    tx: &mut Tx<'_>,
    agent: AgentId,
    job: JobId,
    ends: u64,
    packed: Packed,
) -> Result<(), StoreError> {
    tx.execute(
        // Of a job that was deleted meanwhile nothing is written.
        "insert into logs (job_id, ends, bytes, agent_id, agent_name, data)
         select $1, $2, $3, a.id, a.name, $5 from agents a
         where a.id = $4 and exists (select 1 from jobs where id = $1)",
        args![job, ends, packed.bytes, agent, packed.data],
    )
    .await?;
    Ok(())
}

/// Lines of a job, packed, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes that the job had said before them.
    pub starts: u64,
    /// Who sent them.
    pub agent_name: String,
    /// What they are.
    pub data: Vec<u8>,
}

/// Reads what a job said behind the cursor `after`, in order, at most `limit` rows. The first may
/// begin before it.
///
/// # Errors
/// The database's.
pub async fn read(
    tx: &mut Tx<'_>,
    job: JobId,
    after: u64,
    limit: u32,
) -> Result<Vec<Stored>, StoreError> {
    let rows = tx
        .all(
            "select ends - bytes as starts, agent_name, data from logs
             where job_id = $1 and ends > $2 order by ends limit $3 + 0",
            args![job, after, limit],
        )
        .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &Row) -> Result<Stored, StoreError> {
    Ok(Stored {
        starts: row.count("starts")?,
        agent_name: row.text("agent_name")?,
        data: row.bytes("data")?,
    })
}
