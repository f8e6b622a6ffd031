//! Content-addressed payloads: a folder in which a file's name is the SHA-256 of its bytes.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The blobs of one server.
#[derive(Clone, Debug)]
pub struct Blobs {
    folder: Arc<Path>,
}

impl Blobs {
    /// Opens the folder, making it as needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into() })
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
            write_once(&path_of(&folder, &digest), &data)?;
            Ok(format!("sha256:{digest}"))
        })
        .await
    }

    /// Reads the blob of `digest`.
    ///
    /// # Errors
    /// `NotFound` when there is no such blob, `InvalidInput` when `digest` is not one.
    pub async fn get(&self, digest: &str) -> io::Result<Bytes> {
        let digest = parse_digest(digest)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
            .to_owned();
        let folder = Arc::clone(&self.folder);
        run(move || std::fs::read(path_of(&folder, &digest)).map(Bytes::from)).await
    }
}

/// The 64 hex digits of `sha256:…`; `None` if it is not of that form.
pub fn parse_digest(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

/// The SHA-256 of `data` in hex.
pub fn hex_digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path_of(folder: &Path, digest: &str) -> PathBuf {
    folder.join(&digest[..2]).join(digest)
}

/// Writes a file that is there whole or not at all, whatever is killed and whenever.
fn write_once(path: &Path, data: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = path.parent().ok_or_else(invalid)?;
    if !path.exists() {
        std::fs::create_dir_all(folder)?;
        let temporary = folder.join(format!("{}.tmp", protocol::LeaseId::new()));
        if let Err(error) =
            write_synced(&temporary, data).and_then(|()| std::fs::rename(&temporary, path))
        {
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
    }
    // A name is on disk only when its folder is, and that one's name when its own is. Also where
    // the file was there: whoever wrote it may not have come so far.
    std::fs::File::open(folder)?.sync_all()?;
    std::fs::File::open(folder.parent().ok_or_else(invalid)?)?.sync_all()
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_got_and_stored_once() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let digest = blobs.put(Bytes::from_static(b"farrow")).await.unwrap();
        assert_eq!(blobs.put(Bytes::from_static(b"farrow")).await.unwrap(), digest);
        assert_eq!(blobs.get(&digest).await.unwrap(), "farrow");
    }

    #[tokio::test]
    async fn a_digest_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let outside = format!("sha256:../{}", "a".repeat(61));
        assert_eq!(blobs.get(&outside).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
