//! The machines, as clients see them.

use axum::extract::State;
use axum::http::StatusCode;
use protocol::job::{AgentState, AgentStatus, Page};
use protocol::rights::Action;
use protocol::{AgentId, Problem};
use serde::Deserialize;

use super::caller::Caller;
use super::extract::{Id, Params};
use super::page::{self, Cursor};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::{agents, audit};

/// Which agents to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAgents {
    /// Go on behind this: `next` of the page before.
    #[param(value_type = Option<String>, example = "YWZ0ZXI6MDE5YWFiMWU")]
    after: Option<Cursor<AgentId>>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u32>,
    /// Whether agents that are gone are listed too.
    #[param(example = true)]
    gone: Option<bool>,
}

/// Lists the agents.
#[utoipa::path(get, path = "/v1/agents", operation_id = "list_agents", tag = "agents", params(ListAgents),
    responses(
        (status = 200, description = "A page of them, oldest first.", body = Page<AgentStatus>),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListAgents>,
) -> Result<axum::Json<Page<AgentStatus>>, ApiError> {
    let limit = page::checked_limit(params.limit)?;
    let after = params.after.map_or(String::new(), |Cursor(id)| id.to_string());
    let (now, gone) = (state.clock.now(), params.gone.unwrap_or(false));
    let agents = state
        .store
        .read(|tx| Box::pin(async move { agents::list(tx, &after, limit + 1, gone, now).await }))
        .await?;
    Ok(axum::Json(page::cut(agents, limit, |agent| agent.id)))
}

/// Drains an agent.
///
/// It finishes what it runs, takes nothing new, and ends.
#[utoipa::path(post, path = "/v1/agents/{id}/drain", operation_id = "drain_agent", tag = "agents",
    params(("id" = AgentId, Path, description = "The agent.")),
    responses(
        (status = 202, description = "It will be told within a second."),
        (status = 401, description = "No token, or a wrong one.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such agent, or it is gone.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn drain(
    State(state): State<AppState>,
    caller: Caller,
    Id(agent): Id<AgentId>,
) -> Result<StatusCode, ApiError> {
    let (actor, now) = (caller.actor(), state.clock.now());
    let is_there = state
        .store
        .write(move |tx| {
            Box::pin(async move {
                let is_there = agents::set_state(tx, agent, AgentState::Draining).await?;
                if is_there {
                    audit::record(tx, &actor, Action::AgentDrained, &[agent], now).await?;
                }
                Ok(is_there)
            })
        })
        .await?;
    if !is_there {
        return Err(ApiError::NotFound(format!("there is no agent {agent}, or it is gone")));
    }
    state.agent_watchers.wake(&agent);
    state.wake_for_agents();
    Ok(StatusCode::ACCEPTED)
}
