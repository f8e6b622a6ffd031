//! The workers' scripts, driven as the agent drives them, by the real interpreters.
//!
//! What is the same in every language is said once, in `both` and `values`; `r` and `python` hold what is their
//! own. `tables` runs what docs/values.md says. `rates` prints how many elements a second one worker runs.

#![expect(clippy::unwrap_used, reason = "a test fails where it panics")]

mod both;
mod calls;
mod command;
mod encodings;
mod harness;
mod python;
mod r;
mod rates;
mod seeds;
mod tables;
mod types;
mod values;
mod variants;
