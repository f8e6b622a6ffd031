//! A submission: what a client says of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::id::JobId;
use crate::object::only_objects;

only_objects!(SubmitJob, SubmitJobs, BlobRef, Level, Options);

/// One submission: a map of `function` over `elements`, or a call of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(example = json!({
    "name": "models by gear", "runtime": "r",
    "function": "function(.x, digits) round(coef(lm(mpg ~ cyl + hp, data = .x)), digits)",
    "elements": [[{"mpg": 21.0, "cyl": 6, "hp": 110}, {"mpg": 22.8, "cyl": 4, "hp": 93}]],
    "args": {"digits": 3}, "globals": {"threshold": 0.5},
    "options": {"on_error": "collect", "retries": 1}
}))]
pub struct SubmitJob {
    /// A name for people; at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "models by gear")]
    pub name: Option<String>,
    /// What runs the function.
    pub runtime: Runtime,
    /// What is run for each element.
    pub function: Function,
    /// The inputs: an array; an object, whose names are kept in the value;
    /// `{"range": [from, to]}`, the integers from `from` up to, not including, `to`; or
    /// `{"blob": "sha256:…"}`, a blob of NDJSON (of frames, for an encoding other than `json`).
    /// Under a nested plan an array (or object) of arrays. With an encoding other than `json` each
    /// element of an array is a string of base64. Absent: a call, whose value is bare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>, example = json!([1, 2, 3]))]
    pub elements: Option<Box<RawValue>>,
    /// Further arguments of the function, by name, the same for every element. A value may be
    /// `{"blob": "sha256:…", "encoding": "json"}`: it is in a blob.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"power": 2}))]
    pub args: BTreeMap<String, Box<RawValue>>,
    /// Variables that the function finds in its global environment (R), module (Python) or
    /// environment (command). A value may be a blob, as in `args`.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"threshold": 0.5}))]
    pub globals: BTreeMap<String, Box<RawValue>>,
    /// Packages (R: `library()`; Python: `import`) loaded in each worker before the function.
    #[serde(default)]
    #[schema(example = json!(["stats"]))]
    pub packages: Vec<String>,
    /// A shell script (or any other, by its `#!` line) run once an agent before the first element,
    /// in the folder of `files`: for installing packages. What it installs with R's
    /// `install.packages()` or with pip is found by this job's workers, and by those of later jobs
    /// with the same script and files, for which it is not run again.
    #[serde(default)]
    #[schema(example = "Rscript -e 'install.packages(\"data.table\")'")]
    pub prepare: String,
    /// A script in the language of the runtime (command: of the shell) run in each worker before
    /// its first element of this job.
    #[serde(default)]
    #[schema(example = "options(digits = 4)")]
    pub setup: String,
    /// A blob, a tar.gz, unpacked once an agent: the folder in which the job's workers work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BlobRef>,
    /// A folder of the agents' machines, an absolute path, in which the job's workers work: for
    /// machines that share files with whoever submits. On an agent that does not have it, and
    /// without it, each worker works in an empty folder of its own. Not together with `files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/srv/project")]
    pub workdir: Option<String>,
    /// Jobs that must be resolved before this one begins; when one of them fails or is cancelled,
    /// this one fails.
    #[serde(default)]
    #[schema(example = json!([]))]
    pub after: Vec<JobId>,
    /// The topology: levels of strategy, outer first.
    #[serde(default = "default_plan")]
    #[schema(example = json!([{"strategy": "cluster"}]))]
    pub plan: Vec<Level>,
    /// How the job is run.
    #[serde(default)]
    pub options: Options,
}

fn default_plan() -> Vec<Level> {
    vec![Level::new(Strategy::Cluster)]
}

/// Several submissions, accepted all together or not at all.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(example = json!({"jobs": [
    {"runtime": "python", "function": "lambda x: x + 1", "elements": [1, 2]},
    {"runtime": "python", "function": "21 * 2"}
]}))]
pub struct SubmitJobs {
    /// The submissions, at most 1000.
    pub jobs: Vec<SubmitJob>,
}

/// What is run for each element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be source text, or for runtime `command` an array of the program and its \
                 arguments"
)]
#[schema(example = "lambda x: x ** 2")]
pub enum Function {
    /// Source text. R: its value is a function, or purrr's `~ .x + 1`. Python: a module whose last
    /// expression, else its last `def`, is the function. Of a call it may also be any value.
    Source(String),
    /// A program and its arguments, no shell; `{}` in an argument is the element.
    Command(Vec<String>),
}

/// A blob, uploaded before by `PUT /v1/blobs/{sha256}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(example = json!({
    "blob": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}))]
pub struct BlobRef {
    /// `sha256:` and the 64 hex digits of the SHA-256 of its bytes.
    pub blob: String,
    /// How its bytes are to be read, where that is open: in `args` and `globals`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
}

/// What runs a function.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(example = "r")]
pub enum Runtime {
    /// R, by `Rscript`.
    R,
    /// Python 3.
    Python,
    /// Any program, started anew for each element.
    Command,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::R, Self::Python, Self::Command];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::R => "r",
            Self::Python => "python",
            Self::Command => "command",
        }
    }

    /// The runtime of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.as_str() == name)
    }
}

