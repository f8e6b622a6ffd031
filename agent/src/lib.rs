//! farrow's agent: leases chunks from a server, runs their elements in persistent workers, and
//! reports the outcomes. [`run`] is all of it; [`supervisor::main`] is the program that the agent
//! puts between itself and each worker, [`commands::main`] the worker that runs commands.
//!
//! ```text
//! poll ──▶ lease ──▶ lane ──▶ worker ══▶ supervisor ──▶ R, Python, commands
//!   ▲        │         │
//!   │        │         └────▶ outbox ──▶ report ──▶ client ──▶ server
//!   │        │                  ╰─ keep ──▶ spool, on disk
//!   │        └─ slots, inputs, jobs, blobs
//!   └─ held ◀── heartbeat, on a thread of its own
//! ```

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod agent;
mod artifacts;
mod attempts;
mod backoff;
mod blobs;
mod blocking;
mod bounds;
mod chunk;
mod client;
mod clock;
pub mod commands;
mod config;
mod confinement;
mod death;
mod demand;
mod descriptors;
mod elements;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    //! What is not public otherwise, for `fuzz/`.

    pub use crate::spool::record;
}
mod heartbeat;
mod held;
mod inherit;
mod inputs;
mod jobs;
mod keep;
mod lane;
mod lease;
mod lifeline;
mod locks;
mod logs;
mod memory;
mod outbox;
mod output;
mod pace;
mod parcel;
mod poll;
mod pool;
mod prepared;
mod processes;
mod report;
mod respite;
pub mod rserial;
pub mod runtimes;
mod scratch;
pub mod seeds;
mod servers;
mod slots;
mod spool;
mod storage;
pub mod supervisor;
mod tap;
pub mod topology;
mod transport;
mod trees;
pub mod trust;
mod upload;
mod work;
mod worker;

pub use agent::{AgentError, run};
pub use config::{Config, Label, Seconds, Secret, Settings, Slots};
pub use confinement::{ConfinementError, IdentityError, WorkerSettings, hide_this_process};
pub use servers::{AddressError, Servers, parse_url};
pub use transport::TransportError;
pub use upload::upload_time;
