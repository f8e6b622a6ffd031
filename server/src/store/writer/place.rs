//! Where a writer writes, and its connection there.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::store::db::Tx;
use crate::store::{StoreError, sqlite};

/// For how long a batch may take on a database that is somewhere else, which may have gone.
const LIMIT: Duration = Duration::from_secs(30);

/// Where the writer writes.
pub enum Place {
    /// A file of which this process is the only writer.
    Sqlite(PathBuf),
    /// A database on which other servers write as well.
    Postgres(Box<PgConnectOptions>),
}

impl Place {
    /// A connection to it.
    ///
    /// # Errors
    /// The database's.
    pub async fn connect(&self) -> Result<Session, StoreError> {
        Ok(match self {
            Self::Sqlite(file) => {
                Session::Sqlite { connection: sqlite::open(file)?, is_flushing: true }
            }
            Self::Postgres(options) => Session::Postgres(options.connect().await?),
        })
    }

    /// Whether it is a file, on which operations wait for nothing but the disk.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Begins a transaction, whose commit returns once it is on disk, or before if that `is_flushed` later. A database
    /// that was restarted since is connected to anew.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin<'a>(
        &self,
        session: &'a mut Option<Session>,
        is_flushed: bool,
    ) -> Result<&'a mut Session, StoreError> {
        let begun = match session {
            Some(session) => session.begin(is_flushed).await,
            None => Err(StoreError::Closed),
        };
        if let (Err(error), Self::Sqlite(_)) = (&begun, self) {
            return Err(error.clone());
        }
        if begun.is_err() {
            *session = None;
            session.insert(self.connect().await?).begin(is_flushed).await?;
        }
        session.as_mut().ok_or(StoreError::Closed)
    }

    /// The session after a batch that was not committed. A connection to another process may be
    /// broken, or still be busy with the batch.
    pub async fn after_failure(&self, session: Option<Session>) -> Option<Session> {
        match session {
            Some(Session::Sqlite { connection, is_flushing }) => {
                let _ = connection.execute_batch("rollback");
                Some(Session::Sqlite { connection, is_flushing })
            }
            Some(Session::Postgres(connection)) => {
                // Its transaction, and the lock that it holds, end when it is closed.
                let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
                None
            }
            None => None,
        }
    }

    /// Runs `batch` for as long as one may take here.
    ///
    /// # Errors
    /// The batch's, or that it took too long.
    pub async fn limited<T>(
        &self,
        batch: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(_) => batch.await,
            Self::Postgres(_) => tokio::time::timeout(LIMIT, batch)
                .await
                .unwrap_or_else(|_| Err(StoreError::unanswered(LIMIT))),
        }
    }
}

/// A connection that writes.
pub enum Session {
    /// To a file.
    Sqlite {
        /// The connection.
        connection: rusqlite::Connection,
        /// Whether its commits return once they are on disk.
        is_flushing: bool,
    },
    /// To another process.
    Postgres(PgConnection),
}

impl Session {
    /// The transaction that was begun.
    pub fn tx(&mut self) -> Tx<'_> {
        match self {
            Self::Sqlite { connection, .. } => Tx::new(connection),
            Self::Postgres(connection) => Tx::new(connection),
        }
    }

    /// Rows that were ever changed by it, as far as that is known.
    pub fn n_changes(&self) -> u64 {
        match self {
            Self::Sqlite { connection, .. } => connection.total_changes(),
            Self::Postgres(_) => 0,
        }
    }

    /// On PostgreSQL the lock is taken by a statement of its own: those behind it see all that was committed
    /// before it was granted.
    async fn begin(&mut self, is_flushed: bool) -> Result<(), StoreError> {
        if let Self::Sqlite { connection, is_flushing } = self
            && *is_flushing != is_flushed
        {
            connection.execute_batch(if is_flushed {
                "pragma synchronous = full"
            } else {
                "pragma synchronous = normal"
            })?;
            *is_flushing = is_flushed;
        }
        self.script(match self {
            Self::Sqlite { .. } => "begin immediate",
            // The key is "farrow" in ASCII.
            Self::Postgres(_) => {
                "begin isolation level read committed; select pg_advisory_xact_lock(112568717963127)"
            }
        })
        .await
    }

    /// Undoes all of the transaction, and begins another.
    ///
    /// # Errors
    /// The database's.
    pub async fn begin_again(&mut self, is_flushed: bool) -> Result<(), StoreError> {
        self.script("rollback").await?;
        self.begin(is_flushed).await
    }

    /// Runs statements that have no arguments and give nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn script(&mut self, sql: &'static str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite { connection, .. } => sqlite::script(connection, sql)?,
            Self::Postgres(connection) => sqlx::raw_sql(sql).execute(connection).await.map(drop)?,
        }
        Ok(())
    }
}
