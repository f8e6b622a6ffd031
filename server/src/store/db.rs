//! The thin layer between our SQL and the databases: arguments in, rows out.
//!
//! Every statement is a `&'static str` with `$1`, `$2`, … and stands once, for both databases. The
//! types below are their common ground: text, bigint, boolean, bytea. `json_each(list)`, which only
//! SQLite has, is made for PostgreSQL at its start (see `postgres.rs`).
//!
//! A statement that is run in every round, report or read of a value ends in `limit $n + 0`: for a bare
//! `limit $n` SQLite plans the statement anew whenever a value is bound, which takes longer than running it.

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{Postgres, Row as _};

use super::{StoreError, sqlite};

/// A connection inside a transaction.
pub struct Tx<'c> {
    connection: Connection<'c>,
    n_statements: usize,
    /// Statements that were run and rows that were read, for tests of what an operation costs.
    #[cfg(test)]
    pub cost: usize,
    /// A deliberate bug, for tests of those who are to find it.
    #[cfg(test)]
    pub bug: Option<crate::simulation::Bug>,
}

/// A connection to either database.
pub enum Connection<'c> {
    /// To SQLite.
    Sqlite(&'c mut rusqlite::Connection),
    /// To PostgreSQL.
    Postgres(&'c mut PgConnection),
}

impl<'c> From<&'c mut rusqlite::Connection> for Connection<'c> {
    fn from(connection: &'c mut rusqlite::Connection) -> Self {
        Self::Sqlite(connection)
    }
}

impl<'c> From<&'c mut PgConnection> for Connection<'c> {
    fn from(connection: &'c mut PgConnection) -> Self {
        Self::Postgres(connection)
    }
}

/// An argument of a statement.
#[derive(Clone, Debug)]
pub enum Arg {
    /// `bigint`.
    Int(Option<i64>),
    /// `text`.
    Text(Option<String>),
    /// `boolean`.
    Bool(bool),
    /// `bytea`.
    Bytes(Option<Vec<u8>>),
}

macro_rules! arg_from {
    ($($type:ty => |$value:ident| $arg:expr;)*) => {
        $(impl From<$type> for Arg {
            fn from($value: $type) -> Self {
                $arg
            }
        })*
    };
}

arg_from! {
    i64 => |n| Self::Int(Some(n));
    Option<i64> => |n| Self::Int(n);
    i32 => |n| Self::Int(Some(n.into()));
    u32 => |n| Self::Int(Some(n.into()));
    u64 => |n| Self::Int(Some(i64::try_from(n).unwrap_or(i64::MAX)));
    usize => |n| Self::Int(Some(i64::try_from(n).unwrap_or(i64::MAX)));
    &str => |text| Self::Text(Some(text.to_owned()));
    String => |text| Self::Text(Some(text));
    Option<String> => |text| Self::Text(text);
    protocol::JobId => |id| Self::Text(Some(id.to_string()));
    protocol::AgentId => |id| Self::Text(Some(id.to_string()));
    protocol::LeaseId => |id| Self::Text(Some(id.to_string()));
    protocol::TokenId => |id| Self::Text(Some(id.to_string()));
    bool => |flag| Self::Bool(flag);
    Vec<u8> => |bytes| Self::Bytes(Some(bytes));
    Option<Vec<u8>> => |bytes| Self::Bytes(bytes);
}

/// The arguments of a statement, in order.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::store::db::Arg::from($value)),*]
    };
}
pub(crate) use args;

impl<'c> Tx<'c> {
    /// Wraps a connection on which a transaction is open, or on which single statements are read.
    pub fn new(connection: impl Into<Connection<'c>>) -> Self {
        Self {
            connection: connection.into(),
            n_statements: 0,
            #[cfg(test)]
            cost: 0,
            #[cfg(test)]
            bug: None,
        }
    }

    /// Statements that were run.
    pub fn n_statements(&self) -> usize {
        self.n_statements
    }

