//! The auditor: keeps its own truth of what was run, acknowledged, accepted and seen, and holds the
//! database and every answer against it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use protocol::job::JobState;
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::books::{Books, Fault};
use super::client::Submission;
use super::invariant::{Invariant, Objection};
use super::network::Piece;
use crate::clock::Millis;
use crate::store::leases::Grant;
use crate::store::recount::{Outcomes, Recount};

/// One time that an agent ran an element.
#[derive(Clone, Debug)]
pub struct Execution {
    pub agent: AgentId,
    pub lease: LeaseId,
    pub job: JobId,
    pub element: u64,
    /// Its agent knows that its outcome was accepted.
    is_accepted: bool,
}

/// What is known of a job.
#[derive(Debug, Default)]
struct Truth {
    n: u64,
    failing: Vec<u64>,
    slowest: Millis,
    /// The job whose values it takes over.
    retry_of: Option<JobId>,
    is_acknowledged: bool,
    may_be_deleted: bool,
    end: Option<JobState>,
    value: Option<Vec<(String, bool)>>,
}

/// What is known of an agent.
#[derive(Debug, Default)]
struct Standing {
    alive_until: Millis,
    is_lost: bool,
    /// It has crashed or begun to leave: what it ran is run elsewhere.
    has_ended: bool,
    leaves: bool,
}

/// What is known of a lease.
#[derive(Debug)]
struct Granted {
    agent: AgentId,
    ranges: RangeSet,
    /// It has lapsed or was given back, or its agent was told that it is not its own.
    was_lost: bool,
    may_be_given_back: bool,
}

/// All that is known, and what was found at last.
#[derive(Debug, Default)]
pub struct Audit {
    pub found: Rc<Books>,
    /// What became of leases since it was asked last.
    pub turns: Vec<&'static str>,
    objection: Option<Objection>,
    jobs: BTreeMap<JobId, Truth>,
    executions: Vec<Execution>,
    runs: BTreeMap<(JobId, u64), Vec<usize>>,
    agents: BTreeMap<AgentId, Standing>,
    leases: BTreeMap<LeaseId, Granted>,
    sent: BTreeSet<usize>,
    acknowledged: BTreeMap<usize, JobId>,
}

impl Audit {
    /// Notes that an invariant is broken. The first counts.
    pub fn object(&mut self, invariant: Invariant, text: String) {
        self.objection.get_or_insert(Objection { invariant, text });
    }

    fn check(&mut self, checked: Result<(), Fault>) {
        if let Err((invariant, text)) = checked {
            self.object(invariant, text);
        }
    }

    /// Whether all was well until now.
    pub fn verdict(&mut self) -> Result<(), Objection> {
        self.objection.take().map_or(Ok(()), Err)
    }

    // What the database holds.

    /// Looks at the database after a transaction.
    pub fn look(&mut self, found: Recount) {
        let (books, before) = (Rc::new(Books(found)), Rc::clone(&self.found));
        self.check(books.check());
        self.check(books.check_since(&before));
        self.check(self.jobs_stay(&books, &before));
        self.check(self.leases_are_given_back_by_their_agents(&books, &before));
        for row in &books.0.outcomes {
            if !before.outcomes(row.job).any(|was| was.first == row.first) {
                self.check(self.is_of_its_elements(row));
            }
        }
        for lease in &books.0.leases {
            self.turns.extend(turn(before.state_of(lease.id), &lease.state));
        }
        for lease in books.0.leases.iter().filter(|lease| lease.state != "live") {
            if let Some(granted) = self.leases.get_mut(&lease.id) {
                granted.was_lost = true;
            }
        }
        self.found = books;
    }

    fn jobs_stay(&self, books: &Books, before: &Books) -> Result<(), Fault> {
        let acknowledged = self.jobs.iter().filter(|(_, truth)| truth.is_acknowledged);
        let were_there = before.0.jobs.iter().map(|job| job.id);
        for id in acknowledged.map(|(id, _)| *id).chain(were_there) {
            let may_be_deleted = self.jobs.get(&id).is_some_and(|truth| truth.may_be_deleted);
            if books.job(id).is_none() && !may_be_deleted {
                return Err((Invariant::AcknowledgedJobsStay, format!("{id} is not there")));
            }
        }
        Ok(())
    }

