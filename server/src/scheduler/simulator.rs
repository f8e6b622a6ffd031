//! A cluster on virtual time, to see how long a map takes with chunks as they are sized here.
//!
//! What decides is real: `assign`, `chunking`, `takeover`, and what a report changes. What surrounds it is
//! a model: every message takes half a round trip, and elements take the times that they are given. There
//! is no clock, and chance comes from a seed, so that every figure can be repeated exactly. Left out is what
//! frames and transactions cost beside the round trip, and all that fails.
//!
//! * [`agent`]: what an agent does, as the modules `slots`, `poll`, `lease`, `pace` and `outbox` there say.
//! * [`server`]: what surrounds the decisions: who waits, what is leased, what has been asked for.
//! * [`rules`]: sizes of chunks that the literature knows, for comparison.
//! * [`times`]: how long elements take.

mod agent;
mod rules;
mod server;
mod tests;
mod times;

use std::collections::BTreeMap;

use protocol::{LeaseId, RangeSet};

use self::agent::Agent;
use self::rules::Rule;
use self::server::Server;

/// Virtual time, or a length of it, in nanoseconds.
type Nanos = u64;

const MILLI: Nanos = 1_000_000;
const SECOND: Nanos = 1000 * MILLI;

/// What runs a map.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    agents: usize,
    /// Of each agent.
    slots: u32,
    round_trip: Nanos,
}

impl Cluster {
    fn all_slots(self) -> u64 {
        self.agents as u64 * u64::from(self.slots)
    }
}

/// What a run came to.
#[derive(Debug)]
struct Run {
    /// From when the job is there until its last outcome is.
    makespan: Nanos,
    /// How often each element was run.
    runs: Vec<u32>,
    /// Leases that were granted.
    leases: u64,
    /// Leases that idle slots asked for.
    asks: u64,
}

/// A chunk for an agent.
#[derive(Clone, Debug)]
struct Grant {
    lease: LeaseId,
    ranges: RangeSet,
}

/// What an agent asks for.
#[derive(Clone, Debug)]
struct Request {
    /// Counts the requests of an agent.
    number: u64,
    free: u32,
    ahead: u32,
    held: Vec<LeaseId>,
}

/// Outcomes of neighbours in one lease.
#[derive(Clone, Debug)]
struct Piece {
    lease: LeaseId,
    elements: RangeSet,
    /// The time that they ran.
    time: Nanos,
}

/// What happens, and at which agent.
#[derive(Debug)]
enum Event {
    /// Messages that reach the server.
    Asks(usize, Request),
    Reports(usize, Vec<Piece>),
    Beats(usize, Vec<LeaseId>),
    Releases(usize, LeaseId, RangeSet),
    /// The server looks at who waits.
    Round,
    /// The time has come at which a lease would be overdue.
    LookAgain,
    /// Messages that reach an agent.
    Granted(usize, u64, Vec<Grant>),
    Reported(usize, Vec<Piece>),
    Wanted(usize, Vec<LeaseId>),
    Released(usize, LeaseId),
    /// Outcomes leave a worker; whether its frame has ended.
    Ran(usize, Piece, bool),
    /// Slots that became free shortly after one another are asked for together.
    Burst(usize, u64),
}

/// What will happen, in order.
#[derive(Debug)]
struct Timeline {
    now: Nanos,
    round_trip: Nanos,
    /// By time; of one time, first come, first served.
    events: BTreeMap<(Nanos, u64), Event>,
    n_events: u64,
}

impl Timeline {
    fn new(round_trip: Nanos) -> Self {
        Self { now: 0, round_trip, events: BTreeMap::new(), n_events: 0 }
    }

    fn after(&mut self, time: Nanos, event: Event) {
        self.n_events += 1;
        self.events.insert((self.now + time, self.n_events), event);
    }

    /// Sends a message between agent and server.
    fn send(&mut self, message: Event) {
        self.after(self.round_trip / 2, message);
    }

    fn next(&mut self) -> Option<Event> {
        let ((time, _), event) = self.events.pop_first()?;
        self.now = time;
        Some(event)
    }
}

/// Maps over elements that take `times`, on agents that wait when the job is submitted.
fn run(cluster: Cluster, rule: Rule, times: &[Nanos]) -> Run {
    let mut timeline = Timeline::new(cluster.round_trip);
    let mut server = Server::new(cluster, rule, times.len() as u64);
    let agent = |index| Agent::new(index, cluster.slots, cluster.round_trip, times);
    let mut agents: Vec<Agent> = (0..cluster.agents).map(agent).collect();
    for agent in &mut agents {
        server.receive_waiting(agent.start());
    }
    timeline.after(0, Event::Round);
    while !server.is_complete() {
        let event = timeline.next().expect("something happens until all is done");
        happen(event, &mut server, &mut agents, &mut timeline);
    }
    let mut runs = vec![0; times.len()];
    agents.iter().flat_map(|agent| &agent.begun).for_each(|&element| runs[element as usize] += 1);
    Run { makespan: timeline.now, runs, leases: server.n_leases, asks: server.n_asks }
}

fn happen(event: Event, server: &mut Server, agents: &mut [Agent], timeline: &mut Timeline) {
    match event {
        Event::Asks(agent, request) => server.take_request(agent, request, timeline),
        Event::Reports(agent, pieces) => server.take_report(agent, pieces, timeline),
        Event::Beats(agent, held) => server.take_heartbeat(agent, held, timeline),
        Event::Releases(agent, lease, part) => server.take_back(agent, lease, &part, timeline),
        Event::Round => server.round(timeline),
        Event::LookAgain => server.look_again(timeline),
        Event::Granted(agent, number, grants) => agents[agent].granted(number, grants, timeline),
        Event::Reported(agent, pieces) => agents[agent].reported(&pieces, timeline),
        Event::Wanted(agent, leases) => agents[agent].wanted(&leases, timeline),
        Event::Released(agent, lease) => agents[agent].released(lease, timeline),
        Event::Ran(agent, piece, is_end) => agents[agent].ran(piece, is_end, timeline),
        Event::Burst(agent, number) => agents[agent].ask_better(number, timeline),
    }
}

/// The makespan of greedy scheduling without any cost: whichever slot is free takes the next element.
fn greedy(slots: u64, times: &[Nanos]) -> Nanos {
    let mut free_at: Vec<Nanos> = vec![0; slots as usize];
    for time in times {
        if let Some(first) = free_at.iter_mut().min() {
            *first += time;
        }
    }
    free_at.into_iter().max().unwrap_or(0)
}

/// No schedule is shorter: the work has to be shared, and an element cannot be.
fn lower_bound(slots: u64, times: &[Nanos]) -> Nanos {
    let largest = times.iter().copied().max().unwrap_or(0);
    largest.max(times.iter().sum::<Nanos>().div_ceil(slots))
}
