//! The one place that reads the time.

use jiff::Timestamp;

/// The wall clock's time.
pub fn now() -> Timestamp {
    Timestamp::now()
}
