//! Servers of one database must share the folder of its blobs: a value that one stores is read by
//! the others. The folder bears the name that the database knows it by.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::JobId;

use crate::store::db::Tx;
use crate::store::{self, Store, StoreError};

/// The file in the folder that holds its name.
const NAME_FILE: &str = "farrow-blobs-id";

/// The fact that holds the name in the database.
const FACT: &str = "blobs_id";

/// Makes sure that `folder` is that of the database's blobs; the first that is used is.
///
/// # Errors
/// When it is another one's, or cannot be read or written.
pub async fn claim(store: &Store, folder: &Path) -> Result<(), ClaimError> {
    let path = folder.join(NAME_FILE);
    // Whatever no row of this database refers to would be removed: all blobs of the other one.
    let beside = folder.with_file_name(store::FILE);
    if beside.exists() && !path.exists() {
        return Err(ClaimError::OfAFile { folder: folder.to_owned(), beside });
    }
    let (here, is_new) =
        named(folder, &path).map_err(|source| ClaimError::File { path: path.clone(), source })?;
    let proposed = here.clone();
    let known = store
        .write(move |tx| Box::pin(async move { store::settle(tx, FACT, proposed).await }))
        .await?;
    if known == here {
        return Ok(());
    }
    if is_new {
        // The folder is nobody's again.
        fs::remove_file(&path).map_err(|source| ClaimError::File { path, source })?;
    }
    Err(ClaimError::Other { folder: folder.to_owned() })
}

/// Makes sure, changing nothing, that `folder` is the one that the database knows its blobs in, if it
/// knows one.
///
/// # Errors
/// When it is another one, or cannot be read.
pub async fn belongs(tx: &mut Tx<'_>, folder: &Path) -> Result<(), ClaimError> {
    let known = store::fact(tx, FACT).await?;
    let path = folder.join(NAME_FILE);
    let here = match fs::read_to_string(&path) {
        Ok(name) => Some(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ClaimError::File { path, source }),
    };
    match known {
        Some(known) if here.as_deref().map(str::trim) != Some(&known) => {
            Err(ClaimError::Other { folder: folder.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Makes sure that `folder` is not that of a database that several servers may share: for the
/// database in a file beside it, which would remove the blobs of the other one.
///
/// # Errors
/// When it is.
pub fn unclaimed(folder: &Path) -> Result<(), ClaimError> {
    match folder.join(NAME_FILE).exists() {
        true => Err(ClaimError::Shared { folder: folder.to_owned() }),
        false => Ok(()),
    }
}

/// The name of the folder, and whether it was given one by this. Of servers that start at once all
/// get the same.
fn named(folder: &Path, path: &Path) -> io::Result<(String, bool)> {
    if let Ok(name) = fs::read_to_string(path) {
        return Ok((name.trim().to_owned(), false));
    }
    let name = JobId::new().to_string();
    let temporary = folder.join(format!("{NAME_FILE}.{name}"));
    fs::write(&temporary, format!("{name}\n"))?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok((name, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok((fs::read_to_string(path)?.trim().to_owned(), false))
        }
        Err(error) => Err(error),
    }
}

/// Why a folder of blobs is not used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to another database, or this database has another one.
    #[error(
        "{} is not the folder of this database's blobs: servers of one database share one folder; \
         give it with --blobs (a folder that was restored must hold its file {NAME_FILE})",
        folder.display()
    )]
    Other {
        /// Which.
        folder: PathBuf,
    },
    /// It belongs to a database in a file.
    #[error(
        "{} holds the blobs of the database {}: give another folder with --blobs",
        folder.display(), beside.display()
    )]
    OfAFile {
        /// Which.
        folder: PathBuf,
        /// The database.
        beside: PathBuf,
    },
    /// It belongs to a PostgreSQL database, and this is one in a file.
    #[error(
        "{} holds the blobs of a PostgreSQL database: give that database with --database-url, or \
         another folder with --data",
        folder.display()
    )]
    Shared {
        /// Which.
        folder: PathBuf,
    },
    /// Its name cannot be read or written.
    #[error("the file {} cannot be used: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
