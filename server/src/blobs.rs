//! Content-addressed payloads, named by the SHA-256 of their bytes: files of a [`folder`], or objects
//! of a [`bucket`] in S3-compatible storage.
//!
//! Who puts a blob, or finds that it is there, makes it young again: what is submitted or reported
//! with it then has time to be written down before it counts as old. Old ones to which nothing
//! refers are removed by [`crate::collector`].

mod bucket;
mod digest;
mod folder;
mod location;
mod objects;

use std::io::{self, Read};
#[cfg(any(test, feature = "fuzzing"))]
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::store::db::Tx;
use crate::store::tokens::Scope;
use crate::store::{self, Store, uploads};

pub use bucket::{Bucket, BucketError, Listing, SignedUrl};
use digest::{checked, hex};
pub use digest::{digest_of_all, hex_digest, parse_digest};
pub use folder::{Folder, N_PARTS, Removed};
pub use location::{BlobsAt, BucketName};
pub use objects::Objects;

/// Parts of an upload that wait to be written at the most.
const PARTS_AHEAD: usize = 8;

/// For how long nothing may come of an upload that has begun: it keeps a thread, or a part in memory.
const SILENCE: Duration = Duration::from_secs(60);

/// The blobs of one server.
#[derive(Clone)]
pub struct Blobs {
    kept: Kept,
    /// Who asks for blobs by their digests, unless it is the server itself.
    reader: Option<Reader>,
}

/// Where they are.
#[derive(Clone)]
pub enum Kept {
    /// In files.
    Folder(Folder),
    /// In a bucket.
    Bucket(Objects),
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

/// A blob that is being read.
pub struct Opened {
    /// Its bytes in all.
    pub size: u64,
    /// Its bytes, as they come.
    pub parts: BoxStream<'static, io::Result<Bytes>>,
}

/// Blobs that are only looked at, by who has the database that refers to them open.
pub enum Inspected {
    /// In a folder.
    Folder(Folder),
    /// In a bucket, with what is in it.
    Bucket(Bucket, Listing),
}

impl Inspected {
    /// The size of a blob in bytes; `None`: there is none of this digest.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one; when the folder or the database cannot be read.
    pub async fn size(&self, tx: &mut Tx<'_>, digest: &str) -> io::Result<Option<u64>> {
        let hex = checked(digest)?.to_owned();
        match self {
            Self::Folder(folder) => folder.size(hex).await,
            Self::Bucket(_, listing) => {
                let object = store::objects::get(tx, digest).await.map_err(io::Error::other)?;
                Ok(object.and_then(|object| listing.size(&object.name)))
            }
        }
    }

    /// Opens the blob of `digest` for reading.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn open_blob(&self, tx: &mut Tx<'_>, digest: &str) -> io::Result<Opened> {
        let hex = checked(digest)?.to_owned();
        match self {
            Self::Folder(folder) => folder.open_blob(hex).await,
            Self::Bucket(bucket, _) => {
                let object = store::objects::get(tx, digest).await.map_err(io::Error::other)?;
                bucket.open(&object.ok_or(io::ErrorKind::NotFound)?.name).await
            }
        }
    }

    /// What a blob is called for people: in a bucket with the key of its object, so that it can be put
    /// back there.
    pub async fn describe(&self, tx: &mut Tx<'_>, digest: &str) -> String {
        let Self::Bucket(bucket, _) = self else { return format!("blob {digest}") };
        match store::objects::get(tx, digest).await {
            Ok(Some(object)) => format!("blob {digest} ({})", bucket.key(&object.name)),
            Ok(None) | Err(_) => format!("blob {digest}"),
        }
    }

    /// Those that are in a folder.
    #[cfg(test)]
    pub fn of(blobs: &Blobs) -> Self {
        match blobs.kept() {
            Kept::Folder(folder) => Self::Folder(folder.clone()),
            Kept::Bucket(_) => panic!("a bucket is inspected with its listing"),
        }
    }
}

