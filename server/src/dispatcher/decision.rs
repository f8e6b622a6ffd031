//! What a round decides, inside its transaction: it loads what is runnable, asks the pure [`assign`], and
//! writes the leases.

use std::collections::{HashMap, HashSet};

use protocol::{AgentId, JobId, LeaseId};

use crate::clock::Millis;
use crate::scheduler::assign::{Agent, Assignment, Job, assign};
use crate::scheduler::requirements::Offer;
use crate::scheduler::takeover::{Spare, TakeOver, take_over};
use crate::store::db::Tx;
use crate::store::leases::{self, Grant};
use crate::store::runnable::Walk;
use crate::store::{StoreError, agents, offers, runnable, spares};

/// Runnable jobs that are looked at together, an owner, at the most.
const MAX_JOBS: u32 = 64;

/// Leases that one transaction looks at for what others could take over.
const MAX_SPARES: usize = 256;

/// What a round comes to.
#[derive(Debug, Default)]
pub struct Decided {
    /// Leases that were granted.
    pub grants: Vec<Grant>,
    /// Whether something is left to lease, if any was.
    pub more: bool,
    /// What slots that are still free could run of other leases.
    pub takeover: TakeOver,
}

/// Gives work to `agents`, inside a transaction, and finds what else could be taken over, of leases that
/// are not in `asked`. `None`: there is nothing for anybody.
///
/// # Errors
/// The database's.
pub async fn decide(
    tx: &mut Tx<'_>,
    agents: Vec<Agent>,
    asked: &HashSet<LeaseId>,
    now: Millis,
) -> Result<Option<Decided>, StoreError> {
    let wanted: u32 = agents.iter().map(|agent| agent.free + agent.ahead).sum();
    let walk = Walk::start(tx, &agents, wanted.clamp(1, MAX_JOBS)).await?;
    let has_free_slots = |agents: &[Agent]| agents.iter().any(|agent| agent.free > 0);
    let spares = if has_free_slots(&agents) {
        spares::largest(tx, asked, MAX_SPARES, now).await?
    } else {
        Vec::new()
    };
    if walk.is_none() && spares.is_empty() {
        return Ok(None);
    }
    let offers = offers::all(tx).await?;
    let mut agents = live(tx, agents).await?;
    let mut decided = Decided::default();
    if let Some(walk) = walk {
        decided.grants = grant(tx, walk, &mut agents, &offers, now).await?;
        decided.more = !decided.grants.is_empty() && runnable::is_any(tx, &agents).await?;
    }
    if !spares.is_empty() && has_free_slots(&agents) {
        let jobs = jobs_of(tx, &spares, &offers).await?;
        decided.takeover = take_over(&agents, &jobs, spares);
    }
    Ok(Some(decided))
}

/// Grants what is runnable to the free slots of `agents`, and leases ahead.
async fn grant(
    tx: &mut Tx<'_>,
    mut walk: Walk,
    agents: &mut [Agent],
    offers: &[Offer],
    now: Millis,
) -> Result<Vec<Grant>, StoreError> {
    let mut owners = runnable::slots_by_owner(tx).await?;
    let mut grants = Vec::new();
    loop {
        let jobs = walk.next(tx, offers).await?;
        if jobs.is_empty() {
            break;
        }
        let chunks: HashMap<_, _> =
            jobs.iter().filter_map(|job| job.chunk.map(|chunk| (job.id, chunk))).collect();
        let assignments = assign(jobs, agents, &mut owners);
        fix_chunks(tx, &assignments, &chunks).await?;
        grants.extend(leases::grant_all(tx, assignments, now).await?);
        // Jobs that none of these agents can run must not hold up those behind them; but what is
        // ahead of all slots is not worth a walk through all jobs.
        if agents.iter().all(|agent| agent.free == 0) {
            break;
        }
        agents.iter_mut().for_each(|agent| agent.ahead = 0);
    }
    Ok(grants)
}

/// The jobs of `spares`.
async fn jobs_of(
    tx: &mut Tx<'_>,
    spares: &[Spare],
    offers: &[Offer],
) -> Result<HashMap<JobId, Job>, StoreError> {
    let mut ids: Vec<JobId> = spares.iter().map(|spare| spare.job).collect();
    ids.sort_unstable();
    ids.dedup();
    let jobs = runnable::of(tx, &ids, offers).await?;
    Ok(jobs.into_iter().map(|job| (job.id, job)).collect())
}

/// Those of `agents` that still live, with the memory that they have left: one that was lost while
/// its request was held, without its connection being closed, must get nothing.
async fn live(tx: &mut Tx<'_>, agents: Vec<Agent>) -> Result<Vec<Agent>, StoreError> {
    let ids: Vec<AgentId> = agents.iter().map(|agent| agent.id).collect();
    let in_use = agents::live(tx, &ids).await?;
    let live = agents.into_iter().filter_map(|mut agent| {
        agent.free_memory = agent.memory.saturating_sub(*in_use.get(&agent.id)?);
        Some(agent)
    });
    Ok(live.collect())
}

/// A chunk size that comes from `scheduling` is kept from the first lease on.
async fn fix_chunks(
    tx: &mut Tx<'_>,
    assignments: &[Assignment],
    chunks: &HashMap<JobId, u64>,
) -> Result<(), StoreError> {
    for assignment in assignments.iter().filter(|assignment| assignment.attempt == 1) {
        if let Some(&chunk) = chunks.get(&assignment.job) {
            leases::fix_chunk(tx, assignment.job, chunk).await?;
        }
    }
    Ok(())
}
