//! A task that clears what deleted jobs have left in the database.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::{StoreError, trash};

/// Rows that one transaction clears.
const SLICE: u32 = 500;

/// How long it waits before it is tried again after the database has failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Clears at the start what an earlier server has left, and then after each deletion, until
/// `shutdown`.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    loop {
        let pause = match clear(&state, &shutdown).await {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "deleted jobs could not be cleared; tried again shortly");
                Some(PAUSE_AFTER_FAILURE)
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = state.deleted.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

async fn clear(state: &AppState, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let slice = || state.store.write(|tx| Box::pin(async move { trash::clear(tx, SLICE).await }));
    while !shutdown.is_cancelled() && slice().await? {}
    Ok(())
}
