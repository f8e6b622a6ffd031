//! How long to wait before a request is tried again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Exponential back-off with full jitter: each wait is drawn evenly from nothing up to a ceiling
/// that doubles, so that agents that lost the server together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// No wait is longer than `longest`, nor than five seconds.
    pub fn up_to(longest: Duration) -> Self {
        Self { longest: longest.min(LONGEST), failures: 0 }
    }

    /// The next wait. `random` is any number drawn evenly from all of `u64`.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        share(ceiling, random)
    }
}

/// A part of `ceiling`, from none to all. `random` is any number drawn evenly from all of `u64`.
pub fn share(ceiling: Duration, random: u64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a share between 0 and 1 needs no 64 bits")]
    let share = random as f64 / u64::MAX as f64;
    ceiling.mul_f64(share)
}

/// An even random number. The standard library seeds each of its hashers at random, which is
/// enough to spread retries and spares a dependency.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_longest() {
        let mut backoff = Backoff::up_to(Duration::MAX);
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn jitter_reaches_down_to_nothing() {
        assert_eq!(Backoff::up_to(LONGEST).next(0), Duration::ZERO);
    }

    #[test]
    fn no_wait_is_longer_than_wanted() {
        let mut backoff = Backoff::up_to(Duration::from_millis(150));
        assert_eq!([(); 2].map(|()| backoff.next(u64::MAX).as_millis()), [100, 150]);
    }
}
