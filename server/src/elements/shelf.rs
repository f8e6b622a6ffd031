//! Where the blocks of a job go as its elements are taken apart.
//!
//! A few are kept, and written with the job. When they become many they are written before it, in slices, as
//! a draft that nobody sees: so neither memory nor a transaction grows with the elements of a job.

use std::sync::Arc;

use protocol::JobId;
use tokio::sync::Notify;

use super::Elements;
use crate::clock::Clock;
use crate::error::ApiError;
use crate::limits::Limits;
use crate::state::AppState;
use crate::store::blocks::{self, Kind, Place, StoredBlock};
use crate::store::{Store, drafts};

/// Bytes of blocks that are kept at the most before they are written.
const SLICE: usize = 4 << 20;

/// A job whose first blocks may be written before it. Given up, unless it is done, when it is dropped.
pub struct Draft {
    /// The job's id.
    pub job: JobId,
    store: Store,
    limits: Arc<Limits>,
    clock: Arc<Clock>,
    /// Elements that it has so far.
    n_elements: u64,
    /// Notified when it was given up, so that what it left is cleared.
    deleted: Arc<Notify>,
    is_open: bool,
}

impl Draft {
    /// A draft of a new job, of which nothing is written.
    pub fn new(state: &AppState) -> Self {
        Self {
            job: JobId::new(),
            store: state.store.clone(),
            limits: Arc::clone(&state.limits),
            clock: Arc::clone(&state.clock),
            n_elements: 0,
            deleted: Arc::clone(&state.deleted),
            is_open: false,
        }
    }

    /// Says that it is a job now.
    pub fn done(mut self) {
        self.is_open = false;
    }

    /// Writes a slice, unless that is more than a job may have, or than the disk has room for.
    async fn write(&mut self, slice: Vec<(Kind, StoredBlock)>) -> Result<(), ApiError> {
        let elements = slice.iter().filter(|(kind, _)| *kind == Kind::Element);
        self.n_elements += elements.map(|(_, block)| block.lengths.len() as u64).sum::<u64>();
        let now = self.clock.now();
        self.limits.elements(self.n_elements)?;
        self.limits.room(now)?;
        let (job, is_open) = (self.job, self.is_open);
        // Before it is asked for: whoever leaves meanwhile leaves a draft.
        self.is_open = true;
        let writing = self.store.write(move |tx| {
            Box::pin(async move {
                if is_open {
                    drafts::must_be_there(tx, job).await?;
                } else {
                    drafts::open(tx, job, None, now).await?;
                }
                for (kind, block) in slice {
                    blocks::insert(tx, job, kind, vec![block]).await?;
                }
                Ok(())
            })
        });
        Ok(writing.await?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let (job, store, deleted) = (self.job, self.store.clone(), Arc::clone(&self.deleted));
        tokio::spawn(async move {
            let given_up =
                store.write(move |tx| Box::pin(async move { drafts::discard(tx, job).await }));
            match given_up.await {
                Ok(()) => deleted.notify_one(),
                // It is cleared when it is old.
                Err(error) => tracing::warn!(%error, "a draft of a job could not be given up"),
            }
        });
    }
}

/// Takes the blocks of one job.
pub struct Shelf<'a> {
    draft: Option<&'a mut Draft>,
    kept: Vec<(Kind, StoredBlock)>,
    n_bytes: usize,
}

