//! The rounds in which waiting agents get work.
//!
//! A round gathers the agents that wait at this server ([`waiting`]), decides in one transaction what each
//! gets ([`decision`]), and answers when that is committed. Memory holds only the waiting: a server that is
//! killed loses nothing but open connections. Of several servers on one database each serves the agents
//! that wait at it; their transactions follow one another, so that none gives what another has given.
//!
//! For slots that are still free after a round busy agents are asked for what they have not begun, at once
//! or when it is overdue. Agents that wait only for leases ahead are looked at once, when they come: whoever
//! has a slot to fill asks again, and ten thousand busy agents must not be gone through for each that is
//! idle. Nor are those who wait and lack what every job requires: they wait by kind, and a round looks at
//! the kinds that there is something for.

mod decision;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::{AgentId, JobId, LeaseId};
use tokio::sync::{Notify, RwLock, RwLockWriteGuard, oneshot};
use tokio_util::sync::CancellationToken;

use crate::asks::Asks;
use crate::clock::{Clock, Millis};
use crate::scheduler::assign::Agent;
use crate::scheduler::requirements::Requirements;
use crate::signals::{Outbound, Topic};
use crate::store::db::Tx;
use crate::store::leases::{self, Grant};
use crate::store::{Manner, Store, StoreError, runnable};
use crate::watchers::Watchers;
pub use decision::{Decided, decide};
use waiting::Waiting;

/// Agents that one transaction serves at the most.
const MAX_AGENTS: usize = 256;

/// Agents with free slots that a submission is given to at first: most are for few, and to look at so many takes no
/// longer than a flush.
const FEW_AGENTS: usize = 16;

/// Kinds of jobs that are remembered while they are on their way to the database.
const MAX_COMING: usize = 64;

/// How long a round waits before it is tried again after the database has failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Agents that a round is to look at, each with the number of its arrival.
type Due = Vec<(u64, AgentId)>;

/// Matches agents that wait with jobs that can run.
#[derive(Clone)]
pub struct Dispatcher {
    store: Store,
    clock: Arc<Clock>,
    waiting: Arc<Mutex<Waiting>>,
    work: Arc<Notify>,
    job_watchers: Arc<Watchers<JobId>>,
    asks: Arc<Asks>,
    /// Tells the other servers of the database.
    outbound: Option<Arc<Outbound>>,
    /// Held for writing by a round, also by that of a submission, for reading by an agent that arrives.
    rounds: Arc<RwLock<()>>,
    /// What jobs require that the next round is to give, and that may not be committed yet.
    coming: Arc<Mutex<HashSet<Requirements>>>,
    /// A round will be woken by the time.
    is_to_look_again: Arc<AtomicBool>,
}

/// What an agent that waits is answered.
#[derive(Debug, Default)]
pub struct Given {
    /// Its leases.
    pub grants: Vec<Grant>,
    /// Whether something is left to lease.
    pub more: bool,
}

impl Dispatcher {
    /// A dispatcher on `store`; before [`Dispatcher::run`] nothing is given but by [`Dispatcher::submit`].
    pub fn new(
        store: Store,
        clock: Arc<Clock>,
        job_watchers: Arc<Watchers<JobId>>,
        asks: Arc<Asks>,
        outbound: Option<Arc<Outbound>>,
    ) -> Self {
        let (waiting, work, rounds) = (Arc::default(), Arc::default(), Arc::default());
        let (coming, is_to_look_again) = (Arc::default(), Arc::default());
        Self {
            store,
            clock,
            waiting,
            work,
            job_watchers,
            asks,
            outbound,
            rounds,
            coming,
            is_to_look_again,
        }
    }

    /// Says that there may be something to give, at any server: a job was submitted, a range came
    /// back.
    pub fn wake(&self) {
        self.wake_here();
        if let Some(outbound) = &self.outbound {
            outbound.work();
        }
    }

    /// Says that there may be something to give to those who wait at this server.
    pub fn wake_here(&self) {
        self.work.notify_one();
    }

    /// Says to those who wait at this server that jobs that were just put into the writer's queue may be
    /// given, and what these require: the round comes behind them, and its leases may be on disk with them.
    fn wake_behind_write(&self, jobs: HashSet<Requirements>) {
        let mut coming = self.coming();
        coming.extend(jobs);
        if coming.len() > MAX_COMING {
            coming.clear();
            coming.insert(Requirements::default());
        }
        drop(coming);
        self.wake_here();
    }

