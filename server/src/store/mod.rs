//! The database: the only truth. All SQL stands in this folder.
//!
//! * [`submissions`]: accepting jobs, once.
//! * [`jobs`]: what is known of them.
//! * [`ends`]: their ends, and what these mean for the jobs that come after.
//! * [`retries`]: running again what failed or was missing.
//! * [`drafts`]: jobs that are written in slices.
//! * [`trash`]: deleted jobs.
//! * [`references`]: which blobs are referred to.
//! * [`objects`]: blobs in a bucket, and how old they are.
//! * [`space`]: room on disk, given back.
//! * [`snapshot`]: a database that another process may be using, read only.
//! * [`check`]: whether all of it is as it must be.
//! * [`runnable`]: the snapshot that the scheduler decides on.
//! * [`leases`]: granting, releasing, lapsing, reviving.
//! * [`reports`]: accepting outcomes, once.
//! * [`outcomes`]: accepted outcomes, read in either order.
//! * [`logs`]: what jobs say while they run.
//! * [`blocks`]: inputs and names, read by range.
//! * [`agents`]: who is there.
//! * [`offers`]: what they offer, and what jobs require of them.
//! * [`tokens`]: who may call.
//! * [`uploads`]: who may read which blob.
//! * [`audit`]: what was done, and by whom.
//!
//! * [`postgres`]: what is PostgreSQL's alone.
//!
//! Writes go through one [`writer`] that commits them in groups; reads have a pool of their own.

pub mod agents;
pub mod audit;
pub mod blocks;
pub mod check;
pub mod db;
pub mod drafts;
pub mod ends;
mod error;
pub mod identity;
pub mod jobs;
pub mod leases;
pub mod logs;
mod migrations;
pub mod objects;
pub mod offers;
pub mod outcomes;
pub mod postgres;
pub mod references;
pub mod reports;
pub mod retries;
pub mod runnable;
pub mod snapshot;
pub mod space;
pub mod spares;
mod specs;
pub mod sqlite;
pub mod submissions;
pub mod tokens;
pub mod trash;
pub mod uploads;
mod writer;

#[cfg(test)]
pub mod recount;
#[cfg(test)]
pub mod tests;
#[cfg(test)]
mod tests_of_postgres;
#[cfg(test)]
mod tests_of_sqlite;
#[cfg(test)]
#[path = "tests/mod.rs"]
#[expect(clippy::duplicate_mod, reason = "one suite is run on each database")]
mod tests_on_postgres;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nix::fcntl::{Flock, FlockArg};
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::clock::{Clock, Millis};
use db::{Tx, args};
pub use error::StoreError;
pub use writer::Manner;
use writer::{Both, Place, Writer, WriterStats};

/// The file of the database in its folder.
pub const FILE: &str = "farrow.db";

/// Connections that read SQLite.
const READERS: u32 = 4;

/// For how long a read may take on a database that is somewhere else, which may have gone.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// The database of one server, or the one that several share.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Readers,
}

#[derive(Clone)]
enum Readers {
    Sqlite {
        pool: Arc<sqlite::Readers>,
        options: Arc<SqliteConnectOptions>,
        /// Keeps a second server off the file.
        _lock: Arc<Flock<File>>,
    },
    Postgres(PgPool),
}

