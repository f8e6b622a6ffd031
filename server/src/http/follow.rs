//! Lines of a job that are streamed as they come.

use std::future::Future;

use axum::response::Response;
use bytes::Bytes;

use super::ndjson;
use super::wait::{JobWaiter, Patience};
use crate::error::ApiError;
use crate::logs::LogReader;
use crate::outcomes::OutcomeReader;
use crate::store::StoreError;
use crate::store::jobs::JobRow;

/// Reads lines of a job.
pub trait Reader: Send + 'static {
    /// The next lines; `None` when nothing more is there now.
    fn next_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// From now on nothing is read that the job, which was `row` a moment ago, does not have now.
    fn end_here(&mut self, row: &JobRow) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether it has read as many lines as it was to.
    fn is_full(&self) -> bool;
}

impl Reader for OutcomeReader {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.next_chunk().await
    }

    async fn end_here(&mut self, row: &JobRow) -> Result<(), StoreError> {
        self.end_at(row.counts.done + row.counts.failed);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.is_full()
    }
}

impl Reader for LogReader {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.next_chunk().await
    }

    async fn end_here(&mut self, _: &JobRow) -> Result<(), StoreError> {
        self.end_here().await
    }

    fn is_full(&self) -> bool {
        false
    }
}

/// An answer of what `reader` reads of the job `row`, and of what it will be able to read until
/// the job has ended or `patience` is over.
///
/// # Errors
/// When the database fails.
pub async fn lines(
    mut reader: impl Reader,
    waiter: JobWaiter,
    row: &JobRow,
    patience: Patience,
) -> Result<Response, ApiError> {
    if !patience.is_some() {
        reader.end_here(row).await?;
    }
    let is_last = row.state.is_final() || !patience.is_some();
    let lines = Lines { reader, waiter, is_last };
    Ok(patience.applied(ndjson::body(lines, Lines::next)))
}

struct Lines<R> {
    reader: R,
    waiter: JobWaiter,
    /// Whether nothing is waited for when all that is there has been read.
    is_last: bool,
}

impl<R: Reader> Lines<R> {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ApiError> {
        loop {
            // Also while there is always more to read.
            if !self.is_last && self.waiter.is_over().await {
                let row = self.waiter.look().await?;
                self.reader.end_here(&row).await?;
                self.is_last = true;
            }
            if let Some(chunk) = self.reader.next_chunk().await? {
                return Ok(Some((chunk, self)));
            }
            if self.reader.is_full() {
                return Ok(None);
            }
            if self.is_last {
                // Of a job that was deleted meanwhile lines are missing: the answer breaks off.
                self.waiter.look().await?;
                return Ok(None);
            }
            if self.waiter.has_news().await {
                self.is_last = self.waiter.look().await?.state.is_final();
            }
        }
    }
}
