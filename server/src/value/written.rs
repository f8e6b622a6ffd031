//! What is written of a value and not sent yet.

use super::parts::Payload;
use crate::blobs::Opened;

/// Text, and at most one blob in it, which is sent as it is read.
#[derive(Default)]
pub struct Written {
    /// What stands before the blob, if there is one.
    before: Vec<u8>,
    blob: Option<Opened>,
    text: Vec<u8>,
}

/// What is sent next.
pub enum Piece {
    /// Some bytes.
    Text(Vec<u8>),
    /// All bytes of a blob.
    Blob(Opened),
}

impl Written {
    /// What is to be added to: what stands behind the blob, if there is one.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Writes a payload. There must be no blob yet.
    pub fn payload(&mut self, payload: Payload) {
        match payload {
            Payload::Bytes(bytes) => self.text.extend_from_slice(&bytes),
            Payload::Blob(opened) => {
                debug_assert!(self.blob.is_none(), "the blob before is not sent");
                self.before = std::mem::take(&mut self.text);
                self.blob = Some(opened);
            }
        }
    }

    /// Whether there is a blob, or so many bytes of text.
    pub fn is_enough(&self, n_bytes: usize) -> bool {
        self.blob.is_some() || self.text.len() >= n_bytes
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.blob.is_none() && self.text.is_empty()
    }

    /// Takes out what comes first, if there is anything.
    pub fn next(&mut self) -> Option<Piece> {
        if !self.before.is_empty() {
            return Some(Piece::Text(std::mem::take(&mut self.before)));
        }
        if let Some(blob) = self.blob.take() {
            return Some(Piece::Blob(blob));
        }
        (!self.text.is_empty()).then(|| Piece::Text(std::mem::take(&mut self.text)))
    }
}
