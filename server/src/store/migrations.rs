//! The schema's versions, forward only. Each is a file of the folder `migrations`, listed here;
//! sqlx keeps in the database which were run and refuses one that was changed afterwards.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

const FILES: &[(i64, &str, &str)] = &[
    (1, "init", include_str!("../../../migrations/0001_init.sql")),
    (2, "contract", include_str!("../../../migrations/0002_contract.sql")),
    (3, "watching", include_str!("../../../migrations/0003_watching.sql")),
    (4, "drafts", include_str!("../../../migrations/0004_drafts.sql")),
    (5, "rights", include_str!("../../../migrations/0005_rights.sql")),
    (8, "servers", include_str!("../../../migrations/0008_servers.sql")),
];

/// All migrations, to be run at the start.
pub fn migrator() -> Migrator {
    let migration = |&(version, description, sql): &(i64, &'static str, &'static str)| {
        let description = Cow::Borrowed(description);
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(FILES.iter().map(migration).collect())
}
