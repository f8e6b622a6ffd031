//! Leases: granted, given back, lapsed, revived.

use std::collections::{BTreeMap, BTreeSet};

use protocol::agent::Released;
use protocol::{AgentId, JobId, LeaseId, RangeSet};

use super::StoreError;
use super::db::{Row, Tx, args, json_text};
use super::spares;
use crate::clock::Millis;
use crate::scheduler::assign::Assignment;
use crate::scheduler::lease::{AfterLoss, after_loss};

/// A lease that an agent is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: LeaseId,
    /// Whose elements.
    pub job: JobId,
    /// Who runs it.
    pub agent: AgentId,
    /// What remains of it.
    pub ranges: RangeSet,
    /// Slots that it occupies.
    pub slots: u32,
    /// Elements of it to run at once.
    pub width: u32,
    /// How often its elements have been leased, this time included.
    pub attempt: u32,
    /// Agents lost with it.
    pub lost: u32,
    /// Whether it waits for a slot: all of it is spare.
    pub is_ahead: bool,
    /// Deaths of workers by element.
    pub deaths: BTreeMap<u64, u32>,
}

fn grant(row: &Row) -> Result<Grant, StoreError> {
    Ok(Grant {
        id: row.id("id")?,
        job: row.id("job_id")?,
        agent: row.id("agent_id")?,
        ranges: row.json("ranges")?,
        slots: row.small("slots")?,
        width: row.small("width")?,
        attempt: row.small("attempt")?,
        lost: row.small("lost")?,
        is_ahead: row.flag("is_ahead")?,
        deaths: row.json("deaths")?,
    })
}

impl Grant {
    /// Slots that it has at work: none while it waits for one.
    pub(super) fn slots_at_work(&self) -> u32 {
        if self.is_ahead || self.ranges.is_empty() { 0 } else { self.slots }
    }
}

/// The slots that a lease has at work, of its row.
macro_rules! slots_at_work {
    () => {
        "case when spare = remaining then 0 else slots end"
    };
}
pub(crate) use slots_at_work;

/// Writes what the scheduler decided: the leases, the cursor, and that what came back is taken.
///
/// # Errors
/// The database's.
pub async fn grant_all(
    tx: &mut Tx<'_>,
    assignments: Vec<Assignment>,
    now: Millis,
) -> Result<Vec<Grant>, StoreError> {
    let mut grants = Vec::with_capacity(assignments.len());
    for assignment in assignments {
        let deaths = match assignment.from {
            Some(from) => take_back(tx, from, &assignment.ranges).await?,
            None => BTreeMap::new(),
        };
        let (bounds, from) = (Bounds::of(&assignment), assignment.from);
        let n_elements = assignment.ranges.len();
        let grant = Grant {
            id: LeaseId::new(),
            job: assignment.job,
            agent: assignment.agent,
            ranges: assignment.ranges,
            slots: assignment.slots,
            width: assignment.width,
            attempt: assignment.attempt,
            lost: assignment.lost,
            is_ahead: bounds.spare == n_elements,
            deaths,
        };
        insert(tx, &grant, "live", bounds, now).await?;
        advance(tx, &grant, from.is_none()).await?;
        refresh(tx, grant.job, Some(now)).await?;
        grants.push(grant);
    }
    let ahead = grants.iter().filter(|grant| grant.is_ahead).map(|grant| grant.agent);
    for agent in ahead.collect::<BTreeSet<_>>() {
        spares::begin_ahead(tx, agent).await?;
    }
    Ok(grants)
}

/// Takes `ranges` out of a lease that came back: its agent can report them no more.
async fn take_back(
    tx: &mut Tx<'_>,
    from: LeaseId,
    ranges: &RangeSet,
) -> Result<BTreeMap<u64, u32>, StoreError> {
    let row = tx
        .first("select ranges, deaths, version from leases where id = $1", args![from])
        .await?
        .ok_or_else(|| StoreError::corrupt("leases.id", &format!("no {from}, just read")))?;
    let mut left: RangeSet = row.json("ranges")?;
    ranges.ranges().iter().for_each(|&range| left.remove(range));
    set_ranges(tx, from, &left, row.int("version")?).await?;
    tx.execute("update leases set state = 'torn' where id = $1 and state = 'lapsed'", args![from])
        .await?;
    let mut deaths: BTreeMap<u64, u32> = row.json("deaths")?;
    deaths.retain(|&element, _| ranges.ranges().iter().any(|range| range.contains(element)));
    Ok(deaths)
}

