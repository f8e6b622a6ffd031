//! Which busy agents are asked for what has not begun, on behalf of slots that have nothing to do.
//!
//! Chunks are cut before their elements' times are known: the last of a map may hold an element that
//! takes as long as all the others. An idle slot therefore takes over what a busy one has not begun,
//! as in work stealing (Blumofe and Leiserson, 1999), but by asking, because only the busy agent knows
//! what has begun: it gives half of that, as is best where one theft costs more than a step of work
//! (Hendler and Shavit, 2002), or a lease whole that still waits for a slot.
//!
//! What little work is left in a lease is not worth asking for. How much it is, the mean of the job's elements says;
//! but in a map that goes on after a crash, thousands of elements find their results there, and those at the end do
//! all the work. So a lease that has not ended after [`OVERDUE`] though next to nothing should be left in it is taken
//! to last as long again as it has (what has lasted for long mostly does). Such a guess comes behind what is expected by
//! measure, and may be wrong: soon after it is asked for, the next is.

use std::cmp::Ordering;
use std::collections::HashMap;

use protocol::{AgentId, JobId, LeaseId};

use super::assign::{Agent, Job, has_room_for};
use crate::clock::Millis;

/// Seconds of work below which asking costs more than it saves: some ways to the server and back.
pub const MIN_SECONDS: f64 = 0.01;

/// The age from which a lease shows that what is left in it takes longer than was measured: twice what a lease of quick
/// elements holds at the least ([`super::chunking::LEAST_SECONDS`]).
pub const OVERDUE: Millis = 100;

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
    /// Milliseconds since it was granted.
    pub age: Millis,
}

/// What idle slots could take over.
#[derive(Debug, Default, PartialEq)]
pub struct TakeOver {
    /// The leases to ask for.
    pub wanted: Vec<Spare>,
    /// Milliseconds after which to look again, if a slot is free then: a lease would be overdue, or one that was asked
    /// for because it is may have given nothing.
    pub look_again: Option<Millis>,
}

/// The leases to ask for, one for each slot of `agents` that is free when all has been assigned: those
/// with the most work first.
///
/// `jobs` are those of the `spares`; what is of others is not asked for.
pub fn take_over(agents: &[Agent], jobs: &HashMap<JobId, Job>, spares: Vec<Spare>) -> TakeOver {
    let mut free: Vec<u32> = agents.iter().map(|agent| agent.free).collect();
    let hope = |spare: &Spare| jobs.get(&spare.job).map(|job| hope(job, spare));
    let spares = spares.into_iter().filter_map(|spare| Some((hope(&spare)?, spare)));
    let mut spares: Vec<(Hope, Spare)> = spares.collect();
    spares.sort_by(|(one, _), (other, _)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
    let mut decided = TakeOver::default();
    for (hope, spare) in spares {
        let job = &jobs[&spare.job];
        let taker = (0..agents.len()).find(|&i| free[i] > 0 && has_room_for(job, &agents[i]));
        let Some(taker) = taker else { continue };
        if let Hope::Age(age) = hope {
            let is_overdue = age >= OVERDUE;
            let wait = if is_overdue { OVERDUE } else { OVERDUE - age.max(0) };
            decided.look_again = decided.look_again.map(|other| other.min(wait)).or(Some(wait));
            if !is_overdue {
                continue;
            }
        }
        free[taker] -= 1;
        decided.wanted.push(spare);
    }
    decided
}

/// What there is to be hoped of asking for a lease; more is greater.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Hope {
    /// By measure, next to nothing is left in it; but it is so old.
    Age(Millis),
    /// So many seconds are expected to be left, at least [`MIN_SECONDS`].
    Seconds(f64),
}

fn hope(job: &Job, spare: &Spare) -> Hope {
    match expected(job, spare) {
        seconds if seconds >= MIN_SECONDS => Hope::Seconds(seconds),
        _ => Hope::Age(spare.age),
    }
}

/// Seconds that spare elements are expected to take; of elements that were not measured, none.
fn expected(job: &Job, spare: &Spare) -> f64 {
    if job.measured.elements == 0 {
        return 0.0;
    }
    job.measured.seconds / job.measured.elements as f64 * spare.elements as f64
}
