//! Blobs in a folder: a file's name is the SHA-256 of its bytes, and its time says when it was last
//! put or found.

mod locks;
mod old;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    Opened, Part, UploadError, checked, cut_off, hex, hex_digest, parse_digest, run, was_removed,
};

use locks::Held;
pub use old::{N_PARTS, Removed};

/// The folder of what is not yet whole.
const INCOMING: &str = "incoming";

/// Bytes that one read takes.
const READ: usize = 256 << 10;

/// Uploads that are written at the same time: each keeps a thread, of which there are 512, for as long as it takes.
const AT_ONCE: usize = 256;

/// A folder of blobs.
#[derive(Clone)]
pub struct Folder {
    path: Arc<Path>,
    /// For uploads.
    turns: Arc<Semaphore>,
}

impl Folder {
    /// Opens the folder, making it as needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join(INCOMING))?;
        std::fs::create_dir_all(folder.join(locks::LOCKS))?;
        Ok(Self::at(folder))
    }

    /// A folder that is only read, and need not be there.
    pub fn at(folder: &Path) -> Self {
        Self { path: folder.into(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Removes what uploads left behind that were cut off with an earlier server. No other server
    /// may run on the folder.
    ///
    /// # Errors
    /// When the folder cannot be read or a file not be removed.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.path.join(INCOMING))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Keeps every blob that is there in its place for as long as the answer is held.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn keep_all(&self) -> io::Result<Held> {
        let folder = Arc::clone(&self.path);
        run(move || locks::reading(&folder)).await
    }

    /// Where the blob of `digest` stands.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one.
    pub fn path(&self, digest: &str) -> io::Result<PathBuf> {
        checked(digest).map(|hex| path_of(&self.path, hex))
    }

    pub(super) async fn put(&self, data: Bytes) -> io::Result<String> {
        let folder = Arc::clone(&self.path);
        run(move || {
            let digest = hex_digest(&data);
            write_once(&folder, &digest, &data)?;
            Ok(format!("sha256:{digest}"))
        })
        .await
    }

    pub(super) async fn find(&self, hex: String) -> io::Result<Option<u64>> {
        let folder = Arc::clone(&self.path);
        run(move || find(&folder, &path_of(&folder, &hex))).await
    }

    /// The size of the blob of these hex digits; `None`: there is none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn size(&self, hex: String) -> io::Result<Option<u64>> {
        match self.file(hex).await {
            Ok((_, size)) => Ok(Some(size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn file(&self, hex: String) -> io::Result<(File, u64)> {
        let path = path_of(&self.path, &hex);
        run(move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        })
        .await
    }

    pub(super) async fn open_blob(&self, hex: String) -> io::Result<Opened> {
        let (file, size) = self.file(hex).await?;
        let file = Arc::new(file);
        let parts = stream::iter((0..size).step_by(READ)).map(move |start| {
            let file = Arc::clone(&file);
            run(move || read_at(&file, start, size))
        });
        // One is read while the one before is sent.
        Ok(Opened { size, parts: parts.buffered(2).boxed() })
    }

    pub(super) async fn get(&self, hex: String) -> io::Result<Bytes> {
        let path = path_of(&self.path, &hex);
        run(move || std::fs::read(path).map(Bytes::from)).await
    }

    /// Waits until another upload may be written, for as long as the answer is held.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    /// Writes the parts of an upload, whose digest must be `hex` if that is given. Gives its digest, and whether the blob
    /// was not there before.
    pub(super) fn receive(
        &self,
        hex: Option<&str>,
        mut parts: mpsc::Receiver<Part>,
    ) -> Result<(String, bool), UploadError> {
        let folder = &*self.path;
        let is_there = |hex: &str| find(folder, &path_of(folder, hex)).map(|size| size.is_some());
        let is_known = hex.map_or(Ok(false), is_there)?;
        let mut temporary = if is_known { None } else { Some(Temporary::new(folder)?) };
        let mut hasher = Sha256::new();
        loop {
            match parts.blocking_recv() {
                Some(Part::Bytes(bytes)) => {
                    hasher.update(&bytes);
                    if let Some(temporary) = &mut temporary {
                        temporary.write(&bytes)?;
                    }
                }
                Some(Part::End) => break,
                None => return Err(cut_off()),
            }
        }
        let found = self::hex(&hasher.finalize());
        if hex.is_some_and(|hex| found != hex) {
            return Err(UploadError::Mismatch(found));
        }
        // Its age counts from the end of the upload.
        let is_there = is_there(&found)?;
        let path = path_of(folder, &found);
        match temporary {
            Some(temporary) if !is_there => temporary.keep_as(folder, &path)?,
            None if !is_there => return Err(was_removed()),
            Some(_) | None => {}
        }
        flush_names(&path)?;
        Ok((format!("sha256:{found}"), !is_there))
    }
}

/// A part of a file of so many bytes, from `start` on.
fn read_at(file: &File, start: u64, size: u64) -> io::Result<Bytes> {
    let mut part = vec![0; usize::try_from(size - start).unwrap_or(READ).min(READ)];
    file.read_exact_at(&mut part, start)?;
    Ok(part.into())
}

fn path_of(folder: &Path, digest: &str) -> PathBuf {
    folder.join(&digest[..2]).join(digest)
}

/// Makes the blob at `path` young, if it is there. Gives its size.
fn find(folder: &Path, path: &Path) -> io::Result<Option<u64>> {
    let _naming = locks::naming(folder)?;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    locks::touch(&file)?;
    Ok(Some(file.metadata()?.len()))
}

/// Writes a file that is there whole or not at all, whatever is killed and whenever.
fn write_once(folder: &Path, hex: &str, data: &[u8]) -> io::Result<()> {
    let path = path_of(folder, hex);
    if find(folder, &path)?.is_none() {
        let mut temporary = Temporary::new(folder)?;
        temporary.file.write_all(data)?;
        temporary.keep_as(folder, &path)?;
    }
    flush_names(&path)
}

/// Bytes of an upload after which the disk begins to write them, while more arrive: at the end it has less to do.
const AHEAD: u64 = 16 << 20;

/// A file that is removed again unless it is kept.
struct Temporary {
    file: File,
    path: PathBuf,
    is_kept: bool,
    /// Bytes that were written since the disk was last asked to begin.
    n_left: u64,
    flushing: Option<JoinHandle<io::Result<()>>>,
}

impl Temporary {
    fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(INCOMING).join(protocol::LeaseId::new().to_string());
        let file = File::create(&path)?;
        Ok(Self { file, path, is_kept: false, n_left: 0, flushing: None })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.n_left += bytes.len() as u64;
        if self.n_left >= AHEAD && self.flushing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.end_flushing()?;
            self.n_left = 0;
            let file = self.file.try_clone()?;
            // Without a thread for it all is flushed at the end.
            let flushing = thread::Builder::new().spawn(move || file.sync_data());
            self.flushing = flushing.ok();
        }
        Ok(())
    }

    /// Waits for the flush that is under way. It is the only one that is told what it could not write: the system tells
    /// that once.
    fn end_flushing(&mut self) -> io::Result<()> {
        let Some(flushing) = self.flushing.take() else { return Ok(()) };
        flushing.join().unwrap_or_else(|_| Err(io::Error::other("a flush panicked")))
    }

    /// Flushes it and gives it its name.
    fn keep_as(mut self, folder: &Path, path: &Path) -> io::Result<()> {
        self.end_flushing()?;
        self.file.sync_all()?;
        std::fs::create_dir_all(folder_of(path)?)?;
        // A slow upload is not old when it gets its name.
        locks::touch(&self.file)?;
        let _naming = locks::naming(folder)?;
        std::fs::rename(&self.path, path)?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be removed now is swept at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Flushes the name of `path`. A name is on disk only when its folder is, and that one's name when
/// its own is. Also where the file was there: whoever wrote it may not have come so far.
fn flush_names(path: &Path) -> io::Result<()> {
    let folder = folder_of(path)?;
    File::open(folder)?.sync_all()?;
    File::open(folder_of(folder)?)?.sync_all()
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