/// Writes what remains of a lease; nothing: it is gone.
///
/// The statement is the guard: it changes the lease only if it still is as it was read, at
/// `version`. With one writer it cannot be otherwise.
///
/// # Errors
/// The database's, and that the lease was changed since.
pub(super) async fn set_ranges(
    tx: &mut Tx<'_>,
    lease: LeaseId,
    left: &RangeSet,
    version: i64,
) -> Result<(), StoreError> {
    let changed = if left.is_empty() {
        tx.execute("delete from leases where id = $1 and version = $2", args![lease, version])
            .await?
    } else {
        tx.execute(
            // What was reported has begun: of the rest, all but one a lane may not have.
            concat!(
                "update leases set ranges = $3, remaining = $4, version = version + 1,
                     spare = case when spare <= $4 - width then spare else ",
                spares::spare_at_work!("$4"),
                " end
                 where id = $1 and version = $2"
            ),
            args![lease, version, json_text(left)?, left.len()],
        )
        .await?
    };
    if changed == 1 {
        return Ok(());
    }
    Err(StoreError::corrupt("leases.version", "another value than was just read"))
}

/// The memory that a lease takes, in bytes, and how many elements it can spare.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    memory: u64,
    spare: u64,
}

impl Bounds {
    fn of(assignment: &Assignment) -> Self {
        Self { memory: assignment.memory, spare: assignment.spare }
    }
}

/// Writes a row for `grant`, in `state`.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    grant: &Grant,
    state: &'static str,
    bounds: Bounds,
    now: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "insert into leases (id, job_id, agent_id, state, ranges, remaining, slots, width, attempt,
             lost, deaths, memory, spare, granted_at, version)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0)",
        args![
            grant.id,
            grant.job,
            grant.agent,
            state,
            json_text(&grant.ranges)?,
            grant.ranges.len(),
            grant.slots,
            grant.width,
            grant.attempt,
            grant.lost,
            json_text(&grant.deaths)?,
            bounds.memory,
            bounds.spare,
            now
        ],
    )
    .await?;
    Ok(())
}

/// Moves the job's counters for a lease, and its cursor if the elements are new.
async fn advance(tx: &mut Tx<'_>, grant: &Grant, is_new: bool) -> Result<(), StoreError> {
    let cursor = grant.ranges.ranges().last().filter(|_| is_new).map_or(0, |range| range.1);
    tx.execute(
        "update progress set running = running + $2, slots = slots + $3, version = version + 1,
             cursor = case when cursor < $4 then $4 else cursor end
         where job_id = $1",
        args![grant.job, grant.ranges.len(), grant.slots_at_work(), cursor],
    )
    .await?;
    Ok(())
}

/// Keeps the chunk size that `scheduling` came to, so that it does not change with the slots.
///
/// # Errors
/// The database's.
pub async fn fix_chunk(tx: &mut Tx<'_>, job: JobId, chunk: u64) -> Result<(), StoreError> {
    tx.execute("update jobs set chunk = $2 where id = $1 and chunk is null", args![job, chunk])
        .await?;
    Ok(())
}

/// Says in the job's row whether anything of it can be leased. Writes only when that changed.
///
/// # Errors
/// The database's.
pub(super) async fn refresh_runnable(tx: &mut Tx<'_>, job: JobId) -> Result<(), StoreError> {
    refresh(tx, job, None).await
}