impl<'a> Shelf<'a> {
    /// A shelf that keeps all blocks, or writes them as a draft when they become many.
    pub fn new(draft: Option<&'a mut Draft>) -> Self {
        Self { draft, kept: Vec::new(), n_bytes: 0 }
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// The database's; that there are more elements than a job may have, or no room on disk.
    pub async fn put(&mut self, kind: Kind, block: StoredBlock) -> Result<(), ApiError> {
        let in_row = match &block.place {
            Place::Row(data) => data.len(),
            Place::Blob(digest) => digest.len(),
        };
        self.n_bytes += in_row + 4 * block.lengths.len();
        self.kept.push((kind, block));
        match &mut self.draft {
            Some(draft) if self.n_bytes > SLICE => {
                self.n_bytes = 0;
                draft.write(std::mem::take(&mut self.kept)).await
            }
            _ => Ok(()),
        }
    }

    /// Adds to `elements` what is still to be written of them.
    pub fn empty_into(self, elements: &mut Elements) {
        elements.is_begun = self.draft.is_some_and(|draft| draft.is_open);
        for (kind, block) in self.kept {
            match kind {
                Kind::Element => elements.blocks.push(block),
                Kind::Name => elements.names.push(block),
                Kind::OuterName => elements.outer_names.push(block),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::job::{Encoding, Variant};
    use serde_json::value::RawValue;

    use super::super::{Source, Wanted, parse, store};
    use super::*;
    use crate::clock::Millis;
    use crate::state::tests::opened;
    use crate::store::db::args;
    use crate::store::jobs;
    use crate::store::tests::new_job;

    const WANTED: Wanted =
        Wanted { nested: false, encoding: Encoding::Json, variant: Variant::Map };

    /// More elements than are kept.
    const MANY: u64 = 1_500_000;

    /// Takes the integers from 0 to `MANY` apart, as they stand in a submission or in a blob.
    async fn take(state: &AppState, draft: &mut Draft, is_blob: bool) -> Elements {
        let texts: Vec<String> = (0..MANY).map(|i| i.to_string()).collect();
        let array;
        let source = if is_blob {
            let digest = state.blobs.put(Bytes::from(texts.join("\n"))).await.unwrap();
            Source::Blob(digest)
        } else {
            array = RawValue::from_string(format!("[{}]", texts.join(","))).unwrap();
            parse(&array, WANTED).unwrap()
        };
        let seen = state.blobs.seen_by(&state.store, crate::store::tokens::Scope::All);
        store(source, WANTED, &seen, Shelf::new(Some(draft))).await.unwrap()
    }

    async fn rows(state: &AppState, table: &'static str) -> u64 {
        let counted = state.store.query(|tx| {
            Box::pin(async move {
                let row = tx.first(table, args![]).await?;
                row.map_or(Ok(0), |row| row.count("n"))
            })
        });
        counted.await.unwrap()
    }

    const BLOCKS: &str = "select count(*) as n from blocks";
    const DRAFTS: &str = "select count(*) as n from drafts";
    const TRASH: &str = "select count(*) as n from trash";

    #[tokio::test(flavor = "multi_thread")]
    async fn many_elements_are_written_before_their_job_and_are_there_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        for is_blob in [false, true] {
            let mut draft = Draft::new(&state);
            let elements = take(&state, &mut draft, is_blob).await;
            assert!(elements.is_begun && elements.total == MANY);
            assert!(elements.blocks.len() < MANY as usize / 4096, "some are written");
            assert_eq!(rows(&state, DRAFTS).await, 1);
            let mut job = new_job(0);
            (job.id, job.spec.id) = (draft.job, draft.job);
            job.elements = elements;
            let id = job.id;
            let now: Millis = 5;
            let inserted = state
                .store
                .write(move |tx| Box::pin(async move { jobs::insert(tx, job, now).await }));
            inserted.await.unwrap();
            draft.done();
            assert_eq!(rows(&state, DRAFTS).await, 0);
            let mut next = 0;
            while next < MANY {
                let read = state.store.read(|tx| {
                    Box::pin(
                        async move { blocks::read(tx, id, Kind::Element, next, MANY, 64).await },
                    )
                });
                for block in read.await.unwrap() {
                    let block = block.load(&state.blobs).await.unwrap();
                    assert_eq!(block.first, next);
                    for payload in block.payloads() {
                        assert_eq!(payload, next.to_string());
                        next += 1;
                    }
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_comes_to_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let mut draft = Draft::new(&state);
        let elements = take(&state, &mut draft, false).await;
        assert!(rows(&state, BLOCKS).await > 0);
        let given_up = state.deleted.notified();
        drop(draft);
        given_up.await;
        assert_eq!((rows(&state, DRAFTS).await, rows(&state, TRASH).await), (0, 1));
        let mut job = new_job(0);
        job.elements = elements;
        let late =
            state.store.write(move |tx| Box::pin(async move { jobs::insert(tx, job, 5).await }));
        assert!(late.await.is_err(), "half of its elements will be cleared");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn few_elements_are_written_with_their_job() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let mut draft = Draft::new(&state);
        let array = RawValue::from_string("[1, 2]".to_owned()).unwrap();
        let source = parse(&array, WANTED).unwrap();
        let elements = store(source, WANTED, &state.blobs, Shelf::new(Some(&mut draft))).await;
        let elements = elements.unwrap();
        assert_eq!((elements.is_begun, elements.total, elements.blocks.len()), (false, 2, 1));
        drop(draft);
        assert_eq!(rows(&state, DRAFTS).await, 0);
    }
}
