//! Accepted outcomes, read in element order or in the order in which they were accepted.

use protocol::agent::Note;
use protocol::job::Accepted;
use protocol::{AgentId, JobId, LeaseId};

use super::blocks::{Place, StoredBlock};
use super::db::{Row, Tx, args, json_text};
use super::{StoreError, references};
use crate::block;
use crate::clock::Millis;

/// Neighbouring outcomes that were reported together.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// The values, and for errors the JSON of an [`ElementError`](protocol::job::ElementError).
    pub block: StoredBlock,
    /// How many outcomes of the job were accepted before the first of these.
    pub rank: u64,
    /// Which of them are errors: positions from 0, ascending.
    pub errors: Vec<u32>,
    /// What else is to say of single elements.
    pub notes: Vec<Note>,
    /// Under which lease they ran.
    pub lease: LeaseId,
    /// How often their chunk had been leased.
    pub attempt: u32,
    /// Who ran them.
    pub agent: AgentId,
    /// That agent's name.
    pub agent_name: String,
    /// In which slot.
    pub slot: u32,
    /// In which process.
    pub pid: u32,
    /// When the first started, by the agent's clock.
    pub started_at: Millis,
    /// Microseconds that they took together.
    pub micros: u64,
}

/// Writes outcomes down. There can be no others of the same elements: the caller has just taken
/// them out of the one lease that held them.
///
/// # Errors
/// The database's.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    job: JobId,
    outcomes: Outcomes,
) -> Result<(), StoreError> {
    let (first, lengths) = (outcomes.block.first, outcomes.block.lengths);
    let (data, digest) = outcomes.block.place.into_columns();
    references::insert_artifacts(tx, job, first, &outcomes.notes).await?;
    tx.execute(
        "insert into outcomes (job_id, first, n, lease_id, attempt, agent_id, slot, pid,
             started_at, micros, errors, notes, lengths, data, digest, rank, agent_name)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        args![
            job,
            first,
            lengths.len(),
            outcomes.lease,
            outcomes.attempt,
            outcomes.agent,
            outcomes.slot,
            outcomes.pid,
            outcomes.started_at,
            outcomes.micros,
            json_text(&outcomes.errors)?,
            json_text(&outcomes.notes)?,
            block::encode_lengths(&lengths),
            data,
            digest,
            outcomes.rank,
            outcomes.agent_name
        ],
    )
    .await?;
    Ok(())
}

/// Whether the outcomes from `first` on, `n` of them, were accepted under `lease`.
///
/// # Errors
/// The database's.
pub(super) async fn were_accepted(
    tx: &mut Tx<'_>,
    job: JobId,
    first: u64,
    n: usize,
    lease: LeaseId,
) -> Result<bool, StoreError> {
    let row = tx
        .first(
            "select 1 from outcomes
             where job_id = $1 and first = $2 and n = $3 and lease_id = $4",
            args![job, first, n, lease],
        )
        .await?;
    Ok(row.is_some())
}

/// Reads outcomes of a job from the row on that begins with element `from`, in element order, at
/// most `limit` rows.
///
/// # Errors
/// The database's.
pub async fn read(
    tx: &mut Tx<'_>,
    job: JobId,
    from: u64,
    limit: u32,
) -> Result<Vec<Outcomes>, StoreError> {
    let mut rows = read_from(tx, job, Start::Index(from), false, limit).await?;
    rows.retain(|row| row.block.first >= from);
    Ok(rows)
}

/// How much some outcomes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many they are.
    pub n: u64,
    /// How many of them are errors.
    pub n_errors: u64,
    /// Bytes of their values and errors.
    pub n_bytes: u64,
}

/// Adds up outcomes of a job, `limit` rows from the one on that begins with element `from`. Nothing is added where there
/// are none.
///
/// # Errors
/// The database's.
pub async fn extent(
    tx: &mut Tx<'_>,
    job: JobId,
    from: u64,
    limit: u32,
) -> Result<Extent, StoreError> {
    let rows = tx
        .all(
            "select lengths, errors from outcomes where job_id = $1 and first >= $2 order by first limit $3 + 0",
            args![job, from, limit],
        )
        .await?;
    let mut extent = Extent::default();
    for row in &rows {
        let lengths = decoded_lengths(row)?;
        extent.n += lengths.len() as u64;
        extent.n_bytes += lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
        extent.n_errors += row.json::<Vec<u32>>("errors")?.len() as u64;
    }
    Ok(extent)
}

