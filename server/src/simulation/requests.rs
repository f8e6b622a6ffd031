//! Servers, continued: what is asked of them about jobs.

use std::rc::Rc;

use protocol::agent::Verdict;
use protocol::job::{ElementError, JobState};
use protocol::problem::FailedElement;
use protocol::{AgentId, JobId};

use super::Bug;
use super::client::Submission;
use super::network::{Answer, Node, Piece};
use super::server::Watcher;
use super::transactions::{read, write};
use super::world::{Event, LEASE, News, World};
use crate::block::{compress, decompress};
use crate::clock::Millis;
use crate::scheduler::retry::{Missing, rows};
use crate::store::blocks::{Place, StoredBlock};
use crate::store::ends::{self, Ended};
use crate::store::reports::{self, NewPiece};
use crate::store::retries::{self, Retried, Retry};
use crate::store::submissions::{self, Accepted, Key};
use crate::store::tokens::Scope;
use crate::store::trash::{self, Deleted};
use crate::store::{jobs, outcomes};

/// Rows that one read takes: more than there are.
const ROWS: u32 = 1000;

impl World<'_> {
    pub async fn report(
        &mut self,
        server: usize,
        agent: AgentId,
        pieces: Vec<Piece>,
        came: Millis,
    ) -> Option<Answer> {
        let before = Rc::clone(&self.audit.found);
        let mut holders = vec![agent; pieces.len()];
        let mut sent: Vec<NewPiece> = pieces.iter().map(new_piece).collect();
        if self.bug == Some(Bug::NoTokenCheck) {
            for (piece, holder) in sent.iter_mut().zip(&mut holders) {
                if let Some(lease) = before.holder(piece.job, piece.block.first) {
                    (piece.lease, *holder) = (lease.id, lease.agent);
                }
            }
        }
        let outcome = write!(self, server, |tx| async {
            let mut all = reports::Outcome::default();
            // As one, where they are of one agent.
            if holders.iter().all(|holder| *holder == agent) {
                return reports::report(tx, agent, sent, came).await;
            }
            for (piece, holder) in sent.into_iter().zip(holders) {
                let outcome = reports::report(tx, holder, vec![piece], came).await?;
                all.verdicts.extend(outcome.verdicts);
            }
            Ok(all)
        });
        let Some(outcome) = outcome else { return Some(Answer::Unavailable) };
        for (piece, verdict) in pieces.iter().zip(&outcome.verdicts) {
            self.judged(&before, agent, piece, *verdict);
        }
        if outcome.accepted > 0 || self.bug.is_some() {
            self.recount().await;
        }
        let jobs = outcome.ended.clone();
        self.tell(
            server,
            News { work: outcome.can_go_on, jobs, agents: outcome.to_tell, ..News::default() },
        );
        Some(Answer::Reported(outcome.verdicts))
    }

    fn judged(
        &mut self,
        before: &super::books::Books,
        agent: AgentId,
        piece: &Piece,
        verdict: Verdict,
    ) {
        let what = match verdict {
            Verdict::Stale => "reports that were stale",
            Verdict::Accepted if before.job(piece.job).is_none() => {
                "reports accepted before of jobs deleted since"
            }
            Verdict::Accepted if before.has_outcomes_of(piece) => "reports accepted before",
            Verdict::Accepted => before.state_of(piece.lease).map_or("", |state| match state {
                "live" => "reports accepted of live leases",
                "lapsed" => "reports accepted of lapsed leases",
                "torn" => "reports accepted of torn leases",
                _ => "reports accepted of leases given back",
            }),
        };
        self.coverage.saw(what);
        if verdict == Verdict::Accepted {
            self.audit.report_was_accepted(before, agent, piece);
        }
    }

    pub async fn submit(
        &mut self,
        server: usize,
        submission: Submission,
        came: Millis,
    ) -> Option<Answer> {
        let mut job = submission.new_job();
        let id = job.id;
        job.after.clone_from(&submission.after);
        let key = submission.key.clone().map(|key| Key { key, digest: "body".to_owned() });
        if let Some(key) = &key {
            let known = read!(self, |tx| submissions::known(tx, "ada", key))?;
            if let Some(Accepted::Before(before)) = known {
                self.coverage.saw("submissions known before");
                return Some(before.first().map_or(Answer::Missing, |job| Answer::Accepted(*job)));
            }
        }
        let accepted = write!(self, server, |tx| submissions::accept(
            tx,
            "ada",
            &Scope::All,
            key,
            vec![job],
            came
        ));
        match accepted {
            None => Some(Answer::Unavailable),
            Some(Accepted::Now(ending)) => {
                self.audit.submitted(id, &submission);
                self.recount().await;
                self.tell(server, News { work: true, jobs: ending.ended, ..News::default() });
                Some(Answer::Accepted(id))
            }
            Some(Accepted::Before(before)) => {
                self.coverage.saw("submissions known before");
                Some(before.first().map_or(Answer::Missing, |job| Answer::Accepted(*job)))
            }
            Some(Accepted::KeyReused | Accepted::NoSuchJob { .. }) => Some(Answer::Conflict),
        }
    }

    /// The value of a job, or how it has ended. Not yet: `waits` waits for it, if somebody does.
    pub async fn value(
        &mut self,
        server: usize,
        job: JobId,
        waits: Option<(u64, Node)>,
    ) -> Option<Answer> {
        let Some(row) = read!(self, |tx| jobs::find(tx, job))? else {
            return Some(Answer::Missing);
        };
        if row.state == JobState::Resolved {
            let stored = read!(self, |tx| outcomes::read(tx, job, 0, ROWS))?;
            return Some(Answer::Value(payloads(&stored)));
        }
        if row.state.is_final() {
            return Some(Answer::Ended(row.state));
        }
        let Some(letter) = waits else { return Some(Answer::NotYet) };
        let incarnation = self.servers[server].incarnation;
        self.servers[server].watchers.push(Watcher { job, letter });
        self.schedule(2 * LEASE, Event::Held { server, incarnation, letter: letter.0 });
        None
    }

    pub async fn cancel(&mut self, server: usize, job: JobId, came: Millis) -> Option<Answer> {
        let ended = write!(self, server, |tx| ends::end(tx, job, JobState::Cancelled, None, came));
        match ended {
            None => Some(Answer::Unavailable),
            Some(Ended::Now(ending)) => {
                self.coverage.saw("jobs cancelled");
                self.recount().await;
                let work = !ending.freed.is_empty();
                self.tell(
                    server,
                    News { work, jobs: ending.ended, agents: ending.holders, ..News::default() },
                );
                Some(Answer::Ended(JobState::Cancelled))
            }
            Some(Ended::Before(JobState::Cancelled)) => Some(Answer::Ended(JobState::Cancelled)),
            Some(Ended::Before(_)) => Some(Answer::Conflict),
            Some(Ended::Unknown) => Some(Answer::Missing),
        }
    }

    pub async fn retry(&mut self, server: usize, job: JobId, came: Millis) -> Option<Answer> {
        let Some(row) = read!(self, |tx| jobs::find(tx, job))? else {
            return Some(Answer::Missing);
        };
        if !row.state.is_final() {
            return Some(Answer::Conflict);
        }
        if let Some(before) = row.retried_as {
            return Some(Answer::Accepted(before));
        }
        let pieces = read!(self, |tx| retries::survey(tx, job, 0, ROWS))?;
        let (mut missing, mut n_kept, mut micros) = (Missing::default(), 0, 0);
        for piece in &pieces {
            missing.outcomes(piece.first, piece.n, &piece.errors);
            if piece.errors.is_empty() {
                n_kept += piece.n;
                micros += piece.micros;
            }
        }
        let rows = rows(&missing.finish(row.counts.total));
        if rows.is_empty() && row.state == JobState::Resolved {
            return Some(Answer::Conflict);
        }
        let retry = Retry {
            of: job,
            id: JobId::new(),
            is_complete: rows.is_empty(),
            n_rows: pieces.len() as u64,
            n_kept,
            micros,
            cut: Vec::new(),
            rows,
        };
        let id = retry.id;
        match write!(self, server, |tx| retries::insert(tx, retry, came)) {
            None => Some(Answer::Unavailable),
            Some(Retried::Now) => {
                self.coverage.saw("jobs retried");
                self.audit.retried(job, id);
                self.recount().await;
                self.tell(server, News { work: true, ..News::default() });
                Some(Answer::Accepted(id))
            }
            Some(Retried::Before(before)) => Some(Answer::Accepted(before)),
            Some(Retried::Unknown) => Some(Answer::Missing),
            Some(Retried::Dependency(..)) => Some(Answer::Conflict),
        }
    }

    pub async fn delete(&mut self, server: usize, job: JobId) -> Option<Answer> {
        match write!(self, server, |tx| trash::delete(tx, job)) {
            None => Some(Answer::Unavailable),
            Some(Deleted::Now) => {
                self.coverage.saw("jobs deleted");
                self.recount().await;
                self.tell(server, News { jobs: vec![job], ..News::default() });
                Some(Answer::Done)
            }
            Some(Deleted::Before) => Some(Answer::Done),
            Some(Deleted::NotEnded(_)) => Some(Answer::Conflict),
        }
    }
}

