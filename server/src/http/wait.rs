//! Waiting for a job to move, never past the deadline and never past the server's stop.

use std::pin::Pin;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use protocol::JobId;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;

use super::auth;
use super::caller::Caller;
use crate::error::ApiError;
use crate::metrics::Waiting;
use crate::state::AppState;
use crate::store::jobs::{self, JobRow};

/// Seconds that a client may wait at the most.
const MAX_WAIT: f64 = 60.0;

/// `?wait=`, in seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// Seconds to wait for a change before answering; at most 60. `Prefer: wait=30` is the same.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60, example = 30)]
    pub wait: Option<f64>,
}

impl Wait {
    /// The time to wait: as the query says, else as the client prefers, else none.
    ///
    /// # Errors
    /// When the query's is negative, not a number or too long.
    pub fn or_preferred(self, headers: &HeaderMap) -> Result<Patience, ApiError> {
        let Some(seconds) = self.wait else {
            let preferred = preferred_wait(headers);
            let time = Duration::from_secs(preferred.unwrap_or(0));
            return Ok(Patience { time, preferred });
        };
        if (0.0..=MAX_WAIT).contains(&seconds) {
            return Ok(Patience { time: Duration::from_secs_f64(seconds), preferred: None });
        }
        Err(ApiError::field("wait", format!("is {seconds}, must be from 0 to {MAX_WAIT} seconds")))
    }
}

/// How long a client waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The time to wait.
    pub time: Duration,
    /// The seconds of `Prefer: wait=`, if it is these that are waited.
    preferred: Option<u64>,
}

impl Patience {
    /// Whether there is any.
    pub fn is_some(self) -> bool {
        !self.time.is_zero()
    }

    /// Says in the answer which preference was applied.
    pub fn applied(self, answer: impl IntoResponse) -> Response {
        let mut answer = answer.into_response();
        let applied =
            self.preferred.map(|seconds| HeaderValue::try_from(format!("wait={seconds}")));
        if let Some(Ok(applied)) = applied {
            answer.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        answer
    }
}

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The seconds of `Prefer: wait=30` (RFC 7240), at most [`MAX_WAIT`]. A preference binds nobody, so
/// one that cannot be read is none; of several the first counts.
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    });
    let seconds = preferences.next()?;
    let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than a number holds are more than the most.
    is_number.then(|| seconds.parse().unwrap_or(u64::MAX).min(MAX_WAIT as u64))
}

/// How long news of a job that goes on are collected before they are told.
const COLLECT: Duration = Duration::from_millis(100);

/// What wakes one who waits for a job, beside its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing.
    End,
    /// Any move of its elements.
    Move,
    /// Something that it said.
    Log,
}

/// Looks at a job until it is as wanted or the wait is over.
pub struct JobWaiter {
    state: AppState,
    caller: Caller,
    job: JobId,
    deadline: Pin<Box<Sleep>>,
    news: News,
    stirred: Pin<Box<OwnedNotified>>,
    ended: Pin<Box<OwnedNotified>>,
    /// Woken when agents come or go, which changes what a job waits for.
    agents: Pin<Box<OwnedNotified>>,
    is_idle: bool,
    /// Whether it must look before it waits: the job may have ended before.
    is_due: bool,
    _waiting: Waiting,
    _place: OwnedSemaphorePermit,
}

impl JobWaiter {
    /// A waiter for the end of `job` that waits at most for `wait` in all.
    ///
    /// # Errors
    /// When too many wait.
    pub fn for_end(
        state: &AppState,
        caller: &Caller,
        job: JobId,
        wait: Duration,
    ) -> Result<Self, ApiError> {
        Self::new(state, caller, job, wait, News::End)
    }

    /// As [`JobWaiter::for_end`], of a job that is yet to be submitted: what becomes of it is news to this waiter.
    ///
    /// # Errors
    /// When too many wait.
    pub fn for_end_of_new(
        state: &AppState,
        caller: &Caller,
        job: JobId,
        wait: Duration,
    ) -> Result<Self, ApiError> {
        Ok(Self { is_due: false, ..Self::new(state, caller, job, wait, News::End)? })
    }

    /// Whether it must look at the job before it waits for news.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// A waiter for any move of `job` that waits at most for `wait` in all.
    ///
    /// # Errors
    /// When too many wait.
    pub fn for_move(
        state: &AppState,
        caller: &Caller,
        job: JobId,
        wait: Duration,
    ) -> Result<Self, ApiError> {
        Self::new(state, caller, job, wait, News::Move)
    }

