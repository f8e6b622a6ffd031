//! The pure core: who gets what, how much, and what a report or a loss changes.
//!
//! Nothing here knows a database, a clock or chance: a snapshot goes in, decisions come out. The
//! dispatcher loads the snapshot and writes the decisions inside one transaction.
//!
//! * [`assign`]: which agent gets elements of which job.
//! * [`chunking`]: how many.
//! * [`lease`]: what a report and a loss change in a lease.
//! * [`takeover`]: what idle slots ask of busy agents.
//! * [`requirements`]: which agents can run a job at all.
//! * [`retry`]: what a retry runs again.

pub mod assign;
pub mod chunking;
pub mod lease;
pub mod requirements;
pub mod retry;
pub mod takeover;

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
