//! Checks the data folder of a server, whether it runs or not: the database's file, every invariant of
//! what is in it, and the blobs that it refers to.

use std::path::{Path, PathBuf};

use crate::blobs::Blobs;
use crate::shared_blobs::{self, ClaimError};
use crate::store::StoreError;
use crate::store::check::{self, Kind, Report};
use crate::store::snapshot::Snapshot;

/// What to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The PostgreSQL database, if it is not SQLite in the data folder.
    pub database_url: Option<String>,
    /// The folder of the blobs, if it is not in the data folder.
    pub blobs: Option<PathBuf>,
    /// Whether the bytes of blobs are read.
    pub deep: bool,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no database, it cannot be read, or its schema is not this program's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder is not that of the database's blobs.
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
    let folder = options.blobs.unwrap_or_else(|| folder_of_blobs(&options.data));
    let its = folder.clone();
    let asked = snapshot
        .read(|tx| Box::pin(async move { Ok(shared_blobs::belongs(tx, &its).await) }))
        .await;
    match asked {
        // Of a database that is damaged more is told below.
        Ok(Ok(()) | Err(ClaimError::Store(_))) | Err(_) => {}
        Ok(Err(error)) => return Err(error.into()),
    }
    let blobs = Blobs::at(&folder);
    // What the snapshot refers to must stay. In a folder that cannot be written nobody collects.
    let _held = blobs.keep_all().await.ok();
    let damages = snapshot.integrity();
    let report = of_file(&damages);
    let (folder, deep) = (blobs.clone(), options.deep);
    let read =
        snapshot.read(move |tx| Box::pin(async move { check::run(tx, &folder, deep).await })).await;
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
