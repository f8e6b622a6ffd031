//! The one writer of a server: operations are collected, run in one transaction, and answered when
//! it is committed.
//!
//! Group commit makes the cost of a flush one per batch instead of one per operation (measured on
//! SQLite: 6 to 9 thousand claim-and-complete pairs a second, against 2 thousand with eight
//! unbatched writers; on PostgreSQL 9 thousand in batches of ten against 1.4 thousand one by one).
//! Each operation runs in a savepoint of its own, so one that fails undoes itself and nothing else.
//!
//! On PostgreSQL several servers have a writer each. A batch begins by taking one lock that all of
//! them share, so that there, too, one transaction writes after the other: whatever an operation
//! reads stays so until it commits, nothing deadlocks, and every operation is written once for both
//! databases. A server that is stopped in mid-batch is cut off by the database after a few seconds
//! of silence (`postgres::SILENCE`).

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot};

use super::db::Tx;
use super::{StoreError, sqlite};
use crate::clock::Clock;
use crate::metrics::Counter;

/// Operations that one transaction takes at the most: the first answered must not wait long for
/// the last.
const MAX_BATCH: usize = 128;

/// Operations that may wait before callers do.
const QUEUE: usize = 4096;

/// For how long an operation is looked for that is about to come: less than a flush takes.
const FOLLOWS: Duration = Duration::from_micros(100);

/// For how long a batch may take on a database that is somewhere else, which may have gone.
const LIMIT: Duration = Duration::from_secs(30);

/// What the writer has done since it was started.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Transactions that were committed.
    pub commits: Counter,
    /// Transactions that were not.
    pub failures: Counter,
    /// Operations in either.
    pub operations: Counter,
}

/// Sends operations to the writer task.
#[derive(Clone)]
pub struct Writer {
    operations: mpsc::Sender<Box<dyn Operation>>,
    stats: Arc<WriterStats>,
}

impl Writer {
    /// Opens the writer's connection and starts its task.
    ///
    /// # Errors
    /// When the database cannot be opened.
    pub async fn start(place: Place) -> Result<Self, StoreError> {
        let session = place.connect().await?;
        let (operations, receiver) = mpsc::channel(QUEUE);
        let stats = Arc::<WriterStats>::default();
        let is_file = matches!(place, Place::Sqlite(_));
        let running = run(place, session, receiver, Arc::clone(&stats));
        if is_file {
            // Statements, and the flush of each commit, keep the thread on which they run.
            let runtime = tokio::runtime::Handle::current();
            thread::Builder::new()
                .name("writer".to_owned())
                .spawn(move || runtime.block_on(running))
                .map_err(|e| StoreError::Open(format!("the writer has no thread: {e}")))?;
        } else {
            tokio::spawn(running);
        }
        Ok(Self { operations, stats })
    }

    /// What it has done.
    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// Operations that wait for a transaction.
    pub fn n_waiting(&self) -> usize {
        self.operations.max_capacity() - self.operations.capacity()
    }

    /// Puts `operation` into the queue: it is run before whatever is put in from now on. What is
    /// returned answers once it is on disk. `is_followed`: the caller is about to have another one put in
    /// that is to be on disk with it.
    ///
    /// # Errors
    /// The operation's, the commit's, or that the store is closed.
    pub async fn enqueue<T, F>(
        &self,
        is_followed: bool,
        operation: F,
    ) -> Result<impl Future<Output = Result<T, StoreError>> + use<T, F>, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let operation = Box::new(Asked { operation, is_followed, answer });
        self.operations.send(operation).await.map_err(|_| StoreError::Closed)?;
        // It was begun, and cut off with its connection.
        let cut_off = |_| StoreError::Unavailable("a write was cut off".into());
        Ok(async move { answered.await.map_err(cut_off)? })
    }
}