/// One level of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schema(example = json!({"strategy": "cluster", "workers": 2}))]
pub struct Level {
    /// How this level spreads its elements.
    pub strategy: Strategy,
    /// At most so many: agents at a `cluster` level, slots at a `multisession` level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 2)]
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
#[schema(example = "cluster")]
pub enum Strategy {
    /// Over agents.
    Cluster,
    /// Over the slots of one agent.
    Multisession,
    /// In one slot, one after the other.
    Sequential,
}

/// How a job is run. Every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schema(example = json!({"on_error": "collect", "chunk_size": 10, "timeout": 60.0}))]
pub struct Options {
    /// How the function is called with an element.
    pub variant: Variant,
    /// What each value must be, as in purrr's `map_dbl()` and its like.
    #[serde(rename = "type")]
    pub value_type: ValueType,
    /// How elements and values are written.
    pub encoding: Encoding,
    /// What the standard output of a command is.
    pub output: Output,
    /// What an error does: `stop` fails the job at once; `collect` puts `{"error": …}` in its
    /// place and goes on.
    pub on_error: OnError,
    /// Gives element *i* the same random numbers whatever the chunking, agent or attempt.
    pub seed: Option<Seed>,
    /// Elements a chunk. `null`: sized from what is measured. A fixed chunk is never split.
    #[schema(example = 10)]
    pub chunk_size: Option<u64>,
    /// Chunks a slot, as furrr's `scheduling`: 1.0 one chunk a slot, 2.0 two. `chunk_size` beats it.
    #[schema(example = 2.0)]
    pub scheduling: Option<f64>,
    /// What one element occupies: a number of slots, or `"all"` slots of an agent.
    pub slots: Slots,
    /// Bytes of memory that a worker of this job may use; it is killed above, and an agent runs no
    /// more elements at once than its memory holds. `null`: no bound.
    #[schema(example = 2_147_483_648_u64)]
    pub memory: Option<u64>,
    /// Seconds an element may run before its worker is killed. `null`: no bound.
    #[schema(example = 60.0)]
    pub timeout: Option<f64>,
    /// How often an element is run again after its worker died or its time was over.
    #[schema(example = 2)]
    pub retries: u32,
    /// Whether an element is also run again after an error of its own.
    #[schema(example = false)]
    pub retry_on_error: bool,
    /// Whether what an element prints is kept.
    #[schema(example = true)]
    pub stdout: bool,
    /// Whether messages and warnings are kept.
    #[schema(example = true)]
    pub conditions: bool,
    /// Whether files that an element writes to the folder named by the variable
    /// `FARROW_ARTIFACTS` are kept as blobs, and listed in its outcome. Elements then go to their
    /// workers one by one.
    #[schema(example = false)]
    pub artifacts: bool,
    /// Jobs of higher priority go first, from -100 to 100.
    #[schema(example = 0)]
    pub priority: i32,
    /// Only agents that carry all of these labels run the job.
    #[schema(example = json!({"region": "eu-central-1"}))]
    pub labels: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            variant: Variant::Map,
            value_type: ValueType::List,
            encoding: Encoding::Json,
            output: Output::Text,
            on_error: OnError::Stop,
            seed: None,
            chunk_size: None,
            scheduling: None,
            slots: Slots::Count(1),
            memory: None,
            timeout: None,
            retries: 2,
            retry_on_error: false,
            stdout: true,
            conditions: true,
            artifacts: false,
            priority: 0,
            labels: BTreeMap::new(),
        }
    }
}

/// How the function is called with an element; the names are purrr's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "map")]
pub enum Variant {
    /// With the element.
    #[default]
    Map,
    /// With the items of the element, an array or object, as arguments.
    Pmap,
    /// With the element, and its name or index: from 1 in R, from 0 in Python. Under a nested plan
    /// with the element, its inner index, and the name or index of its outer element.
    Imap,
    /// As `map`, but values are dropped: each is `null`.
    Walk,
}

/// What each value must be, as in purrr. What is not is an error of its element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "dbl")]
pub enum ValueType {
    /// Anything.
    #[default]
    List,
    /// One string.
    Chr,
    /// One number.
    Dbl,
    /// One whole number.
    Int,
    /// One of true and false.
    Lgl,
}

/// How elements and values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "json")]
pub enum Encoding {
    /// JSON, translated to and from the runtime's own values.
    #[default]
    Json,
    /// R's serialization (`serialize()`), for runtime `r`.
    Rds,
    /// Python's pickle, for runtime `python`.
    Pickle,
    /// Bytes as they are: a raw vector in R, `bytes` in Python, standard input and output of a
    /// command.
    Bytes,
}

impl Encoding {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Rds => "rds",
            Self::Pickle => "pickle",
            Self::Bytes => "bytes",
        }
    }
}

/// What the standard output of a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "text")]
pub enum Output {
    /// A string, without the line ends behind it.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// What random numbers begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a whole number, true for one that the server draws, or the seven numbers \
                 of an L'Ecuyer-CMRG `.Random.seed`"
)]
#[schema(example = 123)]
pub enum Seed {
    /// As `set.seed()` of R after `RNGkind("L'Ecuyer-CMRG")`, or of Python's and numpy's
    /// generators.
    Number(i64),
    /// R's `.Random.seed` itself, of kind L'Ecuyer-CMRG: 10407 and six numbers.
    State(Vec<i64>),
    /// `true`: the server draws a number and shows it in the job's status. `false`: none.
    Drawn(bool),
}

/// What an error does to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "stop")]
pub enum OnError {
    /// The first error accepted fails the job; what runs is killed.
    Stop,
    /// The error stands in the element's place in the value.
    Collect,
}

/// What one element occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a number from 1, or \"all\"")]
#[schema(example = 1)]
pub enum Slots {
    /// So many slots of one agent.
    Count(u32),
    /// Every slot of an agent.
    All(AllSlots),
}

/// The word `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = "all")]
pub enum AllSlots {
    /// Every slot of an agent.
    All,
}
