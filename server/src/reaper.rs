//! A timer that lapses the leases of agents that have not been heard of.

use std::time::Duration;

use protocol::AgentId;
use protocol::job::{AgentState, ElementError};
use tokio_util::sync::CancellationToken;

use crate::block::compress;
use crate::clock::Millis;
use crate::scheduler::lease::MAX_LOST_AGENTS;
use crate::state::AppState;
use crate::store::blocks::{Place, StoredBlock};
use crate::store::db::Tx;
use crate::store::leases::{self, Grant};
use crate::store::reports::{self, NewPiece};
use crate::store::{self, StoreError, agents};

/// Looks for lost agents until `shutdown`, several times a lease.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let period = state.config.lease().div_f64(8.0).max(Duration::from_millis(50));
    let mut timer = tokio::time::interval(period);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        if let Err(error) = reap(&state).await {
            tracing::error!(%error, "lost agents could not be looked for; tried again shortly");
        }
    }
}

async fn reap(state: &AppState) -> Result<(), StoreError> {
    let now = state.clock.now();
    let overdue =
        state.store.read(|tx| Box::pin(async move { agents::overdue(tx, now).await })).await?;
    for agent in overdue {
        let reaped = state
            .store
            .write(move |tx| Box::pin(async move { reap_agent(tx, agent, now).await }))
            .await?;
        let Some(outcome) = reaped else { continue };
        tracing::warn!(%agent, "the agent was not heard of for a lease; what it held is free again");
        state.moved(&outcome);
        state.dispatcher.wake();
    }
    state
        .store
        .write(move |tx| {
            Box::pin(async move {
                store::store_time(tx, now).await?;
                agents::forget_gone(tx, now).await
            })
        })
        .await
}

/// Lapses an agent, unless it was heard of since.
async fn reap_agent(
    tx: &mut Tx<'_>,
    agent: AgentId,
    now: Millis,
) -> Result<Option<reports::Outcome>, StoreError> {
    if !agents::overdue(tx, now).await?.contains(&agent) {
        return Ok(None);
    }
    let lapsed = leases::lapse(tx, agent).await?;
    let pieces = lapsed.given_up.into_iter().map(|(lease, element)| given_up(&lease, element, now));
    let mut outcome = reports::report(tx, agent, pieces.collect(), now).await?;
    agents::set_state(tx, agent, AgentState::Gone).await?;
    outcome.jobs.extend(lapsed.jobs);
    Ok(Some(outcome))
}

/// The outcome of an element that was lost with too many agents.
fn given_up(lease: &Grant, element: u64, now: Millis) -> NewPiece {
    let error = ElementError {
        kind: "AgentLost".to_owned(),
        message: format!(
            "{MAX_LOST_AGENTS} agents in a row were lost while they ran this element; it may take \
             more memory than they have"
        ),
        call: None,
        traceback: Vec::new(),
        fatal: false,
    };
    let json = serde_json::to_vec(&error).unwrap_or_default();
    NewPiece {
        lease: lease.id,
        job: lease.job,
        block: StoredBlock {
            first: element,
            lengths: vec![u32::try_from(json.len()).unwrap_or(u32::MAX)],
            place: Place::Row(compress(&json)),
        },
        errors: vec![0],
        first_error: Some((element, error)),
        notes: Vec::new(),
        slot: 0,
        pid: 0,
        started_at: now,
        micros: 0,
    }
}
