//! The server: a model of what surrounds the decisions in `dispatcher`, `asks` and `store::leases`.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::job::{Runtime, Slots};
use protocol::{AgentId, JobId, LeaseId, RangeSet};

use super::rules::{Rule, Sizes};
use super::{Cluster, Event, Grant, MILLI, Nanos, Piece, Request, SECOND, Timeline};
use crate::clock::Millis;
use crate::scheduler::assign::{self, Assignment, Job, Placement, Returned, assign};
use crate::scheduler::chunking::Measured;
use crate::scheduler::lease;
use crate::scheduler::takeover::{Spare, take_over};

/// The time after which a lease may be asked for again.
const AGAIN: Nanos = SECOND;

#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
    rule: Rule,
    sizes: Sizes,
    job: Job,
    agents: Vec<Presence>,
    live: BTreeMap<LeaseId, Live>,
    /// When a lease was asked for, and whether a heartbeat has taken that along.
    asks: BTreeMap<LeaseId, (Nanos, bool)>,
    is_woken: bool,
    /// A round will be woken by the time.
    is_to_look_again: bool,
    n_accepted: u64,
    n_ids: u128,
    pub n_leases: u64,
    pub n_asks: u64,
}

/// An agent, as far as it waits at the server.
#[derive(Debug)]
struct Presence {
    id: AgentId,
    request: Option<Request>,
    /// A round has looked at its request.
    is_served: bool,
    /// The leases that its heartbeat lists, while that is held.
    heartbeat: Option<Vec<LeaseId>>,
}

/// A lease that an agent holds.
#[derive(Debug)]
struct Live {
    agent: usize,
    remaining: RangeSet,
    attempt: u32,
    spare: u64,
    granted_at: Nanos,
}

/// An id that is a number, so that ids sort in every run as in the one before.
fn id<T: std::str::FromStr>(number: u128) -> T {
    format!("{number:032x}").parse().ok().expect("32 hexadecimal digits are an id")
}

fn job(total: u64, cluster_slots: u64) -> Job {
    Job {
        id: id::<JobId>(1),
        owner: "ada".to_owned(),
        priority: 0,
        runtime: Runtime::R,
        labels: BTreeMap::new(),
        slots: Slots::Count(1),
        memory: 0,
        placement: Placement::default(),
        total,
        cursor: 0,
        groups: Vec::new(),
        returned: Vec::new(),
        chunk: None,
        measured: Measured::default(),
        element_bytes: 8,
        cluster_slots,
        usage: HashMap::new(),
        suspects_on: HashSet::new(),
    }
}

impl Server {
    /// With one job of `total` elements.
    pub fn new(cluster: Cluster, rule: Rule, total: u64) -> Self {
        let presence = |index: usize| Presence {
            id: id(index as u128 + 1),
            request: None,
            is_served: false,
            heartbeat: Some(Vec::new()),
        };
        Self {
            cluster,
            rule,
            sizes: Sizes::default(),
            job: job(total, cluster.all_slots()),
            agents: (0..cluster.agents).map(presence).collect(),
            live: BTreeMap::new(),
            asks: BTreeMap::new(),
            is_woken: false,
            is_to_look_again: false,
            n_accepted: 0,
            n_ids: 0,
            n_leases: 0,
            n_asks: 0,
        }
    }

    /// Whether every element has its outcome.
    pub fn is_complete(&self) -> bool {
        self.n_accepted == self.job.total
    }

    /// Takes a request that has waited before there was a job.
    pub fn receive_waiting(&mut self, (agent, request): (usize, Request)) {
        self.agents[agent].request = Some(request);
    }

    /// Takes a request for work. Leases that the agent does not know of yet are given again.
    pub fn take_request(&mut self, agent: usize, request: Request, timeline: &mut Timeline) {
        let unknown = |(lease, live): (&LeaseId, &Live)| {
            let is_unknown = live.agent == agent && !request.held.contains(lease);
            is_unknown.then(|| Grant { lease: *lease, ranges: live.remaining.clone() })
        };
        let again: Vec<Grant> = self.live.iter().filter_map(unknown).collect();
        if !again.is_empty() {
            timeline.send(Event::Granted(agent, request.number, again));
            return;
        }
        self.agents[agent].request = Some(request);
        self.agents[agent].is_served = false;
        self.wake(timeline);
    }

