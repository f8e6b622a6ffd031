//! What is SQLite's alone: connections whose statements run where they are called.
//!
//! sqlx gives each connection to SQLite a thread of its own. Every statement goes there and back, and
//! wakes two threads for what takes SQLite some microseconds; a single call is some forty statements. So
//! writes run on one thread of ours, a batch at a time, and reads where they are asked for: all that
//! a read takes from the disk are pages, of a database whose large payloads stand elsewhere. sqlx makes
//! the file, migrates it and cuts its log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::{FromSql, Null, Value};
use rusqlite::{Connection, OpenFlags, Statement, ffi};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::db::Arg;
use super::{StoreError, space};

/// For how long a statement waits for whoever keeps it from the file.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS: usize = 512;

/// Opens the database at `file`, which is there.
///
/// # Errors
/// SQLite's.
pub fn open(file: &Path) -> Result<Connection, StoreError> {
    let connection = prepared(Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?)?;
    connection.execute_batch(&format!(
        "pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;
         pragma journal_size_limit = {}; pragma wal_autocheckpoint = {}",
        space::KEPT_LOG,
        space::LOG_PAGES,
    ))?;
    Ok(connection)
}

/// Opens the database at `file` to read it only, whoever else uses it.
///
/// # Errors
/// SQLite's.
pub fn open_to_read(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    prepared(Connection::open_with_flags(file, flags)?)
}

/// A new database in memory.
///
/// # Errors
/// SQLite's.
#[cfg(test)]
pub fn in_memory() -> Result<Connection, StoreError> {
    prepared(Connection::open_in_memory()?)
}

fn prepared(connection: Connection) -> Result<Connection, StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.execute_batch("pragma temp_store = memory")?;
    Ok(connection)
}

/// Runs statements that have no arguments and give nothing. One by itself is kept ready: to make it so takes longer than
/// to begin a transaction.
///
/// # Errors
/// SQLite's.
pub fn script(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    if sql.contains(';') {
        connection.execute_batch(sql)?;
    } else {
        connection.prepare_cached(sql)?.raw_execute()?;
    }
    Ok(())
}

/// A row of an answer.
#[derive(Clone, Debug)]
pub struct Row {
    names: Arc<[Box<str>]>,
    values: Vec<Value>,
}

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// That there is none of this name, or that it holds something else.
    pub fn get<T: FromSql>(&self, column: &'static str) -> Result<T, StoreError> {
        let at = self.names.iter().position(|name| **name == *column);
        let value = at.and_then(|at| self.values.get(at));
        let value = value.ok_or_else(|| StoreError::corrupt(column, "no such column"))?;
        T::column_result(value.into()).map_err(|e| StoreError::corrupt(column, &e.to_string()))
    }
}

/// Runs a statement and says how many rows it changed.
///
/// # Errors
/// SQLite's.
pub fn execute(
    connection: &mut Connection,
    sql: &str,
    args: Vec<Arg>,
) -> Result<u64, rusqlite::Error> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, args)?;
    let mut rows = statement.raw_query();
    while rows.next()?.is_some() {}
    drop(rows);
    let is_reading = statement.readonly();
    drop(statement);
    Ok(if is_reading { 0 } else { connection.changes() })
}

/// Reads rows, at most so many.
///
/// # Errors
/// SQLite's.
pub fn rows(
    connection: &mut Connection,
    sql: &str,
    args: Vec<Arg>,
    limit: usize,
) -> Result<Vec<Row>, rusqlite::Error> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, args)?;
    let mut found = statement.raw_query();
    let mut rows: Vec<Row> = Vec::new();
    while rows.len() < limit
        && let Some(row) = found.next()?
    {
        // Named once, and not where nothing is found, which is the answer to most questions.
        let names = rows.first().map_or_else(|| names_of(row), |first| Arc::clone(&first.names));
        let values: Result<Vec<Value>, _> = (0..names.len()).map(|i| row.get(i)).collect();
        rows.push(Row { names, values: values? });
    }
    Ok(rows)
}

/// The columns' names.
fn names_of(row: &rusqlite::Row<'_>) -> Arc<[Box<str>]> {
    let statement: &Statement<'_> = row.as_ref();
    statement.column_names().into_iter().map(Box::from).collect()
}

/// Binds the argument number n to every parameter `$n`.
fn bind(statement: &mut Statement<'_>, args: Vec<Arg>) -> Result<(), rusqlite::Error> {
    let mut args: Vec<Option<Arg>> = args.into_iter().map(Some).collect();
    for at in 1..=statement.parameter_count() {
        let number = statement.parameter_name(at).and_then(|name| name.get(1..)?.parse().ok());
        let arg = number.and_then(|n: usize| args.get_mut(n.wrapping_sub(1))?.take());
        match arg {
            Some(Arg::Int(n)) => statement.raw_bind_parameter(at, n)?,
            Some(Arg::Text(text)) => statement.raw_bind_parameter(at, text)?,
            Some(Arg::Bool(flag)) => statement.raw_bind_parameter(at, flag)?,
            Some(Arg::Bytes(bytes)) => statement.raw_bind_parameter(at, bytes)?,
            None => statement.raw_bind_parameter(at, Null)?,
        }
    }
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error().map(|failure| failure.code) {
            Some(ffi::ErrorCode::DiskFull) => Self::Full(error.to_string().into()),
            _ => Self::Database(Arc::new(error)),
        }
    }
}

/// Connections that read.
#[derive(Debug)]
pub struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

/// A connection that reads, until it is dropped.
pub struct Reader {
    pool: Arc<Readers>,
    connection: Option<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    /// So many connections to the database at `file`.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(file: &Path, count: u32) -> Result<Arc<Self>, StoreError> {
        let idle: Result<Vec<Connection>, StoreError> = (0..count).map(|_| open(file)).collect();
        let free = Arc::new(Semaphore::new(count as usize));
        Ok(Arc::new(Self { file: file.to_owned(), idle: Mutex::new(idle?), free }))
    }

    /// Waits for a connection. One that was thrown away is made anew.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn acquire(self: &Arc<Self>) -> Result<Reader, StoreError> {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = Some(idle.map_or_else(|| open(&self.file), Ok)?);
        Ok(Reader { pool: Arc::clone(self), connection, _permit: permit })
    }
}

impl Reader {
    /// The connection.
    ///
    /// # Errors
    /// Never, while it is held.
    pub fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // Whoever reads may leave at any moment.
        if !connection.is_autocommit() && connection.execute_batch("rollback").is_err() {
            return;
        }
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}
