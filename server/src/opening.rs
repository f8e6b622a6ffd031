//! The blobs of a server that starts: a folder or a bucket that can be used, that is this database's,
//! and in which all is that the database refers to.

use std::path::Path;
use std::sync::Arc;

use crate::ServeError;
use crate::blobs::{Blobs, BlobsAt, Bucket, Folder, Kept, Objects, UploadError};
use crate::clock::Clock;
use crate::config::Config;
use crate::inspection::folder_of_blobs;
use crate::shared_blobs::{self, ClaimError};
use crate::store::{Store, references};

/// Digests that one read takes.
const PAGE: u32 = 500;

/// A place that can be written.
pub enum Place {
    /// A folder.
    Folder(Folder, std::path::PathBuf),
    /// A bucket.
    Bucket(Bucket),
}

/// Opens the place of the blobs, before the database is touched.
///
/// # Errors
/// When it cannot be used.
pub async fn place(config: &Config) -> Result<Place, ServeError> {
    match config.blobs() {
        BlobsAt::Folder(folder) => {
            if config.settings.database_url.is_none() {
                if config.settings.blobs.is_some() {
                    return Err(ClaimError::NeedsDatabase { folder }.into());
                }
                shared_blobs::unclaimed(&folder)?;
            }
            let opened = Folder::open(&folder)
                .map_err(|source| ServeError::BlobsFolder { folder: folder.clone(), source })?;
            Ok(Place::Folder(opened, folder))
        }
        BlobsAt::Bucket(name) => {
            let bucket = Bucket::from_env(name).map_err(ClaimError::from)?;
            bucket.probe().await.map_err(ClaimError::from)?;
            Ok(Place::Bucket(bucket))
        }
    }
}

/// The blobs in `place`, which is then the database's for good.
///
/// # Errors
/// When it is another database's, or cannot be used.
pub async fn blobs(
    place: Place,
    store: &Store,
    clock: &Arc<Clock>,
    data: &Path,
) -> Result<Blobs, ServeError> {
    match place {
        Place::Folder(folder, path) => {
            if store.shared().is_some() {
                shared_blobs::claim(store, &path).await?;
            } else {
                store.read(|tx| Box::pin(async { Ok(shared_blobs::beside(tx).await) })).await??;
                // The store's lock keeps other servers off the folder.
                folder
                    .sweep()
                    .map_err(|source| ServeError::DataFolder { folder: data.to_owned(), source })?;
            }
            Ok(Kept::Folder(folder).into())
        }
        Place::Bucket(bucket) => {
            let objects = Objects::new(bucket.clone(), store.clone(), Arc::clone(clock));
            let blobs: Blobs = Kept::Bucket(objects).into();
            let bring = async || bring(store, data, &bucket, &blobs).await;
            shared_blobs::claim_bucket(store, &bucket, bring).await?;
            Ok(blobs)
        }
    }
}

/// Brings the blobs of a database in a file from its data folder into a bucket. They are left in the
/// folder, too.
async fn bring(
    store: &Store,
    data: &Path,
    bucket: &Bucket,
    blobs: &Blobs,
) -> Result<(), ClaimError> {
    let from: Blobs = Kept::Folder(Folder::at(&folder_of_blobs(data))).into();
    let (mut after, mut n) = (String::new(), 0_u64);
    loop {
        let behind = after.clone();
        let digests = store
            .read(|tx| Box::pin(async move { references::referenced(tx, &behind, PAGE).await }))
            .await?;
        let Some(last) = digests.last() else { break };
        after = last.clone();
        for digest in digests {
            let brought = match from.open_blob(&digest).await {
                Ok(opened) => blobs.upload(&digest, opened.parts, u64::MAX).await,
                Err(error) => Err(UploadError::Io(error)),
            };
            brought.map_err(|error| {
                let (bucket, why) = (bucket.name().clone(), error.to_string());
                ClaimError::NotBrought { digest, bucket, why }
            })?;
            n += 1;
        }
    }
    tracing::info!(
        blobs = n,
        bucket = %bucket.name(),
        "the blobs of the data folder are in the bucket now; the files are not needed any more"
    );
    Ok(())
}
