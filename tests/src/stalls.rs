//! How long the machine stood still: how late a thread wakes up that does nothing but sleep.
//!
//! The load of the last minute lags behind, and does not know of a host that took the cores away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::Stopwatch;

/// For how long it sleeps at a time.
const NAP: Duration = Duration::from_millis(20);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Stalls(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    longest_millis: AtomicU64,
    is_over: AtomicBool,
}

impl Stalls {
    /// Begins to watch.
    pub fn watch() -> Self {
        let seen = Arc::new(Seen::default());
        let watched = Arc::clone(&seen);
        thread::spawn(move || {
            while !seen.is_over.load(Ordering::Relaxed) {
                let nap = Stopwatch::start();
                thread::sleep(NAP);
                let late = nap.elapsed().saturating_sub(NAP).as_millis();
                let late = u64::try_from(late).unwrap_or(u64::MAX);
                seen.longest_millis.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self(watched)
    }

    /// The longest time by which it woke too late, so far.
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.0.longest_millis.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
