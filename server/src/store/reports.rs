//! Accepting outcomes, once.
//!
//! A lease's row holds what remains of its chunk. A piece is accepted if all of it remains; in the
//! same transaction it is taken out of the lease, its outcomes are written, and the job's counters
//! move. So an element can have no second outcome, and a report that comes late, twice, or under a
//! lease that is not the agent's any more changes nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use protocol::agent::{Note, Verdict};
use protocol::job::{ElementError, JobState, OnError, Options};
use protocol::problem::FailedElement;
use protocol::{AgentId, JobId, LeaseId, Problem, Range, RangeSet};

use super::blocks::{Place, StoredBlock};
use super::db::{Tx, args};
use super::ends::{self, Ended};
use super::jobs::Shape;
use super::leases::Grant;
use super::outcomes::{self, Outcomes};
use super::{StoreError, leases, spares};
use crate::block::compress;
use crate::clock::Millis;
use crate::scheduler::lease::accept;

/// Finished elements as an agent reports them, with their payload stored if it is large.
#[derive(Clone, Debug)]
pub struct NewPiece {
    /// The lease that they belong to.
    pub lease: LeaseId,
    /// The job that they belong to.
    pub job: JobId,
    /// The outcomes.
    pub block: StoredBlock,
    /// Which are errors.
    pub errors: Vec<u32>,
    /// The first of these.
    pub first_error: Option<FailedElement>,
    /// What else is to say of them.
    pub notes: Vec<Note>,
    /// The slot that ran them.
    pub slot: u32,
    /// The process that ran them.
    pub pid: u32,
    /// When the first started.
    pub started_at: Millis,
    /// Microseconds that they took together.
    pub micros: u64,
}

impl NewPiece {
    /// The error of an element of a lease that no worker ran.
    pub fn failed(grant: &Grant, element: u64, error: ElementError, now: Millis) -> Self {
        let json = serde_json::to_vec(&error).unwrap_or_default();
        let block = StoredBlock {
            first: element,
            lengths: vec![u32::try_from(json.len()).unwrap_or(u32::MAX)],
            place: Place::Row(compress(&json)),
        };
        Self {
            lease: grant.id,
            job: grant.job,
            block,
            errors: vec![0],
            first_error: Some(FailedElement::new(element, error)),
            notes: Vec::new(),
            slot: 0,
            pid: 0,
            started_at: now,
            micros: 0,
        }
    }
}

/// What a report came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What became of each piece.
    pub verdicts: Vec<Verdict>,
    /// Jobs that moved.
    pub jobs: Vec<JobId>,
    /// Those of them that have ended.
    pub ended: Vec<JobId>,
    /// Agents that run elements of a job that has ended by this.
    pub to_tell: Vec<AgentId>,
    /// How many outcomes were accepted.
    pub accepted: u64,
    /// Whether something else may go on by this: a lease was finished, whose job is bounded, or a
    /// job is resolved for which others wait.
    pub can_go_on: bool,
}

/// Accepts what can be accepted of a report by `agent`.
///
/// # Errors
/// The database's; then nothing was accepted.
pub async fn report(
    tx: &mut Tx<'_>,
    agent: AgentId,
    pieces: Vec<NewPiece>,
    now: Millis,
) -> Result<Outcome, StoreError> {
    let mut acceptance = Acceptance::new(agent, now);
    let mut verdicts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        verdicts.push(acceptance.piece(tx, piece).await?);
    }
    acceptance.write(tx).await?;
    let mut outcome = acceptance.outcome;
    outcome.verdicts = verdicts;
    Ok(outcome)
}

/// What a report has changed so far, written at its end: a lease and a job of many pieces are each
/// read and written once.
struct Acceptance {
    agent: AgentId,
    now: Millis,
    leases: HashMap<LeaseId, Option<Held>>,
    jobs: HashMap<JobId, Moved>,
    outcome: Outcome,
}

/// A lease as it remains, and what is known of its agent and its job.
struct Held {
    job: JobId,
    /// Elements of the job.
    total: u64,
    /// Outcomes of the job that were accepted by earlier reports.
    before: u64,
    agent_name: String,
    is_live: bool,
    is_ahead: bool,
    slots: u64,
    attempt: u32,
    version: i64,
    ranges: RangeSet,
    accepted: u64,
}

/// How a job's counters move.
struct Moved {
    /// Outcomes that were accepted by earlier reports.
    before: u64,
    total: u64,
    done: u64,
    failed: u64,
    micros: u64,
    no_longer_running: u64,
    /// Slots that have nothing more to do, without those that have begun.
    freed_slots: i64,
    /// Nothing is left of a lease that could have been leased anew.
    emptied_returned: bool,
    failure: Option<Problem>,
}

