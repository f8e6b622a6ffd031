//! Accepted outcomes, read in element order.

use protocol::agent::Note;
use protocol::{AgentId, JobId, LeaseId};

use super::StoreError;
use super::blocks::{Place, StoredBlock};
use super::db::{Row, Tx, args, json_text};
use crate::block;
use crate::clock::Millis;

/// Neighbouring outcomes that were reported together.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcomes {
    /// The values, and for errors the JSON of an [`ElementError`](protocol::job::ElementError).
    pub block: StoredBlock,
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
    tx.execute(
        "insert into outcomes (job_id, first, n, lease_id, attempt, agent_id, slot, pid,
             started_at, micros, errors, notes, lengths, data, digest)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
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
            digest
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

/// Reads outcomes of a job from element `from` on, in order, at most `limit` rows.
///
/// # Errors
/// The database's.
pub async fn read(
    tx: &mut Tx<'_>,
    job: JobId,
    from: u64,
    limit: u32,
) -> Result<Vec<Outcomes>, StoreError> {
    let rows = tx
        .all(
            "select first, lease_id, attempt, agent_id, slot, pid, started_at, micros, errors,
                 notes, lengths, data, digest
             from outcomes where job_id = $1 and first >= $2 order by first limit $3",
            args![job, from, limit],
        )
        .await?;
    rows.iter().map(outcomes).collect()
}

fn outcomes(row: &Row) -> Result<Outcomes, StoreError> {
    let lengths = block::decode_lengths(&row.bytes("lengths")?)
        .ok_or_else(|| StoreError::corrupt("lengths", "bytes that are no varints"))?;
    let place = Place::from_row(row)?;
    Ok(Outcomes {
        block: StoredBlock { first: row.count("first")?, lengths, place },
        errors: row.json("errors")?,
        notes: row.json("notes")?,
        lease: row.id("lease_id")?,
        attempt: row.small("attempt")?,
        agent: row.id("agent_id")?,
        slot: row.small("slot")?,
        pid: row.small("pid")?,
        started_at: row.int("started_at")?,
        micros: row.count("micros")?,
    })
}
