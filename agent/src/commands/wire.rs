//! The bodies of frames between an agent and its worker of commands: both ends are this program.
//!
//! | frame | body |
//! | --- | --- |
//! | `J` | an envelope ([`protocol::envelope`]) of [`Request`], then the bytes of its constants |
//! | `j` | empty, or the JSON of an [`ElementError`] |
//! | `E` | an envelope of [`Entry`]s, then the bytes of their inputs |
//! | `o`, `w`, `p` | one outcome: [`VALUE`] and the value, or [`ERROR`] and the JSON of an [`ElementError`] |

use std::borrow::Cow;

use bytes::Bytes;
use protocol::JobId;
use protocol::envelope::{self, EnvelopeError};
use protocol::job::{ElementError, Options};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The first byte of an outcome that is a value.
pub const VALUE: u8 = b'v';
/// The first byte of an outcome that is an error.
pub const ERROR: u8 = b'e';

/// A job to set up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub job: JobId,
    /// The program and its arguments, with placeholders.
    pub words: Vec<String>,
    /// A script to run before the first element.
    pub setup: String,
    /// How it is run.
    pub options: Options,
    /// The name of each of the further arguments, and how many bytes its text has.
    pub args: Vec<(String, usize)>,
    /// The same of the globals, whose bytes follow.
    pub globals: Vec<(String, usize)>,
}

/// An element to run.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its index in the job.
    pub index: u64,
    /// What its bytes are.
    pub form: Form,
    /// How many there are.
    pub length: usize,
    /// Its name or index, if the command is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its outer element's, if the command is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<String>,
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// None: the job is a call.
    Nothing,
    /// JSON text.
    Json,
    /// Bytes as they are.
    Bytes,
}

/// Puts a header and what it speaks of into one body.
///
/// # Errors
/// When the header is longer than a body can be.
pub fn seal<'a, T: Serialize>(
    header: &T,
    payloads: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, EnvelopeError> {
    let mut body = envelope::seal(header, b"")?;
    payloads.into_iter().for_each(|payload| body.extend_from_slice(payload));
    Ok(body)
}

/// Takes a body apart: its header, and the bytes behind it.
///
/// # Errors
/// When it is none that [`seal`] makes.
pub fn open<T: DeserializeOwned>(body: &[u8]) -> Result<(T, Payloads<'_>), EnvelopeError> {
    let (header, start) = envelope::open(body)?;
    Ok((header, Payloads(&body[start..])))
}

/// Bytes that belong to the parts of a header, back to back.
#[derive(Debug)]
pub struct Payloads<'a>(&'a [u8]);

impl<'a> Payloads<'a> {
    /// The next bytes.
    ///
    /// # Errors
    /// When there are not as many.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], EnvelopeError> {
        let (payload, rest) = self.0.split_at_checked(length).ok_or(EnvelopeError::Truncated)?;
        self.0 = rest;
        Ok(payload)
    }
}

/// What became of an element: the first byte of a body that says so, and the rest.
pub fn outcome(outcome: &Result<Vec<u8>, ElementError>) -> (u8, Cow<'_, [u8]>) {
    match outcome {
        Ok(value) => (VALUE, value.into()),
        Err(error) => (ERROR, serde_json::to_vec(error).unwrap_or_default().into()),
    }
}

/// What became of an element, or nothing if the body does not say that.
pub fn open_outcome(body: &Bytes) -> Option<Result<Bytes, ElementError>> {
    match body.split_first()? {
        (&VALUE, value) => Some(Ok(body.slice_ref(value))),
        (&ERROR, error) => serde_json::from_slice(error).ok().map(Err),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, length: usize) -> Entry {
        Entry { index, form: Form::Json, length, key: None, outer: Some("é".into()) }
    }

    #[test]
    fn a_body_comes_apart_as_it_was_put_together() {
        let entries = vec![entry(u64::MAX, 2), entry(0, 0), entry(1, 1)];
        let body = seal(&entries, [&b"ab"[..], b"", b"c"]).unwrap();
        let (opened, mut payloads) = open::<Vec<Entry>>(&body).unwrap();
        assert_eq!(opened, entries);
        let taken: Vec<_> =
            opened.iter().map(|entry| payloads.take(entry.length).unwrap()).collect();
        assert_eq!(taken, [&b"ab"[..], b"", b"c"]);
        assert_eq!(payloads.take(1), Err(EnvelopeError::Truncated));
        assert!(open::<Vec<Entry>>(&body[..body.len() - 4]).is_err());
    }

    #[test]
    fn an_outcome_comes_back_as_it_was() {
        let error = ElementError {
            kind: "CommandFailed".into(),
            message: "exit status 3".into(),
            call: None,
            traceback: Vec::new(),
            fatal: true,
        };
        for outcome in [Ok(b"\0v".to_vec()), Ok(Vec::new()), Err(error)] {
            let (tag, rest) = super::outcome(&outcome);
            let body = [&[tag], &*rest].concat().into();
            assert_eq!(open_outcome(&body), Some(outcome.map(Bytes::from)));
        }
        for none in ["", "x", "e{}"] {
            assert_eq!(open_outcome(&none.into()), None);
        }
    }
}
