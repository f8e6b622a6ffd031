//! The agent's side of the API.
//!
//! # The life of an agent
//!
//! 1. It makes its [`AgentId`] and **registers** (`POST /v1/agents`): name, slots, runtimes, labels.
//! 2. While it has free slots it holds one **lease** request (`POST /v1/agents/{id}/lease`). The
//!    server answers when there is work, or with nothing when the wait is over. The request lists
//!    the leases that the agent holds: a lease that the server granted and the agent does not list
//!    was lost with an answer, and is given again. While elements are quick it also asks for leases
//!    *ahead*, one a slot or, behind a long way, up to [`MOST_AHEAD`], which wait on the agent: a slot that
//!    becomes free has its next chunk at once, and the way to the server and back is hidden.
//! 3. It runs the elements of each [`Lease`] and **reports** (`POST /v1/agents/{id}/report`)
//!    [`Piece`]s of it, within a second of an element being finished, until nothing remains. Files
//!    that an element leaves as artifacts go as blobs before it (`PUT /v1/blobs/{digest}`).
//!    What elements, set-ups and `prepare` scripts print goes to **logs**
//!    (`POST /v1/agents/{id}/logs`) while they run, for people who watch; reports do not rely on it.
//! 4. All the while it holds a **heartbeat** (`POST /v1/agents/{id}/heartbeat`), which no user work
//!    can block. It keeps every lease alive, and is answered at once when leases were revoked, the
//!    agent is to drain, or an idle slot elsewhere *wants* of a lease what has not begun.
//! 5. It **releases** (`POST /v1/agents/{id}/release`) what it will not run, or part of a lease that
//!    another is to run, and **leaves** (`DELETE /v1/agents/{id}`).
//!
//! An agent that is killed leaves on its disk what it has finished and no server has accepted. The
//! next agent there reports it, under the id and the leases of the dead one, before it leases
//! anything: a lease that has lapsed may be reported until it is leased anew. Then it says that the other
//! is dead (`DELETE /v1/agents/{id}?dead=true`), whose leases so need not be over first.
//!
//! Every request may be repeated after a lost answer. A server that does not know the agent (it
//! was away for longer than a lease) answers 404 `unknown-agent`; the agent registers again with
//! the leases that it holds, and goes on with those that are still good.

mod report;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::id::{AgentId, DatabaseId, JobId, LeaseId};
use crate::job::{Encoding, Function, LogEntry, Options, Runtime};
use crate::object::only_objects;
use crate::ranges::RangeSet;

pub use report::{Condition, Note, Piece, Report, Reported, Verdict};

/// Leases that an agent may hold ahead of each of its slots.
pub const MOST_AHEAD: u32 = 8;

only_objects!(Register, LeaseRequest, Logs, Heartbeat, Release, Released);

/// An agent presents itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a", "name": "ip-10-0-0-12", "protocol": 2, "version": "0.2.0", "slots": 4,
    "physical_cores": 4, "logical_cores": 8, "memory": 17179869184_u64,
    "runtimes": {"r": "4.2.2", "python": "3.11.2"}, "labels": {"region": "eu-central-1"},
    "leases": []
}))]
#[serde(remote = "Self")]
pub struct Register {
    /// Made by the agent at its start.
    pub id: AgentId,
    /// For people.
    pub name: String,
    /// [`crate::PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// The version of the agent's program.
    pub version: String,
    /// How many elements it runs at once.
    pub slots: u32,
    /// Physical cores that it may use.
    pub physical_cores: u32,
    /// Logical cores that it may use.
    pub logical_cores: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The runtimes it has, and their versions.
    pub runtimes: BTreeMap<Runtime, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The leases it holds from an earlier registration.
    #[serde(default)]
    pub leases: Vec<LeaseId>,
}

/// The server's answer to [`Register`].
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "lease_seconds": 30.0, "revoked": [], "database": "019aab1d-0c4e-7b1f-8f6a-2d3c4b5a6978"
}))]
pub struct Registered {
    /// Seconds for which a lease is good without a heartbeat.
    pub lease_seconds: f64,
    /// Of the leases that the agent listed, those that are not its own any more: stop running them.
    pub revoked: Vec<LeaseId>,
    /// The database that the server speaks for: what an agent keeps for its leases is good at every
    /// server of this database, and at no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseId>,
}

