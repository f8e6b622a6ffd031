//! All that a database in memory holds of jobs, read at once, for an auditor that recounts it after
//! every transaction.
//!
//! SQLite only: one statement that answers with three texts.

use protocol::{AgentId, JobId, LeaseId, RangeSet};
use serde::Deserialize;

use super::db::{Tx, args, json_text};
use super::{StoreError, migrations, sqlite};
use crate::block::{decode_lengths, decompress};

/// A new database in memory.
pub fn in_memory() -> rusqlite::Connection {
    let connection = sqlite::in_memory().unwrap();
    migrations::scripts().for_each(|sql| sqlite::script(&connection, sql).unwrap());
    connection
}

/// What a database holds.
#[derive(Clone, Debug, Default)]
pub struct Recount {
    /// Jobs, oldest first.
    pub jobs: Vec<Job>,
    /// Leases of jobs that are there.
    pub leases: Vec<Lease>,
    /// Outcomes of jobs that are there, in element order.
    pub outcomes: Vec<Outcomes>,
}

/// A job and its counters.
#[derive(Clone, Debug, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub state: String,
    pub runnable: u8,
    pub total: u64,
    pub cursor: u64,
    pub done: u64,
    pub failed: u64,
    pub running: u64,
    pub slots: u64,
    pub key: Option<String>,
    pub n_waits_for: u64,
    pub on_error: String,
}

impl Job {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }
}

/// A lease.
#[derive(Clone, Debug, Deserialize)]
pub struct Lease {
    pub id: LeaseId,
    pub job: JobId,
    pub agent: AgentId,
    pub state: String,
    pub ranges: RangeSet,
    pub remaining: u64,
    pub slots: u64,
}

/// Outcomes that were accepted together.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Outcomes {
    pub job: JobId,
    pub first: u64,
    pub n: u64,
    pub lease: LeaseId,
    pub rank: u64,
    pub errors: Vec<u32>,
    lengths: String,
    data: String,
}

impl Outcomes {
    /// The index behind the last.
    pub fn end(&self) -> u64 {
        self.first + self.n
    }

    /// The payload of each.
    pub fn payloads(&self) -> Vec<String> {
        let data = String::from_utf8(decompress(&bytes(&self.data)).unwrap()).unwrap();
        let mut left = data.as_str();
        let cut = |length: u32| {
            let payload;
            (payload, left) = left.split_at(length as usize);
            payload.to_owned()
        };
        decode_lengths(&bytes(&self.lengths)).unwrap().into_iter().map(cut).collect()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}

const EVERYTHING: &str = "
    select (select json_group_array(json_object('id', j.id, 'state', state, 'runnable', runnable,
            'total', total, 'cursor', cursor, 'done', done, 'failed', failed, 'running', running,
            'slots', slots, 'key', idempotency_key, 'n_waits_for',
            (select count(*) from dependencies d where d.job_id = j.id),
            'on_error', options ->> 'on_error') order by j.id)
        from jobs j left join progress p on p.job_id = j.id) as jobs,
    (select json_group_array(json_object('id', id, 'job', job_id, 'agent', agent_id, 'state', state,
            'ranges', json(ranges), 'remaining', remaining,
            'slots', case when spare = remaining then 0 else slots end))
        from leases where job_id in (select id from jobs)) as leases,
    (select json_group_array(json_object('job', job_id, 'first', first, 'n', n, 'lease', lease_id,
            'rank', rank, 'errors', json(errors), 'lengths', hex(lengths), 'data', hex(data))
            order by job_id, first)
        from outcomes where job_id in (select id from jobs)) as outcomes";

/// Reads everything.
pub async fn everything(tx: &mut Tx<'_>) -> Result<Recount, StoreError> {
    let row = tx.first(EVERYTHING, args![]).await?.unwrap();
    Ok(Recount {
        jobs: row.json("jobs")?,
        leases: row.json("leases")?,
        outcomes: row.json("outcomes")?,
    })
}

/// Puts elements back into a lease, whatever became of them since: what a deliberate bug does.
pub async fn refill(tx: &mut Tx<'_>, lease: LeaseId, all: &RangeSet) -> Result<(), StoreError> {
    tx.execute(
        "update leases set ranges = $2, remaining = $3 where id = $1",
        args![lease, json_text(all)?, all.len()],
    )
    .await?;
    Ok(())
}
