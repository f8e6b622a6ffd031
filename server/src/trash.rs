//! A task that clears what deleted jobs, and jobs that never came to be, have left in the database, and
//! gives their room back.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::state::AppState;
use crate::store::{StoreError, drafts, trash};

/// Rows that one transaction clears.
const SLICE: u32 = 500;

/// Milliseconds after which a draft is given up: another server of the database may be writing it.
pub const DRAFT_LIMIT: Millis = 24 * 3_600_000;

/// How long it waits before it is tried again after the database has failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How often it looks when no job was deleted: whether there is room to give back, and what another
/// server, which was killed, has left.
const PERIOD: Duration = Duration::from_secs(60);

/// Between two slices of the file that are given back: others write meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

/// Clears at the start what an earlier server has left, and then after each deletion, until
/// `shutdown`.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    loop {
        let pause = match clear(&state, &shutdown).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::error!(%error, "deleted jobs could not be cleared; tried again shortly");
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = state.deleted.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn clear(state: &AppState, shutdown: &CancellationToken) -> Result<(), StoreError> {
    let until = state.clock.now() - DRAFT_LIMIT;
    state
        .store
        .write(move |tx| Box::pin(async move { drafts::discard_old(tx, until).await }))
        .await?;
    let slice = || state.store.write(|tx| Box::pin(async move { trash::clear(tx, SLICE).await }));
    while !shutdown.is_cancelled() && slice().await? {}
    while !shutdown.is_cancelled() && state.store.shrink().await? {
        tokio::time::sleep(PAUSE).await;
    }
    state.store.cut().await
}
