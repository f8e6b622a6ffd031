//! What must be on the server before a job that refers to it.

use protocol::job::Encoding;
use protocol::size;
use serde_json::value::RawValue;

use crate::blob::Blob;
use crate::client::Client;
use crate::digest::Digest;
use crate::elements::{Elements, blob_reference, raw};
use crate::failure::Failure;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

/// Below this many bytes an upload is not worth a word.
const WORTH_A_WORD: u64 = 16 << 20;

/// Blobs that a job refers to.
#[derive(Debug, Default)]
pub struct Upload {
    blobs: Vec<(String, Blob)>,
}

impl Upload {
    /// Adds a blob, and gives the name by which to refer to it; `what` says what it is.
    pub fn add(&mut self, what: impl Into<String>, blob: Blob) -> &Digest {
        self.blobs.push((what.into(), blob));
        &self.blobs[self.blobs.len() - 1].1.digest
    }

    /// The elements as they stand in a submission.
    pub fn elements(&mut self, elements: Elements) -> Box<RawValue> {
        match elements {
            Elements::Inline(json) => json,
            Elements::Upload(body) => {
                blob_reference(self.add("the elements", Blob::of_bytes(body)))
            }
        }
    }

    /// Whether there is nothing to upload.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Uploads what the server does not have.
    pub async fn send(&self, client: &Client, screen: &Screen) -> Result<(), Failure> {
        for (what, blob) in &self.blobs {
            if blob.size >= WORTH_A_WORD {
                screen.note(&format!("uploading {what}: {}", size::of(blob.size)));
            }
            send(client, screen, blob).await?;
        }
        Ok(())
    }
}

/// Uploads a blob, unless the server has it; says whether it had to.
pub async fn send(client: &Client, screen: &Screen, blob: &Blob) -> Result<bool, Failure> {
    // A blob is named by its bytes: to send it twice changes nothing.
    let sent = persist(screen, Patience::Brief, async || {
        if client.has_blob(&blob.digest).await? {
            return Ok(false);
        }
        client.put_blob(blob).await.map(|()| true)
    });
    Ok(sent.await?)
}

/// The reference to a blob that is an argument or a global.
pub fn reference(digest: &Digest, encoding: Encoding) -> Box<RawValue> {
    raw(format!("{{\"blob\":\"{digest}\",\"encoding\":\"{}\"}}", encoding.as_str()))
}
