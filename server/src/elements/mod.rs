//! The elements of a submission: taken apart, packed into blocks, stored.
//!
//! * [`json`]: those that stand in the submission.
//! * [`blob`]: those of a blob, read piece by piece, so that it may be larger than memory.

mod blob;
mod json;

use std::borrow::Cow;

use protocol::FieldError;
use protocol::job::{Encoding, Variant};

use crate::blobs::Blobs;
use crate::block;
use crate::error::ApiError;
use crate::store::blocks::StoredBlock;
use crate::store::jobs::Shape;
use crate::submission::heavy;

#[cfg(feature = "fuzzing")]
pub use blob::read_body;
pub use json::parse;

/// What a submission says of its elements elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whether the plan has two levels.
    pub nested: bool,
    /// How they are written.
    pub encoding: Encoding,
    /// How the function is called with them.
    pub variant: Variant,
}

/// Where the elements of a submission are.
#[derive(Debug)]
pub enum Source<'a> {
    /// There are none: a call.
    Call,
    /// They are integers.
    Range {
        /// The first.
        from: i64,
        /// How many.
        total: u64,
    },
    /// In the submission.
    Given(Given<'a>),
    /// In the blob of this digest.
    Blob(String),
}

/// Elements in a submission, taken apart, counted through all levels.
#[derive(Debug, Default)]
pub struct Given<'a> {
    /// How the value is put together.
    pub shape: Shape,
    /// Their bytes.
    pub payloads: Vec<Cow<'a, [u8]>>,
    /// The JSON strings that name them, if they have names.
    pub names: Vec<String>,
    /// The JSON strings that name the outer elements, if these have names.
    pub outer_names: Vec<String>,
    /// How many inner elements each outer one has, if they are nested.
    pub groups: Vec<u64>,
}

/// Elements as they are stored, counted through all levels.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    /// How many.
    pub total: u64,
    /// Bytes of all of them.
    pub input_bytes: u64,
    /// Where they are and how the value is put together.
    pub shape: Shape,
    /// They themselves, unless they are a range or there are none.
    pub blocks: Vec<StoredBlock>,
    /// The JSON strings that name them, if they have names.
    pub names: Vec<StoredBlock>,
    /// The JSON strings that name the outer elements, if these have names.
    pub outer_names: Vec<StoredBlock>,
    /// How many inner elements each outer one has, if they are nested.
    pub groups: Vec<u64>,
}

/// Packs elements into blocks and stores the large ones.
///
/// # Errors
/// When a blob cannot be written, is not there, or does not hold elements.
pub async fn store(
    source: Source<'_>,
    wanted: Wanted,
    blobs: &Blobs,
) -> Result<Elements, ApiError> {
    match source {
        // A call is one element without an input.
        Source::Call => {
            let shape = Shape { is_call: true, ..Shape::default() };
            Ok(Elements { total: 1, shape, ..Elements::default() })
        }
        Source::Range { from, total } => {
            let shape = Shape { range: Some(from), ..Shape::default() };
            Ok(Elements { total, shape, ..Elements::default() })
        }
        Source::Given(given) => Ok(Elements {
            total: given.payloads.len() as u64,
            input_bytes: given.payloads.iter().map(|payload| payload.len() as u64).sum(),
            shape: given.shape,
            blocks: pack(&given.payloads, blobs).await?,
            names: pack(&given.names, blobs).await?,
            outer_names: pack(&given.outer_names, blobs).await?,
            groups: given.groups,
        }),
        Source::Blob(digest) => blob::store(&digest, wanted, blobs).await,
    }
}

async fn pack<P: AsRef<[u8]>>(payloads: &[P], blobs: &Blobs) -> Result<Vec<StoredBlock>, ApiError> {
    let n_bytes = payloads.iter().map(|payload| payload.as_ref().len()).sum();
    let blocks = heavy(n_bytes, || block::pack(payloads));
    let mut stored = Vec::with_capacity(blocks.len());
    for block in blocks {
        stored.push(StoredBlock::of(block, blobs).await?);
    }
    Ok(stored)
}

fn fault(field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { field: field.into(), message: message.into() }
}
