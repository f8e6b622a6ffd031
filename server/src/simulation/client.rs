//! Clients: submit a job until it is acknowledged, wait for its value, cancel it, retry what came to
//! nothing, delete it. Some go away and never come back.

use std::collections::BTreeMap;

use protocol::JobId;
use protocol::job::{JobState, Level, Strategy};

use super::invariant::Invariant;
use super::network::{Answer, Node, Request};
use super::world::{Event, LEASE, World};
use crate::clock::Millis;
use crate::store::jobs::NewJob;
use crate::store::tests::{collecting, new_job};

/// For how long an answer is waited for, beyond the time for which the server holds it.
const PATIENCE: Millis = LEASE / 2;

/// A job as a client submits it.
#[derive(Clone, Debug)]
pub struct Submission {
    pub key: Option<String>,
    pub n: u64,
    pub chunk: Option<u64>,
    pub collects: bool,
    /// Inner elements of each outer one; none: it is not nested.
    pub groups: Vec<u64>,
    pub after: Vec<JobId>,
    /// Elements that fail.
    pub failing: Vec<u64>,
    /// Milliseconds that an element takes at the most.
    pub slowest: Millis,
}

impl Submission {
    /// As it is written down.
    pub fn new_job(&self) -> NewJob {
        let mut job = if self.collects { collecting(0) } else { new_job(0) };
        job.elements.total = self.n;
        job.elements.shape.range = Some(0);
        job.options.chunk_size = self.chunk;
        if !self.groups.is_empty() {
            job.elements.shape.nested = true;
            job.plan.push(Level::new(Strategy::Multisession));
            job.elements.groups.clone_from(&self.groups);
        }
        job
    }
}

/// A client, and what it knows.
#[derive(Debug)]
pub struct Client {
    submission: Submission,
    stage: Stage,
    open: BTreeMap<u64, (Purpose, usize)>,
    pause_until: Millis,
    server: usize,
    n_retries: u32,
    /// It has seen the value once and looks at it again.
    looks_again: bool,
    cancels: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Submitting,
    Waiting(JobId),
    Retrying(JobId),
    Deleting(JobId),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Submit,
    Value(JobId),
    Cancel(JobId),
    Retry(JobId),
    Delete(JobId),
}

impl Client {
    /// One that will submit a job.
    pub fn new(submission: Submission) -> Self {
        Self {
            submission,
            stage: Stage::Submitting,
            open: BTreeMap::new(),
            pause_until: 0,
            server: 0,
            n_retries: 0,
            looks_again: false,
            cancels: false,
        }
    }

    /// Whether it wants nothing more.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The letters that it waits for an answer to from a server.
    pub fn letters_to(&self, server: usize) -> impl Iterator<Item = u64> + '_ {
        self.open.iter().filter(move |(_, open)| open.1 == server).map(|(id, _)| *id)
    }

    fn job(&self) -> Option<JobId> {
        match self.stage {
            Stage::Waiting(job) => Some(job),
            _ => None,
        }
    }
}

