//! The network: what is said on it, and how it is lost, repeated, delayed and reordered.
//!
//! A letter is a request on a connection of its own. Its answer reaches who sent it only while that
//! one still waits for it, as with HTTP: a request that was given up may be carried out later, but
//! an answer to it is thrown away.

use protocol::agent::{Heartbeat, LeaseRequest, Orders, Register, Released, Verdict};
use protocol::job::JobState;
use protocol::{AgentId, JobId, LeaseId};

use super::client::Submission;
use super::world::{Event, LEASE, World};
use crate::clock::Millis;
use crate::store::leases::Grant;

/// Who sends requests: an agent or a client, by its place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    Agent(usize),
    Client(usize),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Letter {
    pub id: u64,
    pub from: Node,
    pub server: usize,
    pub request: Request,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Request {
    Register(Register),
    Lease(AgentId, LeaseRequest),
    Report(AgentId, Vec<Piece>),
    Heartbeat(AgentId, Heartbeat),
    Release(AgentId, Vec<Released>),
    Leave(AgentId),
    /// This one is dead.
    Bury(AgentId),
    Submit(Submission),
    Value(JobId),
    Cancel(JobId),
    Retry(JobId),
    Delete(JobId),
}

/// Neighbouring elements of a lease that are finished: all of them with a value, or all with an
/// error.
#[derive(Clone, Debug)]
pub struct Piece {
    pub lease: LeaseId,
    pub job: JobId,
    pub first: u64,
    /// The executions that gave these outcomes, by number.
    pub executions: Vec<usize>,
    pub are_errors: bool,
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nobody answers, or the server has failed.
    Unavailable,
    UnknownAgent,
    Registered(Vec<LeaseId>),
    Leases(Vec<Grant>),
    Reported(Vec<Verdict>),
    Orders(Orders),
    Done,
    Accepted(JobId),
    /// It cannot be done as things are.
    Conflict,
    /// There is no such job.
    Missing,
    NotYet,
    Ended(JobState),
    /// The payloads of a job's elements in order, and whether they are errors.
    Value(Vec<(String, bool)>),
}

/// In which direction messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    FromServer,
}

/// Nothing gets through between these.
#[derive(Clone, Debug)]
pub struct Cut {
    pub node: Node,
    pub server: usize,
    /// `None`: in both.
    pub direction: Option<Direction>,
    pub until: Millis,
}

impl World<'_> {
    /// Sends a request, which is given up after `patience`. Says by what number its answer is known.
    pub fn send(&mut self, from: Node, server: usize, request: Request, patience: Millis) -> u64 {
        self.n_letters += 1;
        let id = self.n_letters;
        self.schedule(patience, Event::GivenUp(from, id));
        let letter = Letter { id, from, server, request };
        for delay in self.journeys(from, server, Direction::ToServer) {
            self.schedule(delay, Event::Arrives(letter.clone()));
        }
        id
    }

    /// Answers a letter, unless the server has crashed since it came.
    pub fn answer(&mut self, server: usize, incarnation: u64, to: (u64, Node), answer: Answer) {
        if !self.is_there(server, incarnation) {
            return;
        }
        let journeys = self.journeys(to.1, server, Direction::FromServer);
        if let Some(&delay) = journeys.first() {
            self.schedule(delay, Event::Answered(to.1, to.0, answer));
        }
        if self.crashes_when_answered == Some(server) {
            self.crashes_when_answered = None;
            self.crash(server);
        }
    }

    /// How long each copy of a message takes that is sent now; none: it is lost.
    fn journeys(&mut self, node: Node, server: usize, direction: Direction) -> Vec<Millis> {
        let now = self.now;
        self.cuts.retain(|cut| cut.until > now);
        let is_cut = self.cuts.iter().any(|cut| {
            cut.node == node
                && cut.server == server
                && cut.direction.is_none_or(|only| only == direction)
        });
        if is_cut {
            self.coverage.saw("messages cut off");
            return Vec::new();
        }
        if self.random.happens(self.faults.drop) {
            self.coverage.saw("messages lost");
            return Vec::new();
        }
        let mut journeys = vec![self.random.between(1, 25)];
        if self.random.happens(self.faults.late) {
            self.coverage.saw("messages late");
            journeys[0] = self.random.between(LEASE / 3, 3 * LEASE);
        }
        if direction == Direction::ToServer && self.random.happens(self.faults.duplicate) {
            self.coverage.saw("requests repeated by the network");
            journeys.push(self.random.between(1, 2 * LEASE));
        }
        journeys
    }
}
