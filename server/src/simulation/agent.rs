//! Agents: a model of what `protocol::agent` says that an agent does. Elements take virtual time;
//! what is finished is reported until the server has judged it, in the very same pieces.

use std::collections::{BTreeMap, VecDeque};

use protocol::agent::{Heartbeat, LeaseRequest, Orders, Released, Verdict};
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::network::{Answer, Node, Piece, Request};
use super::world::{Event, LEASE, World};
use crate::clock::Millis;
use crate::store::leases::Grant;
use crate::store::tests::register;

/// For how long a server holds a heartbeat, and for how long after that its answer is waited for.
const BEAT: Millis = LEASE / 6;

/// For how long a server holds a request for work.
const POLL: Millis = LEASE;

/// For how long other answers are waited for.
const PATIENCE: Millis = LEASE / 2;

/// An agent, and what it knows.
#[derive(Debug)]
pub struct Agent {
    pub id: AgentId,
    pub slots: u32,
    /// Leases that it would hold beside those that run.
    ahead: u32,
    /// Counts its starts: what belongs to an earlier one is gone.
    pub life: u64,
    pub frozen_until: Millis,
    stage: Stage,
    /// The leases that it listed when it began to register.
    registering: Option<Vec<LeaseId>>,
    /// The one whose place it took, until a server knows that it is dead.
    dead: Option<AgentId>,
    held: BTreeMap<LeaseId, Holding>,
    outbox: Vec<Piece>,
    /// What has been sent and was not judged yet.
    reporting: Option<Vec<Piece>>,
    open: BTreeMap<u64, Open>,
    /// Before these times nothing of the kind is asked again.
    pauses: BTreeMap<Purpose, Millis>,
    server: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Gone,
    Working,
    /// It ends when it holds nothing any more, or at this time.
    Draining(Millis),
    Leaving,
}

/// A request that it waits for.
#[derive(Clone, Copy, Debug)]
struct Open {
    purpose: Purpose,
    server: usize,
    free: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Register,
    Lease,
    Report,
    Heartbeat,
    Release(LeaseId),
    ReleasePart(LeaseId),
    Leave,
    Bury,
}

/// A lease that it holds.
#[derive(Debug)]
struct Holding {
    job: JobId,
    slots: u32,
    width: usize,
    has_begun: bool,
    queue: VecDeque<u64>,
    /// What it gives to others, until a server has answered.
    part: Option<RangeSet>,
    /// It gives all of it to others.
    is_given: bool,
    /// Executions by element.
    running: BTreeMap<u64, usize>,
    /// Outcomes in the outbox or on their way.
    n_unsettled: usize,
}

impl Holding {
    fn is_run(&self) -> bool {
        self.queue.is_empty() && self.running.is_empty()
    }

    /// Takes half of what has not begun out of the queue, for others.
    fn spare(&mut self) {
        let n_kept = self.queue.len() / 2;
        let given = self.queue.split_off(n_kept);
        self.part = Some(given.into_iter().map(|i| Range(i, i + 1)).collect());
    }
}

impl Agent {
    /// One that has not started.
    pub fn new(slots: u32) -> Self {
        Self {
            id: AgentId::new(),
            slots,
            ahead: 0,
            life: 0,
            frozen_until: 0,
            stage: Stage::Gone,
            registering: None,
            dead: None,
            held: BTreeMap::new(),
            outbox: Vec::new(),
            reporting: None,
            open: BTreeMap::new(),
            pauses: BTreeMap::new(),
            server: 0,
        }
    }

    /// Whether it has crashed or left.
    pub fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// The letters that it waits for an answer to from a server.
    pub fn letters_to(&self, server: usize) -> impl Iterator<Item = u64> + '_ {
        let to = move |open: &Open| open.server == server;
        self.open.iter().filter(move |(_, open)| to(open)).map(|(id, _)| *id)
    }

    fn waits_for(&self, purpose: Purpose) -> bool {
        self.open.values().any(|open| open.purpose == purpose)
    }

    fn free(&self) -> u32 {
        let at_work = self.held.values().filter(|holding| holding.has_begun && !holding.is_run());
        self.slots.saturating_sub(at_work.map(|holding| holding.slots).sum())
    }

    /// Leases that it would hold beside those that run and those that wait for a slot.
    fn wants_ahead(&self) -> u32 {
        let waiting = self.held.values().filter(|holding| !holding.has_begun && !holding.is_given);
        self.ahead.saturating_sub(u32::try_from(waiting.count()).unwrap_or(u32::MAX))
    }

    fn held_ids(&self) -> Vec<LeaseId> {
        self.held.keys().copied().collect()
    }

    /// Stops what runs of a lease, and forgets what waits to be reported of it.
    fn drop_lease(&mut self, lease: LeaseId) {
        self.held.remove(&lease);
        self.outbox.retain(|piece| piece.lease != lease);
    }
}