/// An operation that somebody waits for.
trait Operation: Send {
    /// Runs it. Says whether it succeeded, and how to answer its caller after the commit.
    fn run<'a>(self: Box<Self>, tx: &'a mut Tx<'_>) -> BoxFuture<'a, (bool, Finish)>;

    /// Answers its caller that it was not run.
    fn refuse(self: Box<Self>, error: StoreError);

    /// Whether another one is about to come that is to be committed with it.
    fn is_followed(&self) -> bool;
}

/// Told whether the transaction was committed; answers the caller.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Asked<T, F> {
    operation: F,
    is_followed: bool,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

// A caller that has gone needs no answer.
impl<T, F> Operation for Asked<T, F>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    fn run<'a>(self: Box<Self>, tx: &'a mut Tx<'_>) -> BoxFuture<'a, (bool, Finish)> {
        let Self { operation, answer, .. } = *self;
        let running = AssertUnwindSafe(operation(tx)).catch_unwind();
        Box::pin(async move {
            // A panic is a bug of one operation: it is undone like a failure, and the writer goes on.
            let result = running.await.unwrap_or(Err(StoreError::Panicked));
            let succeeded = result.is_ok();
            let finish: Finish = Box::new(move |committed| {
                let _ = answer.send(committed.and(result));
            });
            (succeeded, finish)
        })
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.answer.send(Err(error));
    }

    fn is_followed(&self) -> bool {
        self.is_followed
    }
}

/// Operations that share a transaction, and what is to be told of those that were run.
#[derive(Default)]
struct Batch {
    operations: Vec<Box<dyn Operation>>,
    finishes: Vec<Finish>,
}

async fn run(
    place: Place,
    session: Session,
    mut operations: mpsc::Receiver<Box<dyn Operation>>,
    stats: Arc<WriterStats>,
) {
    let mut session = Some(session);
    let mut batch = Batch::default();
    while operations.recv_many(&mut batch.operations, MAX_BATCH).await > 0 {
        let writing = write_batch(&place, &mut session, &mut batch, &mut operations);
        let committed = place.limited(writing).await;
        stats.operations.add((batch.finishes.len() + batch.operations.len()) as u64);
        let outcome = if committed.is_ok() { &stats.commits } else { &stats.failures };
        outcome.add(1);
        if let Err(error) = &committed {
            tracing::error!(%error, "a transaction was not committed");
            session = place.after_failure(session).await;
        }
        for finish in batch.finishes.drain(..) {
            finish(committed.clone());
        }
        for operation in batch.operations.drain(..) {
            operation.refuse(committed.clone().err().unwrap_or(StoreError::Closed));
        }
    }
}

/// Runs the operations of `batch` in one transaction, and those that come meanwhile: what follows from
/// one of them, such as the leases of a job that was just submitted, is on disk with it.
async fn write_batch(
    place: &Place,
    session: &mut Option<Session>,
    batch: &mut Batch,
    coming: &mut mpsc::Receiver<Box<dyn Operation>>,
) -> Result<(), StoreError> {
    let session = place.begin(session).await?;
    // The first needs none if it is alone: then it is undone with its transaction.
    let mut needs_savepoint = batch.operations.len() > 1;
    let mut savepoint = "savepoint operation";
    let mut last_succeeded = true;
    // From behind, so that those that a broken connection leaves over can be refused.
    batch.operations.reverse();
    while let Some(operation) = batch.operations.pop() {
        if needs_savepoint {
            session.script(savepoint).await?;
        }
        let is_followed = operation.is_followed();
        let (succeeded, finish) = operation.run(&mut session.tx()).await;
        last_succeeded = succeeded;
        batch.finishes.push(finish);
        savepoint = match (needs_savepoint, last_succeeded) {
            (false, _) => "savepoint operation",
            (true, true) => "release savepoint operation; savepoint operation",
            (true, false) => {
                "rollback to savepoint operation; release savepoint operation; savepoint operation"
            }
        };
        let may_go_on = needs_savepoint || last_succeeded;
        if batch.operations.is_empty()
            && may_go_on
            && batch.finishes.len() < MAX_BATCH
            && let Some(next) = place.next(coming, is_followed)
        {
            batch.operations.push(next);
            needs_savepoint = true;
        }
    }
    match (needs_savepoint, last_succeeded) {
        (false, false) => session.script("rollback").await,
        (true, false) => session.script("rollback to savepoint operation; commit").await,
        _ => session.script("commit").await,
    }
}