    /// Has `submission` written, of jobs that require one of these, and leases of what it submits with it, if agents wait
    /// for that; it is done when this returns.
    ///
    /// # Errors
    /// The submission's or the database's.
    pub async fn submit<T, F>(
        &self,
        manner: Manner,
        jobs: HashSet<Requirements>,
        submission: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let round = if self.store.is_free(manner) { self.round_behind(&jobs) } else { None };
        let Some((due, no_round)) = round else {
            return self.submit_before_round(manner, jobs, submission).await;
        };
        let (now, waiting) = (self.clock.now(), Arc::clone(&self.waiting));
        let asked = self.asks.recent(now);
        let both = self.store.put_both_at_once(manner, submission, move |tx| {
            Box::pin(async move {
                let agents = lock(&waiting).look_at(&due);
                decide(tx, agents, &asked, now).await
            })
        });
        let (submitted, decided) = match both {
            Ok(both) => both,
            Err((submission, _)) => {
                // A round is to come behind it, at once.
                drop(no_round);
                return self.submit_before_round(manner, jobs, submission).await;
            }
        };
        match decided {
            Ok(decided) => decided.into_iter().for_each(|decided| self.answer_all(decided, now)),
            Err(error) => tracing::error!(%error, "what was submitted is leased a little later"),
        }
        // For what is left, and for those who wait for something else.
        self.wake_here();
        submitted
    }

    /// Has `submission` written, and wakes the next round once it is in the queue, which comes behind it then.
    async fn submit_before_round<T, F>(
        &self,
        manner: Manner,
        jobs: HashSet<Requirements>,
        submission: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let submitted = self.store.put(manner, submission).await?;
        self.wake_behind_write(jobs);
        submitted.await
    }

    /// A few of those who wait at this server with free slots and can run something that requires one of these, and what
    /// keeps rounds from beginning. `None`: nobody does, or a round is at work.
    fn round_behind(
        &self,
        jobs: &HashSet<Requirements>,
    ) -> Option<(Due, RwLockWriteGuard<'_, ()>)> {
        let no_round = self.rounds.try_write().ok()?;
        let due = self.waiting().free(jobs, FEW_AGENTS);
        (!due.is_empty()).then_some((due, no_round))
    }

    /// Answers those for whom `decided` has something.
    fn answer_all(&self, decided: Decided, now: Millis) {
        for grant in &decided.grants {
            self.job_watchers.wake(&grant.job);
        }
        self.answer(decided.grants, decided.more);
        self.asks.ask(&decided.takeover.wanted, now);
        if let Some(wait) = decided.takeover.look_again {
            self.look_again(Duration::from_millis(wait.unsigned_abs()));
        }
    }

