//! The client's side: a submission, the status of a job, the lists, outcomes.

pub use crate::outcome::*;
pub use crate::status::*;
pub use crate::submission::*;
