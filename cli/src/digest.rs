//! SHA-256 of what is uploaded, and the names that blobs have by it.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The name of a blob: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest(String);

impl Digest {
    /// Of bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    /// Of all that can be read, and how much that is.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hash = Sha256::new();
        let size = io::copy(&mut reader, &mut hash)?;
        Ok((Self::finish(hash), size))
    }

    /// What a hash has come to.
    pub fn finish(hash: Sha256) -> Self {
        Self(format!("sha256:{:x}", hash.finalize()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    /// With or without `sha256:`.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        match digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            true => Ok(Self(format!("sha256:{}", digits.to_ascii_lowercase()))),
            false => Err("not sha256: and 64 hexadecimal digits".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_the_same_from_memory_and_from_a_file() {
        assert_eq!(Digest::of_bytes(b"").to_string(), EMPTY);
        let (digest, size) = Digest::of_reader(&b"abc"[..]).unwrap();
        assert_eq!((digest, size), (Digest::of_bytes(b"abc"), 3));
    }

    #[test]
    fn digests_are_written_with_or_without_their_kind() {
        let bare = EMPTY.strip_prefix("sha256:").unwrap();
        for text in [EMPTY, bare, &bare.to_uppercase()] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), EMPTY);
        }
        assert!(bare[1..].parse::<Digest>().is_err());
        assert!("sha256:x".parse::<Digest>().is_err());
    }
}
