//! The status of a job, the lists of jobs and agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{AgentId, JobId};
use crate::problem::Problem;
use crate::submission::{Level, Options, Runtime};

/// Where a job is in its life. The last three are for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "running")]
pub enum JobState {
    /// No element has been leased yet.
    Queued,
    /// Elements have been leased.
    Running,
    /// Every element has its outcome; the value is there.
    Resolved,
    /// An element failed it, or it could not be run.
    Failed,
    /// A client cancelled it.
    Cancelled,
}

impl JobState {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Resolved | Self::Failed | Self::Cancelled)
    }

    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Resolved => "resolved",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Resolved, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What is known of a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "name": "models by gear", "runtime": "r",
    "kind": "map", "state": "running",
    "elements": {"total": 1000, "done": 600, "failed": 0, "running": 40, "waiting": 360},
    "slots": 8, "rate": 20.5, "remaining": 19.5,
    "submitted_at": "2026-11-23T10:00:00.000Z", "started_at": "2026-11-23T10:00:00.250Z",
    "finished_at": null, "plan": [{"strategy": "cluster"}],
    "options": {"on_error": "collect", "chunk_size": 10}
}))]
pub struct JobStatus {
    /// Its id.
    pub id: JobId,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// What runs its function.
    pub runtime: Runtime,
    /// Whether it has elements.
    pub kind: JobKind,
    /// Where it is in its life.
    pub state: JobState,
    /// How many elements are where.
    pub elements: ElementCounts,
    /// Slots that are running its elements now.
    pub slots: u64,
    /// Elements finished a second since it started; `null` before the first.
    pub rate: Option<f64>,
    /// Estimated seconds until the last element is finished; `null` when not known.
    pub remaining: Option<f64>,
    /// Why nothing of it runs, in words, while nothing can.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(example = "no agent has runtime r")]
    pub waiting_for: Option<String>,
    /// Of a failed job, what failed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Problem>,
    /// When it was submitted, RFC 3339.
    #[schema(format = DateTime)]
    pub submitted_at: String,
    /// When its first element was leased.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it was resolved, failed or cancelled.
    #[schema(format = DateTime)]
    #[schema(example = "2026-11-23T10:01:00.000Z")]
    pub finished_at: Option<String>,
    /// Its topology.
    pub plan: Vec<Level>,
    /// How it is run: as submitted, with a drawn seed in its place.
    pub options: Options,
    /// Jobs that must be resolved before it begins, and are not yet.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub after: Vec<JobId>,
    /// The job of which it runs again what failed or was missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_of: Option<JobId>,
    /// The job that runs again what failed or was missing of this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retried_as: Option<JobId>,
}

/// What a submission is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "map")]
pub enum JobKind {
    /// A function over elements; its value is all of their outcomes.
    Map,
    /// A function without elements; its value is bare. It counts as one element.
    Call,
}

/// How many of a job's elements are where. `total = done + failed + running + waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"total": 1000, "done": 600, "failed": 0, "running": 40, "waiting": 360}))]
pub struct ElementCounts {
    /// All of them.
    pub total: u64,
    /// With a value.
    pub done: u64,
    /// With an error.
    pub failed: u64,
    /// Leased to agents.
    pub running: u64,
    /// Not leased.
    pub waiting: u64,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give this as `?after=` for the next page; `null` at the end.
    #[schema(example = "YWZ0ZXI6MDE5YWFiMWU")]
    pub next: Option<String>,
}

/// What is known of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a", "name": "ip-10-0-0-12", "state": "live",
    "slots": 4, "busy": 3, "physical_cores": 4, "logical_cores": 8, "memory": 17179869184_u64,
    "runtimes": {"r": "4.2.2", "python": "3.11.2"}, "labels": {"region": "eu-central-1"},
    "version": "0.2.0", "registered_at": "2026-11-23T10:00:00.000Z", "alive_for": 29.5
}))]
pub struct AgentStatus {
    /// Its id, new at each start of the process.
    pub id: AgentId,
    /// Its name for people.
    pub name: String,
    /// `live`, `draining` (takes nothing new), or `gone`.
    pub state: AgentState,
    /// Slots in all.
    pub slots: u32,
    /// Slots that hold a lease.
    pub busy: u32,
    /// Physical cores of its machine that it may use.
    pub physical_cores: u32,
    /// Logical cores of its machine that it may use.
    pub logical_cores: u32,
    /// Bytes of memory of its machine.
    pub memory: u64,
    /// The runtimes it has, and their versions.
    pub runtimes: BTreeMap<Runtime, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The version of its program.
    pub version: String,
    /// When it registered, RFC 3339.
    #[schema(format = DateTime)]
    pub registered_at: String,
    /// Seconds for which its leases are still good without another heartbeat.
    pub alive_for: f64,
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "live")]
pub enum AgentState {
    /// Takes chunks.
    Live,
    /// Finishes what it holds and takes nothing new.
    Draining,
    /// Left, or has not been heard of for a lease.
    Gone,
}

impl AgentState {
    /// Its name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Draining, Self::Gone].into_iter().find(|state| state.as_str() == name)
    }
}