    /// Has a round look after `wait` at what is overdue then, unless one is to look anyway: that one says when the next
    /// is to.
    fn look_again(&self, wait: Duration) {
        if self.is_to_look_again.swap(true, Ordering::Relaxed) {
            return;
        }
        let dispatcher = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            dispatcher.is_to_look_again.store(false, Ordering::Relaxed);
            dispatcher.wake_here();
        });
    }

    /// Forgets an agent that is gone.
    pub fn forget(&self, agent: AgentId) {
        self.waiting().regulars.remove(&agent);
    }

    /// Notes that `agent` has asked another server for work: what it still waits for here would be
    /// granted for slots that it offers there.
    pub fn waits_elsewhere(&self, agent: AgentId) {
        let mut waiting = self.waiting();
        waiting.regulars.remove(&agent);
        waiting.remove(&agent);
    }

    /// Agents that wait here for work.
    pub fn n_waiting(&self) -> u64 {
        self.waiting().len() as u64
    }

    /// Waits until there is work for `agent`, at most for `wait`. An earlier request of the same
    /// agent that still waits is answered with nothing.
    ///
    /// What was granted to the agent and is not among `held` was lost with an answer: it is given
    /// again, at once. No round runs while that is looked up and the agent takes its place, so that
    /// nothing is granted twice for the same free slots.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn wait_for_work(
        &self,
        agent: Agent,
        held: &[LeaseId],
        wait: Duration,
    ) -> Result<Given, StoreError> {
        let (answer, answered) = oneshot::channel();
        let id = agent.id;
        let _place = {
            let _no_round = self.rounds.read().await;
            let lost = self.lost(id, held).await?;
            if !lost.is_empty() {
                return Ok(Given { grants: lost, more: true });
            }
            self.take_place(agent, answer)
        };
        self.wake_here();
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(given)) => Ok(given),
            Ok(Err(_)) | Err(_) => Ok(Given::default()),
        }
    }

    /// What was granted to `agent` and is not among `held`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lost(&self, agent: AgentId, held: &[LeaseId]) -> Result<Vec<Grant>, StoreError> {
        let mut granted = self
            .store
            .query(|tx| Box::pin(async move { leases::of_agent(tx, agent).await }))
            .await?;
        granted.retain(|grant| !held.contains(&grant.id));
        Ok(granted)
    }

    fn take_place(&self, agent: Agent, answer: oneshot::Sender<Given>) -> Place<'_> {
        let id = agent.id;
        let mut waiting = self.waiting();
        if let Some(outbound) = &self.outbound
            && waiting.regulars.insert(id)
        {
            outbound.tell(Topic::Arrived, &id);
        }
        let arrival = waiting.insert(agent, answer);
        // The caller may be dropped with its connection; its place must not stay behind.
        Place { dispatcher: self, id, arrival }
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
                self.wake_here();
            }
        }
        // Whoever waits is answered with nothing and asks again.
        self.waiting().clear();
    }

    /// Serves all who wait for what there is, in order of arrival, some hundred at a time.
    async fn round(&self) -> Result<(), StoreError> {
        let _round = self.rounds.write().await;
        // Those for whom something was submitted first, and at once: it comes behind the submission.
        let first = self.waiting_for_what_is_coming();
        if !first.is_empty() {
            self.serve(&first).await?;
        }
        let first: HashSet<u64> = first.into_iter().map(|(arrival, _)| arrival).collect();
        let mut served = 0;
        while self.waiting().is_any_due() {
            // Most rounds find nothing: they must not keep the writer from those who have something.
            let sought = self.sought().await?;
            let due = self.waiting().due_after(served, &sought, &first, MAX_AGENTS);
            let Some(&(last, _)) = due.last() else { break };
            self.serve(&due).await?;
            served = last;
        }
        Ok(())
    }

    /// Gives these agents what there is for them.
    async fn serve(&self, due: &[(u64, AgentId)]) -> Result<(), StoreError> {
        let agents = self.waiting().look_at(due);
        let now = self.clock.now();
        let asked = self.asks.recent(now);
        // An agent that runs what the database has lost with its machine runs it in vain, and it is leased anew.
        let manner = if agents.len() <= FEW_AGENTS { Manner::Unflushed } else { Manner::InTurn };
        let deciding = self
            .store
            .put(manner, move |tx| Box::pin(async move { decide(tx, agents, &asked, now).await }));
        if let Some(decided) = deciding.await?.await? {
            self.answer_all(decided, now);
        }
        Ok(())
    }

    /// The first of those who wait and can run what is on its way to the database. While nobody can, it is
    /// left to a later round.
    fn waiting_for_what_is_coming(&self) -> Vec<(u64, AgentId)> {
        let mut coming = self.coming();
        if coming.is_empty() {
            return Vec::new();
        }
        let mut due = self.waiting().free(&coming, FEW_AGENTS);
        if due.is_empty() {
            due = self.waiting().due_after(0, &coming, &HashSet::new(), MAX_AGENTS);
        }
        if !due.is_empty() {
            coming.clear();
        }
        due
    }

    /// What an agent must have, one or the other, so that there is something for it.
    async fn sought(&self) -> Result<HashSet<Requirements>, StoreError> {
        let asking =
            self.store.query(|tx| Box::pin(async move { runnable::is_any_sought(tx).await }));
        if !asking.await? {
            return Ok(HashSet::new());
        }
        self.store.query(|tx| Box::pin(async move { runnable::sought(tx).await })).await
    }

    /// Grants whose agent has gone in the meantime stay its own: its next request gets them.
    fn answer(&self, grants: Vec<Grant>, more: bool) {
        let mut by_agent: HashMap<AgentId, Vec<Grant>> = HashMap::new();
        for grant in grants {
            by_agent.entry(grant.agent).or_default().push(grant);
        }
        for (agent, grants) in by_agent {
            if let Some(answer) = self.waiting().remove(&agent) {
                let _ = answer.send(Given { grants, more });
            }
        }
    }

    fn coming(&self) -> MutexGuard<'_, HashSet<Requirements>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        if waiting.arrival_of(&self.id) == Some(self.arrival) {
            waiting.remove(&self.id);
        }
    }
}
