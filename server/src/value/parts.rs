//! What a value is made of: outer elements, names, outcomes, in order.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::JobId;

use crate::blobs::Opened;
use crate::names::Names;
use crate::state::AppState;
use crate::store::StoreError;
use crate::store::blocks::{self, Kind, Place};
use crate::store::jobs::{self, JobRow};
use crate::store::outcomes::{self, Extent, Outcomes as StoredOutcomes};

/// Rows that one read takes: at most 64 KiB each, blobs apart.
const ROWS: u32 = 16;

/// Rows whose lengths one read adds up: some hundred KiB each at the most.
const EXTENTS: u32 = 16;

/// Outer elements that one read takes.
const GROUPS: u32 = 1024;

/// A part of a value.
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
        payload: Payload,
        /// Which of both.
        is_error: bool,
    },
}

/// The bytes of an outcome.
pub enum Payload {
    /// Here.
    Bytes(Bytes),
    /// In a blob of their own, which is read as it is sent: it may be large.
    Blob(Opened),
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl Payload {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(opened) => opened.size,
        }
    }
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

    /// Whether there are outcomes only, without names and groups.
    pub fn are_bare(&self) -> bool {
        self.names.is_none() && self.groups.is_none()
    }

    /// How much all outcomes are.
    ///
    /// # Errors
    /// When the database fails or some are missing.
    pub async fn extent(&mut self) -> Result<Extent, StoreError> {
        let (store, job) = (&self.outcomes.state.store, self.outcomes.job);
        let mut all = Extent::default();
        loop {
            let from = all.n;
            let some = store
                .query(|tx| Box::pin(async move { outcomes::extent(tx, job, from, EXTENTS).await }))
                .await?;
            if some.n == 0 {
                break;
            }
            all.n += some.n;
            all.n_errors += some.n_errors;
            all.n_bytes += some.n_bytes;
        }
        if all.n == self.total {
            return Ok(all);
        }
        // It was deleted meanwhile: of what is left the length would be that of something else.
        Err(StoreError::Corrupt {
            column: "outcomes",
            value: format!("{} outcomes of resolved job {job}, which has {}", all.n, self.total),
        })
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
    read: VecDeque<(Payload, bool)>,
}

impl Outcomes {
    async fn next(&mut self) -> Result<(Payload, bool), StoreError> {
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

    /// Takes in one row. A large value is only opened.
    async fn load(&mut self, row: StoredOutcomes) -> Result<(), StoreError> {
        let errors = row.errors;
        let is_error = |i: usize| u32::try_from(i).is_ok_and(|i| errors.binary_search(&i).is_ok());
        self.next = row.block.end();
        if let ([length], Place::Blob(digest)) = (&row.block.lengths[..], &row.block.place) {
            let opened = blocks::open(digest, (*length).into(), &self.state.blobs).await?;
            self.read.push_back((Payload::Blob(opened), is_error(0)));
            return Ok(());
        }
        let block = row.block.load(&self.state.blobs).await?;
        let payloads = block.payloads().map(Payload::Bytes).enumerate();
        self.read.extend(payloads.map(|(i, payload)| (payload, is_error(i))));
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
