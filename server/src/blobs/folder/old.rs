//! Blobs that have not been written or found for long: what a collector may remove.

use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::locks::{self, Held};
use super::{Folder, INCOMING, parse_digest, path_of, run};

/// How many folders the blobs are spread over.
pub const N_PARTS: usize = 256;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many blobs.
    pub n: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The right to remove blobs: nobody reads a snapshot, names a blob or finds one.
pub struct Removing {
    blobs: Folder,
    _locks: [Held; 2],
}

impl Folder {
    /// The blobs of one of the [`N_PARTS`] folders that were last written or found longer than
    /// `grace` ago.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn old(&self, part: usize, grace: Duration) -> io::Result<Vec<String>> {
        let folder = Arc::clone(&self.path);
        run(move || {
            let now = locks::now(&folder)?;
            let entries = match std::fs::read_dir(folder.join(format!("{part:02x}"))) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut old = Vec::new();
            for entry in entries {
                let entry = entry?;
                let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
                if parse_digest(&digest).is_some() && is_old(&entry, now, grace)? {
                    old.push(digest);
                }
            }
            Ok(old)
        })
        .await
    }

    /// Keeps everybody else from naming or finding a blob, for as long as the answer is held; to be
    /// held for milliseconds. `None`: a snapshot is being read, or another server collects.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn begin_removing(&self) -> io::Result<Option<Removing>> {
        let blobs = self.clone();
        run(move || {
            let Some(collecting) = locks::collecting(&blobs.path)? else { return Ok(None) };
            let removing = locks::removing(&blobs.path)?;
            Ok(Some(Removing { blobs, _locks: [collecting, removing] }))
        })
        .await
    }

    /// Removes what uploads have left that were cut off longer than `grace` ago.
    ///
    /// # Errors
    /// When the folder cannot be read or a file not be removed.
    pub async fn remove_broken(&self, grace: Duration) -> io::Result<()> {
        let folder = Arc::clone(&self.path);
        run(move || {
            let now = locks::now(&folder)?;
            for entry in std::fs::read_dir(folder.join(INCOMING))? {
                let entry = entry?;
                if is_old(&entry, now, grace)? {
                    gone(std::fs::remove_file(entry.path()))?;
                }
            }
            Ok(())
        })
        .await
    }
}

impl Removing {
    /// Removes those of `digests` that are still old.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn remove(&self, digests: Vec<String>, grace: Duration) -> io::Result<Removed> {
        let blobs = self.blobs.clone();
        run(move || {
            let folder = &blobs.path;
            let now = locks::now(folder)?;
            let mut removed = Removed::default();
            for hex in digests.iter().filter_map(|digest| parse_digest(digest)) {
                let bytes = remove_if_old(&path_of(folder, hex), now, grace)?;
                removed.n += u64::from(bytes.is_some());
                removed.bytes += bytes.unwrap_or(0);
            }
            Ok(removed)
        })
        .await
    }
}

fn remove_if_old(path: &Path, now: SystemTime, grace: Duration) -> io::Result<Option<u64>> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !is_before(metadata.modified()?, now, grace) {
        return Ok(None);
    }
    gone(std::fs::remove_file(path))?;
    Ok(Some(metadata.len()))
}

fn is_old(entry: &DirEntry, now: SystemTime, grace: Duration) -> io::Result<bool> {
    match entry.metadata() {
        Ok(metadata) => Ok(metadata.is_file() && is_before(metadata.modified()?, now, grace)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether what was modified then is at least `grace` old. What is from the future is not.
fn is_before(modified: SystemTime, now: SystemTime, grace: Duration) -> bool {
    now.duration_since(modified).is_ok_and(|age| age >= grace)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