impl World<'_> {
    pub fn agent_starts(&mut self, a: usize) {
        if !self.agents[a].is_gone() {
            return;
        }
        let (slots, life, dead) = self.succession(a);
        let server = self.random.index(self.servers.len());
        let (stage, registering) = (Stage::Working, Some(Vec::new()));
        let ahead = u32::try_from(self.random.below(3)).unwrap_or_default();
        self.agents[a] =
            Agent { life, stage, registering, dead, server, ahead, ..Agent::new(slots) };
        self.audit.agent_started(self.agents[a].id);
        self.agent_acts(a);
    }

    /// What an agent that starts has of the one before: its slots, its place, and whom it takes for
    /// dead. That is the one before; or another, which may live.
    fn succession(&mut self, a: usize) -> (u32, u64, Option<AgentId>) {
        let before = &self.agents[a];
        let (slots, life) = (before.slots, before.life + 1);
        let mut dead = (before.life > 0).then_some(before.id);
        if self.random.happens(self.faults.false_deaths) {
            self.coverage.saw("agents taken for dead that may live");
            let other = self.random.index(self.agents.len());
            dead = Some(self.agents[other].id);
        }
        (slots, life, dead.filter(|_| self.random.happens(500)))
    }

    pub fn agent_crashes(&mut self, a: usize) {
        if self.agents[a].is_gone() {
            return;
        }
        self.coverage.saw("agents crashed");
        self.ends_life(a);
        let delay = self.random.between(LEASE / 4, 2 * LEASE);
        self.schedule(delay, Event::AgentStarts(a));
    }

    fn ends_life(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        self.audit.agent_ended(agent.id);
        agent.stage = Stage::Gone;
        agent.life += 1;
        agent.held.clear();
        agent.outbox.clear();
        agent.reporting = None;
        agent.open.clear();
    }

    pub fn agent_drains(&mut self, a: usize) {
        if self.agents[a].stage != Stage::Working {
            return;
        }
        self.coverage.saw("agents drained");
        let grace = self.random.between(50, 2 * LEASE);
        let agent = &mut self.agents[a];
        agent.stage = Stage::Draining(self.now + grace);
        agent.open.retain(|_, open| open.purpose != Purpose::Lease);
        let life = agent.life;
        self.schedule(grace, Event::AgentActs { agent: a, life });
        self.agent_acts(a);
    }

    /// Does all that can be done now.
    pub fn agent_acts(&mut self, a: usize) {
        if self.agents[a].is_gone() || self.agents[a].frozen_until > self.now {
            return;
        }
        if let Stage::Leaving = self.agents[a].stage {
            return self.ask(a, Purpose::Leave);
        }
        if let Stage::Draining(until) = self.agents[a].stage
            && until <= self.now
        {
            self.coverage.saw("agents left in the middle of something");
            return self.leaves(a);
        }
        self.run_elements(a);
        self.end_leases(a);
        if self.agents[a].registering.is_some() {
            self.ask(a, Purpose::Register);
        } else {
            self.ask(a, Purpose::Heartbeat);
            if self.agents[a].dead.is_some() {
                self.ask(a, Purpose::Bury);
            }
            self.ask_for_work(a);
        }
        self.ask_to_judge(a);
        let agent = &self.agents[a];
        let is_idle = agent.held.is_empty() && agent.outbox.is_empty() && agent.reporting.is_none();
        if matches!(agent.stage, Stage::Draining(_)) && is_idle {
            self.leaves(a);
        }
    }

    fn leaves(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        self.audit.agent_stopped(agent.id);
        agent.stage = Stage::Leaving;
        agent.held.clear();
        agent.open.clear();
        self.ask(a, Purpose::Leave);
    }

    fn run_elements(&mut self, a: usize) {
        let mut begun = Vec::new();
        let agent = &mut self.agents[a];
        if agent.stage != Stage::Working {
            return;
        }
        for lease in agent.held_ids() {
            let (id, free) = (agent.id, agent.free());
            let Some(holding) = agent.held.get_mut(&lease) else { continue };
            holding.has_begun |= holding.slots <= free && !holding.is_given;
            while holding.has_begun && holding.running.len() < holding.width {
                let Some(element) = holding.queue.pop_front() else { break };
                let execution = self.audit.started(id, lease, holding.job, element);
                holding.running.insert(element, execution);
                begun.push((execution, self.audit.slowest(holding.job)));
            }
        }
        let life = agent.life;
        for (execution, slowest) in begun {
            let takes = self.random.between(30, slowest);
            self.schedule(takes, Event::Finished { agent: a, life, execution });
        }
    }

    pub fn element_finishes(&mut self, a: usize, execution: usize) {
        let Some(run) = self.audit.execution(execution) else { return };
        let (lease, element, job) = (run.lease, run.element, run.job);
        let are_errors = self.audit.fails(job, element);
        let agent = &mut self.agents[a];
        let Some(holding) = agent.held.get_mut(&lease) else { return };
        if holding.running.get(&element) != Some(&execution) {
            return;
        }
        holding.running.remove(&element);
        holding.n_unsettled += 1;
        let last = agent.outbox.iter_mut().rfind(|piece| piece.lease == lease);
        match last {
            Some(piece)
                if piece.are_errors == are_errors
                    && piece.first + piece.executions.len() as u64 == element =>
            {
                piece.executions.push(execution);
            }
            _ => {
                let executions = vec![execution];
                agent.outbox.push(Piece { lease, job, first: element, executions, are_errors });
            }
        }
        self.agent_acts(a);
    }

    /// Ends leases of which all is accepted, and gives back what will not be run.
    fn end_leases(&mut self, a: usize) {
        let is_draining = self.agents[a].stage != Stage::Working;
        for lease in self.agents[a].held_ids() {
            let holding = &self.agents[a].held[&lease];
            if holding.part.is_some() {
                self.ask(a, Purpose::ReleasePart(lease));
                continue;
            }
            if holding.n_unsettled > 0 || !holding.running.is_empty() {
                continue;
            }
            if holding.queue.is_empty() {
                self.agents[a].held.remove(&lease);
            } else if is_draining || holding.is_given {
                self.ask(a, Purpose::Release(lease));
            }
        }
    }

    fn ask_for_work(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        let free = agent.free();
        if agent.stage != Stage::Working || free == 0 && agent.wants_ahead() == 0 {
            return;
        }
        // A request that waits gives way to one for more slots.
        let n_open = agent.open.len();
        agent.open.retain(|_, open| open.purpose != Purpose::Lease || open.free >= free);
        if agent.open.len() < n_open {
            self.coverage.saw("requests for work given up for better ones");
        }
        self.ask(a, Purpose::Lease);
    }

    fn ask_to_judge(&mut self, a: usize) {
        let agent = &mut self.agents[a];
        if agent.reporting.is_none() && !agent.outbox.is_empty() {
            agent.reporting = Some(std::mem::take(&mut agent.outbox));
        }
        if agent.reporting.is_some() {
            self.ask(a, Purpose::Report);
        }
    }

    /// Sends a request, unless one of the kind is on its way or was refused a moment ago.
    fn ask(&mut self, a: usize, purpose: Purpose) {
        let now = self.now;
        let agent = &self.agents[a];
        let pauses = agent.pauses.get(&purpose).is_some_and(|&until| until > now);
        if pauses || agent.waits_for(purpose) {
            return;
        }
        let (id, server, held) = (agent.id, agent.server, agent.held_ids());
        let (free, ahead) = (agent.free(), agent.wants_ahead());
        let (request, patience) = match purpose {
            Purpose::Register => {
                let leases = agent.registering.clone().unwrap_or_default();
                let register = protocol::agent::Register { id, leases, ..register(agent.slots) };
                (Request::Register(register), PATIENCE)
            }
            Purpose::Lease => {
                let wait = POLL as f64 / 1000.0;
                let request = LeaseRequest { free, ahead, held, known_jobs: Vec::new(), wait };
                (Request::Lease(id, request), POLL + PATIENCE)
            }
            Purpose::Heartbeat => {
                let (draining, wait) = (agent.stage != Stage::Working, BEAT as f64 / 1000.0);
                (Request::Heartbeat(id, Heartbeat { held, draining, wait }), 2 * BEAT)
            }
            Purpose::Report => {
                let Some(pieces) = agent.reporting.clone() else { return };
                (Request::Report(id, pieces), PATIENCE)
            }
            Purpose::Release(lease) => {
                let released = Released::whole(lease, BTreeMap::new());
                (Request::Release(id, vec![released]), PATIENCE)
            }
            Purpose::ReleasePart(lease) => {
                let part = agent.held.get(&lease).and_then(|holding| holding.part.clone());
                let released = Released { part, ..Released::whole(lease, BTreeMap::new()) };
                (Request::Release(id, vec![released]), PATIENCE)
            }
            Purpose::Leave => (Request::Leave(id), PATIENCE),
            Purpose::Bury => {
                let Some(dead) = agent.dead else { return };
                (Request::Bury(dead), PATIENCE)
            }
        };
        let letter = self.send(Node::Agent(a), server, request, patience);
        self.agents[a].open.insert(letter, Open { purpose, server, free });
    }

    /// An answer is here, or is not waited for any more.
    pub fn agent_hears(&mut self, a: usize, letter: u64, answer: Option<Answer>) {
        let Some(open) = self.agents[a].open.remove(&letter) else { return };
        match (answer, open.purpose) {
            (None | Some(Answer::Unavailable), purpose) => self.tries_elsewhere(a, purpose),
            (Some(Answer::UnknownAgent), _) => {
                let held = self.agents[a].held_ids();
                self.agents[a].registering.get_or_insert(held);
            }
            (Some(Answer::Registered(revoked)), _) => {
                self.agents[a].registering = None;
                self.revoke(a, &revoked);
            }
            (Some(Answer::Leases(grants)), _) => {
                if grants.is_empty() {
                    self.pauses(a, Purpose::Lease, 100);
                }
                self.hold(a, grants);
            }
            (Some(Answer::Reported(verdicts)), _) => self.is_judged(a, &verdicts),
            (Some(Answer::Orders(Orders { revoked, drain, wanted })), _) => {
                self.revoke(a, &revoked);
                self.spares(a, &wanted);
                if drain {
                    self.agent_drains(a);
                }
            }
            (Some(_), Purpose::Release(lease)) => self.agents[a].drop_lease(lease),
            (Some(_), Purpose::ReleasePart(lease)) => {
                if let Some(holding) = self.agents[a].held.get_mut(&lease) {
                    holding.part = None;
                }
            }
            (Some(_), Purpose::Bury) => self.agents[a].dead = None,
            (Some(_), Purpose::Leave) => {
                self.ends_life(a);
                // Somebody must do the work.
                let delay = self.random.between(10, LEASE);
                self.schedule(delay, Event::AgentStarts(a));
            }
            (Some(_), _) => {}
        }
        self.agent_acts(a);
    }

    fn tries_elsewhere(&mut self, a: usize, purpose: Purpose) {
        let agent = &mut self.agents[a];
        agent.server = (agent.server + 1) % self.servers.len();
        let delay = self.random.between(20, 150);
        self.pauses(a, purpose, delay);
    }

    fn pauses(&mut self, a: usize, purpose: Purpose, delay: Millis) {
        let agent = &mut self.agents[a];
        agent.pauses.insert(purpose, self.now + delay);
        let life = agent.life;
        self.schedule(delay, Event::AgentActs { agent: a, life });
    }

    fn revoke(&mut self, a: usize, revoked: &[LeaseId]) {
        for &lease in revoked {
            if self.agents[a].held.contains_key(&lease) {
                self.coverage.saw("leases revoked");
                self.audit.dropped(self.agents[a].id, lease);
                self.agents[a].drop_lease(lease);
            }
        }
    }

    /// Gives others of these leases what it can spare.
    fn spares(&mut self, a: usize, wanted: &[LeaseId]) {
        for lease in wanted {
            match self.agents[a].held.get_mut(lease) {
                Some(holding) if !holding.has_begun => {
                    self.coverage.saw("leases ahead given to others");
                    holding.is_given = true;
                }
                Some(holding) if holding.part.is_none() && !holding.queue.is_empty() => {
                    holding.spare();
                }
                _ => {}
            }
        }
    }

    fn hold(&mut self, a: usize, grants: Vec<Grant>) {
        let agent = &mut self.agents[a];
        for grant in grants {
            agent.held.entry(grant.id).or_insert_with(|| Holding {
                job: grant.job,
                slots: grant.slots,
                width: grant.width as usize,
                has_begun: false,
                queue: grant.ranges.indexes().collect(),
                part: None,
                is_given: false,
                running: BTreeMap::new(),
                n_unsettled: 0,
            });
        }
    }

    fn is_judged(&mut self, a: usize, verdicts: &[Verdict]) {
        let pieces = self.agents[a].reporting.take().unwrap_or_default();
        for (piece, verdict) in pieces.iter().zip(verdicts) {
            match verdict {
                Verdict::Accepted => {
                    piece.executions.iter().for_each(|&one| self.audit.accepted(one));
                    if let Some(holding) = self.agents[a].held.get_mut(&piece.lease) {
                        holding.n_unsettled =
                            holding.n_unsettled.saturating_sub(piece.executions.len());
                    }
                }
                Verdict::Stale => {
                    self.audit.dropped(self.agents[a].id, piece.lease);
                    self.agents[a].drop_lease(piece.lease);
                }
            }
        }
    }
}
