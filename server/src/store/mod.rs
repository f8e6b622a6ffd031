//! The database: the only truth. All SQL stands in this folder.
//!
//! * [`submissions`]: accepting jobs, once.
//! * [`jobs`]: what is known of them.
//! * [`ends`]: their ends, and what these mean for the jobs that come after.
//! * [`retries`]: running again what failed or was missing.
//! * [`drafts`]: jobs that are written in slices.
//! * [`trash`]: deleted jobs.
//! * [`runnable`]: the snapshot that the scheduler decides on.
//! * [`leases`]: granting, releasing, lapsing, reviving.
//! * [`reports`]: accepting outcomes, once.
//! * [`outcomes`]: accepted outcomes, read in either order.
//! * [`logs`]: what jobs say while they run.
//! * [`blocks`]: inputs and names, read by range.
//! * [`agents`]: who is there.
//! * [`tokens`]: who may call.
//! * [`uploads`]: who may read which blob.
//! * [`audit`]: what was done, and by whom.
//!
//! Writes go through one [`writer`] that commits them in groups; reads have a pool of their own.

pub mod agents;
pub mod audit;
pub mod blocks;
pub mod db;
pub mod drafts;
pub mod ends;
pub mod jobs;
pub mod leases;
pub mod logs;
mod migrations;
pub mod outcomes;
pub mod reports;
pub mod retries;
pub mod runnable;
mod specs;
pub mod submissions;
pub mod tokens;
pub mod trash;
pub mod uploads;
mod writer;

#[cfg(test)]
pub mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::clock::Millis;
use db::{Tx, args};
use writer::{Writer, WriterStats};

/// Connections that read.
const READERS: u32 = 4;

/// The database of one server.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: SqlitePool,
    /// Keeps a second server off the file.
    _lock: Arc<Flock<File>>,
}

impl Store {
    /// Opens the database `farrow.db` in `folder`, making or migrating it as needed.
    ///
    /// # Errors
    /// When the folder cannot be written, another server runs on it, or the database is damaged or
    /// newer than this program.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = lock(folder)?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("farrow.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("temp_store", "memory");
        let readers =
            SqlitePoolOptions::new().max_connections(READERS).connect_with(options.clone()).await?;
        migrations::migrator().run(&readers).await.map_err(StoreError::migration)?;
        let writer = Writer::start(&options).await?;
        Ok(Self { writer, readers, _lock: Arc::new(lock) })
    }

    /// Runs `operation` in a transaction of the writer; it is on disk when this returns.
    ///
    /// # Errors
    /// The operation's or the database's; then nothing of it was written.
    pub async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        self.writer.write(operation).await
    }

    /// Runs `operation` on one snapshot of the database.
    ///
    /// # Errors
    /// The operation's or the database's.
    pub async fn read<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send,
    {
        let mut transaction = self.readers.begin().await?;
        let result = operation(&mut Tx::new(&mut transaction)).await;
        transaction.rollback().await?;
        result
    }

    /// What the writer has done since the start.
    pub fn writer_stats(&self) -> &WriterStats {
        self.writer.stats()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx| Box::pin(async move { tx.all("select 1", args![]).await.map(drop) })).await
    }
}

/// The largest time that was stored, if any was.
///
/// # Errors
/// The database's.
pub async fn stored_time(tx: &mut Tx<'_>) -> Result<Option<Millis>, StoreError> {
    let row = tx.first("select value from meta where key = 'clock'", args![]).await?;
    row.map(|row| row.id("value")).transpose()
}

/// Stores the time, so that the clock never goes back behind it.
///
/// # Errors
/// The database's.
pub async fn store_time(tx: &mut Tx<'_>, now: Millis) -> Result<(), StoreError> {
    tx.execute(
        "insert into meta (key, value) values ('clock', $1)
         on conflict (key) do update set value = excluded.value",
        args![now.to_string()],
    )
    .await?;
    Ok(())
}

fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join("farrow.lock");
    let file = File::create(&path)
        .map_err(|e| StoreError::Open(format!("{} cannot be written: {e}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        StoreError::Open(format!(
            "another farrow server runs on {}; stop it, or give this one another --data folder",
            folder.display()
        ))
    })
}

/// Why the database did not do as asked. Its text is for the log, never for a client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be opened.
    #[error("{0}")]
    Open(String),
    /// It failed.
    #[error("database: {0}")]
    Database(Arc<sqlx::Error>),
    /// It holds what this program cannot have written.
    #[error("database: {column} holds {value}, which this program cannot have written")]
    Corrupt {
        /// Where.
        column: &'static str,
        /// What.
        value: String,
    },
    /// The server is stopping.
    #[error("the database is closed: the server is stopping")]
    Closed,
}

impl StoreError {
    fn corrupt(column: &'static str, value: &str) -> Self {
        Self::Corrupt { column, value: value.to_owned() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is used as a function in map_err")]
    fn migration(error: sqlx::migrate::MigrateError) -> Self {
        Self::Open(format!("the database's schema could not be brought up to date: {error}"))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}
