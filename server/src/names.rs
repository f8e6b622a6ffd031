//! The names of elements, looked up by index.

use bytes::Bytes;
use protocol::JobId;

use crate::state::AppState;
use crate::store::StoreError;
use crate::store::blocks::{self, Kind};

/// The names of one kind of a job. The block of the last one looked up is kept, so that neighbours
/// cost nothing.
pub struct Names {
    state: AppState,
    job: JobId,
    kind: Kind,
    first: u64,
    block: Vec<Bytes>,
}

impl Names {
    /// The names of `kind`, of which `job` must have some.
    pub fn new(state: AppState, job: JobId, kind: Kind) -> Self {
        Self { state, job, kind, first: 0, block: Vec::new() }
    }

    /// The name at `index`, as a JSON string.
    ///
    /// # Errors
    /// When the database fails or there is no such name.
    pub async fn get(&mut self, index: u64) -> Result<Bytes, StoreError> {
        if self.kept(index).is_none() {
            self.load(index).await?;
        }
        self.kept(index).cloned().ok_or_else(|| StoreError::Corrupt {
            column: "blocks",
            value: format!("no name {index} of job {}", self.job),
        })
    }

    fn kept(&self, index: u64) -> Option<&Bytes> {
        self.block.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    async fn load(&mut self, index: u64) -> Result<(), StoreError> {
        let (job, kind) = (self.job, self.kind);
        let rows = self
            .state
            .store
            .read(|tx| {
                Box::pin(async move { blocks::read(tx, job, kind, index, index + 1, 1).await })
            })
            .await?;
        for row in rows {
            let block = row.load(&self.state.blobs).await?;
            self.first = block.first;
            self.block = block.payloads().collect();
        }
        Ok(())
    }
}