impl Opened {
    /// Reads to the end, and gives each part to `write`: the SHA-256 in hex, and how many bytes there
    /// were.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub async fn digest(
        mut self,
        mut write: impl AsyncFnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<(String, u64)> {
        let (mut hasher, mut n) = (Sha256::new(), 0);
        while let Some(part) = self.parts.next().await {
            let part = part?;
            hasher.update(&part);
            write(&part).await?;
            n += part.len() as u64;
        }
        Ok((hex(&hasher.finalize()), n))
    }
}

impl From<Kept> for Blobs {
    fn from(kept: Kept) -> Self {
        Self { kept, reader: None }
    }
}

impl Blobs {
    /// Opens a folder of blobs, making it as needed.
    ///
    /// # Errors
    /// When it cannot be made.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn open(folder: &Path) -> io::Result<Self> {
        Folder::open(folder).map(|folder| Kept::Folder(folder).into())
    }

    /// Where they are.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The same blobs, as far as `scope` may see them: for whoever else's a blob is, its digest names
    /// nothing. Looked up and opened by digest; what is [`get`](Self::get) is the server's own.
    pub fn seen_by(&self, store: &Store, scope: Scope) -> Self {
        let reader = match scope {
            Scope::All => None,
            Scope::Of(owner) => Some(Reader { store: store.clone(), owner: owner.into() }),
        };
        Self { kept: self.kept.clone(), reader }
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

    /// Stores `data` and gives its digest, `sha256:` and 64 hex digits. It is on disk, or in the
    /// bucket, when this returns; the same bytes are stored once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put(&self, data: Bytes) -> io::Result<String> {
        match &self.kept {
            Kept::Folder(folder) => folder.put(data).await,
            Kept::Bucket(objects) => objects.put(data).await,
        }
    }

    /// Stores the parts of `body`, of `limit` bytes at most, whose digest must be `digest`. It is
    /// on disk, or in the bucket, when this returns.
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
        let objects = match &self.kept {
            Kept::Folder(folder) => {
                return into_folder(folder, Some(hex), body, limit)
                    .await
                    .map(|(_, uploaded)| uploaded);
            }
            Kept::Bucket(objects) => objects.clone(),
        };
        let (size, is_new) = written(body, limit, |receiver| {
            tokio::spawn(async move { objects.receive(&hex, receiver).await })
        })
        .await?;
        Ok(Uploaded { size, is_new })
    }

    /// Stores the parts of `body`, whatever they are, as [`put`](Self::put) does with what is there whole. In a folder they
    /// are written as they come.
    ///
    /// # Errors
    /// When it breaks off or cannot be written; then nothing is stored.
    pub async fn store<S, E>(&self, body: S) -> Result<String, UploadError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: std::fmt::Display,
    {
        let Kept::Folder(folder) = &self.kept else {
            let gather = async |mut all: BytesMut, part: Bytes| {
                all.extend_from_slice(&part);
                Ok(all)
            };
            let all = body.try_fold(BytesMut::new(), gather).await;
            let all = all.map_err(|error| UploadError::Interrupted(error.to_string()))?;
            return Ok(self.put(all.freeze()).await?);
        };
        into_folder(folder, None, body, u64::MAX).await.map(|(digest, _)| digest)
    }

    /// Finds a blob that something is to refer to, and so makes it young. Gives its size in bytes;
    /// `None`: there is none of this digest.
    ///
    /// # Errors
    /// `InvalidInput` when `digest` is not one; when the folder or the database cannot be used.
    pub async fn find(&self, digest: &str) -> io::Result<Option<u64>> {
        let hex = checked(digest)?.to_owned();
        match self.check_seen(digest).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            seen => seen?,
        }
        match &self.kept {
            Kept::Folder(folder) => folder.find(hex).await,
            Kept::Bucket(objects) => objects.find(digest).await,
        }
    }

    /// The size of a blob in bytes; `None`: there is none of this digest.
    #[cfg(test)]
    pub async fn size(&self, digest: &str) -> io::Result<Option<u64>> {
        let hex = checked(digest)?.to_owned();
        match &self.kept {
            Kept::Folder(folder) => folder.size(hex).await,
            Kept::Bucket(objects) => Ok(objects.get(digest).await?.map(|object| object.bytes)),
        }
    }

    /// Opens the blob of `digest` for reading.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn open_blob(&self, digest: &str) -> io::Result<Opened> {
        let hex = checked(digest)?.to_owned();
        self.check_seen(digest).await?;
        match &self.kept {
            Kept::Folder(folder) => folder.open_blob(hex).await,
            Kept::Bucket(objects) => objects.open_blob(digest).await,
        }
    }

    /// Opens the blob of `digest` for a thread that reads it, and says how large it is.
    ///
    /// # Errors
    /// As [`open_blob`](Self::open_blob)'s.
    pub async fn reader(&self, digest: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        if let Kept::Folder(folder) = &self.kept {
            let hex = checked(digest)?.to_owned();
            self.check_seen(digest).await?;
            let (file, size) = folder.file(hex).await?;
            return Ok((Box::new(file), size));
        }
        let opened = self.open_blob(digest).await?;
        let bridge = SyncIoBridge::new(StreamReader::new(opened.parts));
        Ok((Box::new(bridge), opened.size))
    }

    /// Where the bytes of the blob `digest` can be had without this server, for a while; `None`:
    /// nowhere.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn signed_url(&self, digest: &str) -> io::Result<Option<SignedUrl>> {
        checked(digest)?;
        self.check_seen(digest).await?;
        match &self.kept {
            Kept::Folder(_) => Ok(None),
            Kept::Bucket(objects) => objects.signed_url(digest).await,
        }
    }

    /// Reads the blob of `digest`.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn get(&self, digest: &str) -> io::Result<Bytes> {
        let hex = checked(digest)?.to_owned();
        match &self.kept {
            Kept::Folder(folder) => folder.get(hex).await,
            Kept::Bucket(objects) => objects.read(digest).await,
        }
    }

    /// Where the blob of `digest` stands.
    #[cfg(test)]
    pub fn path(&self, digest: &str) -> io::Result<PathBuf> {
        let Kept::Folder(folder) = &self.kept else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        folder.path(digest)
    }
}