    /// Takes outcomes. Each is accepted once, or it is a bug of the model.
    pub fn take_report(&mut self, agent: usize, pieces: Vec<Piece>, timeline: &mut Timeline) {
        for piece in &pieces {
            let live = self.live.get_mut(&piece.lease).expect("what is reported is leased");
            for &range in piece.elements.ranges() {
                assert!(lease::accept(&mut live.remaining, range), "{range:?} is reported once");
            }
            self.n_accepted += piece.elements.len();
            self.job.measured.elements += piece.elements.len();
            self.job.measured.seconds += piece.time as f64 / SECOND as f64;
            if self.shrunk(piece.lease) {
                self.wake(timeline);
            }
        }
        timeline.send(Event::Reported(agent, pieces));
    }

    /// Takes part of a lease back, which has not begun.
    pub fn take_back(
        &mut self,
        agent: usize,
        lease: LeaseId,
        part: &RangeSet,
        timeline: &mut Timeline,
    ) {
        let live = self.live.get_mut(&lease).expect("what is given back is leased");
        let ranges = live.remaining.take_common(part);
        assert_eq!(&ranges, part, "what is given back was not begun");
        let attempt = live.attempt - 1;
        self.shrunk(lease);
        self.asks.remove(&lease);
        let from = self.next_id();
        self.job.returned.push(Returned { lease: from, ranges, attempt, lost: 0 });
        timeline.send(Event::Released(agent, lease));
        self.wake(timeline);
    }

    /// Notes what a lease that became smaller can spare; whether it is over.
    fn shrunk(&mut self, lease: LeaseId) -> bool {
        let Some(live) = self.live.get_mut(&lease) else { return false };
        let n = live.remaining.len();
        // What was reported has begun: of the rest, all but one may not have.
        live.spare = live.spare.min(n.saturating_sub(1));
        if n == 0 {
            self.live.remove(&lease);
        }
        n == 0
    }

    /// Takes a heartbeat, which is held until its agent is asked for something.
    pub fn take_heartbeat(&mut self, agent: usize, held: Vec<LeaseId>, timeline: &mut Timeline) {
        let wanted = self.take_asks(&held, timeline.now);
        if wanted.is_empty() {
            self.agents[agent].heartbeat = Some(held);
        } else {
            timeline.send(Event::Wanted(agent, wanted));
        }
    }

    fn take_asks(&mut self, held: &[LeaseId], now: Nanos) -> Vec<LeaseId> {
        let mut is_wanted = |lease: &&LeaseId| match self.asks.get_mut(lease) {
            Some((at, is_taken)) if !*is_taken && now - *at < AGAIN => {
                *is_taken = true;
                true
            }
            _ => false,
        };
        held.iter().filter(|lease| is_wanted(lease)).copied().collect()
    }

    fn wake(&mut self, timeline: &mut Timeline) {
        if !std::mem::replace(&mut self.is_woken, true) {
            timeline.after(0, Event::Round);
        }
    }

    /// A round that looks at what is overdue.
    pub fn look_again(&mut self, timeline: &mut Timeline) {
        self.is_to_look_again = false;
        self.wake(timeline);
    }

    /// Gives work to all who wait, and asks busy agents on behalf of slots that are still free.
    pub fn round(&mut self, timeline: &mut Timeline) {
        self.is_woken = false;
        let mut agents = self.due();
        let mut granted: BTreeMap<AgentId, Vec<Grant>> = BTreeMap::new();
        for assignment in self.assign(&mut agents) {
            granted.entry(assignment.agent).or_default().push(self.grant(assignment, timeline.now));
        }
        self.ask(&agents, timeline);
        for (agent, grants) in granted {
            let agent = self.index(agent);
            if let Some(request) = self.agents[agent].request.take() {
                timeline.send(Event::Granted(agent, request.number, grants));
            }
        }
    }

