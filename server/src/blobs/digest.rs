//! The names of blobs: the SHA-256 of their bytes.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// The 64 hex digits of `sha256:…`; `None` if it is not of that form.
pub fn parse_digest(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (hex.len() == 64 && hex.bytes().all(is_hex)).then_some(hex)
}

/// The hex digits of a digest.
///
/// # Errors
/// When it is none.
pub(super) fn checked(digest: &str) -> io::Result<&str> {
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
    mut data: impl Read,
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

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
