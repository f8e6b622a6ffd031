//! Writes the value of a resolved job, in short reads by key, so that a long value neither stands
//! in memory nor pins the database.
//!
//! * [`parts`]: reads what the value is made of, in order.
//! * [`json`]: writes it as one JSON text.
//! * [`frames`]: writes it as frames, for encodings other than JSON.
//! * [`written`]: what was written and is not sent yet; a large value in a blob is not read before.

mod frames;
mod json;
mod parts;
mod written;

use bytes::Bytes;
use futures::StreamExt as _;
use protocol::job::Encoding;

use crate::blobs::Opened;
use crate::state::AppState;
use crate::store::jobs::JobRow;
use crate::store::{StoreError, blocks};
use json::JsonWriter;
use parts::Parts;
use written::{Piece, Written};

/// Bytes of a chunk of the answer, about.
const CHUNK: usize = 64 << 10;

/// Reads a job's outcomes and writes its value.
pub struct ValueReader {
    parts: Parts,
    format: Format,
    stage: Stage,
    written: Written,
    /// The blob that is being sent.
    blob: Option<Opened>,
}

enum Format {
    Json(JsonWriter),
    Frames,
}

enum Stage {
    Start,
    Parts,
    Done,
}

impl ValueReader {
    /// A reader at the start of the value of `job`, which must be resolved.
    pub fn new(state: &AppState, job: &JobRow) -> Self {
        let format = match job.options.encoding {
            Encoding::Json => Format::Json(JsonWriter::new(job.shape)),
            Encoding::Rds | Encoding::Pickle | Encoding::Bytes => Format::Frames,
        };
        Self {
            parts: Parts::new(state, job),
            format,
            stage: Stage::Start,
            written: Written::default(),
            blob: None,
        }
    }

    /// The media type of what it writes.
    pub fn media_type(&self) -> &'static str {
        match self.format {
            Format::Json(_) => "application/json",
            Format::Frames => protocol::frames::MEDIA_TYPE,
        }
    }

    /// Whether all of it has been read.
    pub fn is_at_end(&self) -> bool {
        matches!(self.stage, Stage::Done) && self.blob.is_none() && self.written.is_empty()
    }

    /// How many bytes the body has from its start to its end; `None`: names are in it, or groups, of which that is not
    /// known beforehand.
    ///
    /// # Errors
    /// When the database fails or outcomes are missing.
    pub async fn n_bytes(&mut self) -> Result<Option<u64>, StoreError> {
        if !self.parts.are_bare() {
            return Ok(None);
        }
        let extent = self.parts.extent().await?;
        Ok(Some(match &self.format {
            Format::Json(json) => json.n_bytes(extent),
            Format::Frames => frames::n_bytes(extent),
        }))
    }

    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// When the database fails or a blob is missing; the answer then breaks off, so that nobody
    /// takes it for whole.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(part) = self.next_of_blob().await? {
                return Ok(Some(part));
            }
            while !self.written.is_enough(CHUNK) && !matches!(self.stage, Stage::Done) {
                self.step().await?;
            }
            match self.written.next() {
                Some(Piece::Text(text)) => return Ok(Some(text.into())),
                Some(Piece::Blob(blob)) => self.blob = Some(blob),
                None => return Ok(None),
            }
        }
    }

    async fn next_of_blob(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(blob) = &mut self.blob else { return Ok(None) };
        let part = blob.parts.next().await.transpose().map_err(|error| blocks::unread(&error))?;
        if part.is_none() {
            self.blob = None;
        }
        Ok(part)
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        if matches!(self.stage, Stage::Start) {
            if let Format::Json(json) = &self.format {
                json.start(&mut self.written);
            }
            self.stage = Stage::Parts;
        }
        let part = self.parts.next().await?;
        match (&mut self.format, part) {
            (Format::Json(json), Some(part)) => json.write(part, &mut self.written),
            (Format::Frames, Some(part)) => frames::write(part, &mut self.written)?,
            (format, None) => {
                if let Format::Json(json) = format {
                    json.end(&mut self.written);
                }
                self.stage = Stage::Done;
            }
        }
        Ok(())
    }
}
