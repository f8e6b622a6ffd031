//! How agents come, stay and go: what a request of an agent changes, inside a transaction.

use std::collections::BTreeMap;

use protocol::agent::{Heartbeat, Orders, Register, Released};
use protocol::job::AgentState;
use protocol::{AgentId, JobId, LeaseId};

use crate::clock::Millis;
use crate::store::agents::{self, Standing};
use crate::store::db::Tx;
use crate::store::{StoreError, leases, spares};

/// What the registration of an agent has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// Leases it holds that are not its own any more.
    pub revoked: Vec<LeaseId>,
    /// Whose elements are at work again, or have begun.
    pub jobs: Vec<JobId>,
}

/// An agent presents itself, or comes back with the leases it holds.
///
/// # Errors
/// The database's.
pub async fn register(
    tx: &mut Tx<'_>,
    agent: &Register,
    now: Millis,
    alive_until: Millis,
) -> Result<Presented, StoreError> {
    agents::register(tx, agent, now, alive_until).await?;
    let live = leases::ids_of_agent(tx, agent.id).await?;
    let mut presented = Presented::default();
    for &lease in &agent.leases {
        if live.contains(&lease) {
            continue;
        }
        match leases::revive(tx, agent.id, lease).await? {
            Some(job) => presented.jobs.push(job),
            None => presented.revoked.push(lease),
        }
    }
    if presented.revoked.len() < agent.leases.len() {
        // What they waited behind may not have come back, and the agent may have other slots now.
        presented.jobs.extend(spares::begin_ahead(tx, agent.id).await?);
    }
    Ok(presented)
}

/// An agent says by `heartbeat` that it is alive. Says what it is to do; `None`: it is not known, and
/// must register.
///
/// # Errors
/// The database's.
pub async fn stay(
    tx: &mut Tx<'_>,
    agent: AgentId,
    heartbeat: &Heartbeat,
    alive_until: Millis,
) -> Result<Option<Orders>, StoreError> {
    if heartbeat.draining {
        agents::set_state(tx, agent, AgentState::Draining).await?;
    }
    let standing = agents::keep_alive(tx, agent, alive_until).await?;
    Ok(standing.map(|standing| orders_for(&standing, heartbeat)))
}

/// What an agent is to do by now that has sent `heartbeat`. `None`: it is not known, and must
/// register.
///
/// # Errors
/// The database's.
pub async fn orders(
    tx: &mut Tx<'_>,
    agent: AgentId,
    heartbeat: &Heartbeat,
) -> Result<Option<Orders>, StoreError> {
    let standing = agents::standing(tx, agent).await?;
    let standing = standing.filter(|standing| standing.state != AgentState::Gone);
    Ok(standing.map(|standing| orders_for(&standing, heartbeat)))
}

fn orders_for(standing: &Standing, heartbeat: &Heartbeat) -> Orders {
    let is_revoked = |lease: &&LeaseId| !standing.leases.contains(lease);
    Orders {
        revoked: heartbeat.held.iter().filter(is_revoked).copied().collect(),
        drain: standing.state == AgentState::Draining && !heartbeat.draining,
        wanted: Vec::new(),
    }
}

/// An agent gives back what it will not run, or what another can run sooner. Says whose elements these are, and
/// those that have begun in their place.
///
/// # Errors
/// The database's.
pub async fn release(
    tx: &mut Tx<'_>,
    agent: AgentId,
    given: &[Released],
) -> Result<Vec<JobId>, StoreError> {
    let mut jobs = Vec::new();
    for lease in given {
        jobs.extend(leases::release(tx, agent, lease).await?);
    }
    if !jobs.is_empty() {
        jobs.extend(spares::begin_ahead(tx, agent).await?);
    }
    Ok(jobs)
}

/// An agent leaves: what it holds can be leased anew. Says whose elements that is.
///
/// # Errors
/// The database's.
pub async fn leave(tx: &mut Tx<'_>, agent: AgentId) -> Result<Vec<JobId>, StoreError> {
    let held = leases::ids_of_agent(tx, agent).await?;
    let given: Vec<Released> =
        held.into_iter().map(|id| Released::whole(id, BTreeMap::new())).collect();
    let jobs = release(tx, agent, &given).await?;
    agents::set_state(tx, agent, AgentState::Gone).await?;
    Ok(jobs)
}

/// The agents of the token of this id leave, because it is good no more: they can report nothing. Says who they
/// are, and whose elements can be leased anew.
///
/// # Errors
/// The database's.
pub async fn leave_with_token(
    tx: &mut Tx<'_>,
    token: &str,
) -> Result<(Vec<AgentId>, Vec<JobId>), StoreError> {
    let agents = agents::of_token(tx, token).await?;
    let mut jobs = Vec::new();
    for &agent in &agents {
        jobs.extend(leave(tx, agent).await?);
    }
    Ok((agents, jobs))
}