impl Store {
    /// Opens the SQLite database `farrow.db` in `folder`, making or migrating it as needed.
    ///
    /// # Errors
    /// When the folder cannot be written, another server runs on it, or the database is damaged or
    /// newer than this program.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = lock(folder)?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("temp_store", "memory");
        let options = space::cutting(options);
        let mut connection = space::reclaiming(options.clone()).connect().await?;
        space::reclaim_from_now_on(&mut connection).await?;
        let migrated = migrations::run(&mut connection).await;
        connection.close().await?;
        let file = folder.join(FILE);
        if let Err(refused) = migrated {
            return Err(migrations::refusal_of_file(&file, &refused).await);
        }
        let mut connection = sqlite::open(&file)?;
        migrations::sign(&mut Tx::new(&mut connection)).await?;
        let pool = sqlite::Readers::open(&file, READERS)?;
        let writer = Writer::start(Place::Sqlite(file)).await?;
        let options = Arc::new(options);
        Ok(Self { writer, readers: Readers::Sqlite { pool, options, _lock: Arc::new(lock) } })
    }

    /// Connects to the PostgreSQL database at `url`, making or migrating its tables as needed. Any
    /// number of servers may do so.
    ///
    /// # Errors
    /// When it cannot be reached, or is newer than this program.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = postgres::options(url)?;
        let pool = postgres::open(&options).await?;
        let writer = Writer::start(Place::Postgres(Box::new(options))).await?;
        Ok(Self { writer, readers: Readers::Postgres(pool) })
    }

    /// Whoever reads the file of an SQLite database.
    fn file(&self) -> Option<&SqliteConnectOptions> {
        match &self.readers {
            Readers::Sqlite { options, .. } => Some(options),
            Readers::Postgres(_) => None,
        }
    }

    /// The PostgreSQL database, which other servers may share.
    pub fn shared(&self) -> Option<&PgPool> {
        match &self.readers {
            Readers::Sqlite { .. } => None,
            Readers::Postgres(pool) => Some(pool),
        }
    }

    /// A clock that starts at the database's time, or at this machine's where there is but one.
    ///
    /// # Errors
    /// The database's.
    pub async fn start_clock(&self) -> Result<Clock, StoreError> {
        match &self.readers {
            Readers::Sqlite { .. } => Ok(Clock::start()),
            Readers::Postgres(pool) => Ok(Clock::start_at(postgres::time(pool).await?)),
        }
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
        self.put(Manner::InTurn, operation).await?.await
    }

    /// Puts `operation` into the writer's queue, or has it written as its `manner` says; what is returned answers once
    /// it is. Whatever is written from now on finds it done.
    ///
    /// # Errors
    /// As [`Store::write`]'s.
    pub async fn put<T, F>(
        &self,
        manner: Manner,
        operation: F,
    ) -> Result<impl Future<Output = Result<T, StoreError>> + use<T, F>, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        self.writer.put(manner, operation).await
    }

    /// Has two operations written at once, the second behind the first, in one transaction; or gives them back, if others
    /// are being written. Neither changes what becomes of the other.
    pub fn put_both_at_once<T, U, F, G>(
        &self,
        manner: Manner,
        first: F,
        second: G,
    ) -> Both<T, U, F, G>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
        G: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<U, StoreError>> + Send + 'static,
    {
        self.writer.put_both_at_once(manner, first, second)
    }

    /// Whether [`Store::put_both_at_once`] would write now.
    pub fn is_free(&self, manner: Manner) -> bool {
        self.writer.is_free(manner)
    }

    /// Returns once all that anybody can have read by now is on disk.
    ///
    /// # Errors
    /// The disk's.
    pub async fn all_flushed(&self) -> Result<(), StoreError> {
        self.writer.all_flushed().await
    }

    /// The number of this server's last commit, for [`Store::flushed`].
    pub fn n_committed(&self) -> u64 {
        self.writer.n_committed()
    }

    /// The number of the last commit that is on disk for sure.
    #[cfg(test)]
    pub fn n_flushed(&self) -> u64 {
        self.writer.n_flushed()
    }

    /// Waits until nobody writes, and takes what was written to have been quick.
    #[cfg(test)]
    pub async fn settle(&self) {
        self.writer.settle().await;
    }

    /// Returns once the commits up to number `until` are on disk, the unflushed ones among them too.
    ///
    /// # Errors
    /// The disk's.
    pub async fn flushed(&self, until: u64) -> Result<(), StoreError> {
        self.writer.flushed(until).await
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
        match &self.readers {
            Readers::Sqlite { pool, .. } => {
                let mut reader = pool.acquire().await?;
                let connection = reader.connection()?;
                sqlite::script(connection, "begin")?;
                let result = operation(&mut Tx::new(&mut *connection)).await;
                sqlite::script(connection, "rollback")?;
                result
            }
            Readers::Postgres(pool) => {
                let reading = async {
                    // In a task of its own, because a reader may leave at any moment: a `begin` that is
                    // dropped halfway goes back to the pool with its transaction open.
                    let pool = pool.clone();
                    let beginning = tokio::spawn(async move { pool.begin_with(SNAPSHOT).await });
                    let mut transaction = beginning.await.map_err(|_| StoreError::Closed)??;
                    let result = operation(&mut Tx::new(&mut *transaction)).await;
                    transaction.rollback().await?;
                    result
                };
                // In a box, because it is large, and all who read would be, those on SQLite too.
                tokio::time::timeout(READ_LIMIT, Box::pin(reading))
                    .await
                    .unwrap_or_else(|_| Err(StoreError::unanswered(READ_LIMIT)))
            }
        }
    }

    /// Runs `operation`, which reads a few rows, on one snapshot of the database.
    ///
    /// # Errors
    /// The operation's or the database's.
    pub async fn read_briefly<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send,
    {
        match self.writer.read_at_once(operation) {
            Ok(read) => read,
            Err(operation) => self.read(operation).await,
        }
    }

    /// Runs `operation`, which is one statement that reads a few rows: it needs no transaction to see one state of the
    /// database, which on PostgreSQL is a third of the way.
    ///
    /// # Errors
    /// The operation's or the database's.
    pub async fn query<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send,
    {
        let operation = match self.writer.read_at_once(operation) {
            Ok(read) => return read,
            Err(operation) => operation,
        };
        match &self.readers {
            Readers::Sqlite { pool, .. } => {
                alone(Tx::new(pool.acquire().await?.connection()?), operation).await
            }
            Readers::Postgres(pool) => {
                let reading =
                    async { alone(Tx::new(&mut *pool.acquire().await?), operation).await };
                // In a box, because it is large, and all who read would be, those on SQLite too.
                tokio::time::timeout(READ_LIMIT, Box::pin(reading))
                    .await
                    .unwrap_or_else(|_| Err(StoreError::unanswered(READ_LIMIT)))
            }
        }
    }

    /// Whether somebody reads a snapshot whose objects of blobs must stay.
    ///
    /// # Errors
    /// The database's, or that of its folder.
    pub async fn is_snapshot_read(&self) -> Result<bool, StoreError> {
        match &self.readers {
            Readers::Sqlite { options, .. } => snapshot::is_read(options.get_filename())
                .map_err(|error| StoreError::Database(Arc::new(error))),
            Readers::Postgres(pool) => postgres::are_objects_kept(pool).await,
        }
    }

    /// What the writer has done since the start.
    pub fn writer_stats(&self) -> &WriterStats {
        self.writer.stats()
    }

    /// Writes that wait for a transaction.
    pub fn n_writes_waiting(&self) -> usize {
        self.writer.n_waiting()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx| Box::pin(async move { tx.all("select 1", args![]).await.map(drop) })).await
    }
}

