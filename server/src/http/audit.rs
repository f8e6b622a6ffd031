//! The audit log, read. For administrators.

use axum::extract::State;
use protocol::Problem;
use protocol::job::Page;
use protocol::rights::AuditEntry;
use serde::Deserialize;

use super::extract::Params;
use super::page::{self, Cursor};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::audit::{self, Place};

/// Which entries to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[cfg_attr(feature = "fuzzing", derive(serde::Serialize))]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadAudit {
    /// Only what was done to this: the id of a job, an agent or a token.
    #[param(value_type = Option<protocol::JobId>, example = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42")]
    object: Option<protocol::JobId>,
    /// Go on behind this: `next` of the page before.
    #[param(value_type = Option<String>, example = "YWZ0ZXI6MDE5YWFiMWU")]
    after: Option<Cursor<Place>>,
    /// Entries of the page, 1 to 1000; default 100.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u32>,
}

/// Reads what was done, by whom and when, the newest first.
///
/// Jobs submitted, cancelled, retried and deleted, agents drained, tokens made and revoked. Entries
/// are kept for as long as the server's `--audit-keep` says.
#[utoipa::path(get, path = "/v1/audit", operation_id = "read_audit", tag = "rights", params(ReadAudit),
    responses(
        (status = 200, description = "A page of entries.", body = Page<AuditEntry>),
        (status = 422, description = "A parameter cannot be.", body = Problem, content_type = "application/problem+json")
    ))]
pub async fn read(
    State(state): State<AppState>,
    Params(params): Params<ReadAudit>,
) -> Result<axum::Json<Page<AuditEntry>>, ApiError> {
    let limit = page::checked_limit(params.limit)?;
    let before = params.after.map(|Cursor(place)| place);
    let object = params.object.map(|id| id.to_string());
    let entries = state
        .store
        .read(|tx| {
            Box::pin(
                async move { audit::list(tx, before.as_ref(), object.as_deref(), limit + 1).await },
            )
        })
        .await?;
    let Page { items, next } = page::cut(entries, limit, |(place, _)| place.clone());
    Ok(axum::Json(Page { items: items.into_iter().map(|(_, entry)| entry).collect(), next }))
}
