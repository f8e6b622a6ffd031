//! Room on disk, given back. Only SQLite needs this: PostgreSQL's autovacuum does it there.
//!
//! Pages that deleted rows leave stand in the file's free list. With `auto_vacuum = incremental` a
//! few at a time are cut off its end, between other writes. The log beside it (`-wal`) is used anew
//! from its start when all of it stands in the file, and cut to [`KEPT_LOG`] then; while readers
//! never let go, it is cut by [`Store::cut`].

use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::db::{Tx, args};
use super::{Store, StoreError, lock};

/// Bytes up to which an earlier database is written anew at the start of a server, which takes a
/// second or two.
const SMALL: u64 = 256 << 20;

/// Bytes of the log that are kept for what is written next.
pub(super) const KEPT_LOG: u64 = 32 << 20;

/// Pages, of 4 KiB, of the log from which all of it is written into the file: half of what is kept. SQLite's own 1000
/// are those of thirty calls one after the other, most of which change the same pages: these were written as often.
pub(super) const LOG_PAGES: u64 = KEPT_LOG / 2 / 4096;

/// Bytes of the log from which readers are waited for, and writes with them.
const LONG_LOG: u64 = 4 * KEPT_LOG;

/// How long they are.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Free pages that are left for what is written next.
const SPARE_PAGES: u64 = 256;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Settings under which a new database can give room back. For the connection that makes it: the
/// file remembers it, and each connection that is told so waits for whoever writes.
pub(super) fn reclaiming(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options.auto_vacuum(SqliteAutoVacuum::Incremental)
}

/// Settings under which the log is cut when it can be.
pub(super) fn cutting(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options.pragma("journal_size_limit", KEPT_LOG.to_string())
}

/// Writes a database of an earlier version anew, so that it can give room back; if that takes long,
/// says how it is done.
pub(super) async fn reclaim_from_now_on(
    connection: &mut SqliteConnection,
) -> Result<(), StoreError> {
    if number(connection, "pragma auto_vacuum").await? != 0 {
        return Ok(());
    }
    let bytes = size(connection).await?;
    if bytes > SMALL {
        tracing::warn!(
            bytes,
            "the database does not give room back when jobs are deleted: stop the server and run \
             `farrow server compact` once"
        );
        return Ok(());
    }
    if let Err(error) = sqlx::query("vacuum").execute(connection).await {
        tracing::warn!(%error, "the database could not be written anew and gives no room back");
    }
    Ok(())
}

async fn size(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let pages = number(connection, "pragma page_count").await?;
    Ok(pages * number(connection, "pragma page_size").await?)
}

async fn number(
    connection: &mut SqliteConnection,
    pragma: &'static str,
) -> Result<u64, StoreError> {
    let row = sqlx::query(pragma).fetch_one(connection).await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0))
}

impl Store {
    /// Cuts a few free pages off the end of the file. Says whether there are more.
    ///
    /// # Errors
    /// The database's.
    pub async fn shrink(&self) -> Result<bool, StoreError> {
        if self.file().is_none() || self.free_pages().await? <= SPARE_PAGES {
            return Ok(false);
        }
        self.write(|tx| {
            Box::pin(async move {
                // A millisecond or two.
                tx.execute("pragma incremental_vacuum(128)", args![]).await
            })
        })
        .await?;
        Ok(self.free_pages().await? > SPARE_PAGES && self.reclaims().await?)
    }

    async fn free_pages(&self) -> Result<u64, StoreError> {
        self.read(|tx| {
            Box::pin(async move { pragma(tx, "pragma freelist_count", "freelist_count").await })
        })
        .await
    }

    async fn reclaims(&self) -> Result<bool, StoreError> {
        let mode = self
            .read(|tx| {
                Box::pin(async move { pragma(tx, "pragma auto_vacuum", "auto_vacuum").await })
            })
            .await?;
        Ok(mode == 2)
    }

    /// Writes what stands in the log into the file and cuts both, if the log has grown beyond what is
    /// kept of it or the file can be shorter: it is only cut when all of the log stands in it. A long
    /// log is worth waiting a moment for readers, in which nothing is written.
    ///
    /// # Errors
    /// The database's.
    pub async fn cut(&self) -> Result<(), StoreError> {
        let Some(options) = self.file() else { return Ok(()) };
        let (file, log) =
            (length(options.get_filename()), length(&beside(options.get_filename(), "-wal")));
        if log <= KEPT_LOG && file <= self.bytes().await? + SPARE_PAGES * PAGE {
            return Ok(());
        }
        let patience = if log > LONG_LOG { PATIENCE } else { std::time::Duration::ZERO };
        // Who writes at once must not wait for this on a thread that others need.
        let _nobody_writes = self.writer.held_up().await;
        // Not one of the pool's: it would keep this patience.
        let mut connection = options.clone().busy_timeout(patience).connect().await?;
        sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// Bytes that the file has when all of the log stands in it.
    async fn bytes(&self) -> Result<u64, StoreError> {
        self.read(|tx| {
            Box::pin(async move {
                let pages = pragma(tx, "pragma page_count", "page_count").await?;
                Ok(pages * pragma(tx, "pragma page_size", "page_size").await?)
            })
        })
        .await
    }
}

async fn pragma(
    tx: &mut Tx<'_>,
    sql: &'static str,
    column: &'static str,
) -> Result<u64, StoreError> {
    tx.first(sql, args![]).await?.map_or(Ok(0), |row| row.count(column))
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn length(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// What writing a database anew came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the file before.
    pub before: u64,
    /// And after.
    pub after: u64,
}

/// Writes the database in `folder` anew, without what deleted rows have left, and so that it gives
/// room back from now on. No server may run on it.
///
/// # Errors
/// When there is none, a server runs on it, or the disk has no room for a second one.
pub async fn compact(folder: &Path) -> Result<Compacted, StoreError> {
    let file = folder.join(super::FILE);
    super::snapshot::must_exist(&file)?;
    let _lock = lock(folder)?;
    let before = length(&file) + length(&beside(&file, "-wal"));
    let mut connection = reclaiming(SqliteConnectOptions::new().filename(&file)).connect().await?;
    sqlx::query("vacuum").execute(&mut connection).await?;
    sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut connection).await?;
    connection.close().await?;
    Ok(Compacted { before, after: length(&file) })
}
