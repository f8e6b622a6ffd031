//! The inputs of leases: a small range travels inside the lease, a large one as digests of blobs,
//! which agents fetch and keep.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use protocol::agent::{BlockSlice, Input, JobSpec, Lease, Leases, Outer};
use protocol::job::{ElementError, Variant};
use protocol::{AgentId, JobId, Range, RangeSet};

use crate::blobs::Blobs;
use crate::error::ApiError;
use crate::labels::label_failures;
use crate::names::Names;
use crate::state::AppState;
use crate::store::blocks::{self, Kind, Place, StoredBlock};
use crate::store::jobs::{self, Group, Shape};
use crate::store::leases::Grant;
use crate::store::reports::{self, NewPiece};

/// Bytes of input up to which a lease carries them, wherever they are stored.
const MAX_INLINE: usize = 1 << 20;

/// Blocks that one read takes.
const BLOCKS: u32 = 256;

/// Elements whose errors stand in one block where they are lost.
const FAILED_TOGETHER: usize = 4096;

/// The answer to a lease request, in which `grants` are given to `agent`, which has `known_jobs`: the header, and the
/// payload bytes behind it. Elements that are lost are not in it: they fail.
///
/// # Errors
/// When the database or a blob cannot be read now.
pub async fn leases(
    state: &AppState,
    agent: AgentId,
    grants: Vec<Grant>,
    known_jobs: &[JobId],
) -> Result<(Leases, Vec<u8>), ApiError> {
    let mut specs = HashMap::new();
    let (mut header, mut body) = (Leases::default(), Vec::new());
    let mut lost = Vec::new();
    for grant in grants {
        let before = body.len();
        match lease(state, &grant, &mut specs, &mut body).await {
            Ok(lease) => header.leases.push(lease),
            Err(ApiError::Internal(cause)) => {
                body.truncate(before);
                lost.push((grant, cause));
            }
            Err(error) => return Err(error),
        }
    }
    if !lost.is_empty() {
        fail(state, agent, lost).await?;
    }
    let new_specs = specs.into_iter().filter(|(job, _)| !known_jobs.contains(job));
    header.jobs.extend(new_specs.map(|(_, (spec, _))| spec));
    Ok((header, body))
}

/// Fails elements that no agent can be given, and says why. Were the request refused for them, the agent would get no
/// lease of any job: it would ask again for these.
async fn fail(
    state: &AppState,
    agent: AgentId,
    lost: Vec<(Grant, String)>,
) -> Result<(), ApiError> {
    let now = state.clock.now();
    let mut pieces = Vec::new();
    for (grant, cause) in lost {
        tracing::error!(job = %grant.job, %cause, "elements cannot be read, and fail; `farrow server check` tells \
            what else is missing");
        let error = ElementError {
            kind: "Unreadable".to_owned(),
            message: format!("the server cannot read this element: {cause}"),
            call: None,
            traceback: Vec::new(),
            fatal: false,
        };
        for &Range(from, to) in grant.ranges.ranges() {
            pieces.extend((from..to).step_by(FAILED_TOGETHER).map(|first| {
                let range = Range(first, to.min(first + FAILED_TOGETHER as u64));
                NewPiece::failed(&grant, range, error.clone(), now)
            }));
        }
    }
    label_failures(state, &mut pieces).await;
    let outcome = state
        .store
        .write(move |tx| Box::pin(async move { reports::report(tx, agent, pieces, now).await }))
        .await?;
    state.moved(&outcome);
    Ok(())
}

