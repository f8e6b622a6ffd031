//! Writes the value of a resolved job as JSON, in short reads by key, so that a long value neither
//! stands in memory nor pins the database.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::JobId;

use crate::state::AppState;
use crate::store::StoreError;
use crate::store::blocks::{self, Kind};
use crate::store::jobs::{self, JobRow, Shape};
use crate::store::outcomes::{self, Start};

/// Rows that one read takes: at most 64 KiB each, blobs apart.
const ROWS: u32 = 16;

/// Bytes of a chunk of the answer, about.
const CHUNK: usize = 64 << 10;

/// Reads a job's outcomes and writes its value.
pub struct ValueReader {
    outcomes: Outcomes,
    names: Names,
    outer_names: Names,
    groups: Groups,
    shape: Shape,
    total: u64,
    position: u64,
    /// Elements still to come in the outer element that is being written.
    in_group: u64,
    n_groups: u64,
    stage: Stage,
}

enum Stage {
    Start,
    Elements,
    Done,
}

impl ValueReader {
    /// A reader at the start of the value of `job`, which must be resolved.
    pub fn new(state: AppState, job: &JobRow) -> Self {
        Self {
            outcomes: Outcomes {
                state: state.clone(),
                job: job.id,
                next: 0,
                read: VecDeque::new(),
            },
            names: Names::new(&state, job.id, Kind::Name, job.shape.named),
            outer_names: Names::new(&state, job.id, Kind::OuterName, job.shape.outer_named),
            groups: Groups { state, job: job.id, next: 0, read: VecDeque::new() },
            shape: job.shape,
            total: job.counts.total,
            position: 0,
            in_group: 0,
            n_groups: 0,
            stage: Stage::Start,
        }
    }

    /// The next part of the JSON text; `None` at its end.
    ///
    /// # Errors
    /// When the database fails or a blob is missing; the answer then breaks off, so that nobody
    /// takes it for whole.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut text = Vec::with_capacity(CHUNK + 1024);
        loop {
            match self.stage {
                Stage::Done => break,
                Stage::Start => {
                    text.push(self.outermost(b'[', b'{'));
                    self.stage = Stage::Elements;
                }
                Stage::Elements if self.shape.nested => self.nested_step(&mut text).await?,
                Stage::Elements => self.flat_step(&mut text).await?,
            }
            if text.len() >= CHUNK {
                break;
            }
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn outermost(&self, array: u8, object: u8) -> u8 {
        let named = if self.shape.nested { self.shape.outer_named } else { self.shape.named };
        if named { object } else { array }
    }

    async fn flat_step(&mut self, text: &mut Vec<u8>) -> Result<(), StoreError> {
        if self.position == self.total {
            text.push(self.outermost(b']', b'}'));
            self.stage = Stage::Done;
            return Ok(());
        }
        if self.position > 0 {
            text.push(b',');
        }
        self.names.write_next(text).await?;
        self.write_outcome(text).await
    }

    /// Writes the next inner element, or the edge between two outer ones.
    async fn nested_step(&mut self, text: &mut Vec<u8>) -> Result<(), StoreError> {
        if self.in_group > 0 {
            self.write_outcome(text).await?;
            self.in_group -= 1;
            text.push(if self.in_group > 0 { b',' } else { b']' });
            return Ok(());
        }
        let Some(n) = self.groups.next().await? else {
            text.push(self.outermost(b']', b'}'));
            self.stage = Stage::Done;
            return Ok(());
        };
        if self.n_groups > 0 {
            text.push(b',');
        }
        self.n_groups += 1;
        self.outer_names.write_next(text).await?;
        text.push(b'[');
        if n == 0 {
            text.push(b']');
        }
        self.in_group = n;
        Ok(())
    }

    async fn write_outcome(&mut self, text: &mut Vec<u8>) -> Result<(), StoreError> {
        let (payload, is_error) = self.outcomes.next().await?;
        if is_error {
            text.extend_from_slice(b"{\"error\":");
        }
        text.extend_from_slice(&payload);
        if is_error {
            text.push(b'}');
        }
        self.position += 1;
        Ok(())
    }
}

/// The outcomes in order.
struct Outcomes {
    state: AppState,
    job: JobId,
    next: u64,
    read: VecDeque<(Bytes, bool)>,
}

impl Outcomes {
    async fn next(&mut self) -> Result<(Bytes, bool), StoreError> {
        if self.read.is_empty() {
            self.read_more().await?;
        }
        self.read.pop_front().ok_or_else(|| StoreError::Corrupt {
            column: "outcomes",
            value: format!("no outcome {} of resolved job {}", self.next, self.job),
        })
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        let (job, from) = (self.job, self.next);
        let rows = self
            .state
            .store
            .read(|tx| {
                Box::pin(
                    async move { outcomes::read(tx, job, Start::Index(from), false, ROWS).await },
                )
            })
            .await?;
        for row in rows {
            if row.block.first != self.next {
                return Ok(());
            }
            let errors = row.errors;
            let block = row.block.load(&self.state.blobs).await?;
            self.next = block.end();
            let is_error =
                |i: usize| u32::try_from(i).is_ok_and(|i| errors.binary_search(&i).is_ok());
            self.read.extend(block.payloads().enumerate().map(|(i, bytes)| (bytes, is_error(i))));
        }
        Ok(())
    }
}

/// The names in order, if there are any.
struct Names {
    state: AppState,
    job: JobId,
    kind: Kind,
    are_there: bool,
    next: u64,
    read: VecDeque<Bytes>,
}

impl Names {
    fn new(state: &AppState, job: JobId, kind: Kind, are_there: bool) -> Self {
        Self { state: state.clone(), job, kind, are_there, next: 0, read: VecDeque::new() }
    }

    async fn write_next(&mut self, text: &mut Vec<u8>) -> Result<(), StoreError> {
        if !self.are_there {
            return Ok(());
        }
        if self.read.is_empty() {
            self.read_more().await?;
        }
        let name = self.read.pop_front().ok_or_else(|| StoreError::Corrupt {
            column: "blocks",
            value: format!("no name {} of job {}", self.next, self.job),
        })?;
        text.extend_from_slice(&name);
        text.push(b':');
        Ok(())
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        let (job, kind, from) = (self.job, self.kind, self.next);
        let rows = self
            .state
            .store
            .read(|tx| {
                Box::pin(async move { blocks::read(tx, job, kind, from, u64::MAX, ROWS).await })
            })
            .await?;
        for row in rows {
            let block = row.load(&self.state.blobs).await?;
            self.next = block.end();
            self.read.extend(block.payloads());
        }
        Ok(())
    }
}

/// The sizes of the outer elements in order.
struct Groups {
    state: AppState,
    job: JobId,
    next: u64,
    read: VecDeque<u64>,
}

/// Outer elements that one read takes.
const GROUPS: u32 = 1024;

impl Groups {
    async fn next(&mut self) -> Result<Option<u64>, StoreError> {
        if self.read.is_empty() {
            let (job, from) = (self.job, self.next);
            let sizes = self
                .state
                .store
                .read(|tx| Box::pin(async move { jobs::groups(tx, job, from, GROUPS).await }))
                .await?;
            self.next += sizes.len() as u64;
            self.read.extend(sizes);
        }
        Ok(self.read.pop_front())
    }
}