impl Acceptance {
    fn new(agent: AgentId, now: Millis) -> Self {
        let (leases, jobs) = (HashMap::new(), HashMap::new());
        Self { agent, now, leases, jobs, outcome: Outcome::default() }
    }

    async fn piece(&mut self, tx: &mut Tx<'_>, piece: NewPiece) -> Result<Verdict, StoreError> {
        let range = Range(piece.block.first, piece.block.end());
        if self.jobs.get(&piece.job).is_some_and(|job| job.failure.is_some()) {
            return Ok(Verdict::Stale);
        }
        self.load_lease(tx, piece.lease).await?;
        let accepted = match self.leases.get_mut(&piece.lease) {
            Some(Some(held)) if held.job == piece.job => {
                accept(&mut held.ranges, range).then_some(held)
            }
            _ => None,
        };
        let Some(held) = accepted else { return replayed(tx, &piece).await };
        held.accepted += range.len();
        let (attempt, is_live, name) = (held.attempt, held.is_live, held.agent_name.clone());
        let moved = self.jobs.entry(piece.job).or_insert_with(|| Moved::of(held));
        let rank = moved.n_accepted();
        moved.count(tx, &piece, range.len(), is_live).await?;
        self.outcome.accepted += range.len();
        let job = piece.job;
        outcomes::insert(tx, job, outcomes_of(piece, rank, self.agent, name, attempt)).await?;
        Ok(Verdict::Accepted)
    }

    async fn load_lease(&mut self, tx: &mut Tx<'_>, lease: LeaseId) -> Result<(), StoreError> {
        if let Entry::Vacant(entry) = self.leases.entry(lease) {
            entry.insert(read_held(tx, lease, self.agent).await?);
        }
        Ok(())
    }

    async fn write(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut has_ended = false;
        for (lease, held) in std::mem::take(&mut self.leases) {
            let Some(held) = held.filter(|held| held.accepted > 0) else { continue };
            leases::set_ranges(tx, lease, &held.ranges, held.version).await?;
            let is_over = held.ranges.is_empty();
            // Of what was accepted it has been noted how its job moves.
            let Some(moved) = self.jobs.get_mut(&held.job) else { continue };
            let slots = i64::try_from(held.slots).unwrap_or(i64::MAX);
            match (held.is_live, is_over) {
                (true, true) => {
                    self.outcome.can_go_on = true;
                    moved.freed_slots += if held.is_ahead { 0 } else { slots };
                    has_ended = true;
                }
                (true, false) => moved.freed_slots -= if held.is_ahead { slots } else { 0 },
                (false, _) => moved.emptied_returned |= is_over,
            }
        }
        for (job, moved) in std::mem::take(&mut self.jobs) {
            self.move_job(tx, job, moved).await?;
        }
        if has_ended {
            self.outcome.jobs.extend(spares::begin_ahead(tx, self.agent).await?);
        }
        Ok(())
    }

    async fn move_job(
        &mut self,
        tx: &mut Tx<'_>,
        job: JobId,
        moved: Moved,
    ) -> Result<(), StoreError> {
        self.outcome.jobs.push(job);
        tx.execute(
            "update progress set done = done + $2, failed = failed + $3, busy_us = busy_us + $4,
                 running = running - $5, slots = slots - $6, version = version + 1
             where job_id = $1",
            args![
                job,
                moved.done,
                moved.failed,
                moved.micros,
                moved.no_longer_running,
                moved.freed_slots
            ],
        )
        .await?;
        let is_complete = moved.n_accepted() >= moved.total;
        let ended = if let Some(failure) = moved.failure {
            ends::end(tx, job, JobState::Failed, Some(&failure), self.now).await?
        } else if is_complete {
            ends::end(tx, job, JobState::Resolved, None, self.now).await?
        } else if moved.emptied_returned {
            return leases::refresh_runnable(tx, job).await;
        } else {
            return Ok(());
        };
        if let Ended::Now(ending) = ended {
            self.outcome.ended.extend(ending.ended);
            self.outcome.to_tell.extend(ending.holders);
            self.outcome.can_go_on |= !ending.freed.is_empty();
            self.outcome.jobs.extend(ending.freed);
            self.outcome.jobs.extend(ending.begun);
        }
        Ok(())
    }
}

