//! A timer that lapses the leases of agents that have not been heard of.

use std::time::Duration;

use protocol::AgentId;
use protocol::job::{AgentState, ElementError};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::labels::label_failures;
use crate::scheduler::lease::{AfterLoss, MAX_LOST_AGENTS, after_loss};
use crate::state::AppState;
use crate::store::db::Tx;
use crate::store::leases::{self, Grant};
use crate::store::reports::{self, NewPiece};
use crate::store::{self, StoreError, agents};

/// Looks for lost agents until `shutdown`, several times a lease.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let lease = state.config.lease();
    let period = lease.div_f64(8.0).max(Duration::from_millis(50));
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_look = state.clock.now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let now = state.clock.now();
        let looked = if was_away(now - last_look, lease) {
            spare_all(&state, now + lease).await
        } else {
            reap(&state).await
        };
        last_look = now;
        if let Err(error) = looked {
            tracing::error!(%error, "lost agents could not be looked for; tried again shortly");
        }
    }
}

/// Whether a server that looks after so many milliseconds again was stopped itself, or its database
/// was: then it has heard of nobody, and that says nothing of the agents.
fn was_away(since_last_look: Millis, lease: Millis) -> bool {
    since_last_look > lease / 2
}

/// Gives every agent another lease, as a server that starts does.
async fn spare_all(state: &AppState, alive_until: Millis) -> Result<(), StoreError> {
    tracing::warn!(
        "this server, or its database, was stopped for a while: agents get another lease"
    );
    let spared = state
        .store
        .write(move |tx| Box::pin(async move { agents::keep_all_alive(tx, alive_until).await }));
    spared.await
}

/// Lapses the leases of the agents that have not been heard of for too long.
///
/// # Errors
/// The database's.
pub async fn reap(state: &AppState) -> Result<(), StoreError> {
    let now = state.clock.now();
    let overdue =
        state.store.read(|tx| Box::pin(async move { agents::overdue(tx, now).await })).await?;
    for agent in overdue {
        if lose(state, agent, now).await? {
            tracing::warn!(%agent, "the agent was not heard of for a lease; what it held is free again");
        }
    }
    let stored = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                agents::forget_gone(tx, now).await?;
                store::store_time(tx, now).await
            })
        })
        .await?;
    state.clock.not_before(stored);
    state.limits.tidy();
    Ok(())
}

/// Lapses the leases of an agent that is known to be dead, without waiting until it is overdue. Whoever
/// says so may be wrong: an agent that lives is told to register, and goes on with what was not leased
/// anew.
///
/// # Errors
/// The database's.
pub async fn bury(state: &AppState, agent: AgentId) -> Result<(), StoreError> {
    let now = state.clock.now();
    let ended = state
        .store
        .write(move |tx| Box::pin(async move { agents::end_life(tx, agent, now).await }));
    ended.await?;
    if lose(state, agent, now).await? {
        tracing::warn!(%agent, "the agent is dead, says the next one there; what it held is free again");
    }
    Ok(())
}

/// Lapses the leases of an agent that is overdue. `false`: it was heard of meanwhile.
async fn lose(state: &AppState, agent: AgentId, now: Millis) -> Result<bool, StoreError> {
    let pieces = expect_given_up(state, agent, now).await?;
    // It may have been heard of since.
    state.heartbeats.settle().await;
    let reaped = state
        .store
        .write(move |tx| Box::pin(async move { reap_agent(tx, agent, pieces, now).await }))
        .await?;
    let Some(outcome) = reaped else { return Ok(false) };
    state.dispatcher.forget(agent);
    state.moved(&outcome);
    state.wake_for_agents();
    Ok(true)
}

/// The outcomes of elements that are given up if `agent` is lost as it is now, with their names.
async fn expect_given_up(
    state: &AppState,
    agent: AgentId,
    now: Millis,
) -> Result<Vec<NewPiece>, StoreError> {
    let held =
        state.store.read(|tx| Box::pin(async move { leases::of_agent(tx, agent).await })).await?;
    let piece = |lease: &Grant| match after_loss(&lease.ranges, lease.lost) {
        AfterLoss::GiveUp { element } => Some(given_up(lease, element, now)),
        AfterLoss::Return { .. } => None,
    };
    let mut pieces: Vec<NewPiece> = held.iter().filter_map(piece).collect();
    label_failures(state, &mut pieces).await;
    Ok(pieces)
}

/// Lapses an agent, unless it was heard of since. `expected` are the outcomes of what is given up,
/// unless the agent's leases have changed since these were written. `None`: it was heard of.
///
/// # Errors
/// The database's.
pub async fn reap_agent(
    tx: &mut Tx<'_>,
    agent: AgentId,
    mut expected: Vec<NewPiece>,
    now: Millis,
) -> Result<Option<reports::Outcome>, StoreError> {
    if !agents::overdue(tx, now).await?.contains(&agent) {
        return Ok(None);
    }
    let lapsed = leases::lapse(tx, agent).await?;
    let pieces = lapsed.given_up.into_iter().map(|(lease, element)| {
        let is_it = |piece: &NewPiece| piece.lease == lease.id && piece.block.first == element;
        let known = expected.iter().position(is_it);
        known.map_or_else(|| given_up(&lease, element, now), |i| expected.swap_remove(i))
    });
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
    NewPiece::failed(lease, element, error, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_stopped_itself_knows_it_and_one_that_is_slow_does_not_think_so() {
        let lease = 30_000;
        assert!(!was_away(lease / 8, lease) && !was_away(lease / 2, lease));
        assert!(was_away(lease / 2 + 1, lease) && was_away(3 * lease, lease));
    }
}
