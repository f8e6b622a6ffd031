//! What happens to a job, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use protocol::job::{Accepted, JobStatus};
use protocol::{JobId, Problem};
use serde::Serialize;

use super::caller::Caller;
use super::extract::Id;
use super::wait::JobWaiter;
use super::{jobs, status};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::outcomes;

/// Pieces that one read takes.
const PIECES: u32 = 256;

/// How often a connection on which nothing happens is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The id of the event `end`, which tells a client that comes back with it that nothing follows.
const END: &str = "end";

/// An event as a client reads it.
#[derive(utoipa::ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "it is there to be described")]
struct Described {
    /// `status`, `outcomes` or `end`.
    #[schema(example = "outcomes")]
    event: String,
    /// Where to resume behind it: `Last-Event-ID`.
    #[schema(example = "10")]
    id: String,
    /// JSON: of `outcomes` an [`Accepted`], else a [`JobStatus`].
    #[schema(example = "{\"first\":0,\"n\":10,\"failed\":[]}")]
    data: String,
}

/// Tells what happens to a job, as server-sent events.
///
/// * `status`: the [`JobStatus`] whenever it differs, at most ten times a second.
/// * `outcomes`: an [`Accepted`] for each piece of outcomes, in the order of acceptance.
/// * `end`: the last [`JobStatus`]; the stream closes behind it.
///
/// They can be resumed: the id of an event is the number of outcomes told so far (of `end` the word
/// `end`), so that `Last-Event-ID` resumes with the pieces behind it. Behind `end` there is nothing:
/// 204, which tells an `EventSource` to stop asking.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", operation_id = "follow_events", tag = "jobs",
    params(("id" = JobId, Path, description = "The job."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received.", example = "120")),
    responses(
        (status = 200, description = "The events.", body = Described, content_type = "text/event-stream",
            example = "event: outcomes\nid: 10\ndata: {\"first\":0,\"n\":10,\"failed\":[],\"agent\":\"019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42\",\"agent_name\":\"ip-10-0-0-12\",\"rank\":0}\n\n"),
        (status = 204, description = "The last event received was `end`: nothing follows."),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id, or not the id of an event.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn events(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let mut feed = Feed::new(&state, &caller, job, last.map_or(Ok(0), rank_of)?)?;
    feed.look().await?;
    if last == Some(END) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let events = stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The outcomes that the last event a client has received told of.
///
/// # Errors
/// When it is the id of no event.
pub fn rank_of(id: &str) -> Result<u64, ApiError> {
    if id == END {
        return Ok(0);
    }
    id.parse().map_err(|_| {
        ApiError::field(
            "Last-Event-ID",
            format!("{id:?} is not the id of an event; leave it out to begin at the start"),
        )
    })
}

/// The events of one job for one client.
struct Feed {
    state: AppState,
    waiter: JobWaiter,
    job: JobId,
    /// Outcomes told so far.
    rank: u64,
    /// The tag of the status told last.
    tag: String,
    /// To be sent next.
    events: VecDeque<Event>,
    stage: Stage,
}

enum Stage {
    /// Pieces may be there that were not told.
    CatchingUp {
        /// The last status, if the job has ended.
        end: Option<Box<JobStatus>>,
    },
    /// All was told.
    Waiting,
    /// Nothing follows.
    Done,
}

impl Feed {
    fn new(state: &AppState, caller: &Caller, job: JobId, rank: u64) -> Result<Self, ApiError> {
        Ok(Self {
            waiter: JobWaiter::for_move(state, caller, job, Duration::MAX)?,
            state: state.clone(),
            job,
            rank,
            tag: String::new(),
            events: VecDeque::new(),
            stage: Stage::Waiting,
        })
    }

    /// The next event; `None` when the stream is to close. A client that is cut off because of a
    /// failure comes back and goes on where it was.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let step = match &self.stage {
                Stage::Done => return None,
                Stage::CatchingUp { .. } => self.catch_up().await,
                Stage::Waiting if self.waiter.has_news().await => self.look().await,
                Stage::Waiting => return None,
            };
            if let Err(error) = step {
                tracing::warn!(%error, job = %self.job, "a stream of events breaks off");
                return None;
            }
        }
    }

    /// Looks how the job is, and tells it if that differs.
    async fn look(&mut self) -> Result<(), ApiError> {
        let row = self.waiter.look().await?;
        let status = status::of(&self.state, row).await?;
        let tag = jobs::tag(&status)?;
        let end = status.state.is_final();
        if tag != self.tag && !end {
            self.tell("status", &self.rank.to_string(), &status)?;
        }
        self.tag = tag;
        self.stage = Stage::CatchingUp { end: end.then(|| Box::new(status)) };
        Ok(())
    }

    /// Tells pieces that were not told; when there are none, what comes next.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        let (job, rank) = (self.job, self.rank);
        let pieces: Vec<Accepted> = self
            .state
            .store
            .read(|tx| Box::pin(async move { outcomes::accepted(tx, job, rank, PIECES).await }))
            .await?;
        for piece in &pieces {
            self.rank = piece.rank + piece.n;
            self.tell("outcomes", &self.rank.to_string(), piece)?;
        }
        if !pieces.is_empty() {
            return Ok(());
        }
        let caught_up = std::mem::replace(&mut self.stage, Stage::Waiting);
        if let Stage::CatchingUp { end: Some(status) } = caught_up {
            self.tell("end", END, &status)?;
            self.stage = Stage::Done;
        }
        Ok(())
    }

    fn tell(&mut self, name: &str, id: &str, data: &impl Serialize) -> Result<(), ApiError> {
        let data = serde_json::to_string(data).map_err(|e| ApiError::Internal(e.to_string()))?;
        self.events.push_back(Event::default().event(name).id(id).data(data));
        Ok(())
    }
}
