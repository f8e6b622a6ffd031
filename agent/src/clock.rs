//! The one place of this crate that reads the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic time, for durations.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall time, in milliseconds since 1970, for people.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall time")]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
