//! The world of a history: time, what is to happen, and everybody in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::{AgentId, JobId, LeaseId};

use super::agent::Agent;
use super::audit::Audit;
use super::bugs::Bug;
use super::client::Client;
use super::faults::{Coverage, Faults};
use super::invariant::{Invariant, Objection};
use super::network::{Answer, Cut, Direction, Letter, Node};
use super::random::Random;
use super::server::Server;
use crate::clock::Millis;
use crate::store::StoreError;
use crate::store::db::Tx;
use crate::store::recount;

/// Milliseconds for which a lease is good without a heartbeat.
pub const LEASE: Millis = 3000;

/// The time at which every history begins.
const START: Millis = 1_000_000;

/// For how long things go wrong.
const FAULTY: Millis = 5 * LEASE / 2;

/// For how long after the last fault all may take to come to its end.
const PATIENCE: Millis = 20 * LEASE;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A letter reaches its server.
    Arrives(Letter),
    /// The transaction of a letter's request runs, at a server that has not crashed since it came.
    Runs { letter: Letter, incarnation: u64, times: Times },
    /// An answer reaches the one who sent the letter of this number.
    Answered(Node, u64, Answer),
    /// Whoever sent the letter of this number waits for its answer no more.
    GivenUp(Node, u64),
    /// An agent does what it can do now, in this life of it.
    AgentActs { agent: usize, life: u64 },
    /// An element is finished.
    Finished { agent: usize, life: u64, execution: usize },
    /// An agent starts.
    AgentStarts(usize),
    /// A client does what it can do now.
    ClientActs(usize),
    /// A client cancels its job.
    ClientCancels(usize),
    /// A server hears that something has changed.
    Hears { server: usize, incarnation: u64, news: News },
    /// A server gives work to those who wait at it.
    Round { server: usize, incarnation: u64 },
    /// A server looks by itself whether something has changed.
    Looks { server: usize, incarnation: u64 },
    /// A server looks for lost agents.
    Reaps { server: usize, incarnation: u64 },
    /// A server has held the letter of this number for long enough.
    Held { server: usize, incarnation: u64, letter: u64 },
    /// A server starts.
    ServerStarts(usize),
    /// Something goes wrong.
    Breaks(Break),
    /// From now on nothing goes wrong any more.
    Calm,
}

/// When what a letter asks for was begun.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// It came.
    pub came: Millis,
    /// Its server was stopped after its transaction had read the time, before anything was written.
    pub is_stopped: bool,
}

/// What goes wrong at a time of its own.
#[derive(Clone, Copy, Debug)]
pub enum Break {
    Cut { node: Node, server: usize, direction: Option<Direction>, span: Millis },
    ServerStops(usize),
    AgentFreezes(usize, Millis),
    AgentCrashes(usize),
    AgentDrains(usize),
}

/// What a transaction has changed, for those who wait.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Something may be leased.
    pub work: bool,
    /// Jobs that have ended or are gone.
    pub jobs: Vec<JobId>,
    /// Agents that are to be told something.
    pub agents: Vec<AgentId>,
    /// Leases of which an idle slot could run something.
    pub wanted: Vec<LeaseId>,
}

/// Everything in a history.
pub struct World<'d> {
    pub now: Millis,
    pub random: Random,
    pub connection: &'d mut rusqlite::Connection,
    pub bug: Option<Bug>,
    pub faults: Faults,
    pub servers: Vec<Server>,
    pub agents: Vec<Agent>,
    pub clients: Vec<Client>,
    pub cuts: Vec<Cut>,
    pub n_letters: u64,
    /// Counts what may change an answer: what was looked up since need not be looked up again.
    pub version: u64,
    /// A server that crashes as soon as it has answered.
    pub crashes_when_answered: Option<usize>,
    /// By a deliberate bug, what is being done is answered even if it is rolled back.
    pub answers_early: bool,
    pub audit: Audit,
    pub coverage: Coverage,
    /// Nothing goes wrong any more.
    pub is_calm: bool,
    /// What happens is printed.
    pub is_told: bool,
    queue: BinaryHeap<Reverse<Scheduled>>,
    n_scheduled: u64,
    n_events: u64,
}

