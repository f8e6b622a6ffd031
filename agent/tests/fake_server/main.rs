//! The agent against a fake server, with real workers.

#![expect(clippy::unwrap_used, reason = "in tests, also outside of test functions")]

mod another_user;
mod artifacts;
mod commands;
mod confining;
mod constants;
mod ending;
mod failing;
mod harness;
mod losing;
mod preparing;
mod record;
mod running;
mod server;
mod several;
mod sharing;
mod spoiling;
mod spooling;
mod watching;
