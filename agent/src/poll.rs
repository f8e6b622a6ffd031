//! Asks for work while slots are free, or will be soon: one request at a time, superseded by a better
//! one when more slots become free while it waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use protocol::Problem;
use protocol::agent::{Lease, LeaseRequest, Leases, Release, Released};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::Agent;
use crate::clock;
use crate::demand::Demand;
use crate::inputs;
use crate::lease::{self, Grant, Stop};

/// For how long the server may hold a request for work.
const WAIT: Duration = Duration::from_secs(30);
/// Slots that become free within this time are asked for together.
const BURST: Duration = Duration::from_millis(1);
/// The pause after an empty answer that came at once, as from a server that is about to stop.
const PAUSE: Duration = Duration::from_millis(100);

/// The wait after a refusal that has no known cause.
const AFTER_REFUSAL: Duration = Duration::from_secs(5);
/// For how long the last request may take, before the agent drains or pauses.
const LAST_LIMIT: Duration = Duration::from_secs(5);

/// Asks for leases and runs them, until the agent drains.
pub async fn run(agent: &Arc<Agent>, leases: &TaskTracker) {
    tokio::select! {
        () = agent.draining.cancelled() => {}
        () = ask_for_ever(agent, leases) => {}
    }
    collect(agent, leases).await;
}

/// After a request was given up that may have been answered: asks once for what the server believes
/// to have granted, so that it is given back now and not only with the next request or at the end.
async fn collect(agent: &Arc<Agent>, leases: &TaskTracker) {
    let never = CancellationToken::new();
    let nothing = Demand::default();
    let number = agent.held.ask();
    let last = agent.client.lease(|| request(agent, nothing, Duration::ZERO), &never);
    if let Ok(Ok(Some((granted, payload)))) = timeout(LAST_LIMIT, last).await {
        accept(agent, leases, number, granted, payload);
    }
}

fn request(agent: &Agent, demand: Demand, wait: Duration) -> LeaseRequest {
    LeaseRequest {
        free: demand.free,
        ahead: demand.ahead,
        held: agent.held.ids(),
        known_jobs: agent.jobs.known(),
        wait: wait.as_secs_f64(),
    }
}

/// A request on its way.
type Asking<'a> = BoxFuture<'a, Result<Option<(Leases, Bytes)>, Problem>>;

async fn ask_for_ever(agent: &Arc<Agent>, leases: &TaskTracker) {
    let mut demand = agent.slots.demand();
    let respite = &agent.pool.respite;
    // Requests that were superseded: the server answers them when it has the better one. To drop one
    // would close its connection.
    let mut earlier = FuturesUnordered::new();
    // Requests are counted. An answer counts only while no later one was answered: what it gives was
    // given again with that, and may have been run and reported since.
    let mut answered = 0;
    loop {
        let Ok(asked) = demand.wait_for(|demand| demand.is_any()).await.map(|demand| *demand)
        else {
            return;
        };
        if respite.is_on() {
            collect(agent, leases).await;
            // What it was told is the latest.
            answered = agent.held.ask();
            respite.over().await;
            continue;
        }
        let began = clock::now();
        let superseded = CancellationToken::new();
        let number = agent.held.ask();
        let mut asking = ask(agent, asked, superseded.clone());
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break Some(answer),
                Some((of, answer)) = earlier.next() => {
                    if let (true, Ok(Some((granted, payload)))) = (answered < of, answer) {
                        answered = of;
                        accept(agent, leases, of, granted, payload);
                    }
                }
                () = more_than(demand.clone(), asked.free) => {
                    superseded.cancel();
                    earlier.push(asking.map(move |answer| (number, answer)));
                    break None;
                }
                () = respite.on() => break None,
            }
        };
        match answer {
            Some(Ok(Some((granted, payload)))) => {
                answered = number;
                if granted.leases.is_empty() && clock::now() - began < PAUSE {
                    sleep(PAUSE).await;
                }
                accept(agent, leases, number, granted, payload);
            }
            None | Some(Ok(None)) => {}
            Some(Err(problem)) => {
                tracing::error!(%problem, "the server refuses to give work; asking again");
                sleep(AFTER_REFUSAL).await;
            }
        }
    }
}

fn ask(agent: &Agent, asked: Demand, superseded: CancellationToken) -> Asking<'_> {
    Box::pin(async move { agent.client.lease(|| request(agent, asked, WAIT), &superseded).await })
}

/// Waits until more slots are free than were asked for.
async fn more_than(mut demand: watch::Receiver<Demand>, asked: u32) {
    if demand.wait_for(|demand| demand.free > asked).await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(BURST).await;
}

/// Takes what request number `asked` was given.
fn accept(
    agent: &Arc<Agent>,
    leases: &TaskTracker,
    asked: u64,
    granted: Leases,
    mut payload: Bytes,
) {
    granted.jobs.into_iter().for_each(|spec| agent.jobs.learn(spec));
    if !granted.leases.is_empty() {
        agent.slots.note_more(granted.more);
    }
    for lease in granted.leases {
        let length = inputs::inline_bytes(&lease).min(payload.len());
        let own = payload.split_to(length);
        if let Some(grant) = hold(agent, leases, asked, lease, own) {
            leases.spawn(lease::run(Arc::clone(agent), grant));
        }
    }
}

/// Holds a lease, unless it is held already, has ended since it was asked for, or its job is not known.
fn hold(
    agent: &Arc<Agent>,
    leases: &TaskTracker,
    asked: u64,
    lease: Lease,
    payload: Bytes,
) -> Option<Grant> {
    let Some(job) = agent.jobs.get(lease.job) else {
        tracing::error!(lease = %lease.id, job = %lease.job, "a lease of a job that was not sent");
        let agent = Arc::clone(agent);
        let released = Released::whole(lease.id, lease.deaths);
        leases.spawn(async move {
            agent.client.release(&Release { leases: vec![released] }).await.ok();
        });
        return None;
    };
    let holding = agent.held.insert(lease.id, asked)?;
    tracing::debug!(lease = %lease.id, job = %lease.job, elements = lease.ranges.len(), "leased");
    let stop = Stop { revoked: holding.revoked().clone(), killed: agent.killed.clone() };
    // In line from now on: the next request must not ask for it once more.
    let turn = agent.slots.queue(lease.slots);
    Some(Grant { lease, payload, job, turn, holding, stop })
}
