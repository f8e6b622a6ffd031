//! The snapshot that the scheduler decides on: jobs of which something can be leased.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use protocol::job::{Level, Options};
use protocol::{AgentId, JobId, Range};

use super::db::{Row, Tx, args};
use super::jobs::{self, Shape};
use super::{StoreError, offers};
use crate::plan::placement;
use crate::scheduler::assign::{Agent, Job, Placement, Returned, is_suspect};
use crate::scheduler::chunking::{self, Measured};
use crate::scheduler::lease::SUSPECT_AFTER_LOST;
use crate::scheduler::requirements::{Offer, Requirements, slots_for};

/// A walk over the runnable jobs that some agents can run, a page an owner at a time, in the order in
/// which they go.
pub struct Walk {
    owners: Vec<Owner>,
    limit: u32,
}

/// Whose jobs are walked over.
struct Owner {
    id: String,
    /// What those of its jobs require that are walked over, as it is written down.
    requires: Vec<String>,
    /// Behind which job (priority and id) its next page begins.
    after: (i64, String),
}

impl Walk {
    /// Starts a walk over the jobs that one of `agents` could run if it had nothing else to do, in pages of
    /// at most `limit` jobs an owner. `None`: there are none.
    ///
    /// # Errors
    /// The database's.
    pub async fn start(
        tx: &mut Tx<'_>,
        agents: &[Agent],
        limit: u32,
    ) -> Result<Option<Self>, StoreError> {
        let mut owners: Vec<Owner> = Vec::new();
        for (owner, requires) in open_to(tx, agents).await? {
            match owners.last_mut() {
                Some(last) if last.id == owner => last.requires.push(requires),
                _ => owners.push(Owner {
                    id: owner,
                    requires: vec![requires],
                    after: (i64::MAX, String::new()),
                }),
            }
        }
        Ok((!owners.is_empty()).then_some(Self { owners, limit }))
    }

    /// The next page; empty at the end. `offers` are those of all live agents; a job whose chunks are sized
    /// by `scheduling` and that has not started gets its size from the slots among them that can run it.
    ///
    /// # Errors
    /// The database's.
    pub async fn next(
        &mut self,
        tx: &mut Tx<'_>,
        offers: &[Offer],
    ) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::new();
        while jobs.is_empty() && !self.owners.is_empty() {
            let mut left = Vec::new();
            for mut owner in std::mem::take(&mut self.owners) {
                let rows = page(tx, &owner, self.limit).await?;
                let is_full = rows.len() as u64 == u64::from(self.limit);
                if let Some(last) = rows.last().filter(|_| is_full) {
                    owner.after = (last.int("priority")?, last.text("id")?);
                    left.push(owner);
                }
                for row in rows {
                    jobs.extend(load(tx, &row, self.limit, offers).await?);
                }
            }
            self.owners = left;
        }
        Ok(jobs)
    }
}

/// The next jobs of an owner in the order in which they go, whatever of it they require: the first of all
/// are among the first of each kind.
async fn page(tx: &mut Tx<'_>, owner: &Owner, limit: u32) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for requires in &owner.requires {
        let (priority, id) = owner.after.clone();
        let after = args![owner.id.as_str(), requires.as_str(), priority, id, limit];
        for row in tx.all(RUNNABLE_OF_OWNER, after).await? {
            rows.push((Reverse(row.int("priority")?), row.text("id")?, row));
        }
    }
    if owner.requires.len() > 1 {
        rows.sort_by(|(p, i, _), (q, k, _)| (p, i).cmp(&(q, k)));
        rows.truncate(limit as usize);
    }
    Ok(rows.into_iter().map(|(_, _, row)| row).collect())
}

/// Those of these jobs of which elements may be run, as they stand.
///
/// # Errors
/// The database's.
pub async fn of(tx: &mut Tx<'_>, ids: &[JobId], offers: &[Offer]) -> Result<Vec<Job>, StoreError> {
    let mut jobs = Vec::new();
    for id in ids {
        if let Some(row) = tx.first(RUNNING, args![*id]).await? {
            jobs.extend(load(tx, &row, 1, offers).await?);
        }
    }
    Ok(jobs)
}

/// Whether anything can be leased that one of `agents` could run if it had nothing else to do.
///
/// # Errors
/// The database's.
pub async fn is_any(tx: &mut Tx<'_>, agents: &[Agent]) -> Result<bool, StoreError> {
    Ok(holds(tx, ANY_OPEN).await? && !open_to(tx, agents).await?.is_empty())
}

/// What an agent must have, one or the other, to be given something, or to take something over from who
/// holds it.
///
/// # Errors
/// The database's.
pub async fn sought(tx: &mut Tx<'_>) -> Result<HashSet<Requirements>, StoreError> {
    let rows = tx.all(SOUGHT, args![]).await?;
    rows.iter().map(offers::requirements).collect()
}

