//! Keeps on disk what cannot be reported soon, so that it outlives this process.
//!
//! What is accepted within [`PATIENCE`] never comes here: as long as the server answers promptly,
//! nothing is written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::Registration;
use crate::outbox::Outbox;
use crate::parcel::Parcel;
use crate::spool::{Place, Spool};

/// An outcome that is not accepted for so long is written to disk.
const PATIENCE: Duration = Duration::from_millis(750);
/// How often is looked for such outcomes: they are on disk within a second of being finished.
const PERIOD: Duration = Duration::from_millis(250);
/// The pause after a failure, as by a full disk.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What keeps an agent's outcomes.
#[derive(Debug)]
pub struct Keeper {
    /// Where they are.
    pub outbox: Arc<Outbox>,
    /// Where they go.
    pub spool: Spool,
    /// Knows whose leases they are of.
    pub registration: Arc<Registration>,
}

impl Keeper {
    /// Keeps outcomes until `stopped`, and then all that has not been accepted; how many records
    /// there are.
    pub async fn run(mut self, stopped: CancellationToken) -> usize {
        let mut is_failing = false;
        while !stopped.is_cancelled() {
            let pause = if is_failing { AFTER_FAILURE } else { PERIOD };
            tokio::select! {
                () = stopped.cancelled() => break,
                _ = timeout(pause, self.outbox.pressed()), if !is_failing => {}
                () = sleep(pause), if is_failing => {}
            }
            let kept = self.keep(PATIENCE).await;
            match &kept {
                Err(error) if !is_failing => tracing::error!(
                    folder = %self.spool.folder().path().display(), %error,
                    "outcomes that the server does not take cannot be kept on disk; they are kept \
                     in memory, and lost if this agent is killed"
                ),
                Ok(()) if is_failing => tracing::info!("outcomes can be kept on disk again"),
                _ => {}
            }
            is_failing = kept.is_err();
        }
        if let Err(error) = self.keep(Duration::ZERO).await {
            tracing::error!(folder = %self.spool.folder().path().display(), %error,
                "outcomes that were not accepted cannot be kept on disk; their elements run again");
        }
        self.spool.records()
    }

    /// Writes what was finished `patience` ago or earlier and is not accepted.
    async fn keep(&mut self, patience: Duration) -> io::Result<()> {
        self.spool.settle(self.outbox.freed());
        let parcels = self.outbox.due(patience);
        if parcels.is_empty() {
            return Ok(());
        }
        let is_first = self.spool.records() == 0;
        let outcomes: usize = parcels.iter().map(|(_, parcel)| parcel.count()).sum();
        let places = self.write(parcels).await?;
        self.outbox.kept(places);
        let folder = self.spool.folder().path();
        if is_first {
            tracing::info!(folder = %folder.display(),
                "the server does not take outcomes; they are kept on disk until it does");
        }
        tracing::debug!(outcomes, "kept on disk");
        Ok(())
    }

    async fn write(&mut self, parcels: Vec<(u64, Arc<Parcel>)>) -> io::Result<Vec<(u64, Place)>> {
        let database = self.registration.database();
        let folder = self.spool.folder().clone();
        let mut spool = std::mem::replace(&mut self.spool, Spool::new(folder));
        let written = spawn_blocking(move || {
            let written = spool.keep(&parcels, database);
            (spool, written)
        });
        let (spool, written) = written.await.map_err(io::Error::other)?;
        self.spool = spool;
        written
    }
}