struct Scheduled {
    at: Millis,
    /// Of two at the same time the one that was scheduled first happens first.
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<'d> World<'d> {
    /// The world of `seed` on an empty database.
    pub fn new(connection: &'d mut rusqlite::Connection, seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Random::new(seed);
        let mut faults = Faults::draw(&mut random);
        if let Some(bug) = bug {
            bug.provoke(&mut faults);
        }
        let mut world = Self {
            now: START,
            random,
            connection,
            bug,
            faults,
            servers: Vec::new(),
            agents: Vec::new(),
            clients: Vec::new(),
            cuts: Vec::new(),
            n_letters: 0,
            version: 1,
            crashes_when_answered: None,
            answers_early: false,
            audit: Audit::default(),
            coverage: Coverage::default(),
            is_calm: false,
            is_told: false,
            queue: BinaryHeap::new(),
            n_scheduled: 0,
            n_events: 0,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let n_servers = 1 + self.random.index(3);
        for server in 0..n_servers {
            self.servers.push(Server::default());
            self.schedule(0, Event::ServerStarts(server));
        }
        for agent in 0..2 + self.random.index(2) {
            let slots = 1 + self.random.below(2) as u32;
            self.agents.push(Agent::new(slots));
            let delay = self.random.between(0, 500);
            self.schedule(delay, Event::AgentStarts(agent));
        }
        for client in 0..1 + self.random.index(4) {
            let submission = self.draw_submission(client);
            self.clients.push(Client::new(submission));
            let delay = self.random.between(10, FAULTY / 2);
            self.schedule(delay, Event::ClientActs(client));
            if self.random.happens(150) {
                let delay = self.random.between(10, FAULTY);
                self.schedule(delay, Event::ClientCancels(client));
            }
        }
        self.plan_breaks();
        self.schedule(FAULTY, Event::Calm);
    }

    fn plan_breaks(&mut self) {
        let faults = self.faults.clone();
        for _ in 0..faults.cuts {
            let node = if self.random.happens(800) {
                Node::Agent(self.random.index(self.agents.len()))
            } else {
                Node::Client(self.random.index(self.clients.len()))
            };
            let direction = match self.random.below(3) {
                0 => Some(Direction::ToServer),
                1 => Some(Direction::FromServer),
                _ => None,
            };
            let span = self.random.between(LEASE / 3, 3 * LEASE);
            let at = self.random.between(200, FAULTY);
            // Mostly from all servers, so that the agent is lost.
            let is_from_all = self.random.happens(700);
            let only = self.random.index(self.servers.len());
            for server in (0..self.servers.len()).filter(|&server| is_from_all || server == only) {
                self.schedule(at, Event::Breaks(Break::Cut { node, server, direction, span }));
            }
        }
        let mut breaks = Vec::new();
        for _ in 0..faults.restarts {
            breaks.push(Break::ServerStops(self.random.index(self.servers.len())));
        }
        for _ in 0..faults.freezes {
            let span = self.random.between(LEASE / 2, 5 * LEASE / 2);
            breaks.push(Break::AgentFreezes(self.random.index(self.agents.len()), span));
        }
        for _ in 0..faults.agent_crashes {
            breaks.push(Break::AgentCrashes(self.random.index(self.agents.len())));
        }
        for _ in 0..faults.drains {
            breaks.push(Break::AgentDrains(self.random.index(self.agents.len())));
        }
        for one in breaks {
            let at = self.random.between(200, FAULTY);
            self.schedule(at, Event::Breaks(one));
        }
    }

    /// Lets `event` happen in so many milliseconds.
    pub fn schedule(&mut self, delay: Millis, event: Event) {
        self.n_scheduled += 1;
        let scheduled = Scheduled { at: self.now + delay, order: self.n_scheduled, event };
        self.queue.push(Reverse(scheduled));
    }

    /// A transaction, or a view of the database, with the history's bug.
    pub fn tx(&mut self) -> Tx<'_> {
        let mut tx = Tx::new(&mut *self.connection);
        tx.bug = self.bug;
        tx
    }

    /// Lets the history take its course. Says what happened in it.
    pub async fn run(mut self) -> Result<Coverage, Objection> {
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at;
            self.n_events += 1;
            self.happens(next.event).await;
            self.audit.verdict()?;
            if self.is_calm && self.all_is_over() {
                break;
            }
            if self.now > START + FAULTY + PATIENCE {
                let left = self.audit.what_goes_on();
                self.audit.object(Invariant::EverythingEnds, left);
                self.audit.verdict()?;
            }
        }
        self.deliver_the_rest().await?;
        self.audit.end();
        self.audit.verdict()?;
        self.coverage.saw_many("events", self.n_events);
        self.coverage.saw_many("milliseconds of virtual time", (self.now - START) as u64);
        Ok(self.coverage)
    }

