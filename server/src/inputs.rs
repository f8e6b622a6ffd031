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
use crate::store::StoreError;
use crate::store::blocks::{self, Kind, Place, StoredBlock};
use crate::store::jobs::{self, Group, Shape};
use crate::store::leases::Grant;
use crate::store::reports::{self, NewPiece};

/// Bytes of input up to which a lease carries them, wherever they are stored.
const MAX_INLINE: usize = 1 << 20;

/// Blocks that one read takes.
const BLOCKS: u32 = 256;

/// Why a lease cannot be given.
enum Unread {
    /// What holds its elements is damaged, so that no agent will ever have them: one of them, and what it is.
    Lost(u64, String),
    /// It may be given another time.
    NotNow(ApiError),
}

impl From<ApiError> for Unread {
    fn from(error: ApiError) -> Self {
        Self::NotNow(error)
    }
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        Self::NotNow(error.into())
    }
}

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
    let mut specs: HashMap<JobId, (JobSpec, Shape)> = HashMap::new();
    let (mut header, mut body) = (Leases::default(), Vec::new());
    for grant in grants {
        let before = body.len();
        match lease(state, &grant, &mut specs, &mut body).await {
            Ok(lease) => {
                let is_new = !known_jobs.contains(&lease.job)
                    && header.leases.iter().all(|earlier: &Lease| earlier.job != lease.job);
                if is_new {
                    header.jobs.push(specs[&lease.job].0.clone());
                }
                header.leases.push(lease);
            }
            Err(Unread::Lost(element, why)) => {
                body.truncate(before);
                fail(state, agent, &grant, element, why).await?;
            }
            Err(Unread::NotNow(error)) => return Err(error),
        }
    }
    Ok((header, body))
}

/// Fails a job of which an element is lost. Were the request refused for it, the agent would get no lease of any job: it
/// would ask again for this one.
async fn fail(
    state: &AppState,
    agent: AgentId,
    grant: &Grant,
    element: u64,
    why: String,
) -> Result<(), ApiError> {
    tracing::error!(job = %grant.job, element, why, "the job fails, for elements are lost; `farrow server check` tells \
        what else is damaged");
    let error = ElementError {
        kind: "Unreadable".to_owned(),
        message: why,
        call: None,
        traceback: Vec::new(),
        fatal: true,
    };
    let now = state.clock.now();
    let mut pieces = vec![NewPiece::failed(grant, element, error, now)];
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
) -> Result<Lease, Unread> {
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
) -> Result<Input, Unread> {
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
            // The agent asks for the blob, tries again where that may help, and fails the job if it is gone or damaged.
            Err(Unread::NotNow(ApiError::Internal(cause)))
                if slices.iter().any(Slice::is_in_blob) =>
            {
                tracing::error!(job = %grant.job, %cause, "elements cannot be read; the agent asks for their \
                    blob, and fails the job if it is gone; `farrow server check` tells what else is missing");
                body.truncate(before);
            }
            read => return read,
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
    /// The index of the first.
    first: u64,
    block: StoredBlock,
    span: std::ops::Range<usize>,
    lengths: Vec<u32>,
}

impl Slice {
    fn of(block: StoredBlock, from: u64, to: u64) -> Self {
        let (span, lengths) = block.slice(from, to);
        let lengths = lengths.to_vec();
        Self { first: from.max(block.first), block, span, lengths }
    }

    fn is_in_blob(&self) -> bool {
        matches!(self.block.place, Place::Blob(_))
    }

    /// The bytes of the whole block.
    async fn load(&self, blobs: &Blobs) -> Result<Bytes, Unread> {
        match self.block.place.load(blobs).await {
            // Of a blob that may be so for now only.
            Err(StoreError::Corrupt { .. }) if !self.is_in_blob() => Err(self.lost()),
            loaded => Ok(loaded?),
        }
    }

    /// The digest of the blob that holds the block. One that compresses well stands in a row, and
    /// is put into a blob when a chunk as a whole is large.
    async fn block_digest(&self, blobs: &Blobs) -> Result<String, Unread> {
        match &self.block.place {
            Place::Blob(digest) => Ok(digest.clone()),
            Place::Row(_) => {
                let data = self.load(blobs).await?;
                Ok(blobs.put(data).await.map_err(ApiError::from)?)
            }
        }
    }

