//! What docs/values.md says, done.
