//! Which agent gets elements of which job.
//!
//! Jobs of higher priority go first; among these the owner with the fewest slots at work; within
//! an owner the oldest. An element goes to the agent with the most free slots, so that work
//! spreads over agents before it fills one. A job that needs more free slots than any agent has
//! keeps the best agent's free slots for itself, so that small jobs cannot hold it up for ever; so
//! does one that needs more memory than is free, with the memory.
//!
//! When the free slots have got what there is, agents get leases *ahead*: chunks that wait on the
//! agent for a slot, so that the way to the server and back is hidden. Only of elements that were
//! measured and are quick, because a lease ahead hides milliseconds and is held while others could
//! run it; and only while one element is left for every slot elsewhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::job::{Runtime, Slots};
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::chunking::{self, Measured};
use super::lease;

/// A job of which something can be leased.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id; older jobs have smaller ones.
    pub id: JobId,
    /// Who submitted it.
    pub owner: String,
    /// Higher goes first.
    pub priority: i32,
    /// What an agent must have.
    pub runtime: Runtime,
    /// Labels that an agent must carry.
    pub labels: BTreeMap<String, String>,
    /// What one element occupies.
    pub slots: Slots,
    /// Bytes of memory that one element may use; 0: no bound.
    pub memory: u64,
    /// How it may be spread.
    pub placement: Placement,
    /// Elements in all.
    pub total: u64,
    /// Elements before it have been leased at least once.
    pub cursor: u64,
    /// Of a nested job, the next outer elements from the cursor on.
    pub groups: Vec<Range>,
    /// Ranges that came back, oldest first.
    pub returned: Vec<Returned>,
    /// Elements a chunk, where that is fixed.
    pub chunk: Option<u64>,
    /// What is known of its elements' times.
    pub measured: Measured,
    /// The mean size of an element in bytes.
    pub element_bytes: u64,
    /// Slots of all live agents that can run it: chunks are sized for what shares the work, not only for
    /// who waits at the moment.
    pub cluster_slots: u64,
    /// Slots at work for it, by agent. Only needed where `placement` or `memory` bounds them.
    pub usage: HashMap<AgentId, u32>,
    /// Agents that run one of its suspects. Only needed where one came back.
    pub suspects_on: HashSet<AgentId>,
}

/// How a job may be spread: its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Whether outer elements go whole to one agent each, one at a time an agent.
    pub nested: bool,
    /// Agents that may run it at once.
    pub max_agents: Option<u32>,
    /// Elements that an agent may run at once.
    pub max_width: Option<u32>,
}

/// Elements that were leased and came back.
#[derive(Clone, Debug)]
pub struct Returned {
    /// The lease under which they were given.
    pub lease: LeaseId,
    /// What remains of it.
    pub ranges: RangeSet,
    /// How often they have been leased.
    pub attempt: u32,
    /// Agents lost with them.
    pub lost: u32,
}

/// An agent that waits for work.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Slots that have nothing to do.
    pub free: u32,
    /// Leases of one slot that it would hold beside.
    pub ahead: u32,
    /// Slots in all.
    pub slots: u32,
    /// Bytes of memory in all.
    pub memory: u64,
    /// Bytes of it that no element at work may use.
    pub free_memory: u64,
    /// The runtimes it has.
    pub runtimes: Vec<Runtime>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A chunk for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Who runs it.
    pub agent: AgentId,
    /// Whose elements.
    pub job: JobId,
    /// Which elements.
    pub ranges: RangeSet,
    /// The lease that they came back from; `None`: they are new, and the cursor moves past them.
    pub from: Option<LeaseId>,
    /// How often they have been leased, this time included.
    pub attempt: u32,
    /// Agents lost with them before.
    pub lost: u32,
    /// Slots that the chunk occupies.
    pub slots: u32,
    /// Elements of it to run at once.
    pub width: u32,
    /// Bytes of memory that these may use together.
    pub memory: u64,
    /// Elements of it that another slot may ask for, as long as they have not begun.
    pub spare: u64,
}

