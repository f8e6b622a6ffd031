//! What became of elements, and what they say while they run.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::agent::Condition;
use crate::artifact::Artifact;
use crate::id::{AgentId, JobId};

/// Why an element has no value: what stands in its place with `collect`, as `{"error": …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "type": "simpleError", "message": "object 'y' not found", "call": "f(.x)",
    "traceback": ["(function(.x) f(.x))(3)", "f(.x)"], "fatal": false
}))]
pub struct ElementError {
    /// The class of the error: an R condition's or a Python exception's; `WorkerDied`, `Timeout`,
    /// `AgentLost`, `Untranslatable`, `TooLarge`, `ArtifactsTooLarge`, `ArtifactsNotKept`,
    /// `Unreadable` or `SyntaxError` where farrow itself says it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error's message.
    pub message: String,
    /// The call that raised it, as source; R only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub call: Option<String>,
    /// The stack, innermost call last.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub traceback: Vec<String>,
    /// Whether the fault is the job's, not this element's: its function does not parse, its setup
    /// or a package fails. It fails the job whatever `on_error` says.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub fatal: bool,
}

/// What became of one element: a line of `GET /v1/jobs/{id}/outcomes`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "index": 7, "name": "gear 4", "nested": [1, 3], "rank": 12, "ok": true, "value": 49,
    "attempts": 1, "agent": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a", "agent_name": "ip-10-0-0-12",
    "slot": 0, "worker": 4711, "started_at": "2026-11-23T10:00:00.000Z", "seconds": 0.25,
    "stdout": "fitting\n", "conditions": [{"kind": "message", "message": "fitting\n"}]
}))]
pub struct Outcome {
    /// The element's index, from 0, counted through all levels of the plan.
    #[schema(example = 7)]
    pub index: u64,
    /// Its name, if elements have names; under a nested plan that of its outer element.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(example = "gear 4")]
    pub name: Option<String>,
    /// Under a nested plan the indexes of its outer element and within it, from 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(example = json!([1, 3]))]
    pub nested: Option<[u64; 2]>,
    /// How many outcomes of the job were accepted before this one: the cursor of
    /// `?order=completion`.
    #[schema(example = 12)]
    pub rank: u64,
    /// Whether it has a value; else it has an error.
    #[schema(example = true)]
    pub ok: bool,
    /// Its value. For an encoding other than `json`, a string of base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<serde_json::Value>, example = json!(49))]
    pub value: Option<Box<RawValue>>,
    /// Its error.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ElementError>,
    /// How often it was run.
    #[schema(example = 1)]
    pub attempts: u32,
    /// The agent that ran it.
    pub agent: AgentId,
    /// That agent's name.
    #[schema(example = "ip-10-0-0-12")]
    pub agent_name: String,
    /// The slot of the agent, from 0.
    #[schema(example = 0)]
    pub slot: u32,
    /// The process id of the worker.
    #[schema(example = 4711)]
    pub worker: u32,
    /// When it started, by the agent's clock. Small elements travel together: then these share
    /// the time of the first, and `seconds` is their mean.
    #[schema(format = DateTime, example = "2026-11-23T10:00:00.000Z")]
    pub started_at: String,
    /// Seconds that it ran.
    #[schema(example = 0.25)]
    pub seconds: f64,
    /// What it wrote to standard output.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    #[schema(example = "fitting\n")]
    pub stdout: String,
    /// What it wrote to standard error.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    #[schema(example = "")]
    pub stderr: String,
    /// Bytes of its output that were not kept, because it printed too much.
    #[serde(skip_serializing_if = "is_zero", default)]
    #[schema(example = 0)]
    pub dropped: u64,
    /// Messages and warnings in the order in which they were signalled.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub conditions: Vec<Condition>,
    /// Files that it left in the folder `FARROW_ARTIFACTS`, if the job's option `artifacts` is set.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub artifacts: Vec<Artifact>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Neighbouring outcomes that were accepted together: an event `outcomes` of
/// `GET /v1/jobs/{id}/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "first": 40, "n": 10, "failed": [43], "agent": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a",
    "agent_name": "ip-10-0-0-12", "rank": 120
}))]
pub struct Accepted {
    /// The index of the first element.
    #[schema(example = 40)]
    pub first: u64,
    /// How many they are.
    #[schema(example = 10)]
    pub n: u64,
    /// The indexes of those that are errors.
    #[schema(example = json!([43]))]
    pub failed: Vec<u64>,
    /// The agent that ran them.
    pub agent: AgentId,
    /// That agent's name.
    #[schema(example = "ip-10-0-0-12")]
    pub agent_name: String,
    /// How many outcomes of the job were accepted before the first of these.
    #[schema(example = 120)]
    pub rank: u64,
}

/// Something that a job said while it ran: a line of `GET /v1/jobs/{id}/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "cursor": 4096, "at": "2026-11-23T10:00:00.000Z", "agent": "ip-10-0-0-12",
    "source": "element", "element": 7, "stream": "stdout", "text": "fitting\n"
}))]
pub struct LogLine {
    /// Give this as `?after=` to go on behind this line.
    #[schema(example = 4096)]
    pub cursor: u64,
    /// When it was said, by the agent's clock.
    #[schema(format = DateTime, example = "2026-11-23T10:00:00.000Z")]
    pub at: String,
    /// The name of the agent.
    #[schema(example = "ip-10-0-0-12")]
    pub agent: String,
    /// What part of the job said it.
    pub source: LogSource,
    /// The index of the element that said it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(example = 7)]
    pub element: Option<u64>,
    /// How it was said.
    pub stream: LogStream,
    /// What was said: a part of a line, a line, or several.
    #[schema(example = "fitting\n")]
    pub text: String,
}

/// Something that a job said, as the agent sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "at": 1795428000000_u64, "source": "element",
    "element": 7, "stream": "stdout", "text": "fitting\n"
}))]
pub struct LogEntry {
    /// The job.
    pub job: JobId,
    /// Milliseconds since 1970 by the agent's clock.
    pub at: u64,
    /// What part of the job said it.
    pub source: LogSource,
    /// The index of the element that said it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub element: Option<u64>,
    /// How it was said.
    pub stream: LogStream,
    /// What was said.
    pub text: String,
}

/// What part of a job says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "element")]
pub enum LogSource {
    /// Its `prepare` script, and the unpacking of its `files`.
    Prepare,
    /// Its `setup`, packages and function while they are loaded.
    Setup,
    /// An element.
    Element,
}

/// How something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "stdout")]
pub enum LogStream {
    /// Printed to standard output.
    Stdout,
    /// Printed to standard error.
    Stderr,
    /// Signalled as a message.
    Message,
    /// Signalled as a warning or another condition.
    Warning,
}
