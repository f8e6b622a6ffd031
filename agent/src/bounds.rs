//! The time and the memory that a job allows its workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::clock;
use crate::death::Death;
use crate::jobs::Job;
use crate::memory::{MemoryGuard, MemoryWatch};
use crate::worker::{Event, Worker};

/// What holds a worker to the bounds of its job, while this lives.
#[derive(Debug)]
pub struct Bounds {
    timeout: Option<Duration>,
    memory: Option<(u64, MemoryGuard)>,
}

impl Bounds {
    /// Holds `worker` to those of `job`.
    pub fn new(job: &Job, worker: &Worker, watch: &Arc<MemoryWatch>) -> Self {
        let memory = job.spec.options.memory.zip(worker.supervisor());
        let memory = memory.map(|(bound, supervisor)| (bound, watch.guard(supervisor, bound)));
        Self { timeout: job.timeout(), memory }
    }

    /// Waits for what the worker does next; what it is at began at `since`.
    ///
    /// # Errors
    /// When it takes or uses more than it may.
    pub async fn next(&mut self, worker: &mut Worker, since: Instant) -> Result<Event, Death> {
        let timeout = self.timeout;
        tokio::select! {
            biased;
            event = worker.next() => Ok(event),
            limit = over(timeout, since) => Err(Death::TimedOut(limit)),
            death = exceeded(self.memory.as_mut()) => Err(death),
        }
    }
}

/// Waits until the time is over, for ever if there is no limit.
async fn over(limit: Option<Duration>, since: Instant) -> Duration {
    let Some(limit) = limit else { return std::future::pending().await };
    sleep(limit.saturating_sub(clock::now() - since)).await;
    limit
}

async fn exceeded(memory: Option<&mut (u64, MemoryGuard)>) -> Death {
    let Some((bound, guard)) = memory else { return std::future::pending().await };
    Death::TooLarge { used: guard.exceeded().await, bound: *bound }
}
