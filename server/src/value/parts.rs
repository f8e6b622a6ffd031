//! What a value is made of: outer elements, names, outcomes, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::JobId;

use crate::names::Names;
use crate::state::AppState;
use crate::store::StoreError;
use crate::store::blocks::Kind;
use crate::store::jobs::{self, JobRow};
use crate::store::outcomes::{self, Outcomes as StoredOutcomes};

/// Rows that one read takes: at most 64 KiB each, blobs apart.
const ROWS: u32 = 16;

/// Outer elements that one read takes.
const GROUPS: u32 = 1024;

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// An outer element begins.
    Group {
        /// Its inner elements, which follow.
        n: u64,
        /// Its name, a JSON string.
        name: Option<Bytes>,
    },
    /// An element's outcome.
    Outcome {
        /// The element's name, a JSON string.
        name: Option<Bytes>,
        /// Its value, or the JSON of its error.
        payload: Bytes,
        /// Which of both.
        is_error: bool,
    },
}

/// Reads the parts of a job's value in order.
pub struct Parts {
    outcomes: Outcomes,
    names: Option<Names>,
    /// Of a nested job, its outer elements.
    groups: Option<Groups>,
    total: u64,
    /// The index of the next element.
    position: u64,
    /// Elements still to come in the outer element that is being read.
    in_group: u64,
}

impl Parts {
    /// Those of `job`, which must be resolved.
    pub fn new(state: &AppState, job: &JobRow) -> Self {
        let (id, shape) = (job.id, job.shape);
        let names = |kind, are_there: bool| are_there.then(|| Names::new(state.clone(), id, kind));
        let groups = || Groups {
            state: state.clone(),
            job: id,
            names: names(Kind::OuterName, shape.outer_named),
            position: 0,
            read: VecDeque::new(),
        };
        Self {
            outcomes: Outcomes {
                state: state.clone(),
                job: id,
                next: 0,
                rows: VecDeque::new(),
                read: VecDeque::new(),
            },
            names: names(Kind::Name, shape.named),
            groups: shape.nested.then(groups),
            total: job.counts.total,
            position: 0,
            in_group: 0,
        }
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// When the database fails or a blob is missing.
    pub async fn next(&mut self) -> Result<Option<Part>, StoreError> {
        if self.in_group == 0
            && let Some(groups) = &mut self.groups
        {
            let Some((n, name)) = groups.next().await? else { return Ok(None) };
            self.in_group = n;
            return Ok(Some(Part::Group { n, name }));
        }
        if self.position == self.total {
            return Ok(None);
        }
        let name = match &mut self.names {
            Some(names) => Some(names.get(self.position).await?),
            None => None,
        };
        let (payload, is_error) = self.outcomes.next().await?;
        self.position += 1;
        self.in_group = self.in_group.saturating_sub(1);
        Ok(Some(Part::Outcome { name, payload, is_error }))
    }
}

/// The outcomes in order.
struct Outcomes {
    state: AppState,
    job: JobId,
    next: u64,
    /// Rows that were read; their blobs were not yet.
    rows: VecDeque<StoredOutcomes>,
    /// What stands in the row before these.
    read: VecDeque<(Bytes, bool)>,
}

impl Outcomes {
    async fn next(&mut self) -> Result<(Bytes, bool), StoreError> {
        while self.read.is_empty() {
            if self.rows.is_empty() {
                self.read_more().await?;
            }
            match self.rows.pop_front() {
                Some(row) if row.block.first == self.next => self.load(row).await?,
                // What is missing is told below.
                _ => break,
            }
        }
        self.read.pop_front().ok_or_else(|| StoreError::Corrupt {
            column: "outcomes",
            value: format!("no outcome {} of resolved job {}", self.next, self.job),
        })
    }

    /// Takes in one row: a value of many megabytes stands in memory alone.
    async fn load(&mut self, row: StoredOutcomes) -> Result<(), StoreError> {
        let errors = row.errors;
        let block = row.block.load(&self.state.blobs).await?;
        self.next = block.end();
        let is_error = |i: usize| u32::try_from(i).is_ok_and(|i| errors.binary_search(&i).is_ok());
        self.read.extend(block.payloads().enumerate().map(|(i, bytes)| (bytes, is_error(i))));
        Ok(())
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        let (job, from) = (self.job, self.next);
        let rows = self
            .state
            .store
            .query(|tx| Box::pin(async move { outcomes::read(tx, job, from, ROWS).await }))
            .await?;
        self.rows.extend(rows);
        Ok(())
    }
}

/// The outer elements in order: how many inner ones each has, and its name.
struct Groups {
    state: AppState,
    job: JobId,
    names: Option<Names>,
    position: u64,
    read: VecDeque<u64>,
}

impl Groups {
    async fn next(&mut self) -> Result<Option<(u64, Option<Bytes>)>, StoreError> {
        if self.read.is_empty() {
            let (job, from) = (self.job, self.position);
            let sizes = self
                .state
                .store
                .read(|tx| Box::pin(async move { jobs::groups(tx, job, from, GROUPS).await }))
                .await?;
            self.read.extend(sizes);
        }
        let Some(n) = self.read.pop_front() else { return Ok(None) };
        let name = match &mut self.names {
            Some(names) => Some(names.get(self.position).await?),
            None => None,
        };
        self.position += 1;
        Ok(Some((n, name)))
    }
}