/// Whether [`sought`] would find anything: asked before, for it takes ten times as long also where there is nothing.
///
/// # Errors
/// The database's.
pub async fn is_any_sought(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    holds(tx, ANY_SOUGHT).await
}

/// Whether it is so, as a question says that has one answer.
async fn holds(tx: &mut Tx<'_>, question: &'static str) -> Result<bool, StoreError> {
    let answer = tx.first(question, args![]).await?;
    answer.map_or(Ok(false), |row| row.flag("is_so"))
}

/// Asked before [`OPEN`], which takes ten times as long also where nothing is open: after each call, of a server that
/// has nothing else to do.
/// (By the least there is, which both databases look up in the index. Whether any `exists` PostgreSQL finds out by reading
/// all jobs, if it takes many to be runnable.)
pub(super) const ANY_OPEN: &str =
    "select (select min(owner) from jobs where runnable) is not null as is_so";

pub(super) const ANY_SOUGHT: &str = "
    select (select min(owner) from jobs where runnable) is not null
        or (select max(spare) from leases where state = 'live' and spare > 0) is not null as is_so";

/// Owners of runnable jobs, and what these require, by skipping along the index: the cost is that of the
/// owners and of what their jobs differ in, not of the jobs.
macro_rules! open {
    ($select:literal) => {
        concat!(
            "with recursive owners (owner) as (
                 select min(owner) from jobs where runnable
                 union all
                 select (select min(owner) from jobs where runnable and owner > owners.owner)
                 from owners where owners.owner is not null
             ), open (owner, requires) as (
                 select owner, (select min(requires) from jobs
                     where runnable and jobs.owner = owners.owner)
                 from owners where owner is not null
                 union all
                 select owner, (select min(requires) from jobs
                     where runnable and jobs.owner = open.owner and jobs.requires > open.requires)
                 from open where requires is not null
             ) ",
            $select
        )
    };
}

pub(super) const OPEN: &str = open!("select owner, requires from open where requires is not null");

pub(super) const SOUGHT: &str = open!(
    "select requires from open where requires is not null
     union
     select requires from (select job_id from leases where state = 'live' and spare > 0
         order by spare desc limit 256) spares join jobs on id = job_id"
);

/// The owners of runnable jobs that one of `agents` could run if it had nothing else to do, and what these
/// require, as it is written down.
async fn open_to(tx: &mut Tx<'_>, agents: &[Agent]) -> Result<Vec<(String, String)>, StoreError> {
    let mut open = Vec::new();
    for row in tx.all(OPEN, args![]).await? {
        let requirements = offers::requirements(&row)?;
        if agents.iter().any(|agent| requirements.are_met(&agent.runtimes, &agent.labels)) {
            open.push((row.text("owner")?, row.text("requires")?));
        }
    }
    open.sort_unstable();
    Ok(open)
}

/// Loads a job. One that cannot be read is left out, so that it holds up no other.
async fn load(
    tx: &mut Tx<'_>,
    row: &Row,
    limit: u32,
    offers: &[Offer],
) -> Result<Option<Job>, StoreError> {
    let mut job = match job(row, offers) {
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

const RUNNABLE_OF_OWNER: &str = "
    select j.id, j.owner, j.runtime, j.priority, j.total, j.input_bytes, j.shape, j.plan, j.options,
        j.chunk, p.cursor, p.done, p.failed, p.busy_us
    from jobs j join progress p on p.job_id = j.id
    where j.runnable and j.owner = $1 and j.requires = $2
        and (j.priority < $3 or j.priority = $3 and j.id > $4)
    order by j.priority desc, j.id limit $5 + 0";

const RUNNING: &str = "
    select j.id, j.owner, j.runtime, j.priority, j.total, j.input_bytes, j.shape, j.plan, j.options,
        j.chunk, p.cursor, p.done, p.failed, p.busy_us
    from jobs j join progress p on p.job_id = j.id where j.id = $1 and j.state = 'running'";

fn job(row: &Row, offers: &[Offer]) -> Result<Job, StoreError> {
    let options: Options = row.json("options")?;
    let runtime = jobs::runtime(row)?;
    let requirements = Requirements::new(runtime, options.labels);
    let cluster_slots = slots_for(&requirements, offers);
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
        runtime,
        labels: requirements.labels,
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
        cluster_slots,
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
    select j.owner, cast(sum(case when p.slots > 0 then p.slots else 0 end) as bigint) as slots
    from jobs j join progress p on p.job_id = j.id
    where j.state = 'running' and j.finished_at is null group by j.owner";

/// Slots at work by owner, as the running jobs count them: there are fewer of these than of leases.
///
/// # Errors
/// The database's.
pub async fn slots_by_owner(tx: &mut Tx<'_>) -> Result<HashMap<String, u64>, StoreError> {
    let rows = tx.all(SLOTS_BY_OWNER, args![]).await?;
    rows.iter().map(|row| Ok((row.text("owner")?, row.count("slots")?))).collect()
}