impl World<'_> {
    /// What a client is going to submit.
    pub fn draw_submission(&mut self, client: usize) -> Submission {
        // Enough for chunks of several elements, of which a part is leased anew.
        let is_long = self.random.happens(250);
        let n = match is_long {
            true => 12 + self.random.below(18),
            false if self.random.happens(30) => 0,
            false => 1 + self.random.below(10),
        };
        let is_nested = !is_long && self.random.happens(100);
        let mut groups = Vec::new();
        let mut left = if is_nested { n } else { 0 };
        while left > 0 {
            let group = (1 + self.random.below(4)).min(left);
            groups.push(group);
            left -= group;
        }
        let is_fixed = !is_nested && !is_long && self.random.happens(700);
        let chunk = is_fixed.then(|| 1 + self.random.below(5));
        let slowest = if is_long { 250 } else { 900 };
        let fails = self.random.happens(250);
        let failing =
            if fails && n > 0 { vec![self.random.below(n), self.random.below(n)] } else { vec![] };
        Submission {
            key: self.random.happens(850).then(|| format!("key {client}")),
            n,
            chunk,
            collects: self.random.happens(500),
            groups,
            after: Vec::new(),
            failing,
            slowest,
        }
    }

    pub fn client_cancels(&mut self, c: usize) {
        if self.clients[c].job().is_some() {
            self.clients[c].cancels = true;
            self.client_acts(c);
        }
    }

    pub fn client_acts(&mut self, c: usize) {
        if self.clients[c].pause_until > self.now {
            return;
        }
        let purpose = match self.clients[c].stage {
            Stage::Submitting => {
                self.comes_after_others(c);
                Purpose::Submit
            }
            Stage::Waiting(job) => {
                if self.clients[c].cancels {
                    self.asks(c, Purpose::Cancel(job));
                }
                Purpose::Value(job)
            }
            Stage::Retrying(job) => Purpose::Retry(job),
            Stage::Deleting(job) => Purpose::Delete(job),
            Stage::Done => return,
        };
        self.asks(c, purpose);
    }

    /// Sometimes a job comes after one of an earlier client. What was sent once stays as it is.
    fn comes_after_others(&mut self, c: usize) {
        if !self.audit.was_sent(c) && self.random.happens(200) {
            let other = self.random.index(self.clients.len());
            let on = self.clients[other].job();
            self.clients[c].submission.after = on.into_iter().collect();
        }
    }

    fn asks(&mut self, c: usize, purpose: Purpose) {
        if self.clients[c].open.values().any(|open| open.0 == purpose) {
            return;
        }
        let request = match purpose {
            Purpose::Submit => {
                self.audit.sends(c);
                Request::Submit(self.clients[c].submission.clone())
            }
            Purpose::Value(job) => Request::Value(job),
            Purpose::Cancel(job) => Request::Cancel(job),
            Purpose::Retry(job) => Request::Retry(job),
            Purpose::Delete(job) => {
                self.audit.delete_asked(job);
                Request::Delete(job)
            }
        };
        let held = if matches!(purpose, Purpose::Value(_)) { 2 * LEASE } else { 0 };
        let server = self.clients[c].server;
        let letter = self.send(Node::Client(c), server, request, held + PATIENCE);
        self.clients[c].open.insert(letter, (purpose, server));
    }

    /// An answer is here, or is not waited for any more.
    pub fn client_hears(&mut self, c: usize, letter: u64, answer: Option<Answer>) {
        let Some((purpose, _)) = self.clients[c].open.remove(&letter) else { return };
        match answer.unwrap_or(Answer::Unavailable) {
            Answer::Unavailable => return self.client_tries_elsewhere(c, purpose),
            answer => self.client_is_answered(c, purpose, answer),
        }
        self.client_acts(c);
    }

    fn client_tries_elsewhere(&mut self, c: usize, purpose: Purpose) {
        let n_servers = self.servers.len();
        let pause = self.random.between(20, 300);
        let client = &mut self.clients[c];
        client.server = (client.server + 1) % n_servers;
        if purpose == Purpose::Submit && client.submission.key.is_none() {
            // Whether it was accepted cannot be known, and must not be tried.
            client.stage = Stage::Done;
            return;
        }
        client.pause_until = self.now + pause;
        self.schedule(pause, Event::ClientActs(c));
    }

    fn client_is_answered(&mut self, c: usize, purpose: Purpose, answer: Answer) {
        match (purpose, answer) {
            (Purpose::Submit, Answer::Accepted(job)) => {
                self.audit.acknowledged(c, job);
                let goes_away = self.random.happens(80);
                self.clients[c].stage = if goes_away { Stage::Done } else { Stage::Waiting(job) };
            }
            // What it was to come after was deleted.
            (Purpose::Submit, _) => self.clients[c].submission.after.clear(),
            (Purpose::Value(job), answer) => self.client_sees(c, job, answer),
            (Purpose::Cancel(job), answer) => {
                self.clients[c].cancels = false;
                if let Answer::Ended(JobState::Cancelled) = answer {
                    self.audit.saw_end(job, JobState::Cancelled);
                }
            }
            (Purpose::Retry(_), Answer::Accepted(job)) => {
                self.audit.saw_retry(job);
                self.clients[c].stage = Stage::Waiting(job);
            }
            (Purpose::Retry(_), _) => self.clients[c].stage = Stage::Done,
            (Purpose::Delete(_), _) => self.clients[c].stage = Stage::Done,
        }
    }

    fn client_sees(&mut self, c: usize, job: JobId, answer: Answer) {
        if self.clients[c].job() != Some(job) {
            return;
        }
        match answer {
            Answer::Value(value) => {
                self.coverage.saw("values read");
                self.audit.saw_value(job, &value);
                let looks_again = !self.clients[c].looks_again && self.random.happens(300);
                self.clients[c].looks_again = looks_again;
                if !looks_again {
                    self.client_goes_on(c, job);
                }
            }
            Answer::Ended(state) => {
                self.audit.saw_end(job, state);
                self.client_goes_on(c, job);
            }
            Answer::Missing => {
                let text = format!("client {c} is told that there is no job {job}");
                self.audit.object(Invariant::AcknowledgedJobsStay, text);
            }
            _ => {}
        }
    }

    /// A job has ended: it is retried, or deleted, or left as it is.
    fn client_goes_on(&mut self, c: usize, job: JobId) {
        let retries = self.clients[c].n_retries < 2 && self.random.happens(400);
        let deletes = self.random.happens(250);
        self.clients[c].stage = if retries {
            self.clients[c].n_retries += 1;
            Stage::Retrying(job)
        } else if deletes {
            Stage::Deleting(job)
        } else {
            Stage::Done
        };
    }
}
