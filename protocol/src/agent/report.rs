//! What an agent reports of elements that are finished, and what it is answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::artifact::Artifact;
use crate::id::{JobId, LeaseId};
use crate::object::only_objects;

only_objects!(Report, Piece);

/// The header of the envelope by which an agent reports. The payloads are the values and errors
/// of the pieces in order, back to back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"pieces": [{
    "lease": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42",
    "first": 40, "lengths": [2, 60], "errors": [1], "slot": 0, "pid": 4711,
    "started_at": 1795428000000_u64, "seconds": 0.5, "notes": [{
    "position": 0, "attempts": 2, "stdout": "fitting\n", "stderr": "slow\n", "dropped": 10,
    "conditions": [{"kind": "warning", "message": "NaNs produced", "call": "log(-1)"}]
}]
}]}))]
#[serde(remote = "Self")]
pub struct Report {
    /// Finished elements, of any of the agent's leases.
    pub pieces: Vec<Piece>,
}

/// Neighbouring elements of one lease that are finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "lease": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42",
    "first": 40, "lengths": [2, 60], "errors": [1], "slot": 0, "pid": 4711,
    "started_at": 1795428000000_u64, "seconds": 0.5, "notes": [{
    "position": 0, "attempts": 2, "stdout": "fitting\n", "stderr": "slow\n", "dropped": 10,
    "conditions": [{"kind": "warning", "message": "NaNs produced", "call": "log(-1)"}]
}]
}))]
#[serde(remote = "Self")]
pub struct Piece {
    /// The lease they belong to.
    pub lease: LeaseId,
    /// The job they belong to, so that a repeated report is known when the lease is long done.
    pub job: JobId,
    /// The index of the first element.
    pub first: u64,
    /// The bytes of each outcome: a value, or for an error the JSON of an
    /// [`ElementError`](crate::job::ElementError).
    pub lengths: Vec<u32>,
    /// Which of them are errors: positions from 0, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<u32>,
    /// The slot that ran them, from 0.
    pub slot: u32,
    /// The worker's process id.
    pub pid: u32,
    /// When the first started, milliseconds since 1970 by the agent's clock.
    pub started_at: u64,
    /// Seconds that they took together.
    pub seconds: f64,
    /// What else is to say of single elements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

impl Piece {
    /// The bytes of all its outcomes.
    pub fn n_bytes(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }
}

/// What an element printed and signalled, and how often it was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "position": 0, "attempts": 2, "stdout": "fitting\n", "stderr": "slow\n", "dropped": 10,
    "conditions": [{"kind": "warning", "message": "NaNs produced", "call": "log(-1)"}]
}))]
pub struct Note {
    /// The element's position in its piece, from 0.
    pub position: u32,
    /// How often it was run, this time included; 0 stands for once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// What it wrote to standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// What it wrote to standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Bytes of output that were not kept, because the element printed too much.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub dropped: u64,
    /// Messages and warnings in the order they were signalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Files that it left behind. Their blobs were put before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

/// A message or warning that an element signalled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"kind": "warning", "message": "NaNs produced", "call": "log(-1)"}))]
pub struct Condition {
    /// Its class: `message`, `warning`, `DeprecationWarning`, …
    pub kind: String,
    /// Its text.
    pub message: String,
    /// The call that signalled it, as source; R only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

/// What became of each piece of a [`Report`], in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"verdicts": ["accepted"]}))]
pub struct Reported {
    /// One verdict a piece.
    pub verdicts: Vec<Verdict>,
    /// Jobs that have ended by this report: nothing of them will be leased any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<JobId>,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "accepted")]
pub enum Verdict {
    /// Accepted, now or by an earlier sending of the same report.
    Accepted,
    /// The lease is not the agent's any more, or the job has ended: nothing was changed. The agent
    /// drops the lease.
    Stale,
}
