//! The client's side: a submission, the status of a job, the lists.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::id::{AgentId, JobId};
use crate::problem::Problem;

/// One submission: a map of `function` over `elements`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "runtime": "r",
    "function": "function(.x) coef(lm(mpg ~ cyl + hp + wt, data = .x))",
    "elements": [[{"mpg": 21.0, "cyl": 6, "hp": 110, "wt": 2.62}]]
}))]
pub struct SubmitJob {
    /// A name for people; at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What runs the function: `r` or `python`.
    pub runtime: Runtime,
    /// Source text. R: its value is a function, or purrr's `~ .x + 1`. Python: a module whose
    /// last expression, else its last `def`, is the function.
    #[schema(example = "lambda x: x ** 2")]
    pub function: String,
    /// The inputs: an array; an object, whose names are kept in the value; or
    /// `{"range": [from, to]}`, the integers from `from` up to, not including, `to`. Under a
    /// nested plan an array (or object) of arrays.
    #[schema(value_type = serde_json::Value)]
    pub elements: Option<Box<RawValue>>,
    /// Further arguments of the function, by name, the same for every element.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub args: BTreeMap<String, Box<RawValue>>,
    /// Variables that the function finds in its global environment (R) or module (Python).
    #[serde(default)]
    #[schema(value_type = Object)]
    pub globals: BTreeMap<String, Box<RawValue>>,
    /// Packages (R: `library()`; Python: `import`) loaded in each worker before the function.
    #[serde(default)]
    pub packages: Vec<String>,
    /// A script run in each worker before its first element of this job.
    #[serde(default)]
    pub setup: String,
    /// The topology: levels of strategy, outer first.
    #[serde(default = "default_plan")]
    pub plan: Vec<Level>,
    /// How the map is run.
    #[serde(default)]
    pub options: Options,
}

fn default_plan() -> Vec<Level> {
    vec![Level::new(Strategy::Cluster)]
}

/// What runs a function.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// R, by `Rscript`.
    R,
    /// Python 3.
    Python,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::R, Self::Python];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::R => "r",
            Self::Python => "python",
        }
    }
}

/// One level of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"strategy": "cluster", "workers": 2}))]
pub struct Level {
    /// How this level spreads its elements.
    pub strategy: Strategy,
    /// At most so many: agents at a `cluster` level, slots at a `multisession` level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
}

impl Level {
    /// A level without a bound.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, workers: None }
    }
}

/// How a level of a plan spreads its elements; the names are the future package's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Over agents.
    Cluster,
    /// Over the slots of one agent.
    Multisession,
    /// In one slot, one after the other.
    Sequential,
}

/// How a map is run. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What an error does: `stop` fails the job at once; `collect` puts `{"error": …}` in its
    /// place and goes on.
    pub on_error: OnError,
    /// Elements a chunk. `null`: sized from what is measured. A fixed chunk is never split.
    pub chunk_size: Option<u64>,
    /// Chunks a slot, as furrr's `scheduling`: 1.0 one chunk a slot, 2.0 two. `chunk_size` beats it.
    pub scheduling: Option<f64>,
    /// What one element occupies: a number of slots, or `"all"` slots of an agent.
    pub slots: Slots,
    /// Seconds an element may run before its worker is killed. `null`: no bound.
    pub timeout: Option<f64>,
    /// How often an element is run again after its worker died or its time was over.
    pub retries: u32,
    /// Whether what an element prints is kept.
    pub stdout: bool,
    /// Whether messages and warnings are kept.
    pub conditions: bool,
    /// Jobs of higher priority go first, from -100 to 100.
    pub priority: i32,
    /// Only agents that carry all of these labels run the job.
    pub labels: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            on_error: OnError::Stop,
            chunk_size: None,
            scheduling: None,
            slots: Slots::Count(1),
            timeout: None,
            retries: 2,
            stdout: true,
            conditions: true,
            priority: 0,
            labels: BTreeMap::new(),
        }
    }
}

/// What an error does to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The first error accepted fails the job; what runs is killed.
    Stop,
    /// The error stands in the element's place in the value.
    Collect,
}

/// What one element occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a number from 1, or \"all\"")]
pub enum Slots {
    /// So many slots of one agent.
    Count(u32),
    /// Every slot of an agent.
    All(AllSlots),
}

/// The word `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllSlots {
    /// Every slot of an agent.
    All,
}

/// Where a job is in its life. The last three are for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
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
pub struct JobStatus {
    /// Its id.
    pub id: JobId,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// What runs its function.
    pub runtime: Runtime,
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
    pub finished_at: Option<String>,
    /// Its priority.
    pub priority: i32,
    /// The labels it asks of agents.
    pub labels: BTreeMap<String, String>,
    /// Its topology.
    pub plan: Vec<Level>,
}

/// How many of a job's elements are where. `total = done + failed + running + waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    pub next: Option<String>,
}

/// What is known of an agent.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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

/// Why an element has no value: what stands in its place with `collect`, as `{"error": …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ElementError {
    /// The class of the error: an R condition's or a Python exception's; `WorkerDied`, `Timeout`,
    /// `AgentLost`, `Untranslatable` or `SyntaxError` where farrow itself says it.
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