    fn leases_are_given_back_by_their_agents(
        &self,
        books: &Books,
        before: &Books,
    ) -> Result<(), Fault> {
        for was in before.0.leases.iter().filter(|lease| lease.state == "live") {
            if books.state_of(was.id) != Some("released") {
                continue;
            }
            let leaves = self.agents.get(&was.agent).is_some_and(|agent| agent.leaves);
            let gives = self.leases.get(&was.id).is_some_and(|lease| lease.may_be_given_back);
            if !leaves && !gives {
                let text = format!("{was:?} was given back by nobody");
                return Err((Invariant::LeasesAreGivenBackByTheirAgents, text));
            }
        }
        Ok(())
    }

    /// Each payload is the number of an execution: of that element, under that lease.
    fn is_of_its_elements(&self, row: &Outcomes) -> Result<(), Fault> {
        for (element, payload) in (row.first..).zip(row.payloads()) {
            let run = payload.parse().ok().and_then(|number: usize| self.executions.get(number));
            let is_right = run.is_some_and(|run| {
                run.element == element
                    && run.lease == row.lease
                    && self.takes_over(row.job, run.job)
            });
            if !is_right {
                let text = format!("element {element} of {} has {payload:?} of {run:?}", row.job);
                return Err((Invariant::OutcomesAreOfTheirElements, text));
            }
        }
        Ok(())
    }

    /// Whether `job` is `other`, or a retry of it.
    fn takes_over(&self, job: JobId, other: JobId) -> bool {
        let before = |job: &JobId| self.jobs.get(job).and_then(|truth| truth.retry_of);
        std::iter::successors(Some(job), before).any(|one| one == other)
    }

    /// Whether every job that there is has ended.
    pub fn all_jobs_have_ended(&self) -> bool {
        self.found.0.jobs.iter().all(|job| job.has_ended())
    }

    /// What has not ended, in words.
    pub fn what_goes_on(&self) -> String {
        let jobs: Vec<_> = self.found.0.jobs.iter().filter(|job| !job.has_ended()).collect();
        format!("{jobs:?} go on for ever, with {:?}", self.found.0.leases)
    }

    /// Checks what can be said only at the end.
    pub fn end(&mut self) {
        let books = Rc::clone(&self.found);
        for run in self.executions.iter().filter(|run| run.is_accepted) {
            let may_be_deleted = self.jobs.get(&run.job).is_some_and(|truth| truth.may_be_deleted);
            if !may_be_deleted && books.outcome_of(run.job, run.element).is_none() {
                let text = format!("{run:?} was accepted and has no outcome");
                self.objection
                    .get_or_insert(Objection { invariant: Invariant::AcceptedOutcomesStay, text });
            }
        }
    }

    // Jobs, as their clients know them.

    /// A client sends its submission, perhaps not for the first time.
    pub fn sends(&mut self, client: usize) {
        self.sent.insert(client);
    }

    /// Whether a client has sent its submission.
    pub fn was_sent(&self, client: usize) -> bool {
        self.sent.contains(&client)
    }

    /// A submission was written down.
    pub fn submitted(&mut self, job: JobId, submission: &Submission) {
        let (n, failing, slowest) = (submission.n, submission.failing.clone(), submission.slowest);
        self.jobs.insert(job, Truth { n, failing, slowest, ..Truth::default() });
    }

    /// A job is run again as another. Its elements fail no more.
    pub fn retried(&mut self, of: JobId, job: JobId) {
        let (n, slowest) = self.jobs.get(&of).map_or((0, 0), |truth| (truth.n, truth.slowest));
        self.jobs.insert(job, Truth { n, slowest, retry_of: Some(of), ..Truth::default() });
    }

    /// A client is told that its submission is this job.
    pub fn acknowledged(&mut self, client: usize, job: JobId) {
        let before = *self.acknowledged.entry(client).or_insert(job);
        if before != job {
            self.object(Invariant::OneKeyIsOneJob, format!("client {client}: {before} and {job}"));
        }
        self.must_be_there(job);
    }

    /// A client is told that its retry is this job.
    pub fn saw_retry(&mut self, job: JobId) {
        self.must_be_there(job);
    }

    fn must_be_there(&mut self, job: JobId) {
        let truth = self.jobs.entry(job).or_default();
        truth.is_acknowledged = true;
        if !truth.may_be_deleted && self.found.job(job).is_none() {
            self.object(Invariant::AcknowledgedJobsStay, format!("{job} is not there"));
        }
    }

    /// A client asks for a job to be deleted.
    pub fn delete_asked(&mut self, job: JobId) {
        self.jobs.entry(job).or_default().may_be_deleted = true;
    }

