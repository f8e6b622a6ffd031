//! What is SQLite's alone.
//!
//! * [`files`]: one server on them, and what they hold after a crash.
//! * [`plans`]: which indexes are read.
//! * [`room`]: room on disk, given back.
//! * [`upgrade`]: databases of earlier versions, which knew no other.

mod files;
mod plans;
mod room;
mod upgrade;

use super::tests::{Fixture, all_of, piece, read, write};
