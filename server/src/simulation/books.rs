//! What the database holds, recounted: each state in itself, and against the one before.

use std::collections::BTreeMap;

use protocol::{JobId, LeaseId, Range};

use super::invariant::Invariant;
use super::network::Piece;
use crate::store::recount::{Job, Lease, Outcomes, Recount};

/// All that there is at a moment.
#[derive(Debug, Default)]
pub struct Books(pub Recount);

/// What is wrong.
pub type Fault = (Invariant, String);

impl Books {
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.0.jobs.iter().find(|job| job.id == id)
    }

    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.0.leases.iter().find(|lease| lease.id == id)
    }

    pub fn state_of(&self, id: LeaseId) -> Option<&str> {
        self.lease(id).map(|lease| lease.state.as_str())
    }

    /// Outcomes of a job, in element order.
    pub fn outcomes(&self, job: JobId) -> impl Iterator<Item = &Outcomes> {
        self.0.outcomes.iter().filter(move |row| row.job == job)
    }

    /// The outcomes among which that of an element is.
    pub fn outcome_of(&self, job: JobId, element: u64) -> Option<&Outcomes> {
        self.outcomes(job).find(|row| row.first <= element && element < row.end())
    }

    /// The lease that holds an element now.
    pub fn holder(&self, job: JobId, element: u64) -> Option<&Lease> {
        let holds = |lease: &&Lease| lease.ranges.contains(Range(element, element + 1));
        self.0.leases.iter().filter(|lease| lease.job == job).find(holds)
    }

    /// Whether a piece was accepted before, under its own lease.
    pub fn has_outcomes_of(&self, piece: &Piece) -> bool {
        let n = piece.executions.len() as u64;
        self.outcomes(piece.job)
            .any(|row| (row.first, row.n, row.lease) == (piece.first, n, piece.lease))
    }

    /// Checks everything against everything.
    pub fn check(&self) -> Result<(), Fault> {
        self.one_key_is_one_job()?;
        for job in &self.0.jobs {
            let outcomes: Vec<&Outcomes> = self.outcomes(job.id).collect();
            let leases: Vec<&Lease> =
                self.0.leases.iter().filter(|lease| lease.job == job.id).collect();
            check_outcomes(job, &outcomes)?;
            check_elements(job, &leases, &outcomes)?;
            check_counters(job, &leases, &outcomes)?;
            check_state(job, &leases, &outcomes)?;
        }
        Ok(())
    }

    fn one_key_is_one_job(&self) -> Result<(), Fault> {
        let mut by_key: BTreeMap<&str, JobId> = BTreeMap::new();
        for job in &self.0.jobs {
            let Some(key) = job.key.as_deref() else { continue };
            if let Some(other) = by_key.insert(key, job.id) {
                let text = format!("{key:?} is {other} and {}", job.id);
                return Err((Invariant::OneKeyIsOneJob, text));
            }
        }
        Ok(())
    }

    /// Checks what has changed since `before`.
    pub fn check_since(&self, before: &Self) -> Result<(), Fault> {
        for was in &before.0.jobs {
            let Some(is) = self.job(was.id) else { continue };
            if was.has_ended() && was.state != is.state {
                let text = format!("{} was {} and is {}", is.id, was.state, is.state);
                return Err((Invariant::EndedJobsStayAsTheyAre, text));
            }
            let n_outcomes = |books: &Self| books.outcomes(was.id).count();
            if was.has_ended() && n_outcomes(self) != n_outcomes(before) {
                let text = format!("{}, which had ended, has other outcomes", was.id);
                return Err((Invariant::LateReportsChangeNothing, text));
            }
        }
        for was in &before.0.outcomes {
            let is_there = self.outcomes(was.job).any(|is| is == was);
            if self.job(was.job).is_some() && !is_there {
                return Err((Invariant::AcceptedOutcomesStay, format!("{was:?} is not there")));
            }
        }
        for was in &before.0.leases {
            let Some(is) = self.lease(was.id) else { continue };
            let is_possible = match was.state.as_str() {
                "live" => matches!(is.state.as_str(), "live" | "lapsed" | "torn" | "released"),
                "lapsed" => is.state != "released",
                state => is.state == state,
            };
            if !is_possible {
                let text = format!("{} was {} and is {}", is.id, was.state, is.state);
                return Err((Invariant::LeasesTakenAwayStayAway, text));
            }
            if is.ranges.ranges().iter().any(|&range| !was.ranges.contains(range)) {
                let text = format!("{} held {:?} and holds {:?}", is.id, was.ranges, is.ranges);
                return Err((Invariant::LeasesOnlyShrink, text));
            }
        }
        Ok(())
    }
}

