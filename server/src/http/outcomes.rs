//! What became of each element, also while the job runs and after it has failed.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use protocol::job::Outcome;
use protocol::{JobId, Problem};
use serde::Deserialize;
use utoipa::ToSchema;

use super::caller::Caller;
use super::extract::{Id, Params};
use super::follow;
use super::wait::{JobWaiter, Patience, Wait};
use crate::error::ApiError;
use crate::outcomes::{Only, OutcomeReader};
use crate::state::AppState;
use crate::store::outcomes::Start;

/// Which outcomes to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadOutcomes {
    /// Only values (`ok`) or only errors (`failed`).
    #[param(inline, example = "failed")]
    state: Option<Which>,
    /// In element order (`index`), or in the order in which they were accepted (`completion`).
    /// Default: `index`; with a wait `completion`, the only order in which outcomes can be followed.
    #[param(inline, example = "completion")]
    order: Option<Order>,
    /// Go on behind this `index`; in the order `completion` behind this `rank`.
    #[param(example = 41)]
    after: Option<u64>,
    /// Lines at the most. Default: all there are.
    #[param(minimum = 1, example = 1000)]
    limit: Option<u64>,
    /// Seconds for which outcomes are streamed as they land, at most 60; the answer ends sooner
    /// when the job does. `Prefer: wait=30` is the same.
    #[param(minimum = 0, maximum = 60, example = 30)]
    wait: Option<f64>,
}

/// What became of an element, for a filter.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// It has a value.
    Ok,
    /// It has an error.
    Failed,
}

/// The order of outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Of the elements.
    Index,
    /// Of acceptance.
    Completion,
}

impl ReadOutcomes {
    /// How long to wait, and in which order to read.
    fn patience_and_order(&self, headers: &HeaderMap) -> Result<(Patience, Order), ApiError> {
        let asked = Wait { wait: self.wait };
        let patience = asked.or_preferred(headers)?;
        match self.order {
            Some(Order::Index) if self.wait.is_some() && patience.is_some() => {
                Err(ApiError::field(
                    "order",
                    "is \"index\", in which outcomes do not land: leave out `wait`, or read in the \
                     order \"completion\"",
                ))
            }
            // A preference yields to the order.
            Some(Order::Index) => Ok((asked.or_preferred(&HeaderMap::new())?, Order::Index)),
            None if !patience.is_some() => Ok((patience, Order::Index)),
            None | Some(Order::Completion) => Ok((patience, Order::Completion)),
        }
    }

    fn start(&self, order: Order) -> Start {
        let next = self.after.map_or(0, |after| after.saturating_add(1));
        match order {
            Order::Index => Start::Index(next),
            Order::Completion => Start::Rank(next),
        }
    }

    fn only(&self) -> Only {
        match self.state {
            None => Only::All,
            Some(Which::Ok) => Only::Values,
            Some(Which::Failed) => Only::Errors,
        }
    }
}

/// Reads what became of each element.
///
/// Its value or error, who ran it and when, what it printed and signalled. Also of jobs that run,
/// have failed or were cancelled. With a wait the lines are streamed as outcomes are accepted.
#[utoipa::path(get, path = "/v1/jobs/{id}/outcomes", operation_id = "list_outcomes", tag = "jobs",
    params(("id" = JobId, Path, description = "The job."), ReadOutcomes,
        ("Prefer" = Option<String>, Header, description = "`wait=` and seconds, as the parameter.", example = "wait=30")),
    responses(
        (status = 200, description = "A line of JSON for each outcome.", body = Outcome, content_type = "application/x-ndjson",
            headers(("Preference-Applied" = String, description = "The wait, if it was a preference."))),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an id, or a parameter that cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn outcomes(
    State(state): State<AppState>,
    caller: Caller,
    Id(job): Id<JobId>,
    Params(params): Params<ReadOutcomes>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if params.limit == Some(0) {
        return Err(ApiError::field("limit", "is 0, must be from 1"));
    }
    let (patience, order) = params.patience_and_order(&headers)?;
    let mut waiter = JobWaiter::for_move(&state, &caller, job, patience.time)?;
    let row = waiter.look().await?;
    let limit = params.limit.unwrap_or(u64::MAX);
    let reader = OutcomeReader::new(&state, &row, params.start(order), params.only(), limit);
    follow::lines(reader, waiter, &row, patience).await
}