/// One lease, its elements behind `body`.
async fn lease(
    state: &AppState,
    grant: &Grant,
    specs: &mut HashMap<JobId, (JobSpec, Shape)>,
    body: &mut Vec<u8>,
) -> Result<Lease, ApiError> {
    let job = grant.job;
    if let Entry::Vacant(entry) = specs.entry(job) {
        let found =
            state.store.query(|tx| Box::pin(async move { jobs::spec(tx, job).await })).await?;
        entry.insert(found.ok_or_else(|| ApiError::Internal(format!("leased job {job} is gone")))?);
    }
    let (spec, shape) = &specs[&job];
    let (shape, is_indexed) = (*shape, spec.options.variant == Variant::Imap);
    let input = input(state, grant, shape, body).await?;
    let names = if is_indexed && shape.named {
        names(state, job, &grant.ranges).await?
    } else {
        Vec::new()
    };
    let outer = if is_indexed && shape.nested { outer(state, grant, shape).await? } else { None };
    Ok(Lease {
        id: grant.id,
        job,
        ranges: grant.ranges.clone(),
        attempt: grant.attempt,
        slots: grant.slots,
        width: grant.width,
        deaths: grant.deaths.clone(),
        input,
        names,
        outer,
    })
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
        return inline(state, &slices, body).await;
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

#[cfg(test)]
mod tests {
    use protocol::job::JobState;

    use super::*;
    use crate::state::tests::opened;
    use crate::store::agents;
    use crate::store::jobs::{JobRow, NewJob};
    use crate::store::tests::{collecting, new_job, register, round};

    /// Bytes that do not decompress.
    fn damaged() -> Place {
        Place::Row(vec![0xff; 9])
    }

    /// What an agent of eight slots is given of `jobs`, in which each chunk is an element, when nothing else is there.
    async fn given(state: &AppState, jobs: Vec<NewJob>) -> (Leases, Vec<u8>) {
        let agent = register(8);
        let id = agent.id;
        let granted = state.store.write(move |tx| {
            Box::pin(async move {
                for mut job in jobs {
                    job.options.chunk_size = Some(1);
                    jobs::insert(tx, job, 5).await?;
                }
                agents::register(tx, &agent, 0, 1000).await?;
                round(tx, id, 8).await
            })
        });
        leases(state, id, granted.await.unwrap(), &[]).await.unwrap()
    }

    async fn row(state: &AppState, job: JobId) -> JobRow {
        state.store.read(|tx| Box::pin(jobs::find(tx, job))).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn elements_that_are_lost_fail_their_job_and_hold_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let missing = format!("sha256:{}", "0".repeat(64));
        for place in [damaged(), Place::Blob(missing)] {
            let (mut lost, sound) = (new_job(1), new_job(2));
            let (lost_id, sound_id) = (lost.id, sound.id);
            lost.elements.blocks[0].place = place;
            let (header, body) = given(&state, vec![lost, sound]).await;
            let told: Vec<JobId> = header.leases.iter().map(|lease| lease.job).collect();
            assert_eq!((told, body), (vec![sound_id; 2], b"01".to_vec()));
            let failed = row(&state, lost_id).await;
            assert_eq!(failed.state, JobState::Failed);
            let element = failed.error.and_then(|problem| problem.element).expect("which it is");
            assert_eq!((&element["type"], &element["index"]), (&"Unreadable".into(), &0.into()));
            assert_eq!(row(&state, sound_id).await.state, JobState::Running);
        }
    }

    #[tokio::test]
    async fn where_errors_are_collected_each_lost_element_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let n = FAILED_TOGETHER as u64 + 2;
        let mut job = collecting(n as usize);
        let id = job.id;
        job.elements.blocks.iter_mut().for_each(|block| block.place = damaged());
        let agent = register(1);
        let of = agent.id;
        let granted = state.store.write(move |tx| {
            Box::pin(async move {
                job.options.chunk_size = Some(n);
                jobs::insert(tx, job, 5).await?;
                agents::register(tx, &agent, 0, 1000).await?;
                round(tx, of, 1).await
            })
        });
        let (header, body) = leases(&state, of, granted.await.unwrap(), &[id]).await.unwrap();
        assert_eq!((header.leases.len(), header.jobs.len(), body.len()), (0, 0, 0));
        let resolved = row(&state, id).await;
        assert_eq!((resolved.state, resolved.counts.failed), (JobState::Resolved, n));
    }
}
