//! What is PostgreSQL's alone: how it is connected to, its time, and the notes that servers of one
//! database send each other.

use std::io;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::db::Tx;
use super::{StoreError, migrations};
use crate::clock::Millis;

/// Connections that read.
const READERS: u32 = 8;

/// For how long a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long a transaction may be silent before the database ends it. A batch sends one statement
/// after the other, so that silence means that its server was stopped or cut off; it holds the lock
/// for which all others wait.
const SILENCE: &str = "5s";

/// The channel on which servers say that something has changed.
const CHANNEL: &str = "farrow";

/// Statements that a connection keeps prepared: all there are.
const STATEMENTS: usize = 512;

/// A list of texts as rows, by the name that SQLite gives it.
const JSON_EACH: &str = "
    begin;
    select pg_advisory_xact_lock(112568717963127);
    create or replace function json_each(list text, out key bigint, out value text)
        returns setof record language sql immutable as $$
            select place - 1, item
            from json_array_elements_text(list::json) with ordinality as each (item, place)
        $$;
    commit";

/// How to connect to `url`.
///
/// # Errors
/// When it is not the address of a PostgreSQL database.
pub fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let not_one = |why: String| {
        StoreError::Open(format!(
            "--database-url is not an address such as postgres://user@host:5432/farrow: {why}"
        ))
    };
    // sqlx would take any scheme.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(not_one("it does not begin with postgres://".to_owned()));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| not_one(error.to_string()))?;
    Ok(options.application_name("farrow server").statement_cache_capacity(STATEMENTS).options([
        ("idle_in_transaction_session_timeout", SILENCE),
        ("client_min_messages", "warning"),
    ]))
}

/// Connects, and brings the schema up to date.
///
/// # Errors
/// When the database cannot be reached, refuses, or is newer than this program.
pub async fn open(options: &PgConnectOptions) -> Result<PgPool, StoreError> {
    // The pool would try for long, and then tell only that it did.
    let mut connection = connect(options).await?;
    match migrations::run(&mut connection).await {
        Ok(()) => migrations::sign(&mut Tx::new(&mut connection)).await?,
        Err(refused) => {
            return Err(migrations::refusal(&mut Tx::new(&mut connection), &refused).await);
        }
    }
    // Not before: a newer program's is left to it.
    sqlx::raw_sql(JSON_EACH).execute(&mut connection).await.map_err(|error| {
        StoreError::Open(format!(
            "{}; to make a function there: grant create on schema public to {}",
            unusable(options, &error),
            options.get_username()
        ))
    })?;
    let _ = connection.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(options.clone()))
}

/// One connection.
///
/// # Errors
/// When the database cannot be reached, or refuses.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let connected = tokio::time::timeout(PATIENCE, options.connect()).await;
    // A host that drops packets does not refuse.
    let connected =
        connected.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())));
    connected.map_err(|error| StoreError::Open(unreachable(options, &error)))
}

fn unreachable(options: &PgConnectOptions, error: &sqlx::Error) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    format!(
        "{}; is it running, does the database exist (createdb {database}), and may {} use it?",
        unusable(options, error),
        options.get_username()
    )
}

fn unusable(options: &PgConnectOptions, error: &sqlx::Error) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or(options.get_username());
    format!("the PostgreSQL database {database} on {host}:{port} cannot be used: {error}")
}

/// The database's time.
///
/// # Errors
/// The database's.
pub async fn time(pool: &PgPool) -> Result<Millis, StoreError> {
    let row = sqlx::query("select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)")
        .fetch_one(pool)
        .await?;
    Ok(row.try_get(0)?)
}

/// Lets all objects of blobs stay that this session's reads may refer to, until it ends.
///
/// # Errors
/// The database's.
pub async fn keep_objects(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("select pg_advisory_lock_shared(112568717963128)").execute(connection).await?;
    Ok(())
}

/// Whether some session lets objects of blobs stay.
///
/// # Errors
/// The database's.
pub async fn are_objects_kept(pool: &PgPool) -> Result<bool, StoreError> {
    // The lock is that of this one statement.
    let row =
        sqlx::query("select pg_try_advisory_xact_lock(112568717963128)").fetch_one(pool).await?;
    Ok(!row.try_get::<bool, _>(0)?)
}

/// Tells all servers of the database, this one included, outside any transaction: inside, it takes
/// a lock that cut commits from 5.5 to 1.3 thousand a second.
///
/// # Errors
/// The database's.
pub async fn notify(pool: &PgPool, note: &str) -> Result<(), StoreError> {
    sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(note).execute(pool).await?;
    Ok(())
}

/// What other servers say.
pub struct Notes(PgListener);

impl Notes {
    /// Begins to listen.
    ///
    /// # Errors
    /// The database's.
    pub async fn listen(pool: &PgPool) -> Result<Self, StoreError> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Self(listener))
    }

    /// The next note. `None`: the connection was lost and made anew, and notes with it.
    ///
    /// # Errors
    /// The database's.
    pub async fn next(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_recv().await?.map(|note| note.payload().to_owned()))
    }
}
