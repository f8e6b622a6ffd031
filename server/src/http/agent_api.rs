//! What agents say to the server; `protocol::agent` tells their life.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use protocol::agent::{
    Heartbeat, LeaseRequest, Leases, MOST_AHEAD, Orders, Piece, Register, Registered, Release,
    Released, Report, Reported,
};
use protocol::job::{AgentState, AgentStatus, ElementError};
use protocol::problem::FailedElement;
use protocol::{AgentId, LeaseId, PROTOCOL_VERSION, Problem, envelope};
use serde::Deserialize;

use super::arriving::Arriving;
use super::auth;
use super::caller::{Caller, OwnAgent, foreign, may_speak};
use super::extract::{Json, Params};
use crate::artifacts;
use crate::blobs::{Blobs, UploadError};
use crate::block::MAX_COMPRESSED;
use crate::dispatcher::Given;
use crate::error::{ApiError, unreadable};
use crate::inputs;
use crate::labels::label_failures;
use crate::limits::Limits;
use crate::presence::{self, Presented};
use crate::reaper;
use crate::scheduler::assign::Agent;
use crate::state::AppState;
use crate::store;
use crate::store::blocks::{Place, StoredBlock};
use crate::store::leases::Grant;
use crate::store::reports::{self, NewPiece};
use crate::store::{Manner, agents};

/// The longest that an agent's request is held, whatever it asks.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// Seconds that a piece may have taken at the most: a hundred years, of which many can be summed.
const MAX_SECONDS: f64 = 3.2e9;

/// Pieces, and bytes of the body, of a report that takes no longer to write down than the disk does to flush it.
const FEW_PIECES: usize = 16;
const SMALL_BYTES: usize = 64 << 10;

/// Slots that an agent may have at the most.
const MAX_SLOTS: u32 = 4096;

/// An agent presents itself, or comes back with the leases it holds.
#[utoipa::path(post, path = "/v1/agents", operation_id = "register_agent", tag = "agent protocol", request_body = Register,
    responses(
        (status = 200, description = "It is registered.", body = Registered),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It speaks another version of the protocol.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn register(
    State(state): State<AppState>,
    caller: Caller,
    Json(agent): Json<Register>,
) -> Result<axum::Json<Registered>, ApiError> {
    if agent.protocol != PROTOCOL_VERSION {
        return Err(ApiError::ProtocolVersion(format!(
            "the agent (version {}) speaks protocol {}, this server protocol {PROTOCOL_VERSION}: \
             run the same version of farrow on both",
            agent.version, agent.protocol
        )));
    }
    if !(1..=MAX_SLOTS).contains(&agent.slots) {
        let message = format!("is {}, must be from 1 to {MAX_SLOTS}", agent.slots);
        return Err(ApiError::field("slots", message));
    }
    if agent.name.chars().any(char::is_control) {
        return Err(ApiError::field("name", "holds a control character"));
    }
    let (clock, lease) = (Arc::clone(&state.clock), lease_millis(&state));
    let (id, name, slots) = (agent.id, agent.name.clone(), agent.slots);
    let identity = caller.identity;
    let taken_in = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                if !may_speak(&identity, &agents::holder(tx, agent.id).await?) {
                    return Ok(None);
                }
                // A life counts from when it is written down: a request may wait for the writer
                // longer than a lease, and who has just been answered must not be lost at once.
                let now = clock.now();
                let presented = presence::register(tx, &agent, now, now + lease).await?;
                agents::give(tx, agent.id, &identity.owner).await?;
                Ok(Some((presented, store::identity::database_id(tx).await?)))
            })
        })
        .await?;
    let (Presented { revoked, jobs }, database) = taken_in.ok_or_else(|| foreign(id))?;
    tracing::info!(agent = %id, name, slots, "an agent has registered");
    jobs.iter().for_each(|job| state.job_watchers.wake(job));
    state.wake_for_agents();
    let lease_seconds = state.config.settings.lease;
    Ok(axum::Json(Registered { lease_seconds, revoked, database: Some(database) }))
}

/// How an agent ends.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Ending {
    /// The agent is dead, as whoever takes its place has found, and does not leave by itself: what it held
    /// counts as lost with it, as when it is not heard of for a lease, and may be reported until it is leased
    /// anew.
    #[param(example = false)]
    dead: Option<bool>,
}

