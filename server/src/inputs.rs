//! The inputs of leases: a small range travels inside the lease, a large one as digests of blobs,
//! which agents fetch and keep.

use std::collections::HashMap;

use bytes::Bytes;
use protocol::agent::{BlockSlice, Input, JobSpec, Lease, Leases, Outer};
use protocol::job::Variant;
use protocol::{JobId, Range, RangeSet};

use crate::blobs::Blobs;
use crate::error::ApiError;
use crate::names::Names;
use crate::state::AppState;
use crate::store::blocks::{self, Kind, Place, StoredBlock};
use crate::store::jobs::{self, Group, Shape};
use crate::store::leases::Grant;

/// Bytes of input up to which a lease carries them, wherever they are stored.
const MAX_INLINE: usize = 1 << 20;

/// Blocks that one read takes.
const BLOCKS: u32 = 256;

/// The answer to a lease request: the header, and the payload bytes behind it.
///
/// # Errors
/// When the database or a blob cannot be read.
pub async fn leases(
    state: &AppState,
    grants: Vec<Grant>,
    known_jobs: &[JobId],
) -> Result<(Leases, Vec<u8>), ApiError> {
    let mut specs: HashMap<JobId, (JobSpec, Shape)> = HashMap::new();
    let (mut header, mut body) = (Leases::default(), Vec::new());
    for grant in grants {
        let job = grant.job;
        if let std::collections::hash_map::Entry::Vacant(entry) = specs.entry(job) {
            let found =
                state.store.query(|tx| Box::pin(async move { jobs::spec(tx, job).await })).await?;
            let (spec, shape) =
                found.ok_or_else(|| ApiError::Internal(format!("leased job {job} is gone")))?;
            if !known_jobs.contains(&job) {
                header.jobs.push(spec.clone());
            }
            entry.insert((spec, shape));
        }
        let (spec, shape) = &specs[&job];
        let (shape, is_indexed) = (*shape, spec.options.variant == Variant::Imap);
        let input = input(state, &grant, shape, &mut body).await?;
        let names = if is_indexed && shape.named {
            names(state, job, &grant.ranges).await?
        } else {
            Vec::new()
        };
        let outer =
            if is_indexed && shape.nested { outer(state, &grant, shape).await? } else { None };
        header.leases.push(Lease {
            id: grant.id,
            job,
            ranges: grant.ranges,
            attempt: grant.attempt,
            slots: grant.slots,
            width: grant.width,
            deaths: grant.deaths,
            input,
            names,
            outer,
        });
    }
    Ok((header, body))
}

async fn input(
    state: &AppState,
    grant: &Grant,
    shape: Shape,
    body: &mut Vec<u8>,
) -> Result<Input, ApiError> {
    if shape.is_call {
        return Ok(Input::Nothing);
    }
    if let Some(from) = shape.range {
        return Ok(Input::Range { from });
    }
    let mut slices = Vec::new();
    for &range in grant.ranges.ranges() {
        slices.extend(slices_of(state, grant.job, range).await?);
    }
    let n_bytes: usize = slices.iter().map(|slice| slice.span.len()).sum();
    if n_bytes <= MAX_INLINE {
        let before = body.len();
        match inline(state, &slices, body).await {
            Ok(input) => return Ok(input),
            // The agent asks for the blob, hears that it is gone, and says so of these elements. Without that, the agent
            // would get no lease of any job: it would ask for those that it was not told of.
            Err(ApiError::Internal(cause)) if slices.iter().all(Slice::is_in_blob) => {
                tracing::error!(job = %grant.job, %cause, "elements cannot be read, and fail; `farrow server \
                    check` tells what else is missing");
                body.truncate(before);
            }
            Err(error) => return Err(error),
        }
    }
    let mut blocks = Vec::with_capacity(slices.len());
    for slice in slices {
        let offset = slice.span.start as u64;
        let digest = slice.block_digest(&state.blobs).await?;
        blocks.push(BlockSlice { digest, offset, lengths: slice.lengths });
    }
    Ok(Input::Blocks { blocks })
}

/// Neighbouring elements in a block.
struct Slice {
    block: StoredBlock,
    span: std::ops::Range<usize>,
    lengths: Vec<u32>,
}

impl Slice {
    fn of(block: StoredBlock, from: u64, to: u64) -> Self {
        let (span, lengths) = block.slice(from, to);
        let lengths = lengths.to_vec();
        Self { block, span, lengths }
    }

    fn is_in_blob(&self) -> bool {
        matches!(self.block.place, Place::Blob(_))
    }

    /// The digest of the blob that holds the block. One that compresses well stands in a row, and
    /// is put into a blob when a chunk as a whole is large.
    async fn block_digest(&self, blobs: &Blobs) -> Result<String, ApiError> {
        match &self.block.place {
            Place::Blob(digest) => Ok(digest.clone()),
            Place::Row(_) => {
                let block = self.block.clone().load(blobs).await?;
                Ok(blobs.put(block.data).await?)
            }
        }
    }
}

/// The names of the elements of `ranges`, in order.
async fn names(state: &AppState, job: JobId, ranges: &RangeSet) -> Result<Vec<String>, ApiError> {
    let mut of_job = Names::new(state.clone(), job, Kind::Name);
    let mut names = Vec::new();
    for index in ranges.indexes() {
        names.push(read_name(&of_job.get(index).await?)?);
    }
    Ok(names)
}

fn read_name(json: &[u8]) -> Result<String, ApiError> {
    serde_json::from_slice(json).map_err(|error| ApiError::Internal(format!("a name: {error}")))
}

/// The outer element that the chunk is of.
async fn outer(state: &AppState, grant: &Grant, shape: Shape) -> Result<Option<Outer>, ApiError> {
    let (job, Some(&Range(first, _))) = (grant.job, grant.ranges.ranges().first()) else {
        return Ok(None);
    };
    let group = state
        .store
        .read(|tx| Box::pin(async move { jobs::group_of(tx, job, first).await }))
        .await?;
    let Some(Group { position: index, first, .. }) = group else {
        return Err(ApiError::Internal(format!("job {job} has no outer element of {first}")));
    };
    let name = if shape.outer_named {
        let name = Names::new(state.clone(), job, Kind::OuterName).get(index).await?;
        Some(read_name(&name)?)
    } else {
        None
    };
    Ok(Some(Outer { index, first, name }))
}

async fn slices_of(state: &AppState, job: JobId, range: Range) -> Result<Vec<Slice>, ApiError> {
    let Range(mut from, to) = range;
    let mut slices = Vec::new();
    while from < to {
        let blocks = state
            .store
            .query(|tx| {
                Box::pin(
                    async move { blocks::read(tx, job, Kind::Element, from, to, BLOCKS).await },
                )
            })
            .await?;
        let Some(last) = blocks.last() else {
            return Err(ApiError::Internal(format!("job {job} has no element {from}")));
        };
        let end = last.end();
        slices.extend(blocks.into_iter().map(|block| Slice::of(block, from, to)));
        from = end;
    }
    Ok(slices)
}

async fn inline(state: &AppState, slices: &[Slice], body: &mut Vec<u8>) -> Result<Input, ApiError> {
    let mut lengths = Vec::new();
    for slice in slices {
        lengths.extend_from_slice(&slice.lengths);
        let data: Bytes = slice.block.place.load(&state.blobs).await?;
        let bytes = data
            .get(slice.span.clone())
            .ok_or_else(|| ApiError::Internal("a block is shorter than its lengths".to_owned()))?;
        body.extend_from_slice(bytes);
    }
    Ok(Input::Inline { lengths })
}
