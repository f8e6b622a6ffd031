//! What leases hold that has not begun: which have such, a part of one given back, and that what
//! waited for a slot has begun (`scheduler::takeover` says why).

use std::collections::{BTreeMap, HashSet};

use protocol::{AgentId, JobId, LeaseId, RangeSet};

use super::StoreError;
use super::db::{Row, Tx, args, json_text};
use super::leases::{Bounds, Grant, insert, refresh_runnable, set_ranges, slots_at_work};
use crate::clock::Millis;
use crate::scheduler::takeover::Spare;

/// Live leases that can spare elements, without those in `asked`: at most `limit`, those with the most
/// elements first.
///
/// # Errors
/// The database's.
pub async fn largest(
    tx: &mut Tx<'_>,
    asked: &HashSet<LeaseId>,
    limit: usize,
    now: Millis,
) -> Result<Vec<Spare>, StoreError> {
    let rows = tx.all(LARGEST, args![(limit + asked.len()) as u64]).await?;
    let spare = |row: &Row| {
        let lease = row.id("id")?;
        let (holder, job) = (row.id("agent_id")?, row.id("job_id")?);
        let age = now - row.int("granted_at")?;
        Ok(Spare { lease, holder, job, elements: row.count("spare")?, age })
    };
    let spares: Result<Vec<Spare>, StoreError> = rows.iter().map(spare).collect();
    let mut spares = spares?;
    spares.retain(|spare| !asked.contains(&spare.lease));
    spares.truncate(limit);
    Ok(spares)
}

pub(super) const LARGEST: &str = "
    select id, agent_id, job_id, spare, granted_at from leases where state = 'live' and spare > 0
    order by spare desc limit $1 + 0";

/// Makes a part of a lease that goes on a row of its own, which can be leased anew. It has not begun,
/// so that this time is not counted as an attempt.
pub(super) async fn give_part_back(
    tx: &mut Tx<'_>,
    mut lease: Grant,
    part: &RangeSet,
    version: i64,
    granted_at: Millis,
) -> Result<Option<JobId>, StoreError> {
    let before = lease.slots_at_work();
    let given = lease.ranges.take_common(part);
    if given.is_empty() {
        return Ok(None);
    }
    let (n, job) = (given.len(), lease.job);
    set_ranges(tx, lease.id, &lease.ranges, version).await?;
    // Who gives a part of it runs the rest.
    lease.is_ahead = false;
    let after = lease.slots_at_work();
    lease.deaths.retain(|&element, _| given.ranges().iter().any(|range| range.contains(element)));
    let attempt = lease.attempt.saturating_sub(1);
    let rest = Grant { id: LeaseId::new(), ranges: given, attempt, ..lease };
    insert(tx, &rest, "released", Bounds::default(), granted_at).await?;
    tx.execute(
        "update progress set running = running - $2, slots = slots - $3 + $4, version = version + 1
         where job_id = $1",
        args![job, n, before, after],
    )
    .await?;
    refresh_runnable(tx, job).await?;
    Ok(Some(job))
}

/// Elements that a lease can spare once it has begun, of its row, when `left` remain: all but one a lane.
/// A chunk that is to stay whole can spare none (`Assignment::spare`; chunks of nested jobs, and those that agents were
/// lost with, are never ahead).
macro_rules! spare_at_work {
    ($left:literal) => {
        concat!(
            "case when ",
            $left,
            " > width and (select chunk from jobs where jobs.id = leases.job_id) is null
                 then ",
            $left,
            " - width else 0 end"
        )
    };
}
pub(super) use spare_at_work;

/// Notes that leases of an agent that waited for a slot have begun, the oldest first, as many as it
/// has slots that no other lease has at work: what had them was reported, given back, or is of a job
/// that has ended; or it had gone already when the lease was given, or came back. A lease that waits takes one slot
/// when it begins: `scheduler::assign` gives no others ahead. Says whose elements these are.
///
/// # Errors
/// The database's.
pub async fn begin_ahead(tx: &mut Tx<'_>, agent: AgentId) -> Result<Vec<JobId>, StoreError> {
    let held = tx
        .first(
            concat!(
                "select cast(coalesce(sum(",
                slots_at_work!(),
                "), 0) as bigint) as at_work,
                     cast(coalesce(sum(case when spare = remaining then 1 else 0 end), 0) as bigint)
                         as waiting,
                     coalesce((select slots from agents where id = $1), 0) as slots
                 from leases where agent_id = $1 and state = 'live'"
            ),
            args![agent],
        )
        .await?;
    let Some(held) = held else { return Ok(Vec::new()) };
    let free = held.count("slots")?.saturating_sub(held.count("at_work")?);
    let n_begun = free.min(held.count("waiting")?);
    if n_begun == 0 {
        return Ok(Vec::new());
    }
    let rows = tx
        .all(
            concat!(
                "update leases set version = version + 1, spare = ",
                spare_at_work!("remaining"),
                " where id in (select id from leases
                     where agent_id = $1 and state = 'live' and spare = remaining
                     order by id limit $2 + 0)
                 returning job_id, slots"
            ),
            args![agent, n_begun],
        )
        .await?;
    let mut begun: BTreeMap<JobId, i64> = BTreeMap::new();
    for row in rows {
        *begun.entry(row.id("job_id")?).or_default() += row.int("slots")?;
    }
    for (&job, &slots) in &begun {
        tx.execute(
            "update progress set slots = slots + $2, version = version + 1 where job_id = $1",
            args![job, slots],
        )
        .await?;
    }
    Ok(begun.into_keys().collect())
}

/// The same for those of `agents` that hold a lease that waits.
///
/// # Errors
/// The database's.
pub(super) async fn begin_ahead_at(
    tx: &mut Tx<'_>,
    agents: &[AgentId],
) -> Result<Vec<JobId>, StoreError> {
    if agents.is_empty() {
        return Ok(Vec::new());
    }
    let waiting = tx
        .all(
            "select distinct agent_id from leases
             where agent_id in (select value from json_each($1)) and state = 'live'
                 and spare = remaining",
            args![json_text(&agents)?],
        )
        .await?;
    let mut begun = Vec::new();
    for row in waiting {
        begun.extend(begin_ahead(tx, row.id("agent_id")?).await?);
    }
    Ok(begun)
}
