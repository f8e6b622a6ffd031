//! A copy of a data folder, made while a server runs on it: the database as it is at one moment, then
//! the blobs that this refers to.
//!
//! Blobs are never changed, and are written before what refers to them: all that the copy of the
//! database refers to is there when it is made, and the collector removes nothing until the backup is
//! whole. Until then it has another name, so what has the name is whole. Blobs of a bucket are copied to
//! files: the backup is a data folder like any other.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::io::AsyncWriteExt as _;

use crate::blobs::{BlobsAt, Bucket, BucketName, Folder, digest_of_all};
use crate::inspection::folder_of_blobs;
use crate::shared_blobs::{self, ClaimError};
use crate::store::db::Tx;
use crate::store::objects::{self, Object};
use crate::store::snapshot::{Snapshot, leave_bucket};
use crate::store::{FILE, StoreError, references};

/// Digests that one read takes.
const PAGE: u32 = 500;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Where it is.
    pub folder: PathBuf,
    /// The data folder that it is a copy of.
    pub of: PathBuf,
    /// Bytes of the database.
    pub database_bytes: u64,
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// How many of them are links to the server's own files.
    pub linked: u64,
    /// Blobs that it lacks because the server's own are missing or damaged.
    pub damaged: Vec<Damaged>,
}

/// A blob that is not in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its digest.
    pub digest: String,
    /// What is wrong with it.
    pub why: String,
}

/// What to back up, and where to.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The data folder of an SQLite database.
    pub data: PathBuf,
    /// The new or empty folder of the backup.
    pub target: PathBuf,
    /// Whether blobs are links to the server's own files, where both are on one file system.
    pub link: bool,
    /// Where the blobs are, if not in the data folder.
    pub blobs: Option<BlobsAt>,
}

/// Where blobs are copied from.
enum Source {
    Folder(Folder),
    Bucket(Bucket),
}

/// Makes a backup of a data folder.
///
/// # Errors
/// When there is no database, the target holds something, or a file cannot be written. Then nothing is
/// left of the backup.
pub async fn backup(options: BackupOptions) -> Result<Backup, BackupError> {
    let BackupOptions { data, target, link, blobs } = options;
    let target = std::path::absolute(&target).unwrap_or(target);
    let cannot_write = |source| BackupError::Target { folder: target.clone(), source };
    must_be_free(&target)?;
    let mut snapshot = Snapshot::open(&data).await?;
    let (_files, _objects);
    let source = match blobs {
        None => {
            let its = snapshot.read(|tx| Box::pin(async { Ok(shared_blobs::beside(tx).await) }));
            its.await??;
            let folder = Folder::open(&folder_of_blobs(&data)).map_err(BackupError::Blobs)?;
            _files = folder.keep_all().await.map_err(BackupError::Blobs)?;
            Source::Folder(folder)
        }
        Some(BlobsAt::Folder(folder)) => return Err(ClaimError::NeedsDatabase { folder }.into()),
        Some(BlobsAt::Bucket(name)) if link => return Err(BackupError::Link { bucket: name }),
        Some(BlobsAt::Bucket(name)) => {
            let bucket = Bucket::from_env(name).map_err(ClaimError::from)?;
            let its = bucket.clone();
            let asked = snapshot.read(|tx| {
                Box::pin(async move { Ok(shared_blobs::belongs_bucket(tx, &its).await) })
            });
            asked.await??;
            _objects = snapshot.keep_objects().await?;
            Source::Bucket(bucket)
        }
    };
    let partial = Partial::new(&target).map_err(cannot_write)?;
    let file = partial.folder.join(FILE);
    snapshot.copy_to(&file)?;
    drop(snapshot);
    let mut backup = Backup {
        folder: target.clone(),
        of: std::path::absolute(&data).unwrap_or_else(|_| data.clone()),
        database_bytes: 0,
        blobs: 0,
        blob_bytes: 0,
        linked: 0,
        damaged: Vec::new(),
    };
    copy_blobs(&source, &partial.folder, link, &mut backup).await?;
    if let Source::Bucket(_) = source {
        leave_bucket(&file).await?;
    }
    // SQLite leaves it to the kernel when the copy reaches the disk.
    backup.database_bytes = flush(&file).map_err(cannot_write)?;
    partial.keep_as(&target).map_err(cannot_write)?;
    Ok(backup)
}

fn must_be_free(target: &Path) -> Result<(), BackupError> {
    match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
        Ok(true) if is_mount_point(target) => {
            Err(BackupError::MountPoint { folder: target.to_owned() })
        }
        Ok(true) => Ok(()),
        Ok(false) => Err(BackupError::NotEmpty { folder: target.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BackupError::Target { folder: target.to_owned(), source }),
    }
}

/// Whether another file system begins at a folder: what is made beside it cannot take its name.
fn is_mount_point(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    // Also of a relative name, and of one that a link stands for.
    folder.canonicalize().ok().is_some_and(|folder| {
        folder.parent().is_some_and(|parent| device(parent) != device(&folder))
    })
}

