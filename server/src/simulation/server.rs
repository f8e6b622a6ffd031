//! Servers: the real functions of `presence`, `dispatcher`, `reaper` and `store`, each transaction
//! at one moment of virtual time, and around them what a server keeps in memory: those who wait.

use std::collections::BTreeMap;

use protocol::agent::{Heartbeat, LeaseRequest, Orders};
use protocol::job::AgentState;
use protocol::{AgentId, JobId, LeaseId};

use super::network::{Answer, Letter, Node, Request};
use super::transactions::{read, write};
use super::world::{Event, LEASE, News, Times, World};
use crate::clock::Millis;
use crate::dispatcher::{self, Decided};
use crate::presence;
use crate::scheduler::assign::Agent;
use crate::store::{agents, drafts, leases};
use crate::trash::DRAFT_LIMIT;

/// How often a server looks by itself whether something has changed.
const LOOK: Millis = 1000;

/// After so many milliseconds a lease may be asked for again.
const ASK_AGAIN: Millis = 1000;

/// A server.
#[derive(Debug, Default)]
pub struct Server {
    pub is_up: bool,
    /// Counts its starts: what it kept in memory before is gone.
    pub incarnation: u64,
    /// Agents that wait for work.
    waiting: BTreeMap<AgentId, Waiter>,
    n_arrivals: u64,
    heartbeats: Vec<HeldHeartbeat>,
    /// Leases that are wanted, by when that was said.
    asks: BTreeMap<LeaseId, Millis>,
    /// Clients that wait for the end of a job.
    pub watchers: Vec<Watcher>,
    is_round_due: bool,
    /// When it last looked whether those who wait can be given something, and there was nothing.
    nothing_to_give: Option<(u64, u64)>,
    /// When it last looked at the jobs that clients wait for.
    looked_at_jobs: u64,
}

#[derive(Debug)]
struct Waiter {
    agent: Agent,
    letter: (u64, Node),
    arrival: u64,
}

#[derive(Debug)]
struct HeldHeartbeat {
    agent: AgentId,
    heartbeat: Heartbeat,
    letter: (u64, Node),
    /// When it was looked up that there are no orders.
    version: u64,
}

/// A client that waits for the end of a job.
#[derive(Clone, Debug)]
pub struct Watcher {
    pub job: JobId,
    pub letter: (u64, Node),
}

