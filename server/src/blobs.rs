//! Content-addressed payloads: a folder in which a file's name is the SHA-256 of its bytes.
//!
//! Who puts a blob, or finds that it is there, makes it young again: what is submitted or reported
//! with it then has time to be written down before it counts as old. Old ones to which nothing
//! refers are removed by [`crate::collector`].

mod locks;
mod old;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::store::tokens::Scope;
use crate::store::{Store, uploads};

pub use locks::Held;
pub use old::{N_PARTS, Removed};

/// Parts of an upload that wait for the disk at the most.
const PARTS_AHEAD: usize = 8;

/// The folder of what is not yet whole.
const INCOMING: &str = "incoming";

/// The blobs of one server.
#[derive(Clone)]
pub struct Blobs {
    folder: Arc<Path>,
    /// Who asks for blobs by their digests, unless it is the server itself.
    reader: Option<Reader>,
}

/// Sees no other blobs than those it has uploaded.
#[derive(Clone)]
struct Reader {
    store: Store,
    owner: Arc<str>,
}

/// What an upload came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes of the blob.
    pub size: u64,
    /// Whether it was not there before.
    pub is_new: bool,
}

/// Why an upload was not stored.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Its bytes have another digest.
    #[error("the bytes have the digest sha256:{0}")]
    Mismatch(String),
    /// It is larger than the limit, in bytes.
    #[error("the blob is larger than {0} bytes")]
    TooLarge(u64),
    /// It broke off.
    #[error("the body ends early: {0}")]
    Interrupted(String),
    /// It cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Blobs {
    /// Opens the folder, making it as needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join(INCOMING))?;
        std::fs::create_dir_all(folder.join(locks::LOCKS))?;
        Ok(Self { folder: folder.into(), reader: None })
    }

    /// The same blobs, as far as `scope` may see them: for whoever else's a blob is, its digest names
    /// nothing. Looked up and opened by digest; what is [`get`](Self::get) is the server's own.
    pub fn seen_by(&self, store: &Store, scope: Scope) -> Self {
        let reader = match scope {
            Scope::All => None,
            Scope::Of(owner) => Some(Reader { store: store.clone(), owner: owner.into() }),
        };
        Self { folder: Arc::clone(&self.folder), reader }
    }

    /// Fails as for a blob that is not there if it may not be seen.
    async fn check_seen(&self, digest: &str) -> io::Result<()> {
        let Some(Reader { store, owner }) = &self.reader else { return Ok(()) };
        let (owner, wanted) = (Arc::clone(owner), digest.to_owned());
        let has = store
            .read(|tx| Box::pin(async move { uploads::has(tx, &owner, &wanted).await }))
            .await
            .map_err(io::Error::other)?;
        if has { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// The blobs in a folder that is only read, and need not be there.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.into(), reader: None }
    }

    /// Removes what uploads left behind that were cut off with an earlier server. No other server
    /// may run on the folder.
    ///
    /// # Errors
    /// When the folder cannot be read or a file not be removed.
    pub fn sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.folder.join(INCOMING))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Stores `data` and gives its digest, `sha256:` and 64 hex digits. It is on disk when this
    /// returns; the same bytes are stored once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn put(&self, data: Bytes) -> io::Result<String> {
        let folder = Arc::clone(&self.folder);
        run(move || {
            let digest = hex_digest(&data);
            write_once(&folder, &digest, &data)?;
            Ok(format!("sha256:{digest}"))
        })
        .await
    }

    /// Stores the parts of `body`, of `limit` bytes at most, whose digest must be `digest`. It is
    /// on disk when this returns.
    ///
    /// # Errors
    /// When it is too large, breaks off, or has another digest; then nothing is stored.
    pub async fn upload<S, E>(
        &self,
        digest: &str,
        body: S,
        limit: u64,
    ) -> Result<Uploaded, UploadError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let hex = checked(digest)?.to_owned();
        let folder = Arc::clone(&self.folder);
        let (parts, receiver) = mpsc::channel(PARTS_AHEAD);
        let writing = tokio::task::spawn_blocking(move || receive(&folder, &hex, receiver));
        let sent = send(body, limit, &parts).await;
        // Without an end the writer leaves nothing behind; a refusal is told when that is so.
        drop(parts);
        let written = writing.await.map_err(io::Error::other)?;
        let size = sent?;
        Ok(Uploaded { size, is_new: written? })
    }

    /// Finds a blob that something is to refer to, and so makes it young. Gives its size in bytes;
    /// `None`: there is none of this digest.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one; when the folder cannot be used.
    pub async fn find(&self, digest: &str) -> io::Result<Option<u64>> {
        let hex = checked(digest)?.to_owned();
        match self.check_seen(digest).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            seen => seen?,
        }
        let folder = Arc::clone(&self.folder);
        run(move || find(&folder, &path_of(&folder, &hex))).await
    }

    /// Keeps every blob that is there in its place for as long as the answer is held.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn keep_all(&self) -> io::Result<Held> {
        let folder = Arc::clone(&self.folder);
        run(move || locks::reading(&folder)).await
    }

    /// Where the blob of `digest` stands.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one.
    pub fn path(&self, digest: &str) -> io::Result<PathBuf> {
        checked(digest).map(|hex| path_of(&self.folder, hex))
    }

    /// The size of a blob in bytes; `None`: there is none of this digest.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one; when the folder cannot be read.
    pub async fn size(&self, digest: &str) -> io::Result<Option<u64>> {
        match self.open_blob(digest).await {
            Ok((_, size)) => Ok(Some(size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the blob of `digest` for reading, and says how large it is.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn open_blob(&self, digest: &str) -> io::Result<(File, u64)> {
        let path = path_of(&self.folder, checked(digest)?);
        self.check_seen(digest).await?;
        run(move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        })
        .await
    }

    /// Reads the blob of `digest`.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn get(&self, digest: &str) -> io::Result<Bytes> {
        let path = path_of(&self.folder, checked(digest)?);
        run(move || std::fs::read(path).map(Bytes::from)).await
    }
}

/// The 64 hex digits of `sha256:…`; `None` if it is not of that form.
pub fn parse_digest(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

fn checked(digest: &str) -> io::Result<&str> {
    parse_digest(digest).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The SHA-256 of `data` in hex.
pub fn hex_digest(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// The SHA-256 in hex of what is read from `data` to its end, and how many bytes that was; each part
/// is given to `write` too.
///
/// # Errors
/// When reading or writing fails.
pub fn digest_of_all(
    mut data: impl io::Read,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(String, u64)> {
    let (mut hasher, mut part, mut n) = (Sha256::new(), vec![0; 1 << 17], 0);
    loop {
        let read = match data.read(&mut part) {
            Ok(0) => return Ok((hex(&hasher.finalize()), n)),
            Ok(read) => &part[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(read);
        write(read)?;
        n += read.len() as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path_of(folder: &Path, digest: &str) -> PathBuf {
    folder.join(&digest[..2]).join(digest)
}

/// A part of an upload.
enum Part {
    Bytes(Bytes),
    /// All of it has come: what ends without this was cut off.
    End,
}

/// Writes the parts of an upload. Says whether the blob was not there before.
fn receive(folder: &Path, hex: &str, mut parts: mpsc::Receiver<Part>) -> Result<bool, UploadError> {
    let path = path_of(folder, hex);
    let is_new = find(folder, &path)?.is_none();
    let mut temporary = if is_new { Some(Temporary::new(folder)?) } else { None };
    let mut hasher = Sha256::new();
    loop {
        match parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => {
                hasher.update(&bytes);
                if let Some(temporary) = &mut temporary {
                    temporary.file.write_all(&bytes)?;
                }
            }
            Some(Part::End) => break,
            None => return Err(UploadError::Interrupted("it was cut off".to_owned())),
        }
    }
    let found = self::hex(&hasher.finalize());
    if found != hex {
        return Err(UploadError::Mismatch(found));
    }
    match temporary {
        Some(temporary) => temporary.keep_as(folder, &path)?,
        // Its age counts from the end of the upload.
        None if find(folder, &path)?.is_none() => {
            return Err(UploadError::Interrupted("the blob was removed meanwhile".to_owned()));
        }
        None => {}
    }
    flush_names(&path)?;
    Ok(is_new)
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

/// A file that is removed again unless it is kept.
struct Temporary {
    file: File,
    path: PathBuf,
    is_kept: bool,
}

impl Temporary {
    fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(INCOMING).join(protocol::LeaseId::new().to_string());
        Ok(Self { file: File::create(&path)?, path, is_kept: false })
    }

    /// Flushes it and gives it its name.
    fn keep_as(mut self, folder: &Path, path: &Path) -> io::Result<()> {
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

/// Sends the parts of a body, at most `limit` bytes, and its end. Gives its size.
async fn send<S, E>(body: S, limit: u64, parts: &mpsc::Sender<Part>) -> Result<u64, UploadError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::fmt::Display,
{
    let mut size = 0;
    let mut body = std::pin::pin!(body);
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| UploadError::Interrupted(error.to_string()))?;
        size += part.len() as u64;
        if size > limit {
            return Err(UploadError::TooLarge(limit));
        }
        // A writer that has gone has failed, and says why itself.
        if parts.send(Part::Bytes(part)).await.is_err() {
            return Ok(size);
        }
    }
    let _ = parts.send(Part::End).await;
    Ok(size)
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

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
