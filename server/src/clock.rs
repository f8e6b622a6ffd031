//! The one place that reads the time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since 1970.
pub type Millis = i64;

/// The clock of leases: wall time at the start plus monotonic time since, never before the largest
/// time that was stored. So a step of the system's clock lapses nothing and revives nothing.
///
/// Several servers of one database start at its time, and each moves forward to the largest that any
/// of them has stored: they agree to within what their processors drift apart between two looks.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    base: AtomicI64,
}

impl Clock {
    /// Starts at the system's time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the time")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::start_at(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
    }

    /// Starts at `now`, which somebody else has read.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the time")]
    pub fn start_at(now: Millis) -> Self {
        Self { started: Instant::now(), base: AtomicI64::new(now) }
    }

    /// Now, in milliseconds since 1970.
    pub fn now(&self) -> Millis {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.base.load(Ordering::Relaxed).saturating_add(elapsed)
    }

    /// Since it was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Moves forward so that it is not before `stored`, a time read from the database.
    pub fn not_before(&self, stored: Millis) {
        let behind = stored - self.now();
        if behind > 0 {
            self.base.fetch_add(behind, Ordering::Relaxed);
        }
    }
}

/// A time in RFC 3339, UTC, to the millisecond.
pub fn rfc3339(millis: Millis) -> String {
    Timestamp::from_millisecond(millis)
        .map_or_else(|_| "0000-00-00T00:00:00Z".to_owned(), |time| format!("{time:.3}"))
}
