//! The time and the memory that a job allows its workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::clock;
use crate::confinement::{Group, NotBounded};
use crate::death::Death;
use crate::jobs::Job;
use crate::memory::{Excess, MemoryGuard, MemoryWatch, Subject};
use crate::worker::{Event, Worker};

/// What holds a worker to the bounds of its job, while this lives.
#[derive(Debug)]
pub struct Bounds {
    timeout: Option<Duration>,
    memory: Option<Memory>,
}

/// The bound of memory, and what says that it is exceeded.
#[derive(Debug)]
struct Memory {
    bound: u64,
    guard: MemoryGuard,
    /// The group in which the kernel enforces it, and how many it had killed there before.
    group: Option<(Arc<Group>, u64)>,
    is_exceeded: bool,
}

impl Bounds {
    /// Holds `worker` to those of `job`.
    pub fn new(job: &Job, worker: &Worker, watch: &Arc<MemoryWatch>) -> Self {
        let memory = job.spec.options.memory;
        let memory = memory.and_then(|bound| Memory::new(bound, worker, watch));
        Self { timeout: job.timeout(), memory }
    }

    /// Waits for what the worker does next; what it is at began at `since`.
    ///
    /// # Errors
    /// When it takes or uses more than it may.
    pub async fn next(&mut self, worker: &mut Worker, since: Instant) -> Result<Event, Death> {
        let timeout = self.timeout;
        if let Some(memory) = self.memory.as_ref().filter(|memory| memory.is_exceeded) {
            return Err(memory.death(Excess::Refused));
        }
        tokio::select! {
            biased;
            event = worker.next() => match &self.memory {
                // Whatever it says, or how it ended: that is why.
                Some(memory) if memory.has_killed() => Err(memory.death(Excess::Refused)),
                _ => Ok(event),
            },
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

async fn exceeded(memory: Option<&mut Memory>) -> Death {
    let Some(memory) = memory else { return std::future::pending().await };
    let excess = memory.guard.exceeded().await;
    memory.death(excess)
}

impl Memory {
    /// Holds a worker to `bound` bytes, by the kernel where it does that; nothing when the worker is
    /// gone.
    fn new(bound: u64, worker: &Worker, watch: &Arc<MemoryWatch>) -> Option<Self> {
        let supervisor = worker.supervisor()?;
        let limited = worker.group().filter(|group| group.bounds_memory()).map(|group| {
            let limited = group.limit_memory(bound);
            (Arc::clone(group), limited)
        });
        let (group, is_exceeded) = match limited {
            Some((group, Ok(()))) => (Some(group), false),
            Some((_, Err(NotBounded::Exceeded))) => (None, true),
            Some((_, Err(NotBounded::Refused(error)))) => {
                tracing::warn!(%error, "the kernel does not bound a worker's memory; it is watched");
                (None, false)
            }
            None => (None, false),
        };
        let group = group.map(|group| {
            let killed = group.memory_kills();
            (group, killed)
        });
        let subject = match &group {
            Some((group, killed)) => Subject::Group { group: Arc::clone(group), killed: *killed },
            None => Subject::Processes { bound },
        };
        let guard = watch.guard(supervisor, subject);
        Some(Self { bound, guard, group, is_exceeded })
    }

    /// Whether the kernel has killed any of it.
    fn has_killed(&self) -> bool {
        self.group.as_ref().is_some_and(|(group, killed)| group.memory_kills() > *killed)
    }

    fn death(&self, excess: Excess) -> Death {
        Death::TooLarge { excess, bound: self.bound }
    }
}