    /// The agents that wait. Those with no free slot are looked at once.
    fn due(&mut self) -> Vec<assign::Agent> {
        let slots = self.cluster.slots;
        let due = self.agents.iter_mut().filter_map(|presence| {
            let request = presence.request.as_ref()?;
            let is_due = request.free > 0 || !presence.is_served;
            presence.is_served = true;
            is_due.then(|| assign::Agent {
                id: presence.id,
                free: request.free,
                ahead: request.ahead,
                slots,
                memory: 0,
                free_memory: 0,
                runtimes: vec![Runtime::R],
                labels: BTreeMap::new(),
            })
        });
        due.collect()
    }

    fn assign(&mut self, agents: &mut [assign::Agent]) -> Vec<Assignment> {
        let slots = self.cluster.all_slots();
        if self.rule == Rule::Ours {
            let assignments = assign(vec![self.job.clone()], agents, &mut HashMap::new());
            assignments.iter().for_each(|assignment| self.take_out(assignment));
            return assignments;
        }
        let mut assignments = Vec::new();
        // One slot at a time, since sizes differ from chunk to chunk.
        while let Some(agent) = agents.iter_mut().find(|agent| agent.free > 0) {
            let left = self.job.total - self.job.cursor;
            if left == 0 {
                break;
            }
            self.job.chunk = self.sizes.next(self.rule, self.job.total, left, slots);
            let mut one = [assign::Agent { free: 1, ahead: 0, ..agent.clone() }];
            let given = assign(vec![self.job.clone()], &mut one, &mut HashMap::new());
            given.iter().for_each(|assignment| self.take_out(assignment));
            agent.free -= 1;
            assignments.extend(given);
        }
        assignments
    }

    /// Takes what was assigned out of what can be.
    fn take_out(&mut self, assignment: &Assignment) {
        let Some(from) = assignment.from else {
            self.job.cursor += assignment.ranges.len();
            return;
        };
        for returned in self.job.returned.iter_mut().filter(|returned| returned.lease == from) {
            assignment.ranges.ranges().iter().for_each(|&range| returned.ranges.remove(range));
        }
        self.job.returned.retain(|returned| !returned.ranges.is_empty());
    }

    fn grant(&mut self, assignment: Assignment, granted_at: Nanos) -> Grant {
        self.n_leases += 1;
        let (lease, agent) = (self.next_id(), self.index(assignment.agent));
        let (ranges, attempt) = (assignment.ranges, assignment.attempt);
        let (remaining, spare) = (ranges.clone(), assignment.spare);
        self.live.insert(lease, Live { agent, remaining, attempt, spare, granted_at });
        Grant { lease, ranges }
    }

    /// Asks for what slots that are still free could take over.
    fn ask(&mut self, agents: &[assign::Agent], timeline: &mut Timeline) {
        let now = timeline.now;
        self.asks.retain(|_, (at, _)| now - *at < AGAIN);
        let may_spare = |(lease, live): (&LeaseId, &Live)| {
            let may = live.spare > 0 && !self.asks.contains_key(lease);
            let (lease, holder) = (*lease, self.agents[live.agent].id);
            let age = ((now - live.granted_at) / MILLI) as Millis;
            may.then_some(Spare { lease, holder, job: self.job.id, elements: live.spare, age })
        };
        let spares: Vec<Spare> = self.live.iter().filter_map(may_spare).collect();
        let jobs = HashMap::from([(self.job.id, self.job.clone())]);
        let decided = take_over(agents, &jobs, spares);
        if let Some(wait) = decided.look_again
            && !self.is_to_look_again
        {
            self.is_to_look_again = true;
            timeline.after(wait as Nanos * MILLI, Event::LookAgain);
        }
        for spare in decided.wanted {
            self.n_asks += 1;
            self.asks.insert(spare.lease, (now, false));
            let holder = self.index(spare.holder);
            // Woken, it is answered also if the lease is too new for its list; the next one has it.
            if let Some(held) = self.agents[holder].heartbeat.take() {
                let wanted = self.take_asks(&held, now);
                timeline.send(Event::Wanted(holder, wanted));
            }
        }
    }

    fn index(&self, agent: AgentId) -> usize {
        let is_it = |presence: &Presence| presence.id == agent;
        self.agents.iter().position(is_it).expect("an agent of the cluster")
    }

    fn next_id(&mut self) -> LeaseId {
        self.n_ids += 1;
        id(self.n_ids)
    }
}
