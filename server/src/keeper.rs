//! A timer that deletes jobs that ended longer ago than they are kept.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::state::AppState;
use crate::store::{StoreError, trash};

/// Jobs that one transaction deletes.
const SLICE: u32 = 100;

/// Deletes them until `shutdown`; without a bound there are none.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let Some(keep) = state.config.settings.keep else { return };
    let period = (keep / 100).clamp(Duration::from_millis(200), Duration::from_secs(60));
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        match delete_old(&state, keep, &shutdown).await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "jobs were deleted that had ended long enough ago"),
            Err(error) => {
                tracing::error!(%error, "old jobs could not be deleted; tried again shortly");
            }
        }
    }
}

async fn delete_old(
    state: &AppState,
    keep: Duration,
    shutdown: &CancellationToken,
) -> Result<u64, StoreError> {
    let keep = Millis::try_from(keep.as_millis()).unwrap_or(Millis::MAX);
    let before = state.clock.now().saturating_sub(keep);
    let (mut n_deleted, mut from) = (0, None);
    while !shutdown.is_cancelled() {
        let expired = state
            .store
            .write(move |tx| Box::pin(async move { trash::expire(tx, before, from, SLICE).await }))
            .await?;
        n_deleted += expired.deleted.len() as u64;
        expired.deleted.iter().for_each(|&job| state.was_deleted(job));
        from = expired.next;
        if from.is_none() {
            break;
        }
    }
    Ok(n_deleted)
}
