//! The life of one lease on the agent: slots, inputs, lanes, and the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::join_all;
use protocol::agent::{Lease, Release, Released};
use protocol::job::ElementError;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::chunk::{Chunk, Element};
use crate::elements::Elements;
use crate::held::Holding;
use crate::inputs;
use crate::jobs::Job;
use crate::lane::Lane;
use crate::prepared::Environment;
use crate::runtimes;
use crate::slots::{Claim, Turn};
use crate::work::Work;

/// A lease that the agent has received and holds.
#[derive(Debug)]
pub struct Grant {
    /// The lease.
    pub lease: Lease,
    /// Its part of the envelope's payloads.
    pub payload: Bytes,
    /// Its job.
    pub job: Arc<Job>,
    /// Its turn to get the slots it runs in.
    pub turn: Turn,
    /// That it is held.
    pub holding: Holding,
    /// When to stop.
    pub stop: Stop,
}

/// When what runs of a lease is to be killed.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The lease is not the agent's any more.
    pub revoked: CancellationToken,
    /// The agent's time to drain is over.
    pub killed: CancellationToken,
}

impl Stop {
    /// Waits for either.
    pub async fn requested(&self) {
        tokio::select! {
            () = self.revoked.cancelled() => {}
            () = self.killed.cancelled() => {}
        }
    }
}

/// Runs a lease to its end: all of it accepted, or given back, or revoked.
pub async fn run(agent: Arc<Agent>, mut grant: Grant) {
    let (id, stop) = (grant.lease.id, grant.stop.clone());
    let begun = tokio::select! {
        begun = begin(&agent, &mut grant) => begun,
        () = agent.draining.cancelled() => None,
        () = stop.requested() => None,
    };
    let left = match begun {
        Some((work, claim)) => {
            let ended = CancellationToken::new();
            let lanes = async {
                run_lanes(&work, &grant.lease, &claim, &stop).await;
                // The slots are free for other leases while this one's last outcomes travel.
                drop(claim);
                ended.cancel();
            };
            // The lease is held until the server knows which part of it is not: it would give that
            // part again to an agent that does not list the lease.
            tokio::join!(lanes, give_to_others(&agent, &grant, &work, &ended));
            let chunk = work.chunk();
            (chunk.unfinished() > 0).then(|| chunk.deaths().clone())
        }
        None => Some(grant.lease.deaths),
    };
    tokio::select! {
        () = agent.outbox.settled(id) => {}
        () = stop.revoked.cancelled() => agent.outbox.discard(id),
    }
    if let Some(deaths) = left
        && !stop.revoked.is_cancelled()
    {
        give_back(&agent, Released::whole(id, deaths)).await;
    }
    agent.held.end(&grant.holding);
}

/// Waits for the lease's slots, environment and inputs, and for the end of what was revoked of it.
/// `None`: it waited for a slot, and another agent has one.
async fn begin(agent: &Agent, grant: &mut Grant) -> Option<(Arc<Work>, Claim)> {
    grant.holding.alone().await;
    let claim = tokio::select! {
        biased;
        claim = grant.turn.claim() => claim,
        () = grant.holding.wanted() => return None,
    };
    let (prepared, elements, failure) = match provide(agent, grant).await {
        Ok((prepared, elements)) => (prepared, elements, None),
        Err(error) => (None, without_inputs(&grant.lease), Some(error)),
    };
    let deaths = grant.lease.deaths.clone();
    let is_one_slot = grant.lease.slots == 1;
    let work = Arc::new(Work {
        lease: grant.lease.id,
        job: Arc::clone(&grant.job),
        prepared,
        elements: Elements::new(&grant.lease, &grant.job.spec.options),
        chunk: Mutex::new(Chunk::new(elements, deaths, grant.job.spec.options.retries)),
        frame_ended: Notify::new(),
        draining: agent.draining.clone(),
        slots: is_one_slot.then(|| Arc::clone(&agent.slots)),
        pool: Arc::clone(&agent.pool),
        outbox: Arc::clone(&agent.outbox),
        logs: Arc::clone(&agent.logs),
        blobs: Arc::clone(&agent.blobs),
    });
    if let Some(failure) = failure {
        work.fail(claim.slots()[0], failure);
    }
    Some((work, claim))
}

/// Gives part of a lease that runs to idle slots elsewhere, whenever one wants it, until the lease has
/// `ended`. Where all of it is with workers, part of what comes back is given. A chunk of a fixed size stays whole.
async fn give_to_others(agent: &Agent, grant: &Grant, work: &Work, ended: &CancellationToken) {
    let options = &grant.job.spec.options;
    let is_fixed = options.chunk_size.is_some() || options.scheduling.is_some();
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = grant.holding.wanted() => {}
        }
        if is_fixed {
            continue;
        }
        let part = tokio::select! {
            biased;
            () = ended.cancelled() => return,
            part = work.spare() => part,
        };
        // While that was waited for, the same slot may have asked again.
        let _ = grant.holding.wanted().now_or_never();
        if part.is_empty() {
            continue;
        }
        let (lease, n) = (grant.lease.id, part.len());
        let released = Released { part: Some(part), ..Released::whole(lease, BTreeMap::new()) };
        match agent.client.release(&Release { leases: vec![released] }).await {
            Ok(()) => tracing::debug!(%lease, elements = n, "given to others"),
            // They stay in the lease at the server, which gives them again when the lease is held
            // no more.
            Err(problem) => tracing::warn!(%lease, %problem, "the server takes no part of a lease"),
        }
    }
}

/// All that must be there before the first element is run.
async fn provide(
    agent: &Agent,
    grant: &Grant,
) -> Result<(Option<Arc<Environment>>, VecDeque<Element>), ElementError> {
    let prepared = agent.prepared.get(&grant.job.spec).await?;
    let elements = inputs::elements(&grant.lease, &grant.payload, &agent.blobs).await;
    let unreadable =
        |message| ElementError { kind: "Unreadable".into(), ..runtimes::fatal(message) };
    Ok((prepared, elements.map_err(|error| unreadable(error.to_string()))?))
}

/// The elements of a lease whose inputs cannot be had: the first of them fails the job.
fn without_inputs(lease: &Lease) -> VecDeque<Element> {
    lease.ranges.indexes().map(|index| Element { index, input: Bytes::new() }).collect()
}

async fn run_lanes(work: &Arc<Work>, lease: &Lease, claim: &Claim, stop: &Stop) {
    let slots = claim.slots();
    let width = (lease.width.max(1) as usize).min(slots.len());
    let cores = slots.len() / width;
    let lanes = slots.chunks(cores).take(width).map(|slots| {
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        tokio::spawn(Lane::new(Arc::clone(work), slots[0], cores).run(stop.clone()))
    });
    for ended in join_all(lanes).await {
        if let Err(panic) = ended {
            tracing::error!(lease = %lease.id, %panic, "a lane broke; its elements are given back");
        }
    }
}

async fn give_back(agent: &Agent, released: Released) {
    let lease = released.id;
    match agent.client.release(&Release { leases: vec![released] }).await {
        Ok(()) => tracing::info!(%lease, "lease given back"),
        Err(problem) => tracing::warn!(%lease, %problem, "the server does not take a lease back"),
    }
}