/// An agent leaves: what it holds can be leased anew.
#[utoipa::path(delete, path = "/v1/agents/{id}", operation_id = "leave", tag = "agent protocol",
    params(("id" = AgentId, Path, description = "The agent."), Ending),
    responses(
        (status = 204, description = "It is gone, unless it is said to be dead and was heard of meanwhile."),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn leave(
    State(state): State<AppState>,
    OwnAgent(agent): OwnAgent,
    Params(ending): Params<Ending>,
) -> Result<StatusCode, ApiError> {
    if ending.dead == Some(true) {
        reaper::bury(&state, agent).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let jobs = state
        .store
        .write(move |tx| Box::pin(async move { presence::leave(tx, agent).await }))
        .await?;
    jobs.iter().for_each(|job| state.job_watchers.wake(job));
    state.wake_for_agents();
    state.dispatcher.forget(agent);
    tracing::info!(%agent, "an agent has left");
    Ok(StatusCode::NO_CONTENT)
}

/// An agent gives back what it will not run.
#[utoipa::path(post, path = "/v1/agents/{id}/release", operation_id = "release", tag = "agent protocol", request_body = Release,
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 204, description = "What remained of them can be leased anew."),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn release(
    State(state): State<AppState>,
    OwnAgent(agent): OwnAgent,
    Json(release): Json<Release>,
) -> Result<StatusCode, ApiError> {
    let given: Vec<LeaseId> = release.leases.iter().map(|released| released.id).collect();
    let jobs = state
        .store
        .write(move |tx| {
            Box::pin(async move { presence::release(tx, agent, &release.leases).await })
        })
        .await?;
    state.asks.given(given.into_iter());
    jobs.iter().for_each(|job| state.job_watchers.wake(job));
    state.dispatcher.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// An agent asks for work.
///
/// Answered when there is some, or when the wait is over, by an envelope.
#[utoipa::path(post, path = "/v1/agents/{id}/lease", operation_id = "lease", tag = "agent protocol", request_body = LeaseRequest,
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 200, description = "An envelope: `Leases`, then the bytes of their elements.", body = Leases, content_type = "application/vnd.farrow.envelope"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The agent must register.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn lease(
    State(state): State<AppState>,
    caller: Caller,
    OwnAgent(agent): OwnAgent,
    Json(request): Json<LeaseRequest>,
) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let known =
        state.store.query(|tx| Box::pin(async move { agents::find(tx, agent, now).await })).await?;
    let known = known.filter(|known| known.state != AgentState::Gone);
    let known = known.ok_or(ApiError::UnknownAgent)?;
    let given = wait_for_work(&state, &known, &request).await?;
    // The token may have ended meanwhile: others are to have what was granted.
    if let Err(refused) = auth::still_good(&state, &caller).await {
        give_back(&state, agent, given.grants).await?;
        return Err(refused);
    }
    let (mut header, body) =
        inputs::leases(&state, agent, given.grants, &request.known_jobs).await?;
    header.more = given.more;
    envelope_response(&header, &body)
}

/// Gives back what was granted to an agent that is not to be told of it.
async fn give_back(state: &AppState, agent: AgentId, grants: Vec<Grant>) -> Result<(), ApiError> {
    if grants.is_empty() {
        return Ok(());
    }
    let given: Vec<Released> =
        grants.into_iter().map(|grant| Released::whole(grant.id, grant.deaths)).collect();
    state
        .store
        .write(move |tx| Box::pin(async move { presence::release(tx, agent, &given).await }))
        .await?;
    state.dispatcher.wake();
    Ok(())
}

async fn wait_for_work(
    state: &AppState,
    agent: &AgentStatus,
    request: &LeaseRequest,
) -> Result<Given, ApiError> {
    let wait = hold(request.wait)?;
    if agent.state != AgentState::Live || request.free == 0 && request.ahead == 0 {
        let lost = state.dispatcher.lost(agent.id, &request.held).await?;
        if !lost.is_empty() {
            return Ok(Given { grants: lost, more: false });
        }
        // Nothing will come, but an answer at once would be asked for again at once.
        tokio::select! {
            () = tokio::time::sleep(wait.min(Duration::from_secs(1))) => {}
            () = state.shutdown.cancelled() => {}
        }
        return Ok(Given::default());
    }
    let waiting = Agent {
        id: agent.id,
        free: request.free.min(agent.slots),
        ahead: request.ahead.min(agent.slots.saturating_mul(MOST_AHEAD)),
        slots: agent.slots,
        memory: agent.memory,
        free_memory: agent.memory,
        runtimes: agent.runtimes.keys().copied().collect(),
        labels: agent.labels.clone(),
    };
    Ok(state.dispatcher.wait_for_work(waiting, &request.held, wait).await?)
}

fn hold(seconds: f64) -> Result<Duration, ApiError> {
    Duration::try_from_secs_f64(seconds)
        .map(|wait| wait.min(MAX_HOLD))
        .map_err(|_| ApiError::field("wait", format!("is {seconds}, must be seconds from 0 on")))
}

fn envelope_response<T: serde::Serialize>(header: &T, body: &[u8]) -> Result<Response, ApiError> {
    let sealed = envelope::seal(header, body).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok(([(CONTENT_TYPE, envelope::MEDIA_TYPE)], sealed).into_response())
}

/// An agent reports finished elements.
///
/// By an envelope: `Report`, then the bytes of the outcomes.
#[utoipa::path(post, path = "/v1/agents/{id}/report", operation_id = "report", tag = "agent protocol",
    request_body(content = Report, content_type = "application/vnd.farrow.envelope"),
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 200, description = "What became of each piece.", body = Reported),
        (status = 400, description = "Not an envelope.", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn report(
    State(state): State<AppState>,
    OwnAgent(agent): OwnAgent,
    mut body: Arriving,
) -> Result<axum::Json<Reported>, ApiError> {
    let read = read_pieces(&state.limits, &state.blobs, &mut body).await;
    if read.is_err() {
        body.drain().await;
    }
    let mut pieces = read?;
    label_failures(&state, &mut pieces).await;
    let now = state.clock.now();
    let is_small = pieces.len() <= FEW_PIECES && body.n_read() <= SMALL_BYTES;
    let manner = if is_small { Manner::AtOnce } else { Manner::InTurn };
    let accepting = state.store.put(manner, move |tx| {
        Box::pin(async move { reports::report(tx, agent, pieces, now).await })
    });
    let outcome = accepting.await?.await?;
    state.moved(&outcome);
    Ok(axum::Json(Reported { verdicts: outcome.verdicts, ended: outcome.ended }))
}

/// Takes a report apart as it arrives, and stores the large outcomes.
///
/// # Errors
/// Which piece cannot be, or when the body or a blob cannot be read or written.
pub async fn read_pieces(
    limits: &Limits,
    blobs: &Blobs,
    body: &mut Arriving,
) -> Result<Vec<NewPiece>, ApiError> {
    let report: Report = body.header().await.map_err(|error| match error {
        ApiError::BadRequest(why) => ApiError::BadRequest(format!("not a report: {why}")),
        other => other,
    })?;
    let mut pieces = Vec::with_capacity(report.pieces.len());
    for (i, piece) in report.pieces.into_iter().enumerate() {
        check(&piece, limits, body.n_left(), |name| format!("pieces[{i}].{name}"))?;
        pieces.push(new_piece(blobs, piece, body).await?);
    }
    // Not before, for a body may take long to arrive: they are young when they are written down.
    for (i, piece) in pieces.iter_mut().enumerate() {
        for (k, note) in piece.notes.iter_mut().enumerate() {
            artifacts::take(blobs, note, &format!("pieces[{i}].notes[{k}].artifacts")).await?;
        }
    }
    Ok(pieces)
}

/// Refuses what no element can have, what the database has no number for, and lengths that are none
/// of the `n_left` bytes that follow, if it is known how many do.
fn check(
    piece: &Piece,
    limits: &Limits,
    n_left: Option<u64>,
    field: impl Fn(&str) -> String,
) -> Result<(), ApiError> {
    let n_bytes = piece.n_bytes();
    if piece.lengths.is_empty() || n_left.is_some_and(|n_left| n_bytes > n_left) {
        let holds = n_left.map_or("more".to_owned(), |n_left| n_left.to_string());
        let message = format!("sum to {n_bytes} bytes, the body holds {holds}");
        return Err(ApiError::field(field("lengths"), message));
    }
    let (first, n) = (piece.first, piece.lengths.len() as u64);
    if first.checked_add(n).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(ApiError::field(field("first"), format!("is {first}, which is no element")));
    }
    if !(0.0..=MAX_SECONDS).contains(&piece.seconds) {
        let message = format!("is {}, must be from 0 to {MAX_SECONDS}", piece.seconds);
        return Err(ApiError::field(field("seconds"), message));
    }
    if let Some(&largest) = piece.lengths.iter().max() {
        limits.outcome(largest.into())?;
    }
    let sorted = piece.errors.windows(2).all(|pair| pair[0] < pair[1]);
    let inside = piece.errors.last().is_none_or(|&last| (last as usize) < piece.lengths.len());
    if !sorted || !inside {
        return Err(ApiError::field(field("errors"), "must ascend and be positions in the piece"));
    }
    Ok(())
}

