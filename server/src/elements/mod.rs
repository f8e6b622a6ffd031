//! The elements of a submission: taken apart, packed into blocks, stored.
//!
//! * [`json`]: those that stand in the submission.
//! * [`blob`]: those of a blob, read piece by piece, so that it may be larger than memory.
//! * [`shelf`]: where their blocks go.

mod blob;
mod json;
mod shelf;

use std::borrow::Cow;

use protocol::FieldError;
use protocol::job::{Encoding, Variant};
use serde_json::value::RawValue;

use crate::blobs::Blobs;
use crate::block::{self, Block, Packer};
use crate::error::ApiError;
use crate::store::blocks::{Kind, StoredBlock};
use crate::store::jobs::Shape;
use crate::submission::heavy;

#[cfg(feature = "fuzzing")]
pub use blob::read_body;
pub use json::parse;
pub use shelf::{Draft, Shelf};

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
    /// In the submission, an array of JSON: taken apart only when it is stored, because there may be millions.
    Listed(&'a RawValue),
    /// In the submission, taken apart.
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
    /// Whether the first blocks are written already, as those of a draft.
    pub is_begun: bool,
}

/// Packs elements into blocks and stores the large ones; `shelf` takes the blocks.
///
/// # Errors
/// When a blob cannot be written, is not there, or does not hold elements; the database's.
pub async fn store(
    source: Source<'_>,
    wanted: Wanted,
    blobs: &Blobs,
    shelf: Shelf<'_>,
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
            is_begun: false,
        }),
        Source::Listed(array) => list(array, blobs, shelf).await,
        Source::Blob(digest) => blob::store(&digest, wanted, blobs, shelf).await,
    }
}

/// Blocks that are taken from a list at a time.
const BLOCKS: usize = 16;

async fn list(array: &RawValue, blobs: &Blobs, mut shelf: Shelf<'_>) -> Result<Elements, ApiError> {
    let mut elements = Elements::default();
    let (mut items, mut packer) = (json::items(array), Packer::default());
    let mut is_over = false;
    while !is_over {
        let mut blocks = heavy(array.get().len(), || some_blocks(&mut items, &mut packer))?;
        is_over = blocks.len() < BLOCKS;
        if is_over {
            blocks.extend(std::mem::take(&mut packer).finish());
        }
        for block in blocks {
            elements.total += block.lengths.len() as u64;
            elements.input_bytes += block.data.len() as u64;
            shelf.put(Kind::Element, StoredBlock::of(block, blobs).await?).await?;
        }
    }
    shelf.empty_into(&mut elements);
    Ok(elements)
}

/// The next full blocks of a list; fewer than [`BLOCKS`] at its end.
fn some_blocks(items: &mut json::Items<'_>, packer: &mut Packer) -> Result<Vec<Block>, ApiError> {
    let mut blocks = Vec::with_capacity(BLOCKS + 1);
    for item in items {
        let item = item.map_err(|fault| ApiError::Invalid(vec![fault]))?;
        blocks.extend(packer.push(item.get().as_bytes()));
        if blocks.len() == BLOCKS {
            break;
        }
    }
    Ok(blocks)
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
