//! The inputs of a lease's elements, wherever they are.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::agent::{BlockSlice, Input, Lease};
use thiserror::Error;

use crate::blobs::{BlobError, Blobs};
use crate::chunk::Element;

/// Why a lease's inputs cannot be had.
#[derive(Debug, Error)]
pub enum InputError {
    /// A blob of them.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// There are more or fewer inputs than elements, or they end early.
    #[error("the inputs of the lease do not fit its elements: {0}")]
    Misfit(String),
}

/// How many bytes of an envelope's payloads belong to a lease.
pub fn inline_bytes(lease: &Lease) -> usize {
    match &lease.input {
        Input::Inline { lengths } => lengths.iter().map(|length| *length as usize).sum(),
        Input::Nothing | Input::Range { .. } | Input::Blocks { .. } => 0,
    }
}

/// The elements of a lease, in order. `payload` is its part of the envelope.
///
/// # Errors
/// When inputs are missing.
pub async fn elements(
    lease: &Lease,
    payload: &Bytes,
    blobs: &Blobs,
) -> Result<VecDeque<Element>, InputError> {
    let inputs = match &lease.input {
        Input::Nothing => vec![Bytes::new(); 1],
        Input::Range { from } => integers(lease, *from),
        Input::Inline { lengths } => cut(payload, 0, lengths)?,
        Input::Blocks { blocks } => from_blocks(blocks, blobs).await?,
    };
    if inputs.len() as u64 != lease.ranges.len() {
        let (inputs, elements) = (inputs.len(), lease.ranges.len());
        return Err(InputError::Misfit(format!("{inputs} inputs for {elements} elements")));
    }
    let elements = lease.ranges.indexes().zip(inputs);
    Ok(elements.map(|(index, input)| Element { index, input }).collect())
}

fn integers(lease: &Lease, from: i64) -> Vec<Bytes> {
    let text = |index| Bytes::from((i128::from(from) + i128::from(index)).to_string());
    lease.ranges.indexes().map(text).collect()
}

async fn from_blocks(blocks: &[BlockSlice], blobs: &Blobs) -> Result<Vec<Bytes>, InputError> {
    let mut inputs = Vec::new();
    for block in blocks {
        let blob = blobs.get(&block.digest).await?;
        let offset = usize::try_from(block.offset).unwrap_or(usize::MAX);
        inputs.extend(cut(&blob, offset, &block.lengths)?);
    }
    Ok(inputs)
}

/// Cuts pieces of these lengths out of `bytes`, back to back from `start`, without copying.
fn cut(bytes: &Bytes, start: usize, lengths: &[u32]) -> Result<Vec<Bytes>, InputError> {
    let mut from = start;
    let cut_one = |length: &u32| {
        let to = from.saturating_add(*length as usize);
        let early = || InputError::Misfit(format!("{to} bytes wanted, {} there", bytes.len()));
        let piece = (to <= bytes.len()).then(|| bytes.slice(from..to)).ok_or_else(early);
        from = to;
        piece
    };
    lengths.iter().map(cut_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_back_to_back() {
        let bytes = Bytes::from_static(b"_12345");
        assert_eq!(cut(&bytes, 1, &[2, 0, 3]).unwrap(), ["12", "", "345"]);
        assert!(cut(&bytes, 1, &[2, 4]).is_err());
        assert!(cut(&bytes, usize::MAX, &[1]).is_err());
    }
}
