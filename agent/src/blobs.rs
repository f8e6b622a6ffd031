//! Large inputs and constants, fetched once by their digest and kept while there is room: inputs in memory, where
//! elements are cut out of them; constants in files ([`cache`]), which workers read by themselves.

mod cache;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use protocol::Problem;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::OnceCell;

use self::cache::Cache;
pub use self::cache::Cached;
use crate::client::Client;
use crate::clock;
use crate::confinement::Identity;

/// For how long another agent that fetches a blob may stand still before this one fetches it for itself.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of blobs kept in memory. What is in use stays alive beyond it.
const KEPT: usize = 256 << 20;

/// Blobs that were used of late.
#[derive(Debug)]
pub struct Blobs {
    client: Client,
    recent: Mutex<Vec<Entry>>,
    /// Nothing, if none are to be kept in files.
    cache: Option<Cache>,
    in_files: Mutex<BTreeMap<String, Weak<OnceCell<Cached>>>>,
}

/// A blob in a file that workers can read, and which stays there while this lives.
#[derive(Clone, Debug)]
pub struct InFile(Arc<OnceCell<Cached>>);

impl InFile {
    /// Its file.
    pub fn get(&self) -> Option<&Cached> {
        self.0.get()
    }

    /// Whether it is still where workers look for it.
    pub fn is_there(&self) -> bool {
        self.get().is_some_and(Cached::is_there)
    }
}

/// One blob. Whoever asks first fetches it, all others wait for that one fetch.
#[derive(Clone, Debug)]
struct Entry {
    digest: String,
    bytes: Arc<OnceCell<Bytes>>,
}

/// Why a blob cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlobError {
    /// The server will not give it.
    #[error("the server does not give the blob {digest}: {problem}")]
    Refused {
        /// Which.
        digest: String,
        /// What it said.
        problem: String,
    },
    /// Its bytes are not those that the digest names.
    #[error("the blob {0} arrived with other bytes than its digest names; its store is damaged")]
    Damaged(String),
    /// It found no place on this machine.
    #[error("the blob {digest} cannot be stored on the agent: {error}")]
    NotStored {
        /// Which.
        digest: String,
        /// What the system said.
        error: String,
    },
}