/// Reads what a piece speaks of. What is large is written to a blob as it arrives, unless there are
/// errors in it.
async fn new_piece(blobs: &Blobs, piece: Piece, body: &mut Arriving) -> Result<NewPiece, ApiError> {
    let n_bytes = usize::try_from(piece.n_bytes()).unwrap_or(usize::MAX);
    let (place, first_error) = if n_bytes > MAX_COMPRESSED && piece.errors.is_empty() {
        let stored = blobs.store(body.parts(n_bytes)).await;
        let digest = stored.map_err(|error| match error {
            UploadError::Io(error) => error.into(),
            error => body.failure(&error.to_string()),
        })?;
        (Place::Blob(digest), None)
    } else {
        let data = body.take(n_bytes).await?;
        if data.len() < n_bytes {
            return Err(body.failure("the body ends early"));
        }
        (Place::of(&data, blobs).await?, first_error(&piece, &data))
    };
    Ok(NewPiece {
        lease: piece.lease,
        job: piece.job,
        block: StoredBlock { first: piece.first, lengths: piece.lengths, place },
        errors: piece.errors,
        first_error,
        notes: piece.notes,
        slot: piece.slot,
        pid: piece.pid,
        started_at: i64::try_from(piece.started_at).unwrap_or(i64::MAX),
        micros: (piece.seconds * 1e6) as u64,
    })
}

