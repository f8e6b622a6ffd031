//! Old blobs of a bucket, taken away and removed.

use std::io;
use std::time::Duration;

use super::{Objects, of_database};
use crate::blobs::Removed;
use crate::clock::Millis;
use crate::store::{StoreError, objects, references};

/// Blobs that are looked up together.
const SLICE: u32 = 500;

/// An upload that is younger may still be going on, however short the grace is.
const SHORTEST_UPLOAD: Duration = Duration::from_secs(3600);

impl Objects {
    /// Takes away the blobs that are older than `grace` and to which nothing refers, and removes
    /// the objects of all that are gone, unless they are needed for a snapshot.
    ///
    /// # Errors
    /// When the database or the bucket cannot be used.
    pub async fn collect(&self, grace: Duration) -> io::Result<Removed> {
        let removed = self.take_away(grace).await.map_err(of_database)?;
        self.remove_doomed().await?;
        Ok(removed)
    }

    async fn take_away(&self, grace: Duration) -> Result<Removed, StoreError> {
        let now = self.clock.now();
        let (until, broken) = (now - millis(grace), now - millis(grace.max(SHORTEST_UPLOAD)));
        self.store
            .write(move |tx| Box::pin(async move { objects::doom_broken(tx, broken, now).await }))
            .await?;
        let (mut removed, mut after) = (Removed::default(), (Millis::MIN, String::new()));
        loop {
            let from = after.clone();
            let (candidates, next) = self
                .store
                .read(|tx| {
                    Box::pin(async move {
                        let (old, next) = objects::old(tx, until, &from, SLICE).await?;
                        Ok((references::unreferenced(tx, &old).await?, next))
                    })
                })
                .await?;
            let Some(next) = next else { return Ok(removed) };
            after = next;
            if candidates.is_empty() {
                continue;
            }
            let now = self
                .store
                .write(move |tx| {
                    Box::pin(async move { objects::doom_old(tx, &candidates, until, now).await })
                })
                .await?;
            removed.n += now.n;
            removed.bytes += now.bytes;
        }
    }

    async fn remove_doomed(&self) -> io::Result<()> {
        let (now, mut after) = (self.clock.now(), String::new());
        // One that cannot be removed keeps no other.
        let mut result = Ok(());
        loop {
            let from = after.clone();
            let doomed = self
                .store
                .query(|tx| Box::pin(async move { objects::doomed(tx, now, &from, SLICE).await }))
                .await
                .map_err(of_database)?;
            let Some(last) = doomed.last() else { return result };
            after = last.name.clone();
            // Asked after they were read: whoever begins later does not need them.
            if self.store.is_snapshot_read().await.map_err(of_database)? {
                return result;
            }
            result = result.and(self.remove(doomed).await);
        }
    }
}

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