impl Blobs {
    /// No blobs in memory yet; fetched through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, recent: Mutex::default(), cache: None, in_files: Mutex::default() }
    }

    /// Keeps blobs also in files of `folder`, for workers whose identity this is: `limit` bytes of those that nobody
    /// uses. With 0 none are, and what was there before goes. Where the folder cannot be used, it is done without.
    pub fn with_files(self, folder: &Path, identity: Identity, limit: u64) -> Self {
        if limit == 0 {
            cache::make_room(folder, None, 0);
            return self;
        }
        let cache = Cache::open(folder, identity, limit).inspect_err(|error| {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "the folder cannot be used, so large constants are kept in memory; choose another by --scratch");
        });
        Self { cache: cache.ok(), ..self }
    }

    /// The blob `sha256:…`.
    ///
    /// # Errors
    /// When the server does not have it, or has other bytes.
    pub async fn get(&self, digest: &str) -> Result<Bytes, BlobError> {
        let entry = self.entry(digest);
        let bytes = entry.bytes.get_or_try_init(|| self.fetch(digest)).await?.clone();
        self.make_room();
        Ok(bytes)
    }

    /// The blob `sha256:…` in a file. Nothing if none are kept in files, or if this one finds no place there: then
    /// [`Blobs::get`] it.
    ///
    /// # Errors
    /// When the server does not have it, or has other bytes.
    pub async fn in_file(&self, digest: &str) -> Result<Option<InFile>, BlobError> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let cell = {
            let mut in_files = self.in_files.lock().unwrap_or_else(PoisonError::into_inner);
            in_files.retain(|_, cell| cell.strong_count() > 0);
            let cell = in_files.get(digest).and_then(Weak::upgrade);
            // What jobs have removed is put there anew.
            let cell = cell.filter(|cell| cell.get().is_none_or(Cached::is_there));
            let cell = cell.unwrap_or_default();
            in_files.insert(digest.to_owned(), Arc::downgrade(&cell));
            cell
        };
        match cell.get_or_try_init(|| self.cached(cache, digest)).await {
            Ok(_) => Ok(Some(InFile(cell))),
            Err(BlobError::NotStored { digest, error }) => {
                tracing::warn!(
                    digest,
                    error,
                    "a constant finds no place in the folder of --scratch; it is kept in memory"
                );
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn cached(&self, cache: &Cache, digest: &str) -> Result<Cached, BlobError> {
        let not_stored = |error: io::Error| {
            let (digest, error) = (digest.to_owned(), error.to_string());
            BlobError::NotStored { digest, error }
        };
        let (mut fetched, mut since) = (0, clock::now());
        loop {
            if let Some(found) = cache.find(digest).await.map_err(not_stored)? {
                return Ok(found);
            }
            if let Some(turn) = cache.turn(digest).await.map_err(not_stored)? {
                self.save(digest, &turn.part).await?;
                return cache.keep(turn).await.map_err(not_stored);
            }
            // Another agent fetches it, whose server may be away: it may be another one.
            if fetched != cache.fetched(digest) {
                (fetched, since) = (cache.fetched(digest), clock::now());
            } else if clock::now() - since > STALL_LIMIT {
                return Err(not_stored(io::Error::other("another agent does not come on with it")));
            }
        }
    }

    /// Writes the blob `sha256:…` to a file, however large it is, and keeps nothing of it here.
    ///
    /// # Errors
    /// When the server does not have it, or has other bytes, or the disk has no room.
    pub async fn save(&self, digest: &str, path: &Path) -> Result<(), BlobError> {
        let saved = self.client.save_blob(digest, path).await;
        let saved = saved.map_err(|problem| refused(digest, &problem))?;
        let actual = saved.map_err(|error| {
            let (digest, error) = (digest.to_owned(), error.to_string());
            BlobError::NotStored { digest, error }
        })?;
        if name_of(actual) == digest { Ok(()) } else { Err(BlobError::Damaged(digest.to_owned())) }
    }

    /// Sees to it that the server has the blob `sha256:…`, whose bytes are those of a file. It is sent
    /// only if it is not there.
    ///
    /// # Errors
    /// When the server will not have it.
    pub async fn keep(&self, digest: &str, file: Arc<File>, bytes: u64) -> Result<(), Problem> {
        if self.client.has_blob(digest).await? {
            return Ok(());
        }
        self.client.put_blob(digest, file, bytes).await
    }

    async fn fetch(&self, digest: &str) -> Result<Bytes, BlobError> {
        let fetched = self.client.blob(digest).await;
        let fetched = fetched.map_err(|problem| refused(digest, &problem))?;
        let (fetched, actual) = tokio::task::spawn_blocking(move || {
            let actual = digest_of(&fetched);
            (fetched, actual)
        })
        .await
        .unwrap_or_default();
        if actual == digest { Ok(fetched) } else { Err(BlobError::Damaged(digest.to_owned())) }
    }

    /// The entry of a blob, made the most recent one.
    fn entry(&self, digest: &str) -> Entry {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match recent.iter().position(|entry| entry.digest == digest) {
            Some(at) => recent.remove(at),
            None => Entry { digest: digest.to_owned(), bytes: Arc::default() },
        };
        recent.push(entry.clone());
        entry
    }

    /// Forgets the blobs that were used least recently until the others fit.
    fn make_room(&self) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut fits = |entry: &Entry| {
            total += entry.bytes.get().map_or(0, Bytes::len);
            total <= KEPT
        };
        let kept = recent.iter().rev().take_while(|entry| fits(entry)).count();
        let forgotten = recent.len() - kept;
        recent.drain(..forgotten);
    }
}

fn refused(digest: &str, problem: &Problem) -> BlobError {
    BlobError::Refused { digest: digest.to_owned(), problem: problem.to_string() }
}

/// `sha256:` and the digest of these bytes, as blobs are named.
pub fn digest_of(bytes: &[u8]) -> String {
    name_of(Sha256::new_with_prefix(bytes))
}

/// A digest as blobs are named.
pub fn name_of(digest: Sha256) -> String {
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_as_blobs_are_named() {
        assert_eq!(
            digest_of(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
