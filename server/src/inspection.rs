//! Checks the data folder of a server, whether it runs or not: the database's file, every invariant of
//! what is in it, and the blobs that it refers to.

use std::path::{Path, PathBuf};

use crate::blobs::Blobs;
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

/// Checks a data folder.
///
/// # Errors
/// When there is no database, or its schema is not this program's.
pub async fn check(options: CheckOptions) -> Result<Report, StoreError> {
    let mut snapshot = match &options.database_url {
        Some(url) => Snapshot::connect(url).await?,
        None => Snapshot::open(&options.data).await?,
    };
    let folder = options.blobs.unwrap_or_else(|| folder_of_blobs(&options.data));
    let blobs = Blobs::at(&folder);
    // What the snapshot refers to must stay. In a folder that cannot be written nobody collects.
    let _held = blobs.keep_all().await.ok();
    let damages = snapshot.integrity().await;
    let mut report = Report::default();
    for damage in &damages {
        report.add(Kind::File, None, damage.as_str());
    }
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
        Err(error) => Err(error),
    }
}

/// The folder of the blobs in a data folder.
pub fn folder_of_blobs(data: &Path) -> PathBuf {
    data.join("blobs")
}
