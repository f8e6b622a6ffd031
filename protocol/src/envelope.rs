//! A JSON header followed by payload bytes, in one HTTP body.
//!
//! ```text
//! u32, little endian: length of the header | header: JSON | payloads, back to back
//! ```
//!
//! The header says how long each payload is. So leases and reports carry payloads of any encoding
//! as they are: nobody on the way parses, escapes or copies them into another text.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The media type of an envelope.
pub const MEDIA_TYPE: &str = "application/vnd.farrow.envelope";

/// Puts `header` and `body` into one buffer.
///
/// # Errors
/// When the header cannot be written as JSON or is longer than 4 GiB.
pub fn seal<T: Serialize>(header: &T, body: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let header = serde_json::to_vec(header).map_err(|e| EnvelopeError::Header(e.to_string()))?;
    let length = u32::try_from(header.len()).map_err(|_| EnvelopeError::Truncated)?;
    let mut sealed = Vec::with_capacity(4 + header.len() + body.len());
    sealed.extend_from_slice(&length.to_le_bytes());
    sealed.extend_from_slice(&header);
    sealed.extend_from_slice(body);
    Ok(sealed)
}

/// Reads the header and finds where in `sealed` the payloads start.
///
/// # Errors
/// When the bytes end early, or the header is not the JSON of a `T`.
pub fn open<T: DeserializeOwned>(sealed: &[u8]) -> Result<(T, usize), EnvelopeError> {
    let length = sealed.first_chunk::<4>().ok_or(EnvelopeError::Truncated)?;
    let start = 4 + u32::from_le_bytes(*length) as usize;
    let header = sealed.get(4..start).ok_or(EnvelopeError::Truncated)?;
    let header =
        serde_json::from_slice(header).map_err(|e| EnvelopeError::Header(e.to_string()))?;
    Ok((header, start))
}

/// Why a body is not an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// The bytes end before the header does.
    Truncated,
    /// The header is not the JSON that was expected; serde's message.
    Header(String),
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the envelope ends before its header does"),
            Self::Header(message) => write!(f, "the envelope's header: {message}"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_was_sealed() {
        let sealed = seal(&vec![1, 2], b"payload").unwrap();
        let (header, start) = open::<Vec<u32>>(&sealed).unwrap();
        assert_eq!((header, &sealed[start..]), (vec![1, 2], &b"payload"[..]));
    }

    #[test]
    fn refuses_what_ends_early() {
        assert_eq!(open::<Vec<u32>>(b"\x01"), Err(EnvelopeError::Truncated));
        assert_eq!(open::<Vec<u32>>(&[255, 255, 255, 255, 1]), Err(EnvelopeError::Truncated));
    }
}
