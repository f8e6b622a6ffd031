//! Who may do what: tokens, and what the audit log says of those who did it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::TokenId;

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "submit")]
pub enum Role {
    /// Submits jobs, and sees and ends those it has submitted.
    Submit,
    /// Runs elements: registers agents, leases for them, reports for them.
    Agent,
    /// May do all.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Agent, Self::Admin];

    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Agent => "agent",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A token to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "ada's laptop", "role": "submit", "expires_in": 2_592_000}))]
pub struct CreateToken {
    /// For people, 1 to 100 characters; no other token that is good has the same.
    #[schema(min_length = 1, max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub name: String,
    /// What it lets its holder do.
    pub role: Role,
    /// Seconds for which it is good; `null`: until it is revoked.
    #[serde(default)]
    #[schema(exclusive_minimum = 0, maximum = 3_200_000_000_u64)]
    pub expires_in: Option<f64>,
}

/// A token that was made. The secret is shown here and never again.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-5a00-7c11-8e2d-3c4b5a697887", "name": "ada's laptop", "role": "submit",
    "token": "farrow_…", "created_at": "2026-11-23T10:00:00.000Z",
    "expires_at": "2026-12-23T10:00:00.000Z"
}))]
pub struct CreatedToken {
    /// Its id.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// What it lets its holder do.
    pub role: Role,
    /// The secret itself: `farrow_` and 64 hex digits. The server keeps its SHA-256 only.
    pub token: String,
    /// When it was made, RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it ends to be good; `null`: when it is revoked.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}

/// Without the secret: what is printed for debugging ends up in logs.
impl fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-5a00-7c11-8e2d-3c4b5a697887", "name": "ada's laptop", "role": "submit",
    "state": "live", "created_at": "2026-11-23T10:00:00.000Z",
    "expires_at": "2026-12-23T10:00:00.000Z", "revoked_at": null,
    "last_used_at": "2026-11-23T10:05:00.000Z"
}))]
pub struct TokenStatus {
    /// Its id: the owner of the jobs that it submits.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// What it lets its holder do.
    pub role: Role,
    /// Whether it is good.
    pub state: TokenState,
    /// When it was made, RFC 3339.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// When it ends, or ended, to be good; `null`: when it is revoked.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[schema(format = DateTime, example = "2026-11-24T10:00:00.000Z")]
    pub revoked_at: Option<String>,
    /// When it was used last, to the minute; `null`: never.
    #[schema(format = DateTime)]
    pub last_used_at: Option<String>,
}

/// Whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "live")]
pub enum TokenState {
    /// It is good.
    Live,
    /// Its time is over.
    Expired,
    /// An administrator has taken it back.
    Revoked,
}

impl TokenState {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Something that was done, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "at": "2026-11-23T10:00:00.000Z", "action": "job-submitted",
    "object": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42",
    "token": "019aab1e-5a00-7c11-8e2d-3c4b5a697887", "token_name": "ada's laptop",
    "address": "10.0.0.12", "request": "019aab1e-7c3e-7b60-8a11-2d3e4f506172"
}))]
pub struct AuditEntry {
    /// When, RFC 3339.
    #[schema(format = DateTime)]
    pub at: String,
    /// What was done.
    pub action: Action,
    /// To what: the id of a job, an agent or a token.
    pub object: String,
    /// The id of the token by which it was done.
    pub token: String,
    /// What that token was called.
    pub token_name: String,
    /// The address from which the request came, if it is known.
    pub address: Option<String>,
    /// The request by which it was done: the `X-Request-Id` of its answer, and of its lines in the
    /// server's log.
    pub request: String,
}

/// What the audit log speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(example = "job-submitted")]
pub enum Action {
    /// A job was submitted, or made by a retry.
    JobSubmitted,
    /// A job was cancelled.
    JobCancelled,
    /// A job was retried; the new one is another entry of the same request.
    JobRetried,
    /// A job was deleted.
    JobDeleted,
    /// An agent was told to drain.
    AgentDrained,
    /// A token was made.
    TokenCreated,
    /// A token was revoked.
    TokenRevoked,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::JobSubmitted,
        Self::JobCancelled,
        Self::JobRetried,
        Self::JobDeleted,
        Self::AgentDrained,
        Self::TokenCreated,
        Self::TokenRevoked,
    ];

    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobSubmitted => "job-submitted",
            Self::JobCancelled => "job-cancelled",
            Self::JobRetried => "job-retried",
            Self::JobDeleted => "job-deleted",
            Self::AgentDrained => "agent-drained",
            Self::TokenCreated => "token-created",
            Self::TokenRevoked => "token-revoked",
        }
    }

    /// The action of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}