impl Moved {
    /// A job of which nothing was accepted yet by this report.
    fn of(held: &Held) -> Self {
        Self {
            before: held.before,
            total: held.total,
            done: 0,
            failed: 0,
            micros: 0,
            no_longer_running: 0,
            freed_slots: 0,
            emptied_returned: false,
            failure: None,
        }
    }

    /// Counts a piece of `n` elements that was accepted, of a lease that is live or came back.
    async fn count(
        &mut self,
        tx: &mut Tx<'_>,
        piece: &NewPiece,
        n: u64,
        is_live: bool,
    ) -> Result<(), StoreError> {
        self.failure = match &piece.first_error {
            Some(element) if element.error.fatal || stops_on_error(tx, piece.job).await? => {
                Some(failure(piece.job, element, is_call(tx, piece.job).await?))
            }
            _ => None,
        };
        let n_failed = piece.errors.len() as u64;
        self.done += n - n_failed;
        self.failed += n_failed;
        self.micros += piece.micros;
        self.no_longer_running += if is_live { n } else { 0 };
        Ok(())
    }

    /// Outcomes that were accepted so far, by this report and those before it.
    fn n_accepted(&self) -> u64 {
        self.before + self.done + self.failed
    }
}

async fn read_held(
    tx: &mut Tx<'_>,
    lease: LeaseId,
    agent: AgentId,
) -> Result<Option<Held>, StoreError> {
    let row = tx
        .first(
            "select l.job_id, l.state, l.ranges, l.slots, l.attempt, l.version,
                 l.spare = l.remaining as is_ahead, j.total, p.done + p.failed as accepted, coalesce(a.name, '') as agent_name
             from leases l join jobs j on j.id = l.job_id join progress p on p.job_id = l.job_id
                 left join agents a on a.id = l.agent_id
             where l.id = $1 and l.agent_id = $2 and l.state in ('live', 'lapsed', 'torn')",
            args![lease, agent],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Held {
        job: row.id("job_id")?,
        total: row.count("total")?,
        before: row.count("accepted")?,
        agent_name: row.text("agent_name")?,
        is_live: row.text("state")? == "live",
        is_ahead: row.flag("is_ahead")?,
        slots: row.count("slots")?,
        attempt: row.small("attempt")?,
        version: row.int("version")?,
        ranges: row.json("ranges")?,
        accepted: 0,
    }))
}

/// A piece of which nothing, or not all, remains: was it accepted under this very lease before?
async fn replayed(tx: &mut Tx<'_>, piece: &NewPiece) -> Result<Verdict, StoreError> {
    let (first, n) = (piece.block.first, piece.block.lengths.len());
    let known = outcomes::were_accepted(tx, piece.job, first, n, piece.lease).await?;
    Ok(if known { Verdict::Accepted } else { Verdict::Stale })
}

fn outcomes_of(
    piece: NewPiece,
    rank: u64,
    agent: AgentId,
    agent_name: String,
    attempt: u32,
) -> Outcomes {
    Outcomes {
        block: piece.block,
        rank,
        errors: piece.errors,
        notes: piece.notes,
        lease: piece.lease,
        attempt,
        agent,
        agent_name,
        slot: piece.slot,
        pid: piece.pid,
        started_at: piece.started_at,
        micros: piece.micros,
    }
}

async fn stops_on_error(tx: &mut Tx<'_>, job: JobId) -> Result<bool, StoreError> {
    let row = tx.first("select options from jobs where id = $1", args![job]).await?;
    let options: Option<Options> = row.map(|row| row.json("options")).transpose()?;
    Ok(options.is_some_and(|options| options.on_error == OnError::Stop))
}

async fn is_call(tx: &mut Tx<'_>, job: JobId) -> Result<bool, StoreError> {
    let row = tx.first("select shape from jobs where id = $1", args![job]).await?;
    let shape: Option<Shape> = row.map(|row| row.json("shape")).transpose()?;
    Ok(shape.is_some_and(|shape| shape.is_call))
}

/// The problem of a job that an element failed.
fn failure(job: JobId, element: &FailedElement, is_call: bool) -> Problem {
    let FailedElement { index, error, .. } = element;
    let detail = if error.fatal {
        format!("the job cannot be run: {}", error.message)
    } else if is_call {
        format!("the call failed: {}", error.message)
    } else {
        format!("element {index} (counted from 0) failed: {}", error.message)
    };
    Problem {
        kind: "urn:farrow:job-failed".to_owned(),
        title: "The job has failed".to_owned(),
        status: 409,
        detail,
        instance: Some(format!("/v1/jobs/{job}/value")),
        errors: Vec::new(),
        element: serde_json::to_value(element).ok(),
    }
}
