//! Checks the data folder of a server, whether it runs or not: the database's file, every invariant of
//! what is in it, and the blobs that it refers to.

use std::path::{Path, PathBuf};

use crate::blobs::{BlobsAt, Bucket, Folder, Inspected, Listing};
use crate::shared_blobs::{self, ClaimError};
use crate::store::check::{self, Kind, Report};
use crate::store::snapshot::Snapshot;
use crate::store::{self, StoreError};

/// What to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The PostgreSQL database, if it is not SQLite in the data folder.
    pub database_url: Option<String>,
    /// Where the blobs are, if not in the data folder.
    pub blobs: Option<BlobsAt>,
    /// Whether the bytes of blobs are read.
    pub deep: bool,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no database, it cannot be read, or its schema is not this program's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder or bucket is not that of the database's blobs, or cannot be used.
    #[error(transparent)]
    Blobs(#[from] ClaimError),
}

/// Checks a data folder.
///
/// # Errors
/// When there is no database, its schema is not this program's, or its blobs are elsewhere.
pub async fn check(options: CheckOptions) -> Result<Report, CheckError> {
    let opened = match &options.database_url {
        Some(url) => Snapshot::connect(url).await,
        None => Snapshot::open(&options.data).await,
    };
    let mut snapshot = match opened {
        // Damaged so much that not even its schema can be read.
        Err(StoreError::Damaged { damages, .. }) => return Ok(of_file(&damages)),
        opened => opened?,
    };
    let in_data = || BlobsAt::Folder(folder_of_blobs(&options.data));
    if let (Some(BlobsAt::Folder(folder)), None) = (&options.blobs, &options.database_url) {
        return Err(ClaimError::NeedsDatabase { folder: folder.clone() }.into());
    }
    let place = options.blobs.unwrap_or_else(in_data);
    // What the snapshot refers to must stay. Where no lock can be written nobody collects.
    let (_files, _objects);
    let blobs = match place {
        BlobsAt::Folder(folder) => {
            let (its, is_shared) = (folder.clone(), options.database_url.is_some());
            let asked = snapshot
                .read(|tx| {
                    Box::pin(async move {
                        Ok(match is_shared {
                            true => shared_blobs::belongs(tx, &its).await,
                            false => shared_blobs::beside(tx).await,
                        })
                    })
                })
                .await;
            is_its(asked)?;
            let folder = Folder::at(&folder);
            _files = folder.keep_all().await.ok();
            Inspected::Folder(folder)
        }
        BlobsAt::Bucket(name) => {
            let bucket = Bucket::from_env(name).map_err(ClaimError::from)?;
            let its = bucket.clone();
            let asked = snapshot
                .read(|tx| {
                    Box::pin(async move { Ok(shared_blobs::belongs_bucket(tx, &its).await) })
                })
                .await;
            is_its(asked)?;
            _objects = snapshot.keep_objects().await.ok();
            Inspected::Bucket(bucket, Listing::default())
        }
    };
    let damages = snapshot.integrity();
    let report = of_file(&damages);
    let deep = options.deep;
    let read = snapshot
        .read(move |tx| {
            Box::pin(async move {
                let blobs = match blobs {
                    // Behind the beginning of the snapshot: all that it refers to is there.
                    Inspected::Bucket(bucket, _) => {
                        store::begin(tx).await?;
                        let listing = bucket
                            .list()
                            .await
                            .map_err(|error| StoreError::Blobs(error.to_string().into()))?;
                        Inspected::Bucket(bucket, listing)
                    }
                    folder => folder,
                };
                check::run(tx, &blobs, deep).await
            })
        })
        .await;
    match read {
        Ok(mut rows) => {
            rows.n_findings += report.n_findings;
            rows.findings.splice(0..0, report.findings);
            Ok(rows)
        }
        // Of a file that is damaged not all can be read.
        Err(_) if !damages.is_empty() => Ok(report),
        Err(error) => Err(error.into()),
    }
}

/// Whether the place is not that of the blobs. Of a database that is damaged more is told later.
fn is_its(asked: Result<Result<(), ClaimError>, StoreError>) -> Result<(), ClaimError> {
    match asked {
        Ok(Ok(()) | Err(ClaimError::Store(_))) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}

/// What SQLite finds wrong with its file.
fn of_file(damages: &[String]) -> Report {
    let mut report = Report::default();
    for damage in damages {
        report.add(Kind::File, None, damage.as_str());
    }
    report
}

/// The folder of the blobs in a data folder.
pub fn folder_of_blobs(data: &Path) -> PathBuf {
    data.join("blobs")
}