/// The fact that says by which name the database knows the place of its blobs, if others could be
/// taken for it.
pub const BLOBS_ID: &str = "blobs_id";

/// How a read begins on PostgreSQL: all its statements see the same. On SQLite they do anyway.
const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// Makes a snapshot begin: on PostgreSQL, as on SQLite, it does with its first statement.
///
/// # Errors
/// The database's.
pub async fn begin(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.first("select key from meta limit 1", args![]).await.map(drop)
}

/// A single fact about the database.
///
/// # Errors
/// The database's.
pub async fn fact(tx: &mut Tx<'_>, key: &'static str) -> Result<Option<String>, StoreError> {
    let row = tx.first("select value from meta where key = $1", args![key]).await?;
    row.map(|row| row.text("value")).transpose()
}

/// Writes a fact down, unless it is known. Gives it as it is known.
///
/// # Errors
/// The database's.
pub async fn settle(
    tx: &mut Tx<'_>,
    key: &'static str,
    value: String,
) -> Result<String, StoreError> {
    if let Some(known) = fact(tx, key).await? {
        return Ok(known);
    }
    tx.execute("insert into meta (key, value) values ($1, $2)", args![key, value.as_str()]).await?;
    Ok(value)
}

/// Runs an operation of one statement.
async fn alone<T, F>(mut tx: Tx<'_>, operation: F) -> Result<T, StoreError>
where
    F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>>,
{
    let result = operation(&mut tx).await;
    debug_assert!(tx.n_statements() <= 1, "several statements need a transaction");
    result
}

/// The largest time that was stored, if any was.
///
/// # Errors
/// The database's.
pub async fn stored_time(tx: &mut Tx<'_>) -> Result<Option<Millis>, StoreError> {
    let row = tx.first("select value from meta where key = 'clock'", args![]).await?;
    row.map(|row| row.id("value")).transpose()
}

/// Stores the time, so that no clock goes back behind it. Gives the largest that was stored, which
/// on a database of several servers may be another one's.
///
/// # Errors
/// The database's.
pub async fn store_time(tx: &mut Tx<'_>, now: Millis) -> Result<Millis, StoreError> {
    let stored = stored_time(tx).await?;
    if let Some(stored) = stored.filter(|stored| *stored >= now) {
        return Ok(stored);
    }
    tx.execute(
        "insert into meta (key, value) values ('clock', $1)
         on conflict (key) do update set value = excluded.value",
        args![now.to_string()],
    )
    .await?;
    Ok(now)
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
