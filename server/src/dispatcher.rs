//! The rounds in which waiting agents get work.
//!
//! A round gathers the agents that wait at this server, begins a transaction, loads what is
//! runnable, asks the pure [`assign`], writes the leases, commits, and answers. Memory holds only
//! the waiting: a server that is killed loses nothing but open connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::AgentId;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Millis};
use crate::scheduler::assign::{Agent, Assignment, assign};
use crate::store::db::Tx;
use crate::store::leases::{self, Grant};
use crate::store::{Store, StoreError, agents, runnable};

/// Runnable jobs that a round looks at, an owner, at the most: a round gives one lease a slot, and
/// the rounds follow one another at once.
const MAX_JOBS: u32 = 64;

/// Agents that a round serves at the most.
const MAX_AGENTS: usize = 256;

/// How long a round waits before it is tried again after the database has failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Matches agents that wait with jobs that can run.
#[derive(Clone)]
pub struct Dispatcher {
    store: Store,
    clock: Arc<Clock>,
    waiting: Arc<Mutex<Waiting>>,
    work: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    agents: HashMap<AgentId, Waiter>,
    arrivals: u64,
}

struct Waiter {
    agent: Agent,
    arrival: u64,
    answer: oneshot::Sender<Vec<Grant>>,
}

impl Dispatcher {
    /// A dispatcher on `store`; nothing is given before [`Dispatcher::run`].
    pub fn new(store: Store, clock: Arc<Clock>) -> Self {
        Self { store, clock, waiting: Arc::default(), work: Arc::default() }
    }

    /// Says that there may be something to give: a job was submitted, a range came back.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Waits until there is work for `agent`, at most for `wait`. An earlier request of the same
    /// agent that still waits is answered with nothing.
    pub async fn wait_for_work(&self, agent: Agent, wait: Duration) -> Vec<Grant> {
        let (answer, answered) = oneshot::channel();
        let id = agent.id;
        let arrival = {
            let mut waiting = self.waiting();
            waiting.arrivals += 1;
            let arrival = waiting.arrivals;
            waiting.agents.insert(id, Waiter { agent, arrival, answer });
            arrival
        };
        // The caller may be dropped with its connection; its place must not stay behind.
        let _place = Place { dispatcher: self, id, arrival };
        self.wake();
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(grants)) => grants,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }

    /// Gives work in rounds until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.work.notified() => {}
            }
            if let Err(error) = self.round().await {
                tracing::error!(%error, "a round of the dispatcher failed; it is repeated");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                self.wake();
            }
        }
        // Whoever waits is answered with nothing and asks again.
        self.waiting().agents.clear();
    }

    async fn round(&self) -> Result<(), StoreError> {
        let agents: Vec<Agent> = self
            .waiting()
            .agents
            .values()
            .take(MAX_AGENTS)
            .map(|waiter| waiter.agent.clone())
            .collect();
        if agents.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let free: u32 = agents.iter().map(|agent| agent.free).sum();
        let grants = self
            .store
            .write(move |tx| Box::pin(async move { decide(tx, agents, now).await }))
            .await?;
        let given: u32 = grants.iter().map(|grant| grant.slots).sum();
        self.answer(grants).await;
        // What was looked at was all given away: there may be more jobs behind it.
        if given > 0 && given < free {
            self.wake();
        }
        Ok(())
    }

    async fn answer(&self, grants: Vec<Grant>) {
        let mut by_agent: HashMap<AgentId, Vec<Grant>> = HashMap::new();
        for grant in grants {
            by_agent.entry(grant.agent).or_default().push(grant);
        }
        for (agent, grants) in by_agent {
            let waiter = self.waiting().agents.remove(&agent);
            let undelivered = match waiter {
                Some(waiter) => waiter.answer.send(grants).err(),
                None => Some(grants),
            };
            // The agent's next request would get them all the same; but it may never come.
            if let Some(grants) = undelivered {
                self.take_back(agent, grants).await;
            }
        }
    }

    async fn take_back(&self, agent: AgentId, grants: Vec<Grant>) {
        let taken = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    for grant in grants {
                        let released =
                            protocol::agent::Released { id: grant.id, deaths: grant.deaths };
                        leases::release(tx, agent, &released).await?;
                    }
                    Ok(())
                })
            })
            .await;
        if let Err(error) = taken {
            tracing::error!(%error, %agent, "leases that were not delivered stay until they lapse");
        }
        self.wake();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent's place among the waiting, given up when its request ends.
struct Place<'a> {
    dispatcher: &'a Dispatcher,
    id: AgentId,
    arrival: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.dispatcher.waiting();
        // A younger request of the same agent may have taken the place.
        if waiting.agents.get(&self.id).is_some_and(|waiter| waiter.arrival == self.arrival) {
            waiting.agents.remove(&self.id);
        }
    }
}

/// One round, inside its transaction.
async fn decide(
    tx: &mut Tx<'_>,
    agents: Vec<Agent>,
    now: Millis,
) -> Result<Vec<Grant>, StoreError> {
    let cluster_slots = agents::live_slots(tx).await?;
    let jobs = runnable::load(tx, MAX_JOBS, cluster_slots).await?;
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let owners = runnable::slots_by_owner(tx).await?;
    let chunks: HashMap<_, _> =
        jobs.iter().filter_map(|job| job.chunk.map(|chunk| (job.id, chunk))).collect();
    let assignments = assign(jobs, agents, owners, cluster_slots);
    fix_chunks(tx, &assignments, &chunks).await?;
    leases::grant_all(tx, assignments, now).await
}

/// A chunk size that comes from `scheduling` is kept from the first lease on.
async fn fix_chunks(
    tx: &mut Tx<'_>,
    assignments: &[Assignment],
    chunks: &HashMap<protocol::JobId, u64>,
) -> Result<(), StoreError> {
    for assignment in assignments.iter().filter(|assignment| assignment.attempt == 1) {
        if let Some(&chunk) = chunks.get(&assignment.job) {
            leases::fix_chunk(tx, assignment.job, chunk).await?;
        }
    }
    Ok(())
}
