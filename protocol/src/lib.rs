//! What crosses the wire between farrow's clients, server and agents, and how they write sizes.
//!
//! * [`job`]: the client's side, of three parts: [`submission`], [`status`] and [`outcome`].
//! * [`agent`]: the agent's side. Its module comment tells the life of an agent.
//! * [`artifact`]: files that elements leave behind.
//! * [`envelope`]: a JSON header followed by payload bytes, in one body.
//! * [`files`]: what a job's folder may hold.
//! * [`frames`]: elements and values that are not JSON, in one body.
//! * [`problem`]: the one shape of every failure (RFC 9457).
//! * [`rights`]: tokens, their roles, and the audit log.
//! * [`size`]: numbers of bytes as people write them.
//! * [`id`]: the ids, UUIDs of version 7.

pub mod agent;
pub mod artifact;
pub mod envelope;
pub mod files;
pub mod frames;
pub mod id;
pub mod job;
mod object;
pub mod outcome;
pub mod problem;
pub mod ranges;
pub mod rights;
pub mod size;
pub mod status;
pub mod submission;

pub use id::{AgentId, DatabaseId, JobId, LeaseId, TokenId};
pub use problem::{FieldError, Problem};
pub use ranges::{Range, RangeSet};

/// The version of the agent's protocol. A server refuses an agent of another version, because a
/// half-understood lease could run an element twice.
pub const PROTOCOL_VERSION: u32 = 2;

/// The TCP port that a server listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 3277;
