//! Waiting for a job to move, never past the deadline and never past the server's stop.

use std::pin::Pin;
use std::time::Duration;

use protocol::JobId;
use serde::Deserialize;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;

use crate::error::ApiError;
use crate::state::AppState;
use crate::store::jobs::{self, JobRow};

/// Seconds that a client may wait at the most.
const MAX_WAIT: f64 = 60.0;

/// `?wait=`, in seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// Seconds to wait for a change before answering; at most 60.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60, example = 30)]
    pub wait: Option<f64>,
}

impl Wait {
    /// The time to wait.
    ///
    /// # Errors
    /// When it is negative, not a number or too long.
    pub fn duration(self) -> Result<Duration, ApiError> {
        let seconds = self.wait.unwrap_or(0.0);
        if (0.0..=MAX_WAIT).contains(&seconds) {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(ApiError::field("wait", format!("is {seconds}, must be from 0 to {MAX_WAIT} seconds")))
    }
}

/// How long news of a job that goes on are collected before they are told.
const COLLECT: Duration = Duration::from_millis(100);

/// Looks at a job until it is as wanted or the wait is over.
pub struct JobWaiter<'a> {
    state: &'a AppState,
    job: JobId,
    deadline: Pin<Box<Sleep>>,
    /// Also wakes when the job moves without ending.
    any_move: bool,
    moved: Pin<Box<OwnedNotified>>,
    ended: Pin<Box<OwnedNotified>>,
}

impl<'a> JobWaiter<'a> {
    /// A waiter for the end of `job` that waits at most for `wait` in all.
    pub fn for_end(state: &'a AppState, job: JobId, wait: Duration) -> Self {
        let moved = Box::pin(state.job_watchers.register(&job).notified_owned());
        let ended = Box::pin(state.end_watchers.register(&job).notified_owned());
        let deadline = Box::pin(tokio::time::sleep(wait));
        Self { state, job, deadline, any_move: false, moved, ended }
    }

    /// A waiter for any move of `job` that waits at most for `wait` in all.
    pub fn for_move(state: &'a AppState, job: JobId, wait: Duration) -> Self {
        Self { any_move: true, ..Self::for_end(state, job, wait) }
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// When there is no such job, or the database fails.
    pub async fn look(&mut self) -> Result<JobRow, ApiError> {
        // Registered before the look, so that no change between look and wait is missed.
        self.moved = Box::pin(self.state.job_watchers.register(&self.job).notified_owned());
        self.ended = Box::pin(self.state.end_watchers.register(&self.job).notified_owned());
        find(self.state, self.job).await
    }

    /// Waits until there is news of the job. `false`: the wait is over, or the server is stopping;
    /// what is answered now must be looked up once more.
    pub async fn has_news(&mut self) -> bool {
        tokio::select! {
            () = &mut self.ended => return true,
            () = &mut self.moved, if self.any_move => {}
            () = &mut self.deadline => return false,
            () = self.state.shutdown.cancelled() => return false,
        }
        tokio::select! {
            () = &mut self.ended => true,
            () = tokio::time::sleep(COLLECT) => true,
            () = &mut self.deadline => false,
            () = self.state.shutdown.cancelled() => false,
        }
    }
}

/// The job of this id.
///
/// # Errors
/// When there is none, or the database fails.
pub async fn find(state: &AppState, job: JobId) -> Result<JobRow, ApiError> {
    let row = state.store.read(|tx| Box::pin(async move { jobs::find(tx, job).await })).await?;
    row.ok_or_else(|| ApiError::NotFound(format!("there is no job {job}")))
}