/// The agent asks for work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "free": 2, "ahead": 1, "held": ["019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f"],
    "known_jobs": ["019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42"], "wait": 30.0
}))]
#[serde(remote = "Self")]
pub struct LeaseRequest {
    /// Slots that have nothing to do.
    pub free: u32,
    /// Leases of one slot to hold beside, for slots that will soon have nothing to do.
    #[serde(default)]
    pub ahead: u32,
    /// Leases that the agent holds. What the server has granted beside these is given again.
    pub held: Vec<LeaseId>,
    /// Jobs whose [`JobSpec`] the agent has kept, so that it need not be sent again.
    pub known_jobs: Vec<JobId>,
    /// Seconds to wait for work before an empty answer.
    pub wait: f64,
}

/// The header of the envelope that answers a [`LeaseRequest`]. The payloads are the inputs of the
/// leases in order, each input's elements back to back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"leases": [{
    "id": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42",
    "ranges": [[40, 42]], "attempt": 1, "slots": 1, "width": 1, "deaths": {"41": 1},
    "input": {"kind": "inline", "lengths": [2, 2]}, "names": ["gear 4", "gear 5"],
    "outer": {"index": 1, "first": 40, "name": "cars"}
}], "jobs": [{
    "id": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "owner": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a",
    "runtime": "r", "is_call": false, "function": "function(.x) .x + offset",
    "args": {}, "globals": {"offset": {"json": 1}}, "packages": ["stats"],
    "prepare": "Rscript -e 'install.packages(\"data.table\")'", "setup": "options(digits = 4)",
    "files": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "options": {"timeout": 60.0}
}], "more": true}))]
pub struct Leases {
    /// What the agent is to run now.
    pub leases: Vec<Lease>,
    /// The jobs of these leases, without those that the agent knows.
    pub jobs: Vec<JobSpec>,
    /// Whether something was left to lease, to whomever: else a request for leases ahead alone is not
    /// worth its way.
    #[serde(default)]
    pub more: bool,
}

/// The right, and the duty, to run a chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42",
    "ranges": [[40, 42]], "attempt": 1, "slots": 1, "width": 1, "deaths": {"41": 1},
    "input": {"kind": "inline", "lengths": [2, 2]}, "names": ["gear 4", "gear 5"],
    "outer": {"index": 1, "first": 40, "name": "cars"}
}))]
pub struct Lease {
    /// Names this grant and fences its reports.
    pub id: LeaseId,
    /// Whose elements these are.
    pub job: JobId,
    /// The elements to run.
    pub ranges: RangeSet,
    /// How often elements of this chunk have been leased, this time included.
    pub attempt: u32,
    /// Slots that the chunk occupies.
    pub slots: u32,
    /// Elements of it to run at once: each has `slots / width` slots.
    pub width: u32,
    /// How often single elements have killed or timed out their worker under earlier leases.
    pub deaths: BTreeMap<u64, u32>,
    /// Where the elements are.
    pub input: Input,
    /// For the variant `imap`: the names of the elements, in the order of the ranges; none if the
    /// elements have no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// For the variant `imap` of a nested job: the outer element that the chunk is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
}

/// An outer element of a nested job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"index": 1, "first": 40, "name": "cars"}))]
pub struct Outer {
    /// Its index among the outer elements, from 0.
    pub index: u64,
    /// The index of its first inner element, counted through all of them.
    pub first: u64,
    /// Its name, if outer elements have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Where the elements of a lease are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[schema(example = json!({"kind": "inline", "lengths": [2, 2]}))]
pub enum Input {
    /// There is none: the job is a call.
    Nothing,
    /// Element `i` is the integer `from + i`, whatever the job's encoding.
    Range {
        /// The integer of element 0.
        #[schema(example = 0)]
        from: i64,
    },
    /// In this envelope.
    Inline {
        /// The bytes of each element, in the order of the lease's ranges.
        lengths: Vec<u32>,
    },
    /// In blobs, to be fetched and kept: the elements are large.
    Blocks {
        /// In the order of the lease's ranges.
        blocks: Vec<BlockSlice>,
    },
}

/// Neighbouring elements in a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "offset": 4096, "lengths": [70000, 70000]
}))]
pub struct BlockSlice {
    /// `sha256:` and the digest of the blob's bytes; `GET /v1/blobs/{digest}`.
    pub digest: String,
    /// Where in the blob the first element starts.
    pub offset: u64,
    /// The bytes of each element, back to back from there.
    pub lengths: Vec<u32>,
}