    /// Runs a statement and says how many rows it changed.
    ///
    /// # Errors
    /// The database's.
    pub async fn execute(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<u64, StoreError> {
        self.n_statements += 1;
        #[cfg(test)]
        let sql = self.bug.map_or(sql, |bug| bug.rewrite(sql));
        let n_changed = match &mut self.connection {
            Connection::Sqlite(connection) => sqlite::execute(connection, sql, args)?,
            Connection::Postgres(connection) => {
                bound(sql, args).execute(&mut **connection).await?.rows_affected()
            }
        };
        #[cfg(test)]
        {
            self.cost += 1;
        }
        Ok(n_changed)
    }

    /// Reads every row.
    ///
    /// # Errors
    /// The database's.
    pub async fn all(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<Row>, StoreError> {
        self.n_statements += 1;
        #[cfg(test)]
        let sql = self.bug.map_or(sql, |bug| bug.rewrite(sql));
        let rows: Vec<Row> = match &mut self.connection {
            Connection::Sqlite(connection) => {
                let rows = sqlite::rows(connection, sql, args, usize::MAX)?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(connection) => {
                let rows = bound(sql, args).fetch_all(&mut **connection).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        };
        #[cfg(test)]
        {
            self.cost += 1 + rows.len();
        }
        Ok(rows)
    }

    /// Reads the first row, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub async fn first(
        &mut self,
        sql: &'static str,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, StoreError> {
        self.n_statements += 1;
        #[cfg(test)]
        let sql = self.bug.map_or(sql, |bug| bug.rewrite(sql));
        let row = match &mut self.connection {
            Connection::Sqlite(connection) => {
                sqlite::rows(connection, sql, args, 1)?.pop().map(Row::Sqlite)
            }
            Connection::Postgres(connection) => {
                let row = bound(sql, args).fetch_optional(&mut **connection).await?;
                row.map(Row::Postgres)
            }
        };
        #[cfg(test)]
        {
            self.cost += 1 + usize::from(row.is_some());
        }
        Ok(row)
    }
}

/// A statement of PostgreSQL, its arguments bound in order.
fn bound(sql: &'static str, args: Vec<Arg>) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    args.into_iter().fold(sqlx::query(sql), |query, arg| match arg {
        Arg::Int(n) => query.bind(n),
        Arg::Text(text) => query.bind(text),
        Arg::Bool(flag) => query.bind(flag),
        Arg::Bytes(bytes) => query.bind(bytes),
    })
}

/// A row of an answer; columns are read by name.
pub enum Row {
    /// Of SQLite.
    Sqlite(sqlite::Row),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

/// Reads a column of either row.
macro_rules! get {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Sqlite(row) => row.get($column)?,
            Row::Postgres(row) => row.try_get($column)?,
        }
    };
}

impl Row {
    /// A `bigint`.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else; so for all that follow.
    pub fn int(&self, column: &'static str) -> Result<i64, StoreError> {
        Ok(get!(self, column))
    }

    /// A `bigint` that may be null.
    pub fn maybe_int(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        Ok(get!(self, column))
    }

    /// A `bigint` that is a count, an index or a size.
    pub fn count(&self, column: &'static str) -> Result<u64, StoreError> {
        let value = self.int(column)?;
        u64::try_from(value).map_err(|_| StoreError::corrupt(column, &value.to_string()))
    }

    /// A `bigint` that is a small count.
    pub fn small(&self, column: &'static str) -> Result<u32, StoreError> {
        let value = self.int(column)?;
        u32::try_from(value).map_err(|_| StoreError::corrupt(column, &value.to_string()))
    }

    /// A `boolean`, also one that an expression gives.
    pub fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(get!(self, column))
    }

    /// A `text`.
    pub fn text(&self, column: &'static str) -> Result<String, StoreError> {
        Ok(get!(self, column))
    }

    /// A `text` that may be null.
    pub fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        Ok(get!(self, column))
    }

    /// A `bytea`.
    pub fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        Ok(get!(self, column))
    }

    /// A `bytea` that may be null.
    pub fn maybe_bytes(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(get!(self, column))
    }

    /// A `text` that holds an id.
    pub fn id<T: std::str::FromStr>(&self, column: &'static str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| StoreError::corrupt(column, &text))
    }

    /// A `text` that holds an id or is null.
    pub fn maybe_id<T: std::str::FromStr>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let Some(text) = self.maybe_text(column)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| StoreError::corrupt(column, &text))
    }

    /// A `text` that holds JSON.
    pub fn json<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|e| StoreError::corrupt(column, &e.to_string()))
    }
}

/// Writes `value` as JSON text for a `text` column.
pub fn json_text<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::corrupt("JSON", &e.to_string()))
}
