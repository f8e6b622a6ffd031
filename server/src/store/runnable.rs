//! The snapshot that the scheduler decides on: jobs of which something can be leased.

use std::collections::{HashMap, HashSet};

use protocol::job::{Level, Options};
use protocol::{AgentId, JobId, Range};

use super::StoreError;
use super::db::{Row, Tx, args};
use super::jobs::{self, Shape};
use crate::plan::placement;
use crate::scheduler::assign::{Job, Placement, Returned, is_suspect};
use crate::scheduler::chunking::{self, Measured};
use crate::scheduler::lease::SUSPECT_AFTER_LOST;

/// A walk over the runnable jobs, a page an owner at a time, in the order in which they go.
pub struct Walk {
    /// Behind which job (priority and id) each owner's next page begins.
    owners: Vec<(String, i64, String)>,
    limit: u32,
}

impl Walk {
    /// Starts a walk in pages of at most `limit` jobs an owner. `None`: nothing is runnable.
    ///
    /// # Errors
    /// The database's.
    pub async fn start(tx: &mut Tx<'_>, limit: u32) -> Result<Option<Self>, StoreError> {
        let owners = owners(tx).await?;
        let owners: Vec<_> =
            owners.into_iter().map(|owner| (owner, i64::MAX, String::new())).collect();
        Ok((!owners.is_empty()).then_some(Self { owners, limit }))
    }

    /// The next page; empty at the end. A job whose chunks are sized by `scheduling` and that has not
    /// started gets its size from `cluster_slots`.
    ///
    /// # Errors
    /// The database's.
    pub async fn next(
        &mut self,
        tx: &mut Tx<'_>,
        cluster_slots: u64,
    ) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::new();
        while jobs.is_empty() && !self.owners.is_empty() {
            let mut left = Vec::new();
            for (owner, priority, id) in std::mem::take(&mut self.owners) {
                let after = args![owner.as_str(), priority, id, self.limit];
                let rows = tx.all(RUNNABLE_OF_OWNER, after).await?;
                let is_full = rows.len() as u64 == u64::from(self.limit);
                if let Some(last) = rows.last().filter(|_| is_full) {
                    left.push((owner, last.int("priority")?, last.text("id")?));
                }
                for row in rows {
                    jobs.extend(load(tx, &row, self.limit, cluster_slots).await?);
                }
            }
            self.owners = left;
        }
        Ok(jobs)
    }
}

/// Those of these jobs of which elements may be run, as they stand.
///
/// # Errors
/// The database's.
pub async fn of(
    tx: &mut Tx<'_>,
    ids: &[JobId],
    cluster_slots: u64,
) -> Result<Vec<Job>, StoreError> {
    let mut jobs = Vec::new();
    for id in ids {
        if let Some(row) = tx.first(RUNNING, args![*id]).await? {
            jobs.extend(load(tx, &row, 1, cluster_slots).await?);
        }
    }
    Ok(jobs)
}

/// Whether anything can be leased.
///
/// # Errors
/// The database's.
pub async fn is_any(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let row =
        tx.first("select exists (select 1 from jobs where runnable) as any_is", args![]).await?;
    row.map_or(Ok(false), |row| row.flag("any_is"))
}

/// Whether anything can be leased, or taken over from who holds it.
///
/// # Errors
/// The database's.
pub async fn may_give(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let row = tx.first(MAY_GIVE, args![]).await?;
    row.map_or(Ok(false), |row| row.flag("any_is"))
}

pub(super) const MAY_GIVE: &str = "
    select exists (select 1 from jobs where runnable)
        or exists (select 1 from leases where state = 'live' and spare > 0) as any_is";

/// Loads a job. One that cannot be read is left out, so that it holds up no other.
async fn load(
    tx: &mut Tx<'_>,
    row: &Row,
    limit: u32,
    cluster_slots: u64,
) -> Result<Option<Job>, StoreError> {
    let mut job = match job(row, cluster_slots) {
        Ok(job) => job,
        Err(error) => {
            let id = row.text("id")?;
            tracing::error!(job = id, %error, "a job cannot be read and is not run; cancel it");
            return Ok(None);
        }
    };
    job.returned = returned(tx, job.id, limit).await?;
    if job.placement.nested {
        job.groups = next_groups(tx, job.id, job.cursor, limit).await?;
    }
    if job.returned.iter().any(|returned| is_suspect(returned.lost)) {
        job.suspects_on = suspects_on(tx, job.id).await?;
    }
    if job.placement != Placement::default() || job.memory > 0 {
        job.usage = usage(tx, job.id).await?;
    }
    Ok(Some(job))
}

/// Owners of runnable jobs, by skipping along the index: the cost is that of the owners, not of
/// their jobs.
async fn owners(tx: &mut Tx<'_>) -> Result<Vec<String>, StoreError> {
    let rows = tx
        .all(
            "with recursive walk (owner) as (
                 select min(owner) from jobs where runnable
                 union all
                 select (select min(owner) from jobs where runnable and owner > walk.owner)
                 from walk where walk.owner is not null
             )
             select owner from walk where owner is not null",
            args![],
        )
        .await?;
    rows.iter().map(|row| row.text("owner")).collect()
}