/// Gives elements of `jobs` to the free slots of `agents`, which become fewer: those that were
/// given, and those that are kept for a job that needs more of them. Then leases ahead.
///
/// `owners` are the slots at work by owner.
pub fn assign(
    mut jobs: Vec<Job>,
    agents: &mut [Agent],
    owners: &mut HashMap<String, u64>,
) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    jobs.retain(|job| !is_exhausted(job));
    let mut open: Vec<usize> = (0..jobs.len()).collect();
    while agents.iter().any(|agent| agent.free > 0) {
        let Some(next) = next_job(&jobs, &open, owners) else { break };
        let job = &mut jobs[next];
        match place(job, agents) {
            Place::On { agent, slots, width } => {
                let agent = &mut agents[agent];
                let assignment = cut(job, agent, slots, width, true);
                agent.free -= slots;
                note(&assignment, job, agent, owners);
                assignments.push(assignment);
                if is_exhausted(job) {
                    open.retain(|&i| i != next);
                }
            }
            Place::ReserveSlots { agent } => {
                agents[agent].free = 0;
                agents[agent].ahead = 0;
                open.retain(|&i| i != next);
            }
            Place::ReserveMemory { agent } => {
                agents[agent].free_memory = 0;
                open.retain(|&i| i != next);
            }
            Place::Nowhere => open.retain(|&i| i != next),
        }
    }
    let idle: HashSet<AgentId> = assignments.iter().map(|assignment| assignment.agent).collect();
    assignments.extend(assign_ahead(&mut jobs, agents, &idle, owners));
    assignments
}

/// Gives leases ahead of quick elements. The agents `idle` had slots with nothing to do.
fn assign_ahead(
    jobs: &mut [Job],
    agents: &mut [Agent],
    idle: &HashSet<AgentId>,
    owners: &mut HashMap<String, u64>,
) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    let mut open: Vec<usize> = (0..jobs.len()).collect();
    while agents.iter().any(|agent| agent.ahead > 0) {
        let Some(next) = next_job(jobs, &open, owners) else { break };
        let job = &mut jobs[next];
        let may_wait_on =
            |agent: &Agent| agent.ahead > 0 && may_be_ahead(job, agent) && may_use(job, agent, 1);
        let candidates = agents.iter_mut().filter(|agent| may_wait_on(agent));
        let Some(agent) = candidates.max_by_key(|agent| (agent.ahead, Reverse(agent.id))) else {
            open.retain(|&i| i != next);
            continue;
        };
        let is_idle = idle.contains(&agent.id);
        let mut assignment = cut(job, agent, 1, 1, is_idle);
        assignment.spare = assignment.ranges.len();
        agent.ahead -= 1;
        note(&assignment, job, agent, owners);
        assignments.push(assignment);
    }
    assignments
}

/// Notes what an assignment takes.
fn note(
    assignment: &Assignment,
    job: &mut Job,
    agent: &mut Agent,
    owners: &mut HashMap<String, u64>,
) {
    agent.free_memory -= assignment.memory;
    *owners.entry(job.owner.clone()).or_default() += u64::from(assignment.slots);
    *job.usage.entry(agent.id).or_default() += assignment.slots;
    if is_suspect(assignment.lost) {
        job.suspects_on.insert(agent.id);
    }
}

/// Whether the job's next chunk may wait on `agent` for a slot.
fn may_be_ahead(job: &Job, agent: &Agent) -> bool {
    let elsewhere = job.cluster_slots.saturating_sub(agent.slots.into());
    let n_left = n_left(job);
    let was_lost = job.returned.first().is_some_and(|returned| returned.lost > 0);
    n_left > elsewhere
        && !was_lost
        && !job.placement.nested
        && job.slots == Slots::Count(1)
        && size_on(job, agent) == Some((1, 1))
        && memory_of(job, 1) <= agent.free_memory
        && chunking::is_quick(job.measured, chunk_size(job, agent, 1, false).min(n_left))
}

