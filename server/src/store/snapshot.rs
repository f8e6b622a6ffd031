//! A database that a server may be using, read only, as it is at one moment.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::db::Tx;
use super::migrations::Refused;
use super::{FILE, SNAPSHOT, StoreError, migrations, objects, postgres, sqlite};

/// One connection to a database that is only read. It takes no lock that a server would miss.
#[derive(Debug)]
pub enum Snapshot {
    /// Of a file.
    Sqlite(rusqlite::Connection),
    /// Of a database that servers share.
    Postgres(PgConnection),
}

impl Snapshot {
    /// Opens the database in `folder`, whether a server runs on it or not.
    ///
    /// # Errors
    /// When there is none, its file is damaged, or its schema is not this program's.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let file = folder.join(FILE);
        must_exist(&file)?;
        let options = SqliteConnectOptions::new().filename(&file).read_only(true);
        let mut connection = options.connect().await?;
        let checked = migrations::check(&mut connection).await;
        connection.close().await?;
        let Err(refused) = checked else { return Ok(Self::Sqlite(sqlite::open_to_read(&file)?)) };
        let damages = match &refused {
            Refused::Failed(error) if is_damage(error) => {
                sqlite::open_to_read(&file).map_or_else(|e| vec![e.to_string()], |c| integrity(&c))
            }
            _ => Vec::new(),
        };
        Err(if damages.is_empty() {
            migrations::refusal_of_file(&file, &refused).await
        } else {
            StoreError::Damaged { file, damages }
        })
    }

    /// Connects to the PostgreSQL database at `url`, whether servers run on it or not.
    ///
    /// # Errors
    /// When it cannot be reached, or its schema is not this program's.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        // What is read is worked on between two statements, and no server waits for it.
        let options =
            postgres::options(url)?.options([("idle_in_transaction_session_timeout", "0")]);
        let mut connection = postgres::connect(&options).await?;
        if let Err(refused) = migrations::check(&mut connection).await {
            return Err(migrations::refusal(&mut Tx::new(&mut connection), &refused).await);
        }
        Ok(Self::Postgres(connection))
    }

    /// Lets the objects of all blobs stay that reads from now on may refer to, for as long as the
    /// answer and this snapshot are there. A collector never waits for that; nor does who asks, for
    /// longer than a moment.
    ///
    /// # Errors
    /// When the folder of an SQLite database cannot be written; the database's.
    pub async fn keep_objects(&mut self) -> Result<Reading, StoreError> {
        match self {
            Self::Sqlite(connection) => {
                let file = reading_file(Path::new(connection.path().unwrap_or_default()));
                let cannot = |why: String| {
                    StoreError::Open(format!("{} cannot be locked: {why}", file.display()))
                };
                let lock = File::options().create(true).append(true).open(&file);
                let lock = lock.map_err(|error| cannot(error.to_string()))?;
                let locked = Flock::lock(lock, FlockArg::LockShared);
                Ok(Reading(Some(locked.map_err(|(_, error)| cannot(error.to_string()))?)))
            }
            Self::Postgres(connection) => {
                postgres::keep_objects(connection).await?;
                Ok(Reading(None))
            }
        }
    }

    /// Runs `operation` on the database as it is now.
    ///
    /// # Errors
    /// The operation's or the database's.
    pub async fn read<T, F>(&mut self, operation: F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send,
    {
        match self {
            Self::Sqlite(connection) => {
                sqlite::script(connection, "begin")?;
                let result = operation(&mut Tx::new(&mut *connection)).await;
                sqlite::script(connection, "rollback")?;
                result
            }
            Self::Postgres(connection) => {
                let mut transaction = connection.begin_with(SNAPSHOT).await?;
                let result = operation(&mut Tx::new(&mut *transaction)).await;
                transaction.rollback().await?;
                result
            }
        }
    }

    /// Writes an SQLite database as it is now, without what deleted rows have left, to a new file.
    ///
    /// # Errors
    /// When the file cannot be written, or it is another database.
    pub fn copy_to(&mut self, file: &Path) -> Result<(), StoreError> {
        let Self::Sqlite(connection) = self else {
            return Err(StoreError::Open("pg_dump backs up a PostgreSQL database".to_owned()));
        };
        let name = file.to_str().ok_or_else(|| {
            StoreError::Open(format!("{} cannot be written: its name is not UTF-8", file.display()))
        })?;
        connection.execute("vacuum into $1", [name])?;
        Ok(())
    }

    /// What SQLite itself finds wrong with its file. PostgreSQL has pg_amcheck for that.
    pub fn integrity(&mut self) -> Vec<String> {
        match self {
            Self::Sqlite(connection) => integrity(connection),
            Self::Postgres(_) => Vec::new(),
        }
    }
}

/// A snapshot is being read whose objects must stay; on PostgreSQL its session says so.
#[derive(Debug)]
pub struct Reading(#[expect(dead_code, reason = "it is held, not used")] Option<Flock<File>>);

/// The file that is locked while a snapshot of the SQLite database `file` is read.
fn reading_file(file: &Path) -> PathBuf {
    file.with_file_name("farrow.reading")
}

/// Whether a snapshot of the SQLite database `file` is being read whose objects must stay.
pub(super) fn is_read(file: &Path) -> io::Result<bool> {
    let lock = File::options().create(true).append(true).open(reading_file(file))?;
    match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, error)) => Err(error.into()),
    }
}

/// Forgets that the blobs of the SQLite database `file` are in a bucket: they were copied to a folder
/// beside it.
///
/// # Errors
/// When the file cannot be written.
pub async fn leave_bucket(file: &Path) -> Result<(), StoreError> {
    let mut connection = sqlite::open(file)?;
    sqlite::script(&connection, "begin immediate")?;
    objects::clear(&mut Tx::new(&mut connection)).await?;
    sqlite::script(&connection, "commit")?;
    Ok(())
}

/// Whether SQLite says that the file itself is wrong, by SQLITE_CORRUPT or SQLITE_NOTADB, and not that
/// it cannot be read.
fn is_damage(error: &MigrateError) -> bool {
    let MigrateError::Execute(error) = error else { return false };
    let code = error.as_database_error().and_then(DatabaseError::code);
    // Behind the first eight bits stands more of the cause.
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| [11, 26].contains(&(code & 0xff)))
}

fn integrity(connection: &rusqlite::Connection) -> Vec<String> {
    let texts = connection.prepare("pragma integrity_check").and_then(|mut statement| {
        statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
    });
    match texts {
        Ok(texts) => texts.into_iter().filter(|text| text != "ok").collect(),
        // Of some damage it tells so.
        Err(error) => vec![error.to_string()],
    }
}

/// Says that there is no database, before SQLite says something else.
pub(super) fn must_exist(file: &Path) -> Result<(), StoreError> {
    let file_name = file.display();
    Err(StoreError::Open(match file.metadata() {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            format!("{file_name} cannot be read: {error}; run this as the user of the server")
        }
        Ok(_) | Err(_) => format!(
            "there is no database {file_name}: give the data folder of a server with --data"
        ),
    }))
}
