//! Something to upload, named by its digest.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempPath;

use crate::digest::Digest;

/// Bytes that are to be on the server.
#[derive(Debug)]
pub struct Blob {
    /// Their name.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    content: Content,
}

/// Where the bytes are.
#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
    /// A file that goes away with this value.
    Temporary(TempPath),
}

impl Blob {
    /// Of bytes in memory.
    pub fn of_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let digest = Digest::of_bytes(&bytes);
        Self { digest, size: bytes.len() as u64, content: Content::Memory(bytes) }
    }

    /// Of a file, which must stay as it is until it is uploaded: the server refuses it otherwise.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let (digest, size) = Digest::of_reader(File::open(path)?)?;
        Ok(Self { digest, size, content: Content::File(path.to_owned()) })
    }

    /// Of a temporary file whose digest is known.
    pub fn of_temporary(path: TempPath, digest: Digest, size: u64) -> Self {
        Self { digest, size, content: Content::Temporary(path) }
    }

    /// Its bytes.
    #[cfg(test)]
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match &self.content {
            Content::Memory(bytes) => Ok(bytes.to_vec()),
            Content::File(path) => std::fs::read(path),
            Content::Temporary(path) => std::fs::read(path),
        }
    }

    /// The body of a request that uploads it.
    pub async fn body(&self) -> io::Result<reqwest::Body> {
        let file = match &self.content {
            Content::Memory(bytes) => return Ok(bytes.clone().into()),
            Content::File(path) => path.as_path(),
            Content::Temporary(path) => path,
        };
        Ok(tokio::fs::File::open(file).await?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_one_name_wherever_its_bytes_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let (on_disk, in_memory) = (Blob::of_file(file.path()).unwrap(), Blob::of_bytes("abc"));
        assert_eq!((on_disk.digest, on_disk.size), (in_memory.digest, 3));
    }
}