/// The next job to get something, of those that are `open`.
fn next_job(jobs: &[Job], open: &[usize], owners: &HashMap<String, u64>) -> Option<usize> {
    let at_work = |job: &Job| owners.get(&job.owner).copied().unwrap_or(0);
    let order = |&&i: &&usize| (-i64::from(jobs[i].priority), at_work(&jobs[i]), jobs[i].id);
    open.iter().min_by_key(order).copied()
}

/// Elements that can be leased.
fn n_left(job: &Job) -> u64 {
    job.total - job.cursor + job.returned.iter().map(|r| r.ranges.len()).sum::<u64>()
}

fn is_exhausted(job: &Job) -> bool {
    let has_new =
        if job.placement.nested { !job.groups.is_empty() } else { job.cursor < job.total };
    job.returned.is_empty() && !has_new
}

enum Place {
    On {
        agent: usize,
        slots: u32,
        width: u32,
    },
    /// It would fit on this agent once more of its slots are free.
    ReserveSlots {
        agent: usize,
    },
    /// It would fit on this agent once more of its memory is free.
    ReserveMemory {
        agent: usize,
    },
    Nowhere,
}

fn place(job: &Job, agents: &[Agent]) -> Place {
    let fits = |agent: &Agent| {
        let (slots, width) = size_on(job, agent)?;
        (may_use(job, agent, slots)).then_some((slots, width))
    };
    let candidates: Vec<(usize, u32, u32)> = agents
        .iter()
        .enumerate()
        .filter(|(_, agent)| agent.free > 0)
        .filter_map(|(i, agent)| fits(agent).map(|(slots, width)| (i, slots, width)))
        .collect();
    let most_free = |&(i, _, _): &(usize, u32, u32)| (agents[i].free, Reverse(agents[i].id));
    let (in_memory, too_large): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|&(i, _, width)| memory_of(job, width) <= agents[i].free_memory);
    let free_enough = in_memory.iter().copied().filter(|&(i, slots, _)| agents[i].free >= slots);
    if let Some((agent, slots, width)) = free_enough.max_by_key(most_free) {
        return Place::On { agent, slots, width };
    }
    if let Some((agent, ..)) = in_memory.iter().copied().max_by_key(most_free) {
        return Place::ReserveSlots { agent };
    }
    // Memory that its own elements use comes back to it without being kept.
    let is_at_work_on = |i: usize| job.usage.get(&agents[i].id).is_some_and(|&slots| slots > 0);
    let held_up = too_large.iter().map(|&(i, ..)| i).filter(|&i| !is_at_work_on(i));
    match held_up.max_by_key(|&i| (agents[i].free_memory, Reverse(agents[i].id))) {
        Some(agent) => Place::ReserveMemory { agent },
        None => Place::Nowhere,
    }
}

/// Bytes of memory that `width` elements of the job may use at once.
fn memory_of(job: &Job, width: u32) -> u64 {
    job.memory.saturating_mul(width.into())
}

/// The slots that the job's next chunk would occupy on `agent`, and how many elements of it would
/// run at once; `None` if it can never run there.
fn size_on(job: &Job, agent: &Agent) -> Option<(u32, u32)> {
    let labelled = job.labels.iter().all(|(key, value)| agent.labels.get(key) == Some(value));
    if !labelled || !agent.runtimes.contains(&job.runtime) {
        return None;
    }
    let each = match job.slots {
        Slots::Count(n) => n.max(1),
        Slots::All(_) => agent.slots,
    };
    let by_memory = agent.memory.checked_div(job.memory).unwrap_or(u64::MAX);
    let room = (agent.slots / each.max(1)).min(u32::try_from(by_memory).unwrap_or(u32::MAX));
    if room == 0 {
        return None;
    }
    let width = if job.placement.nested {
        let elements = u32::try_from(next_group_len(job)).unwrap_or(u32::MAX);
        room.min(job.placement.max_width.unwrap_or(u32::MAX)).min(elements).max(1)
    } else {
        1
    };
    Some((each * width, width))
}

fn next_group_len(job: &Job) -> u64 {
    let returned = job.returned.first().map(|returned| returned.ranges.len());
    returned.or_else(|| job.groups.first().map(|group| group.len())).unwrap_or(1)
}

