//! Servers of one database must share the place of its blobs: a value that one stores is read by
//! the others. The place, a folder or a bucket, bears the name that the database knows it by.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::JobId;

use crate::blobs::{BlobsAt, Bucket, BucketError, BucketName};
use crate::store::db::Tx;
use crate::store::{self, BLOBS_ID, Store, StoreError, identity, references};

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

/// Makes sure that `bucket` is that of the database's blobs; the first that is used is. What the
/// database has referred to before, in files, `bring` brings there.
///
/// # Errors
/// When it is another one's, or cannot be read or written.
pub async fn claim_bucket(
    store: &Store,
    bucket: &Bucket,
    bring: impl AsyncFnOnce() -> Result<(), ClaimError>,
) -> Result<(), ClaimError> {
    let other = || ClaimError::Other { place: BlobsAt::Bucket(bucket.name().clone()) };
    let (known, owner, has_blobs) = store
        .write(|tx| {
            Box::pin(async move {
                let referenced = references::referenced(tx, "", 1).await?;
                let owner = identity::database_id(tx).await?.to_string();
                Ok((store::fact(tx, BLOBS_ID).await?, owner, !referenced.is_empty()))
            })
        })
        .await?;
    let (here, is_new) = match read_name(bucket).await? {
        Some(here) => (here, false),
        // The database's own bears its name.
        None if known.is_some() => return Err(other()),
        None => {
            let proposed = Name { place: JobId::new().to_string(), owner: owner.clone() };
            let text = format!("{} {}\n", proposed.place, proposed.owner);
            match bucket.write_text_once(NAME_FILE, &text).await? {
                true => (proposed, true),
                // Another server has just been quicker.
                false => (read_name(bucket).await?.ok_or_else(other)?, false),
            }
        }
    };
    let claimed = async {
        if here.owner != owner {
            return Err(other());
        }
        if known.is_none() && has_blobs {
            // Before it is said where they are: servers look for them there alone.
            bring().await?;
        }
        match settle(store, here.place.clone()).await? == here.place {
            true => Ok(()),
            false => Err(other()),
        }
    };
    let claimed = claimed.await;
    // The bucket is nobody's again, if its name was refused. After an error of the database nobody knows
    // whether it has taken the name: then it stays, and the same database takes it up the next time.
    let is_refused = !matches!(claimed, Ok(()) | Err(ClaimError::Store(_)));
    if is_new
        && is_refused
        && let Err(error) = bucket.remove_text(NAME_FILE).await
    {
        tracing::warn!(%error, "the name of a bucket that is not used stays in it");
    }
    claimed
}

/// What a bucket says of itself.
struct Name {
    /// By which the database knows it.
    place: String,
    /// The database whose blobs are in it. Of a copy of the database it is the same.
    owner: String,
}

async fn read_name(bucket: &Bucket) -> Result<Option<Name>, BucketError> {
    let text = bucket.read_text(NAME_FILE).await?;
    Ok(text.map(|text| {
        let (place, owner) = text.split_once(' ').unwrap_or((&text, ""));
        Name { place: place.to_owned(), owner: owner.to_owned() }
    }))
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
    let here = read_name(bucket).await?.map(|name| name.place);
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

#[cfg(test)]
mod tests;
