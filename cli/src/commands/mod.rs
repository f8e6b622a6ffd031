//! The commands, one file each, all of one shape: what the command line says, and `run`.

pub mod agent;
pub mod agents;
pub mod artifacts;
pub mod audit;
pub mod blobs;
pub mod call;
pub mod cancel;
pub mod delete;
pub mod drain;
pub mod jobs;
pub mod logs;
pub mod map;
pub mod openapi;
pub mod outcomes;
pub mod retry;
pub mod server;
pub mod status;
pub mod supervise;
pub mod token;
pub mod up;
pub mod value;