impl World<'_> {
    /// Whether a server has not crashed since that start of it.
    pub fn is_there(&self, server: usize, incarnation: u64) -> bool {
        let server = &self.servers[server];
        server.is_up && server.incarnation == incarnation
    }

    pub async fn server_starts(&mut self, server: usize) {
        if self.servers[server].is_up {
            return;
        }
        let incarnation = self.servers[server].incarnation + 1;
        self.servers[server] = Server { is_up: true, incarnation, ..Server::default() };
        self.coverage.saw("servers started");
        let (alive_until, until) = (self.now + LEASE, self.now - DRAFT_LIMIT);
        let begun = write!(self, server, |tx| async {
            drafts::discard_old(tx, until).await?;
            agents::keep_all_alive(tx, alive_until).await
        });
        if begun.is_none() {
            // It gives up, and is started once more.
            self.crash(server);
            return;
        }
        self.version += 1;
        self.audit.all_heard_of(alive_until);
        let (look, reap) = (self.random.between(1, LOOK), self.random.between(1, LEASE / 2));
        self.schedule(look, Event::Looks { server, incarnation });
        self.schedule(reap, Event::Reaps { server, incarnation });
    }

    /// A letter is read. What it asks for is done when its transaction is run, which may be later.
    pub async fn letter_arrives(&mut self, letter: Letter) {
        let server = letter.server;
        if !self.servers[server].is_up {
            self.schedule(2, Event::Answered(letter.from, letter.id, Answer::Unavailable));
            return;
        }
        let stalls = self.random.happens(self.faults.stall);
        let delay = if stalls {
            self.coverage.saw("requests stalled in a server");
            self.random.between(LEASE / 4, 3 * LEASE / 2)
        } else {
            self.random.between(0, 4)
        };
        let incarnation = self.servers[server].incarnation;
        let is_stopped = stalls && self.random.happens(500);
        if is_stopped {
            self.coverage.saw("servers stopped after they had read the time");
        }
        let times = Times { came: self.now, is_stopped };
        self.schedule(delay, Event::Runs { letter, incarnation, times });
    }

    pub async fn request_runs(&mut self, letter: Letter, incarnation: u64, times: Times) {
        let came = times.came;
        let (server, to) = (letter.server, (letter.id, letter.from));
        if !self.is_there(server, incarnation) {
            return;
        }
        let may_be_early = matches!(letter.request, Request::Report(..) | Request::Submit(_));
        self.answers_early = may_be_early && self.bug == Some(super::Bug::AnswerBeforeCommit);
        let answer = match letter.request {
            Request::Register(register) => self.register(server, register, times).await,
            Request::Lease(agent, request) => self.lease(server, agent, request, to).await,
            Request::Report(agent, pieces) => self.report(server, agent, pieces, came).await,
            Request::Heartbeat(agent, heartbeat) => {
                self.heartbeat(server, agent, heartbeat, to, times).await
            }
            Request::Release(agent, given) => {
                let whole = given.iter().filter(|released| released.part.is_none());
                self.audit.release_asked(whole.map(|released| released.id));
                if given.iter().any(|released| released.part.is_some()) {
                    self.coverage.saw("parts of leases given to others");
                }
                let keeps = self.bug == Some(super::Bug::PartStays);
                let before = if keeps { self.audit.grants_of(agent) } else { Vec::new() };
                let jobs = write!(self, server, |tx| async {
                    let jobs = presence::release(tx, agent, &given).await?;
                    for released in given.iter().filter(|released| released.part.is_some()) {
                        for (lease, ranges) in before.iter().filter(|(id, _)| *id == released.id) {
                            crate::store::recount::refill(tx, *lease, ranges).await?;
                        }
                    }
                    Ok(jobs)
                });
                self.given_back(server, jobs).await
            }
            Request::Leave(agent) => {
                self.audit.leave_asked(agent);
                let jobs = write!(self, server, |tx| presence::leave(tx, agent));
                self.given_back(server, jobs).await
            }
            Request::Bury(agent) => self.bury(server, agent).await,
            Request::Submit(submission) => self.submit(server, submission, came).await,
            Request::Value(job) => self.value(server, job, Some(to)).await,
            Request::Cancel(job) => self.cancel(server, job, came).await,
            Request::Retry(job) => self.retry(server, job, came).await,
            Request::Delete(job) => self.delete(server, job).await,
        };
        self.answers_early = false;
        if let Some(answer) = answer {
            self.answer(server, incarnation, to, answer);
        }
    }

    /// The time by which a transaction that runs now has been begun.
    fn time_read(&self, times: Times) -> Millis {
        if times.is_stopped { times.came } else { self.now }
    }

    async fn register(
        &mut self,
        server: usize,
        register: protocol::agent::Register,
        times: Times,
    ) -> Option<Answer> {
        let now = self.time_read(times);
        let alive_until = now + LEASE;
        let presented =
            write!(self, server, |tx| presence::register(tx, &register, now, alive_until));
        let Some(presented) = presented else { return Some(Answer::Unavailable) };
        self.audit.heard_of(register.id, alive_until);
        self.coverage.saw("agents registered");
        self.version += 1;
        if !register.leases.is_empty() {
            self.recount().await;
        }
        self.tell(server, News { work: true, ..News::default() });
        Some(Answer::Registered(presented.revoked))
    }

    async fn given_back(&mut self, server: usize, jobs: Option<Vec<JobId>>) -> Option<Answer> {
        let Some(jobs) = jobs else { return Some(Answer::Unavailable) };
        self.version += 1;
        if !jobs.is_empty() {
            self.coverage.saw("leases given back");
            self.recount().await;
            self.tell(server, News { work: true, ..News::default() });
        }
        Some(Answer::Done)
    }

    async fn lease(
        &mut self,
        server: usize,
        agent: AgentId,
        request: LeaseRequest,
        letter: (u64, Node),
    ) -> Option<Answer> {
        let now = self.now;
        let known = read!(self, |tx| agents::find(tx, agent, now))?;
        let Some(known) = known.filter(|known| known.state != AgentState::Gone) else {
            self.coverage.saw("agents not known");
            return Some(Answer::UnknownAgent);
        };
        let mut granted = read!(self, |tx| leases::of_agent(tx, agent))?;
        granted.retain(|grant| !request.held.contains(&grant.id));
        if !granted.is_empty() {
            self.coverage.saw("leases given again after a lost answer");
            return Some(Answer::Leases(granted));
        }
        let wait = (request.wait * 1000.0) as Millis;
        let incarnation = self.servers[server].incarnation;
        if known.state != AgentState::Live || request.free == 0 && request.ahead == 0 {
            return Some(Answer::Leases(Vec::new()));
        }
        let free_agent = Agent {
            id: agent,
            free: request.free.min(known.slots),
            ahead: request.ahead.min(known.slots),
            slots: known.slots,
            memory: known.memory,
            free_memory: known.memory,
            runtimes: known.runtimes.keys().copied().collect(),
            labels: known.labels,
        };
        let place = &mut self.servers[server];
        place.n_arrivals += 1;
        let waiter = Waiter { agent: free_agent, letter, arrival: place.n_arrivals };
        let earlier = place.waiting.insert(agent, waiter);
        self.schedule(wait, Event::Held { server, incarnation, letter: letter.0 });
        self.round_soon(server);
        if let Some(earlier) = earlier {
            self.answer(server, incarnation, earlier.letter, Answer::Leases(Vec::new()));
        }
        None
    }

    async fn heartbeat(
        &mut self,
        server: usize,
        agent: AgentId,
        heartbeat: Heartbeat,
        letter: (u64, Node),
        times: Times,
    ) -> Option<Answer> {
        let alive_until = self.time_read(times) + LEASE;
        let stays = write!(self, server, |tx| presence::stay(tx, agent, &heartbeat, alive_until));
        let Some(known) = stays else { return Some(Answer::Unavailable) };
        let Some(orders) = known else {
            self.coverage.saw("agents not known");
            return Some(Answer::UnknownAgent);
        };
        self.audit.heard_of(agent, alive_until);
        if heartbeat.draining {
            self.version += 1;
        }
        let orders = self.with_asks(server, &heartbeat, orders);
        if orders != Orders::default() {
            return Some(Answer::Orders(orders));
        }
        let wait = (heartbeat.wait * 1000.0) as Millis;
        let incarnation = self.servers[server].incarnation;
        let held = HeldHeartbeat { agent, heartbeat, letter, version: self.version };
        self.servers[server].heartbeats.push(held);
        self.schedule(wait, Event::Held { server, incarnation, letter: letter.0 });
        None
    }

    async fn orders(&mut self, agent: AgentId, heartbeat: &Heartbeat) -> Option<Option<Orders>> {
        read!(self, |tx| presence::orders(tx, agent, heartbeat))
    }

    /// Adds what is wanted of the leases that a heartbeat lists, and was not said before.
    fn with_asks(&mut self, server: usize, heartbeat: &Heartbeat, orders: Orders) -> Orders {
        let asks = &mut self.servers[server].asks;
        let wanted = heartbeat.held.iter().filter(|lease| asks.remove(lease).is_some()).copied();
        Orders { wanted: wanted.collect(), ..orders }
    }

    /// What is held of a letter is answered: nothing has come up.
    pub async fn hold_ends(&mut self, server: usize, incarnation: u64, letter: u64) {
        if !self.is_there(server, incarnation) {
            return;
        }
        let place = &mut self.servers[server];
        if let Some((_, waiter)) =
            place.waiting.extract_if(.., |_, waiter| waiter.letter.0 == letter).next()
        {
            self.answer(server, incarnation, waiter.letter, Answer::Leases(Vec::new()));
            return;
        }
        let held = place.heartbeats.iter().position(|held| held.letter.0 == letter);
        if let Some(held) = held.map(|at| place.heartbeats.swap_remove(at)) {
            self.answer_heartbeat(server, incarnation, held).await;
            return;
        }
        let watcher = place.watchers.iter().position(|watcher| watcher.letter.0 == letter);
        if let Some(watcher) = watcher.map(|at| place.watchers.swap_remove(at)) {
            let answer = self.value(server, watcher.job, None).await.unwrap_or(Answer::NotYet);
            self.answer(server, incarnation, watcher.letter, answer);
        }
    }

    async fn answer_heartbeat(&mut self, server: usize, incarnation: u64, held: HeldHeartbeat) {
        let orders = if held.version == self.version {
            Some(Some(Orders::default()))
        } else {
            self.orders(held.agent, &held.heartbeat).await
        };
        let answer = match orders {
            Some(Some(orders)) => Answer::Orders(self.with_asks(server, &held.heartbeat, orders)),
            Some(None) => Answer::UnknownAgent,
            None => return,
        };
        self.answer(server, incarnation, held.letter, answer);
    }

    /// Tells all servers what a transaction has changed: this one at once, the others soon, if the
    /// note reaches them.
    #[expect(clippy::needless_pass_by_value, reason = "news is handed over")]
    pub fn tell(&mut self, server: usize, news: News) {
        for other in 0..self.servers.len() {
            let incarnation = self.servers[other].incarnation;
            let is_told = other == server || self.random.happens(900);
            if is_told && self.servers[other].is_up {
                let delay = if other == server { 0 } else { self.random.between(1, 6) };
                let news = news.clone();
                self.schedule(delay, Event::Hears { server: other, incarnation, news });
            }
        }
    }

    pub async fn server_hears(&mut self, server: usize, incarnation: u64, news: News) {
        if !self.is_there(server, incarnation) {
            return;
        }
        let (place, now) = (&mut self.servers[server], self.now);
        place.asks.extend(news.wanted.iter().map(|lease| (*lease, now)));
        let told = place.heartbeats.extract_if(.., |held| news.agents.contains(&held.agent));
        for held in told.collect::<Vec<_>>() {
            self.answer_heartbeat(server, incarnation, held).await;
        }
        self.look_at_watchers(server, incarnation, Some(&news.jobs)).await;
        if news.work {
            self.round_soon(server);
        }
    }

    async fn look_at_watchers(&mut self, server: usize, incarnation: u64, jobs: Option<&[JobId]>) {
        let place = &mut self.servers[server];
        let moved = |watcher: &mut Watcher| jobs.is_none_or(|jobs| jobs.contains(&watcher.job));
        for watcher in place.watchers.extract_if(.., moved).collect::<Vec<_>>() {
            match self.value(server, watcher.job, None).await {
                Some(Answer::NotYet) => self.servers[server].watchers.push(watcher),
                Some(answer) => self.answer(server, incarnation, watcher.letter, answer),
                None => {}
            }
            if !self.is_there(server, incarnation) {
                return;
            }
        }
    }

    fn round_soon(&mut self, server: usize) {
        let place = &mut self.servers[server];
        if place.is_up && !place.is_round_due && !place.waiting.is_empty() {
            place.is_round_due = true;
            let incarnation = place.incarnation;
            let delay = self.random.between(0, 3);
            self.schedule(delay, Event::Round { server, incarnation });
        }
    }

    pub async fn round(&mut self, server: usize, incarnation: u64) {
        if !self.is_there(server, incarnation) {
            return;
        }
        let place = &mut self.servers[server];
        place.is_round_due = false;
        let mut waiters: Vec<&Waiter> = place.waiting.values().collect();
        waiters.sort_unstable_by_key(|waiter| waiter.arrival);
        let agents: Vec<Agent> = waiters.into_iter().map(|waiter| waiter.agent.clone()).collect();
        let state = (self.version, place.n_arrivals);
        if agents.is_empty() || place.nothing_to_give == Some(state) {
            return;
        }
        let now = self.now;
        let asks = &mut self.servers[server].asks;
        asks.retain(|_, at| now - *at < ASK_AGAIN);
        let asked = asks.keys().copied().collect();
        let decided = write!(self, server, |tx| dispatcher::decide(tx, agents, &asked, now));
        let Some(decided) = decided else {
            self.round_soon(server);
            return;
        };
        let Decided { grants, takeover, .. } = decided.unwrap_or_default();
        let wanted = takeover.wanted;
        if let Some(wait) = takeover.look_again {
            self.schedule(wait, Event::Round { server, incarnation });
        }
        if !wanted.is_empty() {
            self.coverage.saw("leases asked for by idle slots");
            let agents = wanted.iter().map(|spare| spare.holder).collect();
            let wanted = wanted.into_iter().map(|spare| spare.lease).collect();
            self.tell(server, News { agents, wanted, ..News::default() });
        }
        if grants.is_empty() {
            self.servers[server].nothing_to_give = Some(state);
            return;
        }
        self.audit.granted(&grants);
        self.recount().await;
        let mut by_agent: BTreeMap<AgentId, Vec<leases::Grant>> = BTreeMap::new();
        for grant in grants {
            by_agent.entry(grant.agent).or_default().push(grant);
        }
        for (agent, grants) in by_agent {
            if let Some(waiter) = self.servers[server].waiting.remove(&agent) {
                self.answer(server, incarnation, waiter.letter, Answer::Leases(grants));
            }
        }
    }

    pub async fn looks(&mut self, server: usize, incarnation: u64) {
        if !self.is_there(server, incarnation) {
            return;
        }
        self.schedule(LOOK, Event::Looks { server, incarnation });
        self.round_soon(server);
        if std::mem::replace(&mut self.servers[server].looked_at_jobs, self.version) != self.version
        {
            self.look_at_watchers(server, incarnation, None).await;
        }
    }
}