    /// Its row is damaged.
    fn lost(&self) -> Unread {
        let (from, to) = (self.block.first, self.block.end().saturating_sub(1));
        let why = format!(
            "the row of the server's database that holds elements {from} to {to} is damaged: submit \
             the job anew"
        );
        Unread::Lost(self.first, why)
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

async fn slices_of(state: &AppState, job: JobId, range: Range) -> Result<Vec<Slice>, Unread> {
    let Range(mut from, to) = range;
    let mut slices = Vec::new();
    while from < to {
        let read = state.store.query(|tx| {
            Box::pin(async move { blocks::read(tx, job, Kind::Element, from, to, BLOCKS).await })
        });
        let blocks = match read.await {
            Err(StoreError::Corrupt { .. }) => Vec::new(),
            read => read?,
        };
        let Some(last) = blocks.last() else {
            let why = "the row of the server's database that holds it is missing or damaged: submit the \
                       job anew";
            return Err(Unread::Lost(from, why.to_owned()));
        };
        let end = last.end();
        slices.extend(blocks.into_iter().map(|block| Slice::of(block, from, to)));
        from = end;
    }
    Ok(slices)
}

async fn inline(state: &AppState, slices: &[Slice], body: &mut Vec<u8>) -> Result<Input, Unread> {
    let mut lengths = Vec::new();
    for slice in slices {
        lengths.extend_from_slice(&slice.lengths);
        let data = slice.load(&state.blobs).await?;
        let Some(bytes) = data.get(slice.span.clone()) else {
            return Err(match slice.is_in_blob() {
                true => ApiError::Internal("a block is shorter than its lengths".to_owned()).into(),
                false => slice.lost(),
            });
        };
        body.extend_from_slice(bytes);
    }
    Ok(Input::Inline { lengths })
}

#[cfg(test)]
mod tests {
    use protocol::job::JobState;

    use super::*;
    use crate::block::compress;
    use crate::state::tests::opened;
    use crate::store::agents;
    use crate::store::jobs::{JobRow, NewJob};
    use crate::store::tests::{collecting, new_job, register, round};

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
    async fn a_damaged_row_fails_its_job_and_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let short = Place::Row(compress(b"0"));
        for (mut lost, place) in [
            (new_job(2), Place::Row(vec![0xff; 9])),
            (collecting(2), Place::Row(vec![0xff; 9])),
            (new_job(2), short),
        ] {
            let sound = new_job(2);
            let (lost_id, sound_id) = (lost.id, sound.id);
            lost.elements.blocks[0].place = place;
            let (header, body) = given(&state, vec![lost, sound]).await;
            let leases: Vec<JobId> = header.leases.iter().map(|lease| lease.job).collect();
            let specs: Vec<JobId> = header.jobs.iter().map(|spec| spec.id).collect();
            let failed = row(&state, lost_id).await;
            assert_eq!(failed.state, JobState::Failed);
            let element = failed.error.and_then(|problem| problem.element).expect("which it is");
            assert_eq!(element["type"], "Unreadable");
            let message = element["message"].as_str().expect("why");
            assert!(message.contains("holds elements 0 to 1 is damaged"), "{message}");
            let of_sound = leases.iter().filter(|&&job| job == sound_id).count();
            assert_eq!((of_sound, specs.contains(&sound_id)), (2, true));
            assert!(body.ends_with(b"01"), "{body:?}");
            assert_eq!(row(&state, sound_id).await.state, JobState::Running);
            // What can be read of it was told, but nothing that cannot.
            assert_eq!(specs.contains(&lost_id), leases.contains(&lost_id));
        }
    }

    #[tokio::test]
    async fn of_a_job_whose_rows_are_gone_the_first_element_fails() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let mut lost = new_job(1);
        let id = lost.id;
        lost.elements.blocks.clear();
        let (header, body) = given(&state, vec![lost]).await;
        assert_eq!((header.leases.len(), header.jobs.len(), body.len()), (0, 0, 0));
        let failed = row(&state, id).await;
        let element = failed.error.and_then(|problem| problem.element).expect("which it is");
        assert_eq!((&element["type"], &element["index"]), (&"Unreadable".into(), &0.into()));
    }

    #[tokio::test]
    async fn a_blob_that_cannot_be_read_is_left_to_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let missing = format!("sha256:{}", "0".repeat(64));
        let mut job = new_job(1);
        let id = job.id;
        job.elements.blocks[0].place = Place::Blob(missing.clone());
        let (header, body) = given(&state, vec![job]).await;
        let told = header.leases.iter().map(|lease| &lease.input).collect::<Vec<_>>();
        let [Input::Blocks { blocks }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&blocks[0].digest, body.len()), (&missing, 0));
        assert_eq!(row(&state, id).await.state, JobState::Running);
    }
}
