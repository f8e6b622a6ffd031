//! Why a database does not do as asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why the database did not do as asked. Its text is for the log, never for a client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be opened.
    #[error("{0}")]
    Open(String),
    /// It failed.
    #[error("database: {0}")]
    Database(Arc<dyn std::error::Error + Send + Sync>),
    /// It cannot be reached, or not now. Whether a transaction that was being committed was is not
    /// known.
    #[error("the database cannot be reached: {0}")]
    Unavailable(Arc<str>),
    /// There is no room left for it on its disk.
    #[error("the database has no room left: {0}")]
    Full(Arc<str>),
    /// It holds what this program cannot have written.
    #[error("database: {column} holds {value}, which this program cannot have written")]
    Corrupt {
        /// Where.
        column: &'static str,
        /// What.
        value: String,
    },
    /// Its file is not what SQLite wrote.
    #[error(
        "the database {} is damaged ({}): restore a backup, as docs/operations.md tells",
        file.display(), damages.join("; ")
    )]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What SQLite finds wrong with it.
        damages: Vec<String>,
    },
    /// What stands beside it, in blobs, cannot be read now.
    #[error("{0}")]
    Blobs(Arc<str>),
    /// An operation panicked, which is a bug; it was undone.
    #[error(
        "an operation on the database panicked: this is a bug of farrow, and the log says where"
    )]
    Panicked,
    /// The server is stopping.
    #[error("the database is closed: the server is stopping")]
    Closed,
}

impl StoreError {
    pub(super) fn corrupt(column: &'static str, value: &str) -> Self {
        Self::Corrupt { column, value: value.to_owned() }
    }

    pub(super) fn unanswered(limit: Duration) -> Self {
        Self::Unavailable(format!("it did not answer for {} s", limit.as_secs()).into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Protocol, Tls};
        match &error {
            Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed => {
                Self::Unavailable(error.to_string().into())
            }
            Database(of) if of.code().is_some_and(|code| is_full(&code)) => {
                Self::Full(of.message().into())
            }
            Database(of) if of.code().is_some_and(|code| is_away(&code)) => {
                Self::Unavailable(of.message().into())
            }
            _ => Self::Database(Arc::new(error)),
        }
    }
}

/// SQLite's SQLITE_FULL, PostgreSQL's disk_full.
fn is_full(code: &str) -> bool {
    ["13", "53100"].contains(&code)
}

/// PostgreSQL's classes of codes for lost connections (08), operators who stop it (57P), what it has
/// too little of (53), and transactions that it ended because they were silent.
fn is_away(code: &str) -> bool {
    code.len() == 5
        && (["08", "53", "57P"].iter().any(|class| code.starts_with(class)) || code == "25P03")
}