fn decoded_lengths(row: &Row) -> Result<Vec<u32>, StoreError> {
    block::decode_lengths(&row.bytes("lengths")?)
        .ok_or_else(|| StoreError::corrupt("lengths", "bytes that are no varints"))
}

/// In which order outcomes are read, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In element order, from the one of this index.
    Index(u64),
    /// In the order in which they were accepted, from the one of this rank.
    Rank(u64),
}

/// The statement that reads rows from the one that holds `$2` on.
macro_rules! select_outcomes {
    ($key:literal, $only:literal) => {
        concat!(
            "select first, rank, lease_id, attempt, agent_id, agent_name, slot, pid, started_at, micros, errors,
                 notes, lengths, data, digest
             from outcomes where job_id = $1 and ",
            $key,
            " >= coalesce((select max(",
            $key,
            ") from outcomes where job_id = $1 and ",
            $key,
            " <= $2), 0) ",
            $only,
            " order by ",
            $key,
            " limit $3 + 0"
        )
    };
}

const BY_INDEX: &str = select_outcomes!("first", "");
pub(super) const BY_INDEX_WITH_ERRORS: &str = select_outcomes!("first", "and errors <> '[]'");
const BY_RANK: &str = select_outcomes!("rank", "");
pub(super) const BY_RANK_WITH_ERRORS: &str = select_outcomes!("rank", "and errors <> '[]'");

/// Reads outcomes of a job in order, about `limit` rows; on request only rows that hold errors.
/// The first row may begin before `start`; there is none when nothing is left.
///
/// # Errors
/// The database's.
pub async fn read_from(
    tx: &mut Tx<'_>,
    job: JobId,
    start: Start,
    only_with_errors: bool,
    limit: u32,
) -> Result<Vec<Outcomes>, StoreError> {
    let (sql, from) = match (start, only_with_errors) {
        (Start::Index(index), false) => (BY_INDEX, index),
        (Start::Index(index), true) => (BY_INDEX_WITH_ERRORS, index),
        (Start::Rank(rank), false) => (BY_RANK, rank),
        (Start::Rank(rank), true) => (BY_RANK_WITH_ERRORS, rank),
    };
    // The row that begins before `start` may end before it too: then it is one too many.
    let rows = tx.all(sql, args![job, from, limit + 1]).await?;
    let mut read: Vec<Outcomes> = rows.iter().map(outcomes).collect::<Result<_, _>>()?;
    read.retain(|row| match start {
        Start::Index(index) => row.block.end() > index,
        Start::Rank(rank) => row.rank + row.block.lengths.len() as u64 > rank,
    });
    Ok(read)
}

fn outcomes(row: &Row) -> Result<Outcomes, StoreError> {
    let (lengths, place) = (decoded_lengths(row)?, Place::from_row(row)?);
    Ok(Outcomes {
        block: StoredBlock { first: row.count("first")?, lengths, place },
        rank: row.count("rank")?,
        errors: row.json("errors")?,
        notes: row.json("notes")?,
        lease: row.id("lease_id")?,
        attempt: row.small("attempt")?,
        agent: row.id("agent_id")?,
        agent_name: row.text("agent_name")?,
        slot: row.small("slot")?,
        pid: row.small("pid")?,
        started_at: row.int("started_at")?,
        micros: row.count("micros")?,
    })
}

/// Reads, without their payloads, the pieces that were accepted from `rank` on, about `limit`. The
/// first may begin before `rank`.
///
/// # Errors
/// The database's.
pub async fn accepted(
    tx: &mut Tx<'_>,
    job: JobId,
    rank: u64,
    limit: u32,
) -> Result<Vec<Accepted>, StoreError> {
    let rows = tx
        .all(
            "select first, n, rank, agent_id, agent_name, errors from outcomes
             where job_id = $1 and rank >= coalesce(
                 (select max(rank) from outcomes where job_id = $1 and rank <= $2), 0)
             order by rank limit $3 + 0",
            args![job, rank, limit + 1],
        )
        .await?;
    let mut read: Vec<Accepted> = rows.iter().map(accepted_piece).collect::<Result<_, _>>()?;
    read.retain(|piece| piece.rank + piece.n > rank);
    Ok(read)
}

fn accepted_piece(row: &Row) -> Result<Accepted, StoreError> {
    let first = row.count("first")?;
    let errors: Vec<u32> = row.json("errors")?;
    Ok(Accepted {
        first,
        n: row.count("n")?,
        failed: errors.into_iter().map(|position| first + u64::from(position)).collect(),
        agent: row.id("agent_id")?,
        agent_name: row.text("agent_name")?,
        rank: row.count("rank")?,
    })
}