    async fn happens(&mut self, event: Event) {
        if self.is_told {
            eprintln!("{:>6} {event:?}", self.now - START);
        }
        match event {
            Event::Arrives(letter) => self.letter_arrives(letter).await,
            Event::Runs { letter, incarnation, times } => {
                self.request_runs(letter, incarnation, times).await;
            }
            Event::Answered(Node::Agent(agent), ..)
            | Event::GivenUp(Node::Agent(agent), _)
            | Event::AgentActs { agent, .. }
            | Event::Finished { agent, .. }
                if self.agents[agent].frozen_until > self.now =>
            {
                let delay = self.agents[agent].frozen_until - self.now;
                self.schedule(delay, event);
            }
            Event::Answered(Node::Agent(agent), id, answer) => {
                self.agent_hears(agent, id, Some(answer));
            }
            Event::GivenUp(Node::Agent(agent), id) => self.agent_hears(agent, id, None),
            Event::Answered(Node::Client(client), id, answer) => {
                self.client_hears(client, id, Some(answer));
            }
            Event::GivenUp(Node::Client(client), id) => self.client_hears(client, id, None),
            Event::AgentActs { agent, life } => {
                if self.agents[agent].life == life {
                    self.agent_acts(agent);
                }
            }
            Event::Finished { agent, life, execution } => {
                if self.agents[agent].life == life {
                    self.element_finishes(agent, execution);
                }
            }
            Event::AgentStarts(agent) => self.agent_starts(agent),
            Event::ClientActs(client) => self.client_acts(client),
            Event::ClientCancels(client) => self.client_cancels(client),
            Event::Hears { server, incarnation, news } => {
                self.server_hears(server, incarnation, news).await;
            }
            Event::Round { server, incarnation } => self.round(server, incarnation).await,
            Event::Looks { server, incarnation } => self.looks(server, incarnation).await,
            Event::Reaps { server, incarnation } => self.reaps(server, incarnation).await,
            Event::Held { server, incarnation, letter } => {
                self.hold_ends(server, incarnation, letter).await;
            }
            Event::ServerStarts(server) => self.server_starts(server).await,
            Event::Breaks(one) => self.breaks(one),
            Event::Calm => self.calms(),
        }
    }

    fn breaks(&mut self, one: Break) {
        match one {
            Break::Cut { node, server, direction, span } => {
                self.coverage.saw("spans of time cut off");
                let until = self.now + span;
                self.cuts.push(Cut { node, server, direction, until });
            }
            Break::ServerStops(server) => {
                self.coverage.saw("servers stopped");
                self.crash(server);
            }
            Break::AgentFreezes(agent, span) => {
                self.coverage.saw("agents frozen");
                self.agents[agent].frozen_until = self.now + span;
                let life = self.agents[agent].life;
                self.schedule(span, Event::AgentActs { agent, life });
            }
            Break::AgentCrashes(agent) => self.agent_crashes(agent),
            Break::AgentDrains(agent) => self.agent_drains(agent),
        }
    }

    fn calms(&mut self) {
        self.is_calm = true;
        self.faults = Faults::default();
        self.cuts.clear();
        for server in 0..self.servers.len() {
            if !self.servers[server].is_up {
                self.schedule(0, Event::ServerStarts(server));
            }
        }
        for agent in 0..self.agents.len() {
            self.agents[agent].frozen_until = self.now;
            let life = self.agents[agent].life;
            self.schedule(0, Event::AgentActs { agent, life });
            if self.agents[agent].is_gone() {
                self.schedule(100, Event::AgentStarts(agent));
            }
        }
    }

    fn all_is_over(&self) -> bool {
        self.clients.iter().all(Client::is_done) && self.audit.all_jobs_have_ended()
    }

    /// What is still on its way arrives, and changes nothing that it should not.
    async fn deliver_the_rest(&mut self) -> Result<(), Objection> {
        let end = self.now + 4 * LEASE;
        while let Some(Reverse(next)) = self.queue.pop() {
            let is_letter = matches!(next.event, Event::Arrives(_) | Event::Runs { .. });
            if is_letter && next.at < end {
                self.now = self.now.max(next.at);
                self.happens(next.event).await;
                self.audit.verdict()?;
            }
        }
        Ok(())
    }

    /// Looks at everything after a transaction.
    pub async fn recount(&mut self) {
        self.version += 1;
        match recount::everything(&mut self.tx()).await {
            Ok(found) => {
                self.audit.look(found);
                for turn in std::mem::take(&mut self.audit.turns) {
                    self.coverage.saw(turn);
                }
            }
            Err(error) => self.database_failed(&error),
        }
    }

    /// No request of theirs makes a transaction fail.
    pub fn database_failed(&mut self, error: &StoreError) {
        self.audit.object(Invariant::TransactionsDoNotFail, error.to_string());
    }
}