fn first_error(piece: &Piece, data: &[u8]) -> Option<FailedElement> {
    let position = *piece.errors.first()? as usize;
    let before = piece.lengths[..position].iter();
    let start = before.map(|&length| length as usize).sum::<usize>();
    let error = element_error(&data[start..start + piece.lengths[position] as usize]);
    Some(FailedElement::new(piece.first + position as u64, error))
}

/// Reads an error as an agent wrote it; one that cannot be read is an error all the same.
fn element_error(json: &[u8]) -> ElementError {
    serde_json::from_slice(json).unwrap_or_else(|_| unreadable())
}

/// An agent says that it is alive.
///
/// Held until there are orders or the wait is over.
#[utoipa::path(post, path = "/v1/agents/{id}/heartbeat", operation_id = "heartbeat", tag = "agent protocol", request_body = Heartbeat,
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 200, description = "What it is to do.", body = Orders),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The agent must register.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn heartbeat(
    State(state): State<AppState>,
    OwnAgent(agent): OwnAgent,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<axum::Json<Orders>, ApiError> {
    let wait = hold(heartbeat.wait)?;
    // Before it is looked up what it is to do: nothing may come up in between.
    let told = state.agent_watchers.register(&agent);
    let told = told.notified();
    let orders = state.heartbeats.write(agent, heartbeat.clone()).await?;
    let orders = orders.ok_or(ApiError::UnknownAgent)?;
    let orders = with_asks(&state, &heartbeat, orders);
    if orders == Orders::default() {
        // Woken, it answers even if there are no orders for what the heartbeat lists: a lease that
        // was granted since is not on its list. The next heartbeat comes at once and has it, and all
        // of which nobody has told.
        let is_told = tokio::select! {
            () = told => true,
            () = tokio::time::sleep(wait) => false,
            () = state.shutdown.cancelled() => false,
        };
        if is_told {
            return Ok(axum::Json(orders_for(&state, agent, &heartbeat).await?));
        }
    }
    Ok(axum::Json(orders))
}

async fn orders_for(
    state: &AppState,
    agent: AgentId,
    heartbeat: &Heartbeat,
) -> Result<Orders, ApiError> {
    let sent = heartbeat.clone();
    let orders = state
        .store
        .query(move |tx| Box::pin(async move { presence::orders(tx, agent, &sent).await }))
        .await?;
    let orders = orders.ok_or(ApiError::UnknownAgent)?;
    Ok(with_asks(state, heartbeat, orders))
}

fn with_asks(state: &AppState, heartbeat: &Heartbeat, orders: Orders) -> Orders {
    Orders { wanted: state.asks.take(&heartbeat.held, state.clock.now()), ..orders }
}

fn lease_millis(state: &AppState) -> i64 {
    i64::try_from(state.config.lease().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
