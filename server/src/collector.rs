//! A timer that removes blobs to which nothing refers: here those of a folder; how those of a bucket go
//! is told in [`crate::blobs::Objects`].
//!
//! A blob is written before what refers to it: by an upload whose job is submitted later, by a report
//! or a retry just before its rows. So only a blob is removed that is *old*, last written or found
//! longer than a grace ago, and to which no row refers. Both are looked at once more while nobody can
//! find it or give it its name, so that it cannot become young in between; and never while a snapshot
//! of the database is read whose blobs must stay. Any number of servers may do so at once.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::blobs::{Blobs, Folder, Kept, N_PARTS, Removed, parse_digest};
use crate::state::AppState;
use crate::store::{Store, StoreError, references, uploads};

/// Blobs that are looked up together, and removed while others wait.
const SLICE: usize = 100;

/// How long the second look may take: a database that does not answer must not hold others up.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Looks for such blobs until `shutdown`, often enough that a grace is late by little.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let grace = state.config.settings.blob_grace;
    let period = (grace / 24).clamp(Duration::from_secs(1), Duration::from_secs(3600));
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let collecting = collect(&state.store, &state.blobs, grace);
        let collected = tokio::select! {
            () = shutdown.cancelled() => return,
            collected = collecting => collected,
        };
        match collected {
            Ok(Removed { n: 0, .. }) => {}
            Ok(Removed { n, bytes }) => {
                tracing::info!(blobs = n, bytes, "blobs to which nothing refers were removed");
            }
            Err(error) => {
                tracing::error!(%error, "blobs could not be removed; tried again later");
            }
        }
    }
}

/// Removes all blobs that are older than `grace` and to which nothing refers, unless they are needed
/// for a snapshot.
///
/// # Errors
/// When the database, or the folder or bucket, cannot be used.
pub async fn collect(
    store: &Store,
    blobs: &Blobs,
    grace: Duration,
) -> Result<Removed, CollectError> {
    match blobs.kept() {
        Kept::Folder(folder) => collect_files(store, folder, grace).await,
        Kept::Bucket(objects) => Ok(objects.collect(grace).await?),
    }
}

async fn collect_files(
    store: &Store,
    blobs: &Folder,
    grace: Duration,
) -> Result<Removed, CollectError> {
    blobs.remove_broken(grace).await?;
    let mut removed = Removed::default();
    for part in 0..N_PARTS {
        for some in blobs.old(part, grace).await?.chunks(SLICE) {
            let candidates = unreferenced(store, some.to_vec()).await?;
            if candidates.is_empty() {
                continue;
            }
            let Some(removing) = blobs.begin_removing().await? else { return Ok(removed) };
            // All servers of the folder wait meanwhile.
            let looking = tokio::time::timeout(SECOND_LOOK, unreferenced(store, candidates));
            let Ok(candidates) = looking.await else {
                tracing::warn!(
                    "the database did not answer in time, so blobs to which nothing refers stay; \
                     they are looked for again later"
                );
                return Ok(removed);
            };
            let candidates = candidates?;
            let now = removing.remove(candidates.clone(), grace).await?;
            let forgetting = tokio::time::timeout(SECOND_LOOK, forget(store, blobs, candidates));
            // Rows that stay give nobody a right that they had not, and go with the next blob.
            forgetting.await.unwrap_or(Ok(()))?;
            drop(removing);
            removed.n += now.n;
            removed.bytes += now.bytes;
        }
    }
    Ok(removed)
}

/// Forgets who has uploaded those of `digests` that are gone.
async fn forget(store: &Store, blobs: &Folder, digests: Vec<String>) -> Result<(), CollectError> {
    let mut gone = Vec::new();
    for digest in digests {
        let hex = parse_digest(&digest).unwrap_or_default().to_owned();
        if blobs.size(hex).await?.is_none() {
            gone.push(digest);
        }
    }
    store.write(|tx| Box::pin(async move { uploads::forget(tx, &gone).await })).await?;
    Ok(())
}

async fn unreferenced(store: &Store, digests: Vec<String>) -> Result<Vec<String>, StoreError> {
    store.read(|tx| Box::pin(async move { references::unreferenced(tx, &digests).await })).await
}

/// Why blobs were not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder or the bucket cannot be used.
    #[error("the blobs cannot be used: {0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests;
