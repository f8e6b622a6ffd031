//! What anybody may send, read as the handlers read it, for `fuzz/`; built with `--cfg fuzzing` alone.

use std::io;
use std::path::Path;

use axum::response::IntoResponse as _;
use bytes::Bytes;
use protocol::job::{Encoding, SubmitJob, Variant};
use tokio::runtime::Runtime;

use crate::blobs::Blobs;
use crate::elements::{self, Wanted};
use crate::error::ApiError;
use crate::http::ListJobs;
use crate::store::blocks::{Kind, StoredBlock};
use crate::submission;

/// Elements as the server would store them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many it has counted.
    pub total: u64,
    /// How many are in each outer element, under a plan of two levels.
    pub groups: Vec<u64>,
    /// Their bytes; none for a range, a call or a blob.
    pub payloads: Vec<Bytes>,
    /// The JSON strings that name them.
    pub names: Vec<Bytes>,
    /// The JSON strings that name the outer elements.
    pub outer_names: Vec<Bytes>,
}

/// Takes submissions.
pub struct Submissions {
    runtime: Runtime,
    blobs: Blobs,
}

impl Submissions {
    /// Stores large parts in a folder.
    ///
    /// # Errors
    /// When it cannot be written, or no thread be started.
    pub fn new(folder: &Path) -> io::Result<Self> {
        // Large bodies are worked on in place, which the other kind of runtime cannot.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
        Ok(Self { runtime, blobs: Blobs::open(folder)? })
    }

    /// Reads the body of a submission.
    ///
    /// # Errors
    /// The status of its refusal.
    pub fn take(&self, body: &[u8]) -> Result<Taken, u16> {
        self.runtime.block_on(self.prepare(body)).map_err(|error| status(error))
    }

    async fn prepare(&self, body: &[u8]) -> Result<Taken, ApiError> {
        let submission: SubmitJob = submission::read_json(body)?;
        let job = submission::prepare(submission, "ada".to_owned(), &self.blobs).await?;
        let elements = job.elements;
        Ok(Taken {
            total: elements.total,
            payloads: self.load(elements.blocks).await?,
            names: self.load(elements.names).await?,
            outer_names: self.load(elements.outer_names).await?,
            groups: elements.groups,
        })
    }

    async fn load(&self, blocks: Vec<StoredBlock>) -> Result<Vec<Bytes>, ApiError> {
        let mut payloads = Vec::new();
        for block in blocks {
            payloads.extend(block.load(&self.blobs).await?.payloads());
        }
        Ok(payloads)
    }
}

/// Reads the elements of a blob, `at_a_time` bytes each: NDJSON, or frames for `encoding: bytes`.
///
/// # Errors
/// What is wrong with them.
pub fn elements_of_blob(
    body: &[u8],
    are_frames: bool,
    nested: bool,
    at_a_time: usize,
) -> Result<Taken, String> {
    let encoding = if are_frames { Encoding::Bytes } else { Encoding::Json };
    let wanted = Wanted { nested, encoding, variant: Variant::Map };
    let (counted, blocks) =
        elements::read_body(body, wanted, at_a_time).map_err(|fault| fault.message)?;
    let mut taken = Taken { total: counted.total, groups: counted.groups, ..Taken::default() };
    for (kind, block) in blocks {
        let into = match kind {
            Kind::Element => &mut taken.payloads,
            Kind::Name => &mut taken.names,
            Kind::OuterName => &mut taken.outer_names,
        };
        into.extend(block.payloads());
    }
    Ok(taken)
}

/// Reads the query of a list of jobs, its cursor among it, and gives another one that asks for the same.
///
/// # Errors
/// The status of its refusal.
pub fn list_query(query: &str) -> Result<String, u16> {
    ListJobs::read(query).map(|(_, again)| again).map_err(|error| status(error))
}

fn status(error: ApiError) -> u16 {
    error.into_response().status().as_u16()
}
