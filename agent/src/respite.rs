//! The pause of an agent that cannot start workers: it takes no work meanwhile, so that what others
//! can run goes to them, and asks again after a while, because machines get repaired.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::job::Runtime;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock;

/// The first pause; each further one of a runtime in a row is twice as long.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// When the agent takes work again.
#[derive(Debug, Default)]
pub struct Respite {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many pauses in a row each runtime has caused.
    pauses: BTreeMap<Runtime, u32>,
    until: Option<Instant>,
}

impl Respite {
    /// Notes that a worker did not start. Returns for how long the agent pauses because of it;
    /// nothing when it pauses already, since workers that start together fail together.
    pub fn begin(&self, runtime: Runtime) -> Option<Duration> {
        let pause = self.lock().begin(runtime, clock::now());
        self.begun.notify_waiters();
        pause
    }

    /// Notes that a worker has started: the next pause that its runtime causes is a short one.
    pub fn recovered(&self, runtime: Runtime) {
        self.lock().pauses.remove(&runtime);
    }

    /// Whether the agent is to take no work now.
    pub fn is_on(&self) -> bool {
        !self.left().is_zero()
    }

    /// Waits until the agent is to take no work.
    pub async fn on(&self) {
        loop {
            let begun = self.begun.notified();
            if self.is_on() {
                return;
            }
            begun.await;
        }
    }

    /// Waits until the agent may take work.
    pub async fn over(&self) {
        while self.is_on() {
            sleep(self.left()).await;
        }
    }

    fn left(&self) -> Duration {
        let until = self.lock().until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(clock::now()))
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, runtime: Runtime, now: Instant) -> Option<Duration> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let pauses = self.pauses.entry(runtime).or_default();
        let pause = FIRST.saturating_mul(1 << (*pauses).min(16)).min(LONGEST);
        *pauses = pauses.saturating_add(1);
        self.until = Some(now + pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_workers_that_fail_together_make_one() {
        let (mut state, mut now) = (State::default(), clock::now());
        let mut seconds = Vec::new();
        for _ in 0..8 {
            let pause = state.begin(Runtime::R, now).unwrap();
            assert_eq!(state.begin(Runtime::R, now), None);
            seconds.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(state.begin(Runtime::Python, now), Some(FIRST));
    }

    #[test]
    fn a_worker_that_starts_makes_the_next_pause_short() {
        let respite = Respite::default();
        assert!(!respite.is_on());
        respite.begin(Runtime::R);
        respite.recovered(Runtime::R);
        assert!(respite.is_on() && respite.lock().pauses.is_empty());
    }
}