fn check_outcomes(job: &Job, outcomes: &[&Outcomes]) -> Result<(), Fault> {
    let mut end = 0;
    for row in outcomes {
        if row.first < end || row.end() > job.total {
            let text = format!("elements of {} from {} on", job.id, row.first);
            return Err((Invariant::ElementsHaveOneOutcome, text));
        }
        end = row.end();
    }
    let mut by_rank: Vec<(u64, u64)> = outcomes.iter().map(|row| (row.rank, row.n)).collect();
    by_rank.sort_unstable();
    let mut next = 0;
    for (rank, n) in by_rank {
        if rank != next {
            let text = format!("{} has no outcome of rank {next}", job.id);
            return Err((Invariant::RanksHaveNoGaps, text));
        }
        next += n;
    }
    Ok(())
}

/// Every element has an outcome, or is in one lease, or was never leased.
fn check_elements(job: &Job, leases: &[&Lease], outcomes: &[&Outcomes]) -> Result<(), Fault> {
    if job.has_ended() {
        return match leases.first() {
            None => Ok(()),
            Some(lease) => {
                let text = format!("{} is {} and has {lease:?}", job.id, job.state);
                Err((Invariant::EndedJobsHaveNoLeases, text))
            }
        };
    }
    for element in 0..job.total {
        let holds = |lease: &&&Lease| lease.ranges.contains(Range(element, element + 1));
        let holders: Vec<_> = leases.iter().filter(holds).collect();
        let is_finished = outcomes.iter().any(|row| row.first <= element && element < row.end());
        let (name, is_new) = (format!("element {element} of {}", job.id), element >= job.cursor);
        if is_finished && !holders.is_empty() {
            let text = format!("{name} has an outcome and is in {holders:?}");
            return Err((Invariant::FinishedElementsAreNotLeased, text));
        }
        if holders.len() > 1 || (is_new && !holders.is_empty()) {
            let text = format!("{name} is in {holders:?}, the cursor is at {}", job.cursor);
            return Err((Invariant::ElementsAreLeasedOnce, text));
        }
        if !is_new && !is_finished && holders.is_empty() {
            let text = format!("{name} is nowhere, the cursor is at {}", job.cursor);
            return Err((Invariant::NoElementIsLost, text));
        }
    }
    Ok(())
}

fn check_counters(job: &Job, leases: &[&Lease], outcomes: &[&Outcomes]) -> Result<(), Fault> {
    let n_outcomes: u64 = outcomes.iter().map(|row| row.n).sum();
    let n_failed: u64 = outcomes.iter().map(|row| row.errors.len() as u64).sum();
    let live = || leases.iter().filter(|lease| lease.state == "live");
    let running: u64 = live().map(|lease| lease.ranges.len()).sum();
    let slots: u64 = live().map(|lease| lease.slots).sum();
    let counted = [n_outcomes - n_failed, n_failed, running, slots];
    let claimed = [job.done, job.failed, job.running, job.slots];
    let is_open = job.cursor < job.total || leases.iter().any(|lease| lease.state != "live");
    let runnable = !job.has_ended() && job.n_waits_for == 0 && is_open;
    let miscounted = leases.iter().find(|lease| lease.remaining != lease.ranges.len());
    if counted != claimed || runnable != (job.runnable == 1) || miscounted.is_some() {
        let text = format!(
            "{job:?} has {counted:?} done, failed, running and slots, runnable: {runnable}; \
             {miscounted:?}"
        );
        return Err((Invariant::CountersEqualARecount, text));
    }
    Ok(())
}

fn check_state(job: &Job, leases: &[&Lease], outcomes: &[&Outcomes]) -> Result<(), Fault> {
    let n: u64 = outcomes.iter().map(|row| row.n).sum();
    let has_errors = outcomes.iter().any(|row| !row.errors.is_empty());
    let is_live = leases.iter().any(|lease| lease.state == "live");
    let is_wrong = match job.state.as_str() {
        "resolved" => n != job.total,
        "failed" | "cancelled" => false,
        // What waits for others does not run.
        _ if job.n_waits_for > 0 => is_live,
        "queued" if is_live => true,
        // What is complete, or stopped by an error, has ended in the transaction that made it so.
        _ => n == job.total || (has_errors && job.on_error == "stop"),
    };
    if is_wrong {
        let text = format!("{job:?} has {n} outcomes");
        return Err((Invariant::StatesTellTheTruth, text));
    }
    Ok(())
}