async fn copy_blobs(
    source: &Source,
    folder: &Path,
    link: bool,
    backup: &mut Backup,
) -> Result<(), BackupError> {
    let mut copy = Snapshot::open(folder).await?;
    let to = Folder::open(&folder_of_blobs(folder)).map_err(BackupError::Blobs)?;
    let mut after = String::new();
    loop {
        let from = after.clone();
        let digests =
            copy.read(|tx| Box::pin(async move { to_be_copied(tx, &from).await })).await?;
        let Some((last, _)) = digests.last() else { return Ok(()) };
        after = last.clone();
        for (digest, object) in digests {
            let Ok(place) = to.path(&digest) else {
                let why = "it is not the digest of a blob".to_owned();
                backup.damaged.push(Damaged { digest, why });
                continue;
            };
            let copied = match source {
                Source::Folder(folder) => {
                    let (from, to) = (folder.path(&digest), place.clone());
                    let copying = move || match link {
                        true => copy_or_link(&from?, &to),
                        false => copy_file(&from?, &to),
                    };
                    tokio::task::spawn_blocking(copying).await.map_err(io::Error::other).flatten()
                }
                Source::Bucket(bucket) => copy_object(bucket, object, &place).await,
            };
            match copied.map_err(|source| match source.kind() {
                // It is not the backup that cannot be written.
                io::ErrorKind::NotConnected => BackupError::Blobs(source),
                _ => BackupError::Target { folder: backup.folder.clone(), source },
            })? {
                Copied::Missing => {
                    backup.damaged.push(Damaged { digest, why: "it is missing".to_owned() });
                }
                Copied::Bytes { hex, n, linked } if digest.ends_with(&hex) => {
                    backup.blobs += 1;
                    backup.blob_bytes += n;
                    backup.linked += u64::from(linked);
                }
                Copied::Bytes { hex, .. } => {
                    // It would be taken for the blob.
                    let _ = fs::remove_file(&place);
                    let why = format!("its bytes have the digest sha256:{hex}");
                    backup.damaged.push(Damaged { digest, why });
                }
            }
        }
    }
}

/// The digests behind `after` of blobs that are to be copied, and the objects that hold them if any do.
async fn to_be_copied(
    tx: &mut Tx<'_>,
    after: &str,
) -> Result<Vec<(String, Option<Object>)>, StoreError> {
    let mut found = Vec::new();
    for digest in references::referenced(tx, after, PAGE).await? {
        let object = objects::get(tx, &digest).await?;
        found.push((digest, object));
    }
    Ok(found)
}

/// What copying a blob came to.
enum Copied {
    /// There is none.
    Missing,
    /// It has these bytes.
    Bytes { hex: String, n: u64, linked: bool },
}

fn copy_or_link(from: &Path, to: &Path) -> io::Result<Copied> {
    make_folder_of(to)?;
    match fs::hard_link(from, to) {
        Ok(()) => {
            let (hex, n) = digest_of_all(File::open(to)?, |_| Ok(()))?;
            Ok(Copied::Bytes { hex, n, linked: true })
        }
        // On another file system, or on one without links.
        Err(_) => copy_file(from, to),
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<Copied> {
    let source = match File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copied::Missing),
        Err(error) => return Err(error),
    };
    make_folder_of(to)?;
    let mut target = File::create(to)?;
    let (hex, n) = digest_of_all(source, |part| target.write_all(part))?;
    target.sync_all()?;
    Ok(Copied::Bytes { hex, n, linked: false })
}

async fn copy_object(bucket: &Bucket, object: Option<Object>, to: &Path) -> io::Result<Copied> {
    let Some(object) = object else { return Ok(Copied::Missing) };
    let opened = match bucket.open(&object.name).await {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Copied::Missing),
        Err(error) => return Err(error),
    };
    make_folder_of(to)?;
    let mut target = tokio::fs::File::create(to).await?;
    let (hex, n) = opened.digest(async |part| target.write_all(part).await).await?;
    target.sync_all().await?;
    Ok(Copied::Bytes { hex, n, linked: false })
}

fn make_folder_of(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

fn flush(file: &Path) -> io::Result<u64> {
    let file = File::open(file)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// A backup that is not whole yet; removed unless it is kept.
struct Partial {
    folder: PathBuf,
    is_kept: bool,
}

impl Partial {
    fn new(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let name = format!(".{name}.partial-{}", protocol::LeaseId::new());
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)?;
        let folder = parent.join(name);
        // Functions, elements and values are nobody else's business.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self { folder, is_kept: false })
    }

    /// Flushes the names in it and gives it its own.
    fn keep_as(mut self, target: &Path) -> io::Result<()> {
        let blobs = folder_of_blobs(&self.folder);
        for entry in fs::read_dir(&blobs)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(&blobs)?.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        fs::rename(&self.folder, target)?;
        self.is_kept = true;
        File::open(target.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something where it is to be.
    #[error("{} is not empty: give a new folder, or an empty one", folder.display())]
    NotEmpty {
        /// Where.
        folder: PathBuf,
    },
    /// Another file system is mounted there.
    #[error("another file system is mounted at {}: give a folder inside it", folder.display())]
    MountPoint {
        /// Where.
        folder: PathBuf,
    },
    /// It cannot be written.
    #[error("the backup cannot be written to {}: {source}", folder.display())]
    Target {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server's blobs cannot be used.
    #[error("the blobs cannot be used: {0}")]
    Blobs(io::Error),
    /// They are in a bucket.
    #[error("the blobs in {bucket} cannot be linked: leave out --link, and they are copied")]
    Link {
        /// Which.
        bucket: BucketName,
    },
    /// The blobs are elsewhere, or the bucket cannot be used.
    #[error(transparent)]
    Place(#[from] ClaimError),
    /// The database cannot be read, or not be copied.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_is_mounted_is_told_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(folder.path()));
        assert!(!is_mount_point(&folder.path().join("new")));
        assert!(is_mount_point(Path::new("/proc")));
    }
}