/// Where the writer writes.
pub enum Place {
    /// A file of which this process is the only writer.
    Sqlite(PathBuf),
    /// A database on which other servers write as well.
    Postgres(Box<PgConnectOptions>),
}

impl Place {
    async fn connect(&self) -> Result<Session, StoreError> {
        Ok(match self {
            Self::Sqlite(file) => Session::Sqlite(sqlite::open(file)?),
            Self::Postgres(options) => Session::Postgres(options.connect().await?),
        })
    }

    /// Begins a transaction. A database that was restarted since is connected to anew.
    async fn begin<'a>(
        &self,
        session: &'a mut Option<Session>,
    ) -> Result<&'a mut Session, StoreError> {
        let begun = match session {
            Some(session) => session.begin().await,
            None => Err(StoreError::Closed),
        };
        if let (Err(error), Self::Sqlite(_)) = (&begun, self) {
            return Err(error.clone());
        }
        if begun.is_err() {
            *session = None;
            session.insert(self.connect().await?).begin().await?;
        }
        session.as_mut().ok_or(StoreError::Closed)
    }

    /// The next operation, if it is there. On SQLite, which has a thread for this, it is looked for a
    /// moment longer if it is about to come: less than the flush takes that its own commit would need.
    fn next(
        &self,
        coming: &mut mpsc::Receiver<Box<dyn Operation>>,
        is_followed: bool,
    ) -> Option<Box<dyn Operation>> {
        let began = Clock::start();
        loop {
            let next = coming.try_recv().ok();
            let is_worth_it = is_followed && matches!(self, Self::Sqlite(_));
            if next.is_some() || !is_worth_it || began.uptime() > FOLLOWS {
                return next;
            }
            thread::yield_now();
        }
    }

    /// The session after a batch that was not committed. A connection to another process may be
    /// broken, or still be busy with the batch.
    async fn after_failure(&self, session: Option<Session>) -> Option<Session> {
        match session {
            Some(Session::Sqlite(connection)) => {
                let _ = connection.execute_batch("rollback");
                Some(Session::Sqlite(connection))
            }
            Some(Session::Postgres(connection)) => {
                // Its transaction, and the lock that it holds, end when it is closed.
                let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
                None
            }
            None => None,
        }
    }

    async fn limited(
        &self,
        batch: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => batch.await,
            Self::Postgres(_) => tokio::time::timeout(LIMIT, batch)
                .await
                .unwrap_or_else(|_| Err(StoreError::unanswered(LIMIT))),
        }
    }
}

/// A connection that writes.
enum Session {
    Sqlite(rusqlite::Connection),
    Postgres(PgConnection),
}

impl Session {
    fn tx(&mut self) -> Tx<'_> {
        match self {
            Self::Sqlite(connection) => Tx::new(connection),
            Self::Postgres(connection) => Tx::new(connection),
        }
    }

    /// The lock is taken by a statement of its own: those behind it see all that was committed
    /// before it was granted.
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.script(match self {
            Self::Sqlite(_) => "begin immediate",
            // The key is "farrow" in ASCII.
            Self::Postgres(_) => {
                "begin isolation level read committed; select pg_advisory_xact_lock(112568717963127)"
            },
        })
        .await
    }

    /// Runs statements that have no arguments and give nothing.
    async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql)?,
            Self::Postgres(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop)?,
        }
        Ok(())
    }
}
