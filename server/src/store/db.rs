//! The thin layer between our SQL and sqlx: arguments in, rows out.
//!
//! Every statement is a `&'static str` with `$1`, `$2`, … and stands once, for both databases. The
//! types below are their common ground: text, bigint, boolean, bytea. `json_each(list)`, which only
//! SQLite has, is made for PostgreSQL at its start (see `postgres.rs`).
//!
//! A statement that is run in every round, report or read of a value ends in `limit $n + 0`: for a bare
//! `limit $n` SQLite plans the statement anew whenever a value is bound, which takes longer than running it.

use rusqlite::types::FromSql;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Postgres, Row as _, Sqlite};

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
    Direct(&'c mut rusqlite::Connection),
    /// To SQLite, through sqlx.
    Sqlite(&'c mut SqliteConnection),
    /// To PostgreSQL.
    Postgres(&'c mut PgConnection),
}

impl<'c> From<&'c mut SqliteConnection> for Connection<'c> {
    fn from(connection: &'c mut SqliteConnection) -> Self {
        Self::Sqlite(connection)
    }
}

impl<'c> From<&'c mut rusqlite::Connection> for Connection<'c> {
    fn from(connection: &'c mut rusqlite::Connection) -> Self {
        Self::Direct(connection)
    }
}

impl<'c> From<&'c mut PgConnection> for Connection<'c> {
    fn from(connection: &'c mut PgConnection) -> Self {
        Self::Postgres(connection)
    }
}

/// Runs `$method` of a bound statement on whichever connection it is.
macro_rules! on_either {
    ($tx:expr, $sql:expr, $args:expr, |$direct:ident| $run_direct:expr,
     |$query:ident, $connection:ident| $run:expr) => {
        match &mut $tx.connection {
            Connection::Direct($direct) => $run_direct,
            Connection::Sqlite(connection) => {
                let ($query, $connection) = (through_sqlx($sql, $args), &mut **connection);
                $run
            }
            Connection::Postgres(connection) => {
                let ($query, $connection) = (postgres($sql, $args), &mut **connection);
                $run
            }
        }
    };
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
        let n_changed = on_either!(
            self,
            sql,
            args,
            |direct| sqlite::execute(direct, sql, args)?,
            |query, connection| query.execute(connection).await?.rows_affected()
        );
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
        let rows: Vec<Row> = on_either!(
            self,
            sql,
            args,
            |direct| {
                let rows = sqlite::rows(direct, sql, args, usize::MAX)?;
                rows.into_iter().map(Row::Direct).collect()
            },
            |query, connection| {
                query.fetch_all(connection).await?.into_iter().map(Row::from).collect()
            }
        );
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
        let row = on_either!(
            self,
            sql,
            args,
            |direct| sqlite::rows(direct, sql, args, 1)?.pop().map(Row::Direct),
            |query, connection| query.fetch_optional(connection).await?.map(Row::from)
        );
        #[cfg(test)]
        {
            self.cost += 1 + usize::from(row.is_some());
        }
        Ok(row)
    }
}

/// Binds arguments in order; the databases' queries are types of their own.
macro_rules! bind {
    ($sql:expr, $args:expr) => {
        $args.into_iter().fold(sqlx::query($sql), |query, arg| match arg {
            Arg::Int(n) => query.bind(n),
            Arg::Text(text) => query.bind(text),
            Arg::Bool(flag) => query.bind(flag),
            Arg::Bytes(bytes) => query.bind(bytes),
        })
    };
}

fn through_sqlx(
    sql: &'static str,
    args: Vec<Arg>,
) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
    bind!(sql, args)
}

fn postgres(
    sql: &'static str,
    args: Vec<Arg>,
) -> sqlx::query::Query<'static, Postgres, PgArguments> {
    bind!(sql, args)
}

/// A row of an answer; columns are read by name.
pub enum Row {
    /// Of SQLite.
    Direct(sqlite::Row),
    /// Of SQLite, through sqlx.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

impl From<SqliteRow> for Row {
    fn from(row: SqliteRow) -> Self {
        Self::Sqlite(row)
    }
}

impl From<PgRow> for Row {
    fn from(row: PgRow) -> Self {
        Self::Postgres(row)
    }
}

/// Reads a column of either row.
macro_rules! get {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Direct(row) => FromSql::column_result(row.get($column)?).map_err(|e| StoreError::corrupt($column, &e.to_string()))?,
            Row::Sqlite(row) => row.try_get($column)?,
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