/// What an agent must know of a job to run its elements.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "owner": "019aab1e-6b10-7d02-8a4c-1f0e9d8c7b6a",
    "runtime": "r", "is_call": false, "function": "function(.x) .x + offset",
    "args": {}, "globals": {"offset": {"json": 1}}, "packages": ["stats"],
    "prepare": "Rscript -e 'install.packages(\"data.table\")'", "setup": "options(digits = 4)",
    "files": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "options": {"timeout": 60.0}
}))]
pub struct JobSpec {
    /// The job.
    pub id: JobId,
    /// Who submitted it: a worker that ran one owner's code never runs another's.
    pub owner: String,
    /// What runs the function.
    pub runtime: Runtime,
    /// Whether it is a call: `function` is run once, without an element.
    #[serde(default)]
    pub is_call: bool,
    /// What is run for each element.
    pub function: Function,
    /// Further arguments, by name.
    pub args: BTreeMap<String, Constant>,
    /// Global variables, by name.
    pub globals: BTreeMap<String, Constant>,
    /// Packages to load.
    pub packages: Vec<String>,
    /// A script to run once an agent before the first element; empty for none.
    #[serde(default)]
    pub prepare: String,
    /// A script to run in each worker before its first element of the job; empty for none.
    pub setup: String,
    /// The digest of the blob, a tar.gz, that is the working folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// An absolute path: where its workers work, if the agent has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/srv/project")]
    pub workdir: Option<String>,
    /// How it is run, with a drawn seed in its place.
    pub options: Options,
}

/// A value that is the same for every element of a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = json!({"json": 1}))]
pub enum Constant {
    /// JSON text.
    #[schema(value_type = serde_json::Value)]
    Json(Box<RawValue>),
    /// It is in a blob.
    Blob {
        /// `sha256:` and the digest of the blob's bytes.
        #[schema(
            example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        )]
        digest: String,
        /// What the bytes are.
        encoding: Encoding,
    },
}

/// What the jobs that an agent runs have said since the last such request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"batch": 1, "entries": [{
    "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "at": 1795428000000_u64, "source": "element",
    "element": 7, "stream": "stdout", "text": "fitting\n"
}]}))]
#[serde(remote = "Self")]
pub struct Logs {
    /// Counts these requests from 1, so that a repeated one is known.
    pub batch: u64,
    /// What was said, in order.
    pub entries: Vec<LogEntry>,
}

/// The agent says that it is alive.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"held": ["019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f"], "draining": false, "wait": 10.0}))]
#[serde(remote = "Self")]
pub struct Heartbeat {
    /// The leases that it holds.
    pub held: Vec<LeaseId>,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Seconds to hold the request if there is nothing to say.
    pub wait: f64,
}

/// The server's answer to [`Heartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "revoked": ["019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f"], "drain": false,
    "wanted": ["019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e10"]
}))]
pub struct Orders {
    /// Leases to stop at once: their job was cancelled or has failed, or they were leased anew.
    pub revoked: Vec<LeaseId>,
    /// Whether the agent is to finish what it holds and take nothing new.
    pub drain: bool,
    /// Leases of which a slot that has nothing to do could run something: the agent releases what it
    /// can spare of them, if there is anything. Said once; who has nothing to spare says nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<LeaseId>,
}

/// The agent gives back what it will not run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"leases": [{"id": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "deaths": {"41": 1}}]}))]
#[serde(remote = "Self")]
pub struct Release {
    /// The leases.
    pub leases: Vec<Released>,
}

/// One lease given back, whole as it remains or in part.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f", "deaths": {}, "part": [[48, 56]]
}))]
#[serde(remote = "Self")]
pub struct Released {
    /// The lease.
    pub id: LeaseId,
    /// How often single elements of it have killed or timed out their worker, under this lease and
    /// earlier ones.
    #[serde(default)]
    pub deaths: BTreeMap<u64, u32>,
    /// Only these elements, none of which has begun: the rest goes on. None: all that remains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<RangeSet>,
}

impl Released {
    /// All that remains of a lease, given back with the deaths that its elements have caused.
    pub fn whole(id: LeaseId, deaths: BTreeMap<u64, u32>) -> Self {
        Self { id, deaths, part: None }
    }
}