    /// A waiter for anything that `job` says, that waits at most for `wait` in all.
    ///
    /// # Errors
    /// When too many wait.
    pub fn for_log(
        state: &AppState,
        caller: &Caller,
        job: JobId,
        wait: Duration,
    ) -> Result<Self, ApiError> {
        Self::new(state, caller, job, wait, News::Log)
    }

    fn new(
        state: &AppState,
        caller: &Caller,
        job: JobId,
        wait: Duration,
        news: News,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            _place: state.limits.place()?,
            stirred: stirred(state, job, news),
            ended: Box::pin(state.end_watchers.register(&job).notified_owned()),
            agents: Box::pin(state.agents_changed.clone().notified_owned()),
            is_idle: false,
            is_due: true,
            deadline: Box::pin(tokio::time::sleep(wait)),
            _waiting: state.metrics.waiting(),
            state: state.clone(),
            caller: caller.clone(),
            job,
            news,
        })
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// When there is no such job for the caller, its token is good no more, or the database fails.
    pub async fn look(&mut self) -> Result<JobRow, ApiError> {
        // Registered before the look, so that no change between look and wait is missed.
        self.stirred = stirred(&self.state, self.job, self.news);
        self.ended = Box::pin(self.state.end_watchers.register(&self.job).notified_owned());
        self.agents = Box::pin(self.state.agents_changed.clone().notified_owned());
        // A wait may be longer than the life of a token.
        auth::still_good(&self.state, &self.caller).await?;
        let row = find(&self.state, &self.caller, self.job).await?;
        self.is_idle = row.slots == 0;
        Ok(row)
    }

    /// Whether the wait is over or the server is stopping, without waiting.
    pub async fn is_over(&mut self) -> bool {
        tokio::select! {
            biased;
            () = &mut self.deadline => true,
            () = self.state.shutdown.cancelled() => true,
            () = std::future::ready(()) => false,
        }
    }

    /// Waits until there is news of the job. `false`: the wait is over, or the server is stopping;
    /// what is answered now must be looked up once more.
    pub async fn has_news(&mut self) -> bool {
        tokio::select! {
            () = &mut self.ended => return true,
            () = &mut self.stirred, if self.news != News::End => {}
            () = &mut self.agents, if self.news == News::Move && self.is_idle => {}
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

fn stirred(state: &AppState, job: JobId, news: News) -> Pin<Box<OwnedNotified>> {
    let watchers = match news {
        News::Log => &state.log_watchers,
        News::End | News::Move => &state.job_watchers,
    };
    Box::pin(watchers.register(&job).notified_owned())
}

/// The job of this id.
///
/// # Errors
/// When there is none that the caller may see, or the database fails.
pub async fn find(state: &AppState, caller: &Caller, job: JobId) -> Result<JobRow, ApiError> {
    let scope = caller.scope();
    let row = state
        .store
        .read_briefly(|tx| Box::pin(async move { jobs::find_in(tx, job, &scope).await }))
        .await?;
    row.ok_or_else(|| no_job(job))
}

/// The answer to who asks for a job that is not there, or that is another's.
pub fn no_job(job: JobId) -> ApiError {
    ApiError::NotFound(format!("there is no job {job}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(wait: Option<f64>, preferences: &[&'static str]) -> Patience {
        let mut headers = HeaderMap::new();
        for preference in preferences {
            headers.append(PREFER, HeaderValue::from_static(preference));
        }
        Wait { wait }.or_preferred(&headers).unwrap()
    }

    #[test]
    fn a_preference_is_the_same_as_the_parameter() {
        for preferences in [
            &["wait=30"][..],
            &["respond-async, WAIT = 30; foo"],
            &["respond-async", "wait=\"30\""],
        ] {
            let patience = patience(None, preferences);
            assert_eq!(patience.time, Duration::from_secs(30), "{preferences:?}");
            assert_eq!(patience.applied(()).headers()[PREFERENCE_APPLIED], "wait=30");
        }
        assert_eq!(patience(None, &["wait=99999999999999999999"]).time, Duration::from_secs(60));
    }

    #[test]
    fn a_preference_that_cannot_be_read_is_none() {
        for preference in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "waiting=3"] {
            let patience = patience(None, &[preference]);
            assert!(!patience.is_some(), "{preference}");
            assert!(patience.applied(()).headers().is_empty(), "{preference}");
        }
    }

    #[test]
    fn the_parameter_counts_before_the_preference_and_is_checked() {
        let patience = patience(Some(1.5), &["wait=30"]);
        assert_eq!(patience.time, Duration::from_millis(1500));
        assert!(patience.applied(()).headers().is_empty());
        assert!(Wait { wait: Some(60.5) }.or_preferred(&HeaderMap::new()).is_err());
        assert!(Wait { wait: Some(f64::NAN) }.or_preferred(&HeaderMap::new()).is_err());
    }
}
