//! Which busy agents are asked for what has not begun, on behalf of slots that have nothing to do.
//!
//! Chunks are cut before their elements' times are known: the last of a map may hold an element that
//! takes as long as all the others. An idle slot therefore takes over what a busy one has not begun,
//! as in work stealing (Blumofe and Leiserson, 1999), but by asking, because only the busy agent knows
//! what has begun: it gives half of that, as is best where one theft costs more than a step of work
//! (Hendler and Shavit, 2002), or a lease whole that still waits for a slot.

use std::collections::HashMap;

use protocol::{AgentId, JobId, LeaseId};

use super::assign::{Agent, Job, has_room_for};

/// Seconds of work below which asking costs more than it saves: some ways to the server and back.
pub const MIN_SECONDS: f64 = 0.01;

/// Elements of a live lease that may not have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spare {
    /// The lease.
    pub lease: LeaseId,
    /// Who holds it.
    pub holder: AgentId,
    /// Whose elements they are.
    pub job: JobId,
    /// How many.
    pub elements: u64,
}

/// The leases to ask for, one for each slot of `agents` that is free when all has been assigned: those
/// with the most work first.
///
/// `jobs` are those of the `spares`; what is of others is not asked for.
pub fn take_over(agents: &[Agent], jobs: &HashMap<JobId, Job>, spares: Vec<Spare>) -> Vec<Spare> {
    let mut free: Vec<u32> = agents.iter().map(|agent| agent.free).collect();
    let seconds = |spare: &Spare| jobs.get(&spare.job).map_or(0.0, |job| seconds(job, spare));
    let mut spares: Vec<(f64, Spare)> =
        spares.into_iter().map(|spare| (seconds(&spare), spare)).collect();
    spares.retain(|(seconds, _)| *seconds >= MIN_SECONDS);
    spares.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let mut asked = Vec::new();
    for (_, spare) in spares {
        let job = &jobs[&spare.job];
        let taker = (0..agents.len()).find(|&i| free[i] > 0 && has_room_for(job, &agents[i]));
        if let Some(taker) = taker {
            free[taker] -= 1;
            asked.push(spare);
        }
    }
    asked
}

/// Seconds that spare elements are expected to take; of elements that were not measured, none.
fn seconds(job: &Job, spare: &Spare) -> f64 {
    if job.measured.elements == 0 {
        return 0.0;
    }
    job.measured.seconds / job.measured.elements as f64 * spare.elements as f64
}
