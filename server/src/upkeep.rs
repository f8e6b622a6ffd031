//! A timer for what need not be done at once: writing down when tokens were used, and removing what
//! is old from the audit log.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::{StoreError, audit, tokens};

/// How often it is done. When a token was used last is known to this.
const PERIOD: Duration = Duration::from_secs(60);

/// Entries that one transaction removes.
const SLICE: u32 = 1000;

/// Does it once a period until `shutdown`, and writes the last uses down before it ends.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(PERIOD);
    loop {
        let is_last = tokio::select! {
            () = shutdown.cancelled() => true,
            _ = timer.tick() => false,
        };
        if let Err(error) = write_uses(&state).await {
            tracing::warn!(%error, "the last uses of tokens could not be written down");
        }
        if is_last {
            return;
        }
        if let Err(error) = forget_old(&state).await {
            tracing::error!(%error, "old entries of the audit log could not be removed");
        }
    }
}

/// Writes down when tokens were used since it was last done.
///
/// # Errors
/// The database's.
pub async fn write_uses(state: &AppState) -> Result<(), StoreError> {
    let uses = state.tokens.take_used();
    if uses.is_empty() {
        return Ok(());
    }
    state.store.write(move |tx| Box::pin(async move { tokens::used(tx, &uses).await })).await
}

/// Removes the entries of the audit log that are older than they are kept.
///
/// # Errors
/// The database's.
pub async fn forget_old(state: &AppState) -> Result<(), StoreError> {
    let keep = state.config.settings.audit_keep.as_millis();
    let before = state.clock.now().saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX));
    let slice = || {
        state.store.write(move |tx| Box::pin(async move { audit::forget(tx, before, SLICE).await }))
    };
    while !state.shutdown.is_cancelled() && slice().await? {}
    Ok(())
}
