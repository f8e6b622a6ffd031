//! Servers of one database must share the place of its blobs: a value that one stores is read by
//! the others. The place, a folder or a bucket, bears the name that the database knows it by.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::JobId;

use crate::blobs::{BlobsAt, Bucket, BucketError, BucketName};
use crate::store::db::Tx;
use crate::store::{self, BLOBS_ID, Store, StoreError, references};

/// The file in the folder, or the object in the bucket, that holds its name.
const NAME_FILE: &str = "farrow-blobs-id";

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
    if settle(store, here.clone()).await? == here {
        return Ok(());
    }
    if is_new {
        // The folder is nobody's again.
        fs::remove_file(&path).map_err(|source| ClaimError::File { path, source })?;
    }
    Err(ClaimError::Other { place: BlobsAt::Folder(folder.to_owned()) })
}

/// Makes sure that `bucket` is that of the database's blobs; the first that is used is, unless the
/// database has blobs elsewhere. Those of a database in a file `bring` brings there.
///
/// # Errors
/// When it is another one's, or cannot be read or written.
pub async fn claim_bucket(
    store: &Store,
    bucket: &Bucket,
    bring: impl AsyncFnOnce() -> Result<(), ClaimError>,
) -> Result<(), ClaimError> {
    let other = || ClaimError::Other { place: BlobsAt::Bucket(bucket.name().clone()) };
    let (known, has_blobs) = store
        .read(|tx| {
            Box::pin(async move {
                let referenced = references::referenced(tx, "", 1).await?;
                Ok((store::fact(tx, BLOBS_ID).await?, !referenced.is_empty()))
            })
        })
        .await?;
    let proposed = JobId::new().to_string();
    let (here, is_new) = match bucket.read_text(NAME_FILE).await? {
        Some(here) => (here, false),
        None if known.is_some() => return Err(other()),
        None => match bucket.write_text_once(NAME_FILE, &proposed).await? {
            true => (proposed, true),
            // Another server has just been quicker.
            false => (bucket.read_text(NAME_FILE).await?.unwrap_or_default(), false),
        },
    };
    match known {
        Some(known) if known == here => return Ok(()),
        Some(_) => {}
        None => {
            if is_new && has_blobs {
                // Not before: the database would look for them in the bucket alone.
                let brought = bring().await;
                if brought.is_err() {
                    bucket.remove_text(NAME_FILE).await?;
                }
                brought?;
            }
            // The blobs in it are not those that this database refers to.
            if (is_new || !has_blobs) && settle(store, here.clone()).await? == here {
                return Ok(());
            }
        }
    }
    if is_new {
        // The bucket is nobody's again.
        bucket.remove_text(NAME_FILE).await?;
    }
    Err(other())
}

async fn settle(store: &Store, proposed: String) -> Result<String, StoreError> {
    store.write(|tx| Box::pin(async move { store::settle(tx, BLOBS_ID, proposed).await })).await
}

/// Makes sure, changing nothing, that `folder` is the one that the database knows its blobs in, if it
/// knows one.
///
/// # Errors
/// When it is another one, or cannot be read.
pub async fn belongs(tx: &mut Tx<'_>, folder: &Path) -> Result<(), ClaimError> {
    let path = folder.join(NAME_FILE);
    let here = match fs::read_to_string(&path) {
        Ok(name) => Some(name.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ClaimError::File { path, source }),
    };
    match store::fact(tx, BLOBS_ID).await? {
        Some(known) if here.as_ref() != Some(&known) => {
            Err(ClaimError::Other { place: BlobsAt::Folder(folder.to_owned()) })
        }
        _ => Ok(()),
    }
}

/// Makes sure, changing nothing, that the blobs of the database in a file are in its data folder.
///
/// # Errors
/// When they are in a bucket.
pub async fn beside(tx: &mut Tx<'_>) -> Result<(), ClaimError> {
    match store::fact(tx, BLOBS_ID).await? {
        Some(_) => Err(ClaimError::InBucket),
        None => Ok(()),
    }
}

/// Makes sure, changing nothing, that `bucket` is the one that the database knows its blobs in.
///
/// # Errors
/// When it is another one, or cannot be read.
pub async fn belongs_bucket(tx: &mut Tx<'_>, bucket: &Bucket) -> Result<(), ClaimError> {
    let here = bucket.read_text(NAME_FILE).await?;
    match store::fact(tx, BLOBS_ID).await? {
        Some(known) if here.as_ref() == Some(&known) => Ok(()),
        _ => Err(ClaimError::Other { place: BlobsAt::Bucket(bucket.name().clone()) }),
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

/// Why a place of blobs is not used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It belongs to another database, or this database has another one.
    #[error(
        "{place} is not the {} of this database's blobs: servers of one database share one; \
         give it with --blobs (one that was restored must hold {NAME_FILE})",
        match place { BlobsAt::Folder(_) => "folder", BlobsAt::Bucket(_) => "bucket" }
    )]
    Other {
        /// Which.
        place: BlobsAt,
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
    /// The blobs of this database in a file are in a bucket.
    #[error("the blobs of this database are in a bucket: give it with --blobs s3://BUCKET/PREFIX")]
    InBucket,
    /// Another folder than that in the data folder was given for a database in a file.
    #[error(
        "--blobs {} is a folder, and the database a file: its blobs are in its data folder, or in a \
         bucket (s3://BUCKET/PREFIX); a folder of their own have those of --database-url",
        folder.display()
    )]
    NeedsDatabase {
        /// Which.
        folder: PathBuf,
    },
    /// A blob of the folder cannot be brought into the bucket.
    #[error("the blob {digest} cannot be brought from the data folder into {bucket}: {why}")]
    NotBrought {
        /// Which.
        digest: String,
        /// Where to.
        bucket: BucketName,
        /// Why.
        why: String,
    },
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
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