const RUNNABLE_OF_OWNER: &str = "
    select j.id, j.owner, j.runtime, j.priority, j.total, j.input_bytes, j.shape, j.plan, j.options,
        j.chunk, p.cursor, p.done, p.failed, p.busy_us
    from jobs j join progress p on p.job_id = j.id
    where j.runnable and j.owner = $1
        and (j.priority < $2 or j.priority = $2 and j.id > $3)
    order by j.priority desc, j.id limit $4 + 0";

const RUNNING: &str = "
    select j.id, j.owner, j.runtime, j.priority, j.total, j.input_bytes, j.shape, j.plan, j.options,
        j.chunk, p.cursor, p.done, p.failed, p.busy_us
    from jobs j join progress p on p.job_id = j.id where j.id = $1 and j.state = 'running'";

fn job(row: &Row, cluster_slots: u64) -> Result<Job, StoreError> {
    let options: Options = row.json("options")?;
    let plan: Vec<Level> = row.json("plan")?;
    let shape: Shape = row.json("shape")?;
    let (total, done) = (row.count("total")?, row.count("done")?);
    let from_scheduling = |scheduling| {
        // What a retry took over needs no chunk.
        let total = total.saturating_sub(done);
        let each = match options.slots {
            protocol::job::Slots::Count(n) => u64::from(n.max(1)),
            protocol::job::Slots::All(_) => 1,
        };
        chunking::from_scheduling(scheduling, total, cluster_slots / each)
    };
    let fixed = row.maybe_int("chunk")?.and_then(|n| u64::try_from(n).ok());
    Ok(Job {
        id: row.id("id")?,
        owner: row.text("owner")?,
        priority: options.priority,
        runtime: jobs::runtime(row)?,
        labels: options.labels,
        slots: options.slots,
        memory: options.memory.unwrap_or(0),
        placement: placement(&plan, shape.nested),
        total,
        cursor: row.count("cursor")?,
        groups: Vec::new(),
        returned: Vec::new(),
        chunk: fixed.or_else(|| options.scheduling.map(from_scheduling)),
        measured: Measured {
            elements: done + row.count("failed")?,
            seconds: row.count("busy_us")? as f64 / 1e6,
        },
        element_bytes: row.count("input_bytes")? / total.max(1),
        usage: HashMap::new(),
        suspects_on: HashSet::new(),
    })
}

pub(super) const RETURNED: &str = "
    select id, ranges, attempt, lost from leases
    where job_id = $1 and state <> 'live' order by id limit $2 + 0";

async fn returned(tx: &mut Tx<'_>, job: JobId, limit: u32) -> Result<Vec<Returned>, StoreError> {
    let rows = tx.all(RETURNED, args![job, limit]).await?;
    let returned = |row: &Row| {
        Ok(Returned {
            lease: row.id("id")?,
            ranges: row.json("ranges")?,
            attempt: row.small("attempt")?,
            lost: row.small("lost")?,
        })
    };
    rows.iter().map(returned).collect()
}

async fn next_groups(
    tx: &mut Tx<'_>,
    job: JobId,
    cursor: u64,
    limit: u32,
) -> Result<Vec<Range>, StoreError> {
    let rows = tx
        .all(
            "select first, n from groups where job_id = $1 and first >= $2 and n > 0
             order by first limit $3 + 0",
            args![job, cursor, limit],
        )
        .await?;
    let range = |row: &Row| {
        let first = row.count("first")?;
        Ok(Range(first, first + row.count("n")?))
    };
    rows.iter().map(range).collect()
}

pub(super) const USAGE: &str = "
    select agent_id, cast(sum(slots) as bigint) as slots from leases
    where job_id = $1 and state = 'live' group by agent_id";

async fn usage(tx: &mut Tx<'_>, job: JobId) -> Result<HashMap<AgentId, u32>, StoreError> {
    let rows = tx.all(USAGE, args![job]).await?;
    rows.iter().map(|row| Ok((row.id("agent_id")?, row.small("slots")?))).collect()
}

pub(super) const SUSPECTS: &str = "
    select agent_id from leases where job_id = $1 and state = 'live' and lost >= $2";

/// The agents that run elements of a job that may be what takes agents down.
async fn suspects_on(tx: &mut Tx<'_>, job: JobId) -> Result<HashSet<AgentId>, StoreError> {
    let rows = tx.all(SUSPECTS, args![job, SUSPECT_AFTER_LOST]).await?;
    rows.iter().map(|row| row.id("agent_id")).collect()
}

pub(super) const SLOTS_BY_OWNER: &str = "
    select j.owner, cast(sum(l.slots) as bigint) as slots
    from leases l join jobs j on j.id = l.job_id where l.state = 'live' group by j.owner";

/// Slots at work by owner.
///
/// # Errors
/// The database's.
pub async fn slots_by_owner(tx: &mut Tx<'_>) -> Result<HashMap<String, u64>, StoreError> {
    let rows = tx.all(SLOTS_BY_OWNER, args![]).await?;
    rows.iter().map(|row| Ok((row.text("owner")?, row.count("slots")?))).collect()
}