    /// A client is told how a job has ended.
    pub fn saw_end(&mut self, job: JobId, state: JobState) {
        let before = *self.jobs.entry(job).or_default().end.get_or_insert(state);
        if before != state {
            let text = format!("{job} was {before:?} and is {state:?}");
            self.object(Invariant::EndedJobsStayAsTheyAre, text);
        }
    }

    /// A client is given the value of a job.
    pub fn saw_value(&mut self, job: JobId, value: &[(String, bool)]) {
        self.saw_end(job, JobState::Resolved);
        let n = self.jobs.get(&job).map_or(0, |truth| truth.n);
        if value.len() as u64 != n {
            let text = format!("{job} of {n} elements has {} outcomes", value.len());
            self.object(Invariant::ValuesAreComplete, text);
        }
        for (element, (payload, is_error)) in (0..).zip(value) {
            let run = payload.parse().ok().and_then(|number: usize| self.executions.get(number));
            let is_right = run.is_some_and(|run| {
                run.element == element
                    && self.takes_over(job, run.job)
                    && self.fails(run.job, element) == *is_error
            });
            if !is_right {
                let text = format!("{job} has {payload:?} of {run:?} as element {element}");
                self.object(Invariant::ValuesAreInOrder, text);
                return;
            }
        }
        let before = self.jobs.entry(job).or_default().value.get_or_insert(value.to_vec());
        if before != value {
            let text = format!("{job} was {before:?} and is {value:?}");
            self.object(Invariant::ValuesAreInOrder, text);
        }
    }

    /// Whether an element gives an error.
    pub fn fails(&self, job: JobId, element: u64) -> bool {
        self.jobs.get(&job).is_some_and(|truth| truth.failing.contains(&element))
    }

    /// Milliseconds that an element of a job takes at the most.
    pub fn slowest(&self, job: JobId) -> Millis {
        self.jobs.get(&job).map_or(0, |truth| truth.slowest).max(100)
    }

    // Agents, as servers know them.

    /// A transaction was committed by which an agent lives until then.
    pub fn heard_of(&mut self, agent: AgentId, alive_until: Millis) {
        let standing = self.agents.entry(agent).or_default();
        let known = if standing.is_lost { 0 } else { standing.alive_until };
        standing.alive_until = known.max(alive_until);
        standing.is_lost = false;
    }

    /// A server that starts gives every agent that it knows another lease.
    pub fn all_heard_of(&mut self, alive_until: Millis) {
        let is_known = |standing: &&mut Standing| !standing.is_lost && standing.alive_until > 0;
        for standing in self.agents.values_mut().filter(is_known) {
            standing.alive_until = standing.alive_until.max(alive_until);
        }
    }

    /// A transaction was committed by which an agent is known to be dead at `now`.
    pub fn death_told(&mut self, agent: AgentId, now: Millis) {
        let standing = self.agents.entry(agent).or_default();
        standing.alive_until = standing.alive_until.min(now - 1);
    }

    /// A server has given an agent up.
    pub fn lost(&mut self, agent: AgentId, now: Millis) {
        let standing = self.agents.entry(agent).or_default();
        let alive_until = standing.alive_until;
        standing.is_lost = true;
        if alive_until >= now && !standing.leaves {
            let text = format!("{agent} lives until {alive_until} and is lost at {now}");
            self.object(Invariant::AgentsHeardOfAreNotLost, text);
        }
    }

    /// These leases were granted.
    pub fn granted(&mut self, grants: &[Grant]) {
        for grant in grants {
            let (agent, ranges) = (grant.agent, grant.ranges.clone());
            let (was_lost, may_be_given_back) = (false, false);
            let granted = Granted { agent, ranges, was_lost, may_be_given_back };
            self.leases.insert(grant.id, granted);
        }
    }

    /// The leases that an agent was ever given, as they were given.
    pub fn grants_of(&self, agent: AgentId) -> Vec<(LeaseId, RangeSet)> {
        let of_agent = self.leases.iter().filter(|(_, granted)| granted.agent == agent);
        of_agent.map(|(id, granted)| (*id, granted.ranges.clone())).collect()
    }

    /// A server judges that a piece is accepted, now or before. `before` is what it found; of a job
    /// that was deleted the auditor does not see the outcomes.
    pub fn report_was_accepted(&mut self, before: &Books, agent: AgentId, piece: &Piece) {
        let range = Range(piece.first, piece.first + piece.executions.len() as u64);
        let is_held = before.lease(piece.lease).is_some_and(|lease| {
            (lease.agent, lease.job) == (agent, piece.job)
                && lease.state != "released"
                && lease.ranges.contains(range)
        });
        if !is_held && !before.has_outcomes_of(piece) && before.job(piece.job).is_some() {
            let text =
                format!("{piece:?} was accepted, its lease: {:?}", before.lease(piece.lease));
            self.object(Invariant::LateReportsChangeNothing, text);
        }
    }

