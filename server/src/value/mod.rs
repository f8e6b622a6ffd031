//! Writes the value of a resolved job, in short reads by key, so that a long value neither stands
//! in memory nor pins the database.
//!
//! * [`parts`]: reads what the value is made of, in order.
//! * [`json`]: writes it as one JSON text.
//! * [`frames`]: writes it as frames, for encodings other than JSON.

mod frames;
mod json;
mod parts;

use bytes::Bytes;
use protocol::job::Encoding;

use crate::state::AppState;
use crate::store::StoreError;
use crate::store::jobs::JobRow;
use json::JsonWriter;
use parts::Parts;

/// Bytes of a chunk of the answer, about.
const CHUNK: usize = 64 << 10;

/// Reads a job's outcomes and writes its value.
pub struct ValueReader {
    parts: Parts,
    format: Format,
    stage: Stage,
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
        Self { parts: Parts::new(state, job), format, stage: Stage::Start }
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
        matches!(self.stage, Stage::Done)
    }

    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// When the database fails or a blob is missing; the answer then breaks off, so that nobody
    /// takes it for whole.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut body = Vec::with_capacity(CHUNK + 1024);
        while body.len() < CHUNK && !self.is_at_end() {
            self.step(&mut body).await?;
        }
        Ok((!body.is_empty()).then(|| body.into()))
    }

    async fn step(&mut self, body: &mut Vec<u8>) -> Result<(), StoreError> {
        if matches!(self.stage, Stage::Start) {
            if let Format::Json(json) = &self.format {
                json.start(body);
            }
            self.stage = Stage::Parts;
        }
        let part = self.parts.next().await?;
        match (&mut self.format, part) {
            (Format::Json(json), Some(part)) => json.write(&part, body),
            (Format::Frames, Some(part)) => frames::write(&part, body)?,
            (format, None) => {
                if let Format::Json(json) = format {
                    json.end(body);
                }
                self.stage = Stage::Done;
            }
        }
        Ok(())
    }
}