/// A part of an upload.
enum Part {
    Bytes(Bytes),
    /// All of it has come: what ends without this was cut off.
    End,
}

fn cut_off() -> UploadError {
    UploadError::Interrupted("it was cut off".to_owned())
}

/// A blob of which only the digest was to be checked, because it was there, is not there any more.
fn was_removed() -> UploadError {
    UploadError::Interrupted("the blob was removed meanwhile".to_owned())
}

/// Writes a body of at most `limit` bytes into a folder, when it has its turn. Gives its digest.
async fn into_folder<S, E>(
    folder: &Folder,
    hex: Option<String>,
    body: S,
    limit: u64,
) -> Result<(String, Uploaded), UploadError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::fmt::Display,
{
    let _turn = folder.turn().await;
    let folder = folder.clone();
    let (size, (digest, is_new)) = written(body, limit, |receiver| {
        tokio::task::spawn_blocking(move || folder.receive(hex.as_deref(), receiver))
    })
    .await?;
    Ok((digest, Uploaded { size, is_new }))
}

/// Gives the parts of a body to who writes them; its size, and what the writer says. In a task of its own: whoever uploads
/// may be gone at any moment, and what there is must be cleared away then.
async fn written<S, E, T>(
    body: S,
    limit: u64,
    write: impl FnOnce(mpsc::Receiver<Part>) -> JoinHandle<Result<T, UploadError>>,
) -> Result<(u64, T), UploadError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::fmt::Display,
{
    let (parts, receiver) = mpsc::channel(PARTS_AHEAD);
    let writing = write(receiver);
    let sent = send(body, limit, &parts).await;
    // Without an end the writer leaves nothing behind; a refusal is told when that is so.
    drop(parts);
    let written = writing.await.map_err(io::Error::other)?;
    Ok((sent?, written?))
}

/// Sends the parts of a body, at most `limit` bytes, and its end. Gives its size.
async fn send<S, E>(body: S, limit: u64, parts: &mpsc::Sender<Part>) -> Result<u64, UploadError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: std::fmt::Display,
{
    let mut size = 0;
    let mut body = std::pin::pin!(body);
    loop {
        let part = tokio::time::timeout(SILENCE, body.next()).await.map_err(|_| {
            UploadError::Interrupted(format!("nothing came for {} s", SILENCE.as_secs()))
        })?;
        let Some(part) = part else { break };
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

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