/// The same; and says that the job has started at `started`, if it had not.
async fn refresh(tx: &mut Tx<'_>, job: JobId, started: Option<Millis>) -> Result<(), StoreError> {
    let row = tx
        .first(
            "select j.runnable as was, j.state = 'queued' as is_queued,
                 j.state in ('queued', 'running')
                 and not exists (select 1 from dependencies where job_id = j.id) and (
                 p.cursor < j.total or exists (select 1 from leases
                     where job_id = j.id and state <> 'live')) as is_now
             from jobs j join progress p on p.job_id = j.id where j.id = $1",
            args![job],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let (was, is_now, is_queued) = (row.flag("was")?, row.flag("is_now")?, row.flag("is_queued")?);
    if let Some(now) = started.filter(|_| is_queued) {
        tx.execute(
            "update jobs set state = 'running', started_at = $2, runnable = $3 where id = $1",
            args![job, now, is_now],
        )
        .await?;
    } else if was != is_now {
        tx.execute("update jobs set runnable = $2 where id = $1", args![job, is_now]).await?;
    }
    Ok(())
}

/// The live leases of an agent.
///
/// # Errors
/// The database's.
pub async fn of_agent(tx: &mut Tx<'_>, agent: AgentId) -> Result<Vec<Grant>, StoreError> {
    let rows = tx
        .all(
            "select id, job_id, agent_id, ranges, slots, width, attempt, lost, deaths,
                 spare = remaining as is_ahead
             from leases where agent_id = $1 and state = 'live' order by id",
            args![agent],
        )
        .await?;
    rows.iter().map(grant).collect()
}

/// The ids of the live leases of an agent.
///
/// # Errors
/// The database's.
pub async fn ids_of_agent(tx: &mut Tx<'_>, agent: AgentId) -> Result<Vec<LeaseId>, StoreError> {
    let rows = tx
        .all("select id from leases where agent_id = $1 and state = 'live'", args![agent])
        .await?;
    rows.iter().map(|row| row.id("id")).collect()
}

/// Makes what remains of a lease available again, or part of it. The agent gave it back, so that it
/// costs the elements nothing. Says whose elements these are; `None`: nothing was given back, for the
/// lease is not the agent's any more, or nothing of the part remains in it.
///
/// # Errors
/// The database's.
pub async fn release(
    tx: &mut Tx<'_>,
    agent: AgentId,
    released: &Released,
) -> Result<Option<JobId>, StoreError> {
    let row = tx
        .first(
            "select id, job_id, agent_id, ranges, slots, width, attempt, lost, deaths,
                 spare = remaining as is_ahead, version, granted_at
             from leases where id = $1 and agent_id = $2 and state = 'live'",
            args![released.id, agent],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut lease = grant(&row)?;
    if let Some(part) = &released.part {
        let (version, granted_at) = (row.int("version")?, row.int("granted_at")?);
        return spares::give_part_back(tx, lease, part, version, granted_at).await;
    }
    lease.deaths.extend(released.deaths.iter().map(|(&element, &n)| (element, n)));
    give_back(tx, &lease, "released").await?;
    Ok(Some(lease.job))
}

async fn give_back(tx: &mut Tx<'_>, lease: &Grant, state: &'static str) -> Result<(), StoreError> {
    tx.execute(
        "update leases set state = $2, lost = $3, deaths = $4, version = version + 1 where id = $1",
        args![lease.id, state, lease.lost, json_text(&lease.deaths)?],
    )
    .await?;
    tx.execute(
        "update progress set running = running - $2, slots = slots - $3, version = version + 1
         where job_id = $1",
        args![lease.job, lease.ranges.len(), lease.slots_at_work()],
    )
    .await?;
    refresh_runnable(tx, lease.job).await
}

/// What the loss of an agent came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lapsed {
    /// Jobs of which something can be leased again.
    pub jobs: Vec<JobId>,
    /// Elements that were lost with too many agents, each with the lease that holds it.
    pub given_up: Vec<(Grant, u64)>,
}

/// Lapses the leases of a lost agent: what remains can be leased anew. Until it is, the agent may
/// still report it.
///
/// # Errors
/// The database's.
pub async fn lapse(tx: &mut Tx<'_>, agent: AgentId) -> Result<Lapsed, StoreError> {
    let mut lapsed = Lapsed::default();
    for mut lease in of_agent(tx, agent).await? {
        match after_loss(&lease.ranges, lease.lost) {
            AfterLoss::Return { lost } => {
                lease.lost = lost;
                give_back(tx, &lease, "lapsed").await?;
                lapsed.jobs.push(lease.job);
            }
            AfterLoss::GiveUp { element } => lapsed.given_up.push((lease, element)),
        }
    }
    Ok(lapsed)
}

/// Makes a lapsed lease live again: its agent is back, and nothing of it was leased anew. Of one
/// that was torn the agent would not know which elements are left to it. Says whose elements these are;
/// `None`: there is nothing to revive.
///
/// # Errors
/// The database's.
pub async fn revive(
    tx: &mut Tx<'_>,
    agent: AgentId,
    lease: LeaseId,
) -> Result<Option<JobId>, StoreError> {
    let row = tx
        .first(
            concat!(
                "select job_id, remaining, ",
                slots_at_work!(),
                " as slots from leases
                 where id = $1 and agent_id = $2 and state = 'lapsed'"
            ),
            args![lease, agent],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let job: JobId = row.id("job_id")?;
    tx.execute(
        // It was not lost after all.
        "update leases set state = 'live', lost = lost - 1, version = version + 1 where id = $1",
        args![lease],
    )
    .await?;
    tx.execute(
        "update progress set running = running + $2, slots = slots + $3, version = version + 1
         where job_id = $1",
        args![job, row.int("remaining")?, row.int("slots")?],
    )
    .await?;
    refresh_runnable(tx, job).await?;
    Ok(Some(job))
}
