//! The schema's versions, forward only. Each is a file of the folder `migrations`, listed here;
//! sqlx keeps in the database which were run. A database that knows others is refused before
//! anything is written to it.

use std::borrow::Cow;
use std::path::Path;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migration, MigrationType, Migrator};

use super::db::{Tx, args};
use super::{StoreError, sqlite};

const FILES: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../../../migrations/0001_init.sql")),
    (2, "contract", include_str!("../../../migrations/0002_contract.sql")),
    (3, "watching", include_str!("../../../migrations/0003_watching.sql")),
    (4, "drafts", include_str!("../../../migrations/0004_drafts.sql")),
    (5, "rights", include_str!("../../../migrations/0005_rights.sql")),
    (6, "keeping", include_str!("../../../migrations/0006_keeping.sql")),
    (8, "servers", include_str!("../../../migrations/0008_servers.sql")),
    (9, "needs", include_str!("../../../migrations/0009_needs.sql")),
    (10, "takeover", include_str!("../../../migrations/0010_takeover.sql")),
    (11, "artifacts", include_str!("../../../migrations/0011_artifacts.sql")),
    (12, "offers", include_str!("../../../migrations/0012_offers.sql")),
    (13, "objects", include_str!("../../../migrations/0013_objects.sql")),
    (14, "going", include_str!("../../../migrations/0014_going.sql")),
];

/// All migrations, to be run at the start.
pub fn migrator() -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        let description = Cow::Borrowed(description);
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(FILES.iter().map(migration).collect())
}

/// Brings the schema up to date.
///
/// # Errors
/// When the database knows migrations that this program does not, or knows one in another form;
/// when one fails.
pub async fn run<C: Migrate>(connection: &mut C) -> Result<(), Refused> {
    // Of several servers that start at once one does it.
    connection.lock().await?;
    let ran = run_alone(connection).await;
    connection.unlock().await?;
    ran
}

async fn run_alone<C: Migrate>(connection: &mut C) -> Result<(), Refused> {
    let migrator = migrator();
    connection.ensure_migrations_table(&migrator.table_name).await?;
    let applied = connection.list_applied_migrations(&migrator.table_name).await?;
    fits(&applied, &migrator)?;
    migrator.run_direct(None, connection, false).await.map_err(Refused::Failed)
}

/// Checks, without writing anything, that the schema is this program's.
///
/// # Errors
/// When it is older, newer, or another one.
pub async fn check<C: Migrate>(connection: &mut C) -> Result<(), Refused> {
    let migrator = migrator();
    let applied = connection.list_applied_migrations(&migrator.table_name).await?;
    fits(&applied, &migrator)?;
    let ours = newest(&migrator);
    match applied.iter().map(|applied| applied.version).max().unwrap_or(0) {
        found if found == ours => Ok(()),
        found => Err(Refused::Older { found, ours }),
    }
}

/// Whether all that was run is what this program would have run.
fn fits(applied: &[AppliedMigration], migrator: &Migrator) -> Result<(), Refused> {
    let known = |version| migrator.iter().find(|migration| migration.version == version);
    // One that is unknown says more than one that was changed: by it the database is newer.
    if let Some(found) =
        applied.iter().map(|applied| applied.version).filter(|&it| known(it).is_none()).max()
    {
        return Err(Refused::Newer { found, ours: newest(migrator) });
    }
    let changed = applied.iter().find_map(|applied| {
        known(applied.version).filter(|migration| migration.checksum != applied.checksum)
    });
    changed.map_or(Ok(()), |migration| {
        Err(Refused::Changed {
            version: migration.version,
            description: migration.description.to_string(),
        })
    })
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Writes down which program brought the schema to its version, so that an older one can say which
/// program is needed.
///
/// # Errors
/// The database's.
pub async fn sign(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.execute(
        "insert into meta (key, value) values ($1, $2) on conflict (key) do nothing",
        args![signature(newest(&migrator())), env!("CARGO_PKG_VERSION")],
    )
    .await?;
    Ok(())
}

/// The version of the program that brought the schema to version `schema`, if it has said so.
pub async fn signed(tx: &mut Tx<'_>, schema: i64) -> Option<String> {
    // A schema that this program does not know may keep it elsewhere.
    let row = tx.first("select value from meta where key = $1", args![signature(schema)]).await;
    row.ok().flatten().and_then(|row| row.text("value").ok())
}

/// The statements of all migrations, for a database that nobody has used.
#[cfg(test)]
pub fn scripts() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(_, _, sql)| *sql)
}

/// Says of a database file that is not used what is wrong with its schema.
pub async fn refusal_of_file(file: &Path, refused: &Refused) -> StoreError {
    match sqlite::open_to_read(file) {
        Ok(mut connection) => refusal(&mut Tx::new(&mut connection), refused).await,
        Err(_) => StoreError::Open(refused.text(None)),
    }
}

/// Says of a database that is not used what is wrong with its schema.
pub async fn refusal(tx: &mut Tx<'_>, refused: &Refused) -> StoreError {
    let by = match refused {
        Refused::Newer { found, .. } => signed(tx, *found).await,
        _ => None,
    };
    StoreError::Open(refused.text(by.as_deref()))
}

fn signature(schema: i64) -> String {
    format!("schema {schema}")
}

/// Why a database is not used.
#[derive(Debug)]
pub enum Refused {
    /// It holds a migration that this program does not know.
    Newer {
        /// Which.
        found: i64,
        /// The last that this program knows.
        ours: i64,
    },
    /// It lacks migrations.
    Older {
        /// The last that it has.
        found: i64,
        /// The last that this program knows.
        ours: i64,
    },
    /// A migration was run in another form.
    Changed {
        /// Which.
        version: i64,
        /// Its name.
        description: String,
    },
    /// The database failed.
    Failed(MigrateError),
}

impl From<MigrateError> for Refused {
    fn from(error: MigrateError) -> Self {
        Self::Failed(error)
    }
}

impl Refused {
    /// What to tell the user. `by`: the program that wrote a newer schema, where that is known.
    pub fn text(&self, by: Option<&str>) -> String {
        let this = env!("CARGO_PKG_VERSION");
        match self {
            Self::Newer { found, ours } => {
                let by =
                    by.map_or("a newer farrow".to_owned(), |version| format!("farrow {version}"));
                format!(
                    "this database was written by {by} (schema {found}), this program, farrow \
                     {this}, knows schema {ours}: use a newer farrow, or restore a backup that an \
                     older one made"
                )
            }
            Self::Older { found, ours } => format!(
                "this database has schema {found}, this program, farrow {this}, schema {ours}: start \
                 `farrow server` on it once, which brings it up to date"
            ),
            Self::Changed { version, description } => format!(
                "step {version} ({description}) of this database's schema was made by another \
                 program than farrow {this}, which has another step of that number: use the program \
                 that made it, or restore a backup"
            ),
            Self::Failed(error) => {
                format!("the database's schema could not be brought up to date: {error}")
            }
        }
    }
}
