//! What anybody may send, read as the handlers read it, for `fuzz/`; built with the feature `fuzzing`
//! alone.

use std::io;
use std::path::Path;

use axum::response::IntoResponse as _;
use bytes::Bytes;
use clap::Parser as _;
use protocol::job::{Encoding, SubmitJobs, Variant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::blobs::Blobs;
use crate::elements::{self, Wanted};
use crate::error::ApiError;
use crate::http::fuzzed;
use crate::limits::{LimitSettings, Limits};
use crate::store::blocks::Kind;
use crate::store::jobs::NewJob;
use crate::submission;

pub use crate::block::{Block, compress, decode_lengths, decompress, encode_lengths, pack};
pub use crate::store::blocks::{Place, StoredBlock};

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

/// A piece of a report, as the server would store it.
#[derive(Debug, PartialEq)]
pub struct TakenPiece {
    /// The index of the first element.
    pub first: u64,
    /// What became of each.
    pub outcomes: Vec<Bytes>,
    /// Which are errors.
    pub errors: Vec<u32>,
    /// The index of the first error, as it is told of the job.
    pub first_error: Option<u64>,
}

/// Takes what is stored in part: submissions and reports.
pub struct Bodies {
    runtime: Runtime,
    blobs: Blobs,
    limits: Limits,
}

impl Bodies {
    /// Stores large parts in a folder.
    ///
    /// # Errors
    /// When it cannot be written, or no thread be started.
    pub fn new(folder: &Path) -> io::Result<Self> {
        // Large bodies are worked on in place, which the other kind of runtime cannot.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
        let limits = Limits::new(default_limits(), vec![folder.to_owned()]);
        Ok(Self { runtime, blobs: Blobs::open(folder)?, limits })
    }

    /// Reads the body of a submission.
    ///
    /// # Errors
    /// The status of its refusal.
    pub fn submission(&self, body: &[u8]) -> Result<Taken, u16> {
        let taken = async {
            let (submission, elements) = submission::read_submission(body)?;
            let (elements, owner) = (elements.as_deref(), "ada".to_owned());
            let job = submission::prepare(submission, elements, owner, &self.blobs, None).await?;
            self.taken(job).await
        };
        self.runtime.block_on(taken).map_err(status)
    }

    /// Reads the body of a batch of submissions.
    ///
    /// # Errors
    /// The status of its refusal.
    pub fn batch(&self, body: &[u8]) -> Result<Vec<Taken>, u16> {
        let taken = async {
            let submissions: SubmitJobs = submission::read_json(body)?;
            let jobs = submission::prepare_all(submissions.jobs, "ada", &self.blobs).await?;
            let mut all = Vec::new();
            for job in jobs {
                all.push(self.taken(job).await?);
            }
            Ok(all)
        };
        self.runtime.block_on(taken).map_err(status)
    }

    /// Reads the body of a report.
    ///
    /// # Errors
    /// The status of its refusal.
    pub fn report(&self, body: &Bytes) -> Result<Vec<TakenPiece>, u16> {
        let taken = async {
            let mut body = body.clone().into();
            let pieces = fuzzed::read_pieces(&self.limits, &self.blobs, &mut body).await?;
            let mut all = Vec::new();
            for piece in pieces {
                all.push(TakenPiece {
                    first: piece.block.first,
                    outcomes: self.load(vec![piece.block]).await?,
                    errors: piece.errors,
                    first_error: piece.first_error.map(|failed| failed.index),
                });
            }
            Ok(all)
        };
        self.runtime.block_on(taken).map_err(status)
    }

    async fn taken(&self, job: NewJob) -> Result<Taken, ApiError> {
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

/// Those of a server that was started without a flag.
fn default_limits() -> LimitSettings {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        limits: LimitSettings,
    }
    Flags::parse_from(["server"]).limits
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

/// What is asked for by a query.
#[derive(Clone, Copy, Debug)]
pub enum List {
    /// `GET /v1/jobs`.
    Jobs,
    /// `GET /v1/agents`.
    Agents,
    /// `GET /v1/tokens`.
    Tokens,
    /// `GET /v1/audit`.
    Audit,
    /// `GET /v1/jobs/{id}/outcomes`.
    Outcomes,
    /// `GET /v1/jobs/{id}/logs`.
    Logs,
}

/// Reads a query, its cursor among it: every parameter as it was taken.
///
/// # Errors
/// The status of its refusal.
pub fn read_query(list: List, query: &str) -> Result<Value, u16> {
    fn read<T: DeserializeOwned + Serialize>(query: &str) -> Result<Value, u16> {
        let taken: T = fuzzed::read_query(query).map_err(status)?;
        Ok(serde_json::to_value(taken).expect("parameters can be said in JSON"))
    }
    match list {
        List::Jobs => read::<fuzzed::ListJobs>(query),
        List::Agents => read::<fuzzed::ListAgents>(query),
        List::Tokens => read::<fuzzed::ListTokens>(query),
        List::Audit => read::<fuzzed::ReadAudit>(query),
        List::Outcomes => read::<fuzzed::ReadOutcomes>(query),
        List::Logs => read::<fuzzed::ReadLogs>(query),
    }
}

/// Reads a `Last-Event-ID`.
///
/// # Errors
/// The status of its refusal.
pub fn read_event_id(id: &str) -> Result<u64, u16> {
    fuzzed::rank_of(id).map_err(status)
}

fn status(error: ApiError) -> u16 {
    error.into_response().status().as_u16()
}