/// A piece as the server takes it; each payload is the number of the execution that gave it.
fn new_piece(piece: &Piece) -> NewPiece {
    let payloads: Vec<String> = piece.executions.iter().map(usize::to_string).collect();
    let error = || ElementError {
        kind: "ValueError".to_owned(),
        message: "no".to_owned(),
        call: None,
        traceback: Vec::new(),
        fatal: false,
    };
    let n = payloads.len() as u32;
    NewPiece {
        lease: piece.lease,
        job: piece.job,
        block: StoredBlock {
            first: piece.first,
            lengths: payloads.iter().map(|payload| payload.len() as u32).collect(),
            place: Place::Row(compress(payloads.concat().as_bytes())),
        },
        errors: if piece.are_errors { (0..n).collect() } else { Vec::new() },
        first_error: piece.are_errors.then(|| FailedElement::new(piece.first, error())),
        notes: Vec::new(),
        slot: 0,
        pid: 1,
        started_at: 0,
        micros: u64::from(n) * 100_000,
    }
}

/// The payloads of outcomes one behind the other, and whether they are errors.
fn payloads(stored: &[outcomes::Outcomes]) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for row in stored {
        let Place::Row(data) = &row.block.place else { continue };
        let data = String::from_utf8(decompress(data).unwrap()).unwrap();
        let mut left = data.as_str();
        for (position, length) in (0_u32..).zip(&row.block.lengths) {
            let payload;
            (payload, left) = left.split_at(*length as usize);
            all.push((payload.to_owned(), row.errors.contains(&position)));
        }
    }
    all
}