/// Whether elements with which so many agents were lost may be what takes agents down.
pub fn is_suspect(lost: u32) -> bool {
    lost >= lease::SUSPECT_AFTER_LOST
}

/// Whether an element of the job could run on a free slot of `agent` now.
pub fn has_room_for(job: &Job, agent: &Agent) -> bool {
    let fits = |(slots, width)| {
        slots <= agent.free
            && memory_of(job, width) <= agent.free_memory
            && may_use(job, agent, slots)
    };
    size_on(job, agent).is_some_and(fits)
}

/// Whether the plan's bounds, and what it may be guilty of, let the job take `slots` more on `agent`.
fn may_use(job: &Job, agent: &Agent, slots: u32) -> bool {
    let next = job.returned.first();
    if next.is_some_and(|next| is_suspect(next.lost)) && job.suspects_on.contains(&agent.id) {
        return false;
    }
    let at_work = job.usage.get(&agent.id).copied().unwrap_or(0);
    if job.placement.nested && at_work > 0 {
        return false;
    }
    if at_work == 0 {
        let n_agents = job.usage.values().filter(|&&slots| slots > 0).count();
        if job.placement.max_agents.is_some_and(|max| n_agents >= max as usize) {
            return false;
        }
    }
    let width = job.placement.max_width.unwrap_or(u32::MAX);
    job.placement.nested || at_work / slots.max(1) < width
}

/// Takes the next chunk out of `job`, for an agent of which slots have nothing to do or not.
fn cut(job: &mut Job, agent: &Agent, slots: u32, width: u32, is_idle: bool) -> Assignment {
    let whole = job.placement.nested || job.chunk.is_some();
    let n = chunk_size(job, agent, slots, is_idle);
    let chunk = if job.returned.is_empty() {
        Chunk { ranges: RangeSet::from_range(take_new(job, n)), from: None, attempt: 0, lost: 0 }
    } else {
        take_returned(job, n, whole)
    };
    let divisible = !whole && chunk.lost == 0;
    let spare = if divisible { chunk.ranges.len().saturating_sub(width.into()) } else { 0 };
    Assignment {
        agent: agent.id,
        job: job.id,
        ranges: chunk.ranges,
        from: chunk.from,
        attempt: chunk.attempt + 1,
        lost: chunk.lost,
        slots,
        width,
        memory: memory_of(job, width),
        spare,
    }
}

/// Elements that the job's next chunk takes on `agent`, if so many are left.
fn chunk_size(job: &Job, agent: &Agent, slots: u32, is_idle: bool) -> u64 {
    let sharing = job.cluster_slots.max(u64::from(agent.slots)) / u64::from(slots.max(1));
    let size = if is_idle { chunking::for_idle } else { chunking::adaptive };
    job.chunk.unwrap_or_else(|| size(job.measured, n_left(job), sharing.max(1), job.element_bytes))
}

struct Chunk {
    ranges: RangeSet,
    from: Option<LeaseId>,
    attempt: u32,
    lost: u32,
}

fn take_new(job: &mut Job, n: u64) -> Range {
    let range = if job.placement.nested {
        job.groups.remove(0)
    } else {
        Range(job.cursor, job.total.min(job.cursor.saturating_add(n)))
    };
    job.cursor = range.1;
    range
}

fn take_returned(job: &mut Job, n: u64, whole: bool) -> Chunk {
    let returned = &mut job.returned[0];
    let n_left = returned.ranges.len();
    // What was never leased, of a retry, is no chunk yet.
    let whole = whole && (returned.attempt > 0 || job.placement.nested);
    let wanted = if whole { n_left } else { n.min(n_left) };
    let ranges = returned.ranges.take(lease::narrowed(wanted, returned.lost, whole));
    let (from, attempt, lost) = (Some(returned.lease), returned.attempt, returned.lost);
    if returned.ranges.is_empty() {
        job.returned.remove(0);
    }
    Chunk { ranges, from, attempt, lost }
}