    /// A request to give these leases back has arrived.
    pub fn release_asked(&mut self, leases: impl Iterator<Item = LeaseId>) {
        for lease in leases {
            if let Some(granted) = self.leases.get_mut(&lease) {
                granted.may_be_given_back = true;
            }
        }
    }

    /// A request of an agent that leaves has arrived.
    pub fn leave_asked(&mut self, agent: AgentId) {
        self.agents.entry(agent).or_default().leaves = true;
    }

    // Agents, as they know themselves.

    /// An agent has started.
    pub fn agent_started(&mut self, agent: AgentId) {
        self.agents.entry(agent).or_default();
    }

    /// An agent has crashed, or has left.
    pub fn agent_ended(&mut self, agent: AgentId) {
        self.agents.entry(agent).or_default().has_ended = true;
    }

    /// An agent stops what it runs, and is about to leave.
    pub fn agent_stopped(&mut self, agent: AgentId) {
        self.agent_ended(agent);
    }

    /// An agent drops a lease because a server has told it so.
    pub fn dropped(&mut self, agent: AgentId, lease: LeaseId) {
        if let Some(granted) = self.leases.get_mut(&lease) {
            granted.was_lost |= granted.agent == agent;
        }
    }

    /// An agent begins to run an element. Says by what number that is known.
    pub fn started(&mut self, agent: AgentId, lease: LeaseId, job: JobId, element: u64) -> usize {
        self.check(self.may_run(lease, job, element));
        let number = self.executions.len();
        self.executions.push(Execution { agent, lease, job, element, is_accepted: false });
        self.runs.entry((job, element)).or_default().push(number);
        number
    }

    /// Whether an element may be run now. An agent that has lost its lease and has not heard of it
    /// goes on: nobody can stop it, and nothing that it reports counts.
    fn may_run(&self, lease: LeaseId, job: JobId, element: u64) -> Result<(), Fault> {
        if self.leases.get(&lease).is_some_and(|lease| lease.was_lost) {
            return Ok(());
        }
        let name = format!("element {element} of {job} under {lease}");
        for &number in self.runs.get(&(job, element)).into_iter().flatten() {
            let run = &self.executions[number];
            if run.is_accepted {
                let text = format!("{name} runs again after {run:?}");
                return Err((Invariant::FinishedElementsDoNotRunAgain, text));
            }
            let was_lost = self.leases.get(&run.lease).is_some_and(|lease| lease.was_lost);
            let has_ended = self.agents.get(&run.agent).is_some_and(|agent| agent.has_ended);
            if !was_lost && !has_ended {
                let text = format!("{name} runs again after {run:?}");
                return Err((Invariant::ElementsRunTwiceOnlyAfterALoss, text));
            }
        }
        match self.found.outcome_of(job, element) {
            Some(row) if row.lease != lease => {
                let text = format!("{name} has {row:?}");
                Err((Invariant::FinishedElementsDoNotRunAgain, text))
            }
            _ => Ok(()),
        }
    }

    /// The execution of this number.
    pub fn execution(&self, number: usize) -> Option<&Execution> {
        self.executions.get(number)
    }

    /// An agent is told that the outcome of an execution was accepted.
    pub fn accepted(&mut self, number: usize) {
        let Some(run) = self.executions.get_mut(number) else { return };
        run.is_accepted = true;
        let run = run.clone();
        let may_be_deleted = self.jobs.get(&run.job).is_some_and(|truth| truth.may_be_deleted);
        let outcome = self.found.outcome_of(run.job, run.element);
        if !may_be_deleted && outcome.is_none_or(|row| row.lease != run.lease) {
            let text = format!("{run:?} was accepted, and there is {outcome:?}");
            self.object(Invariant::AcceptedOutcomesStay, text);
        }
    }
}

/// What became of a lease that was in the one state and is in the other.
fn turn(was: Option<&str>, is: &str) -> Option<&'static str> {
    match (was?, is) {
        (was, is) if was == is => None,
        (_, "lapsed") => Some("leases lapsed"),
        (_, "live") => Some("leases revived"),
        (_, "torn") => Some("leases torn"),
        _ => None,
    }
}
