//! Runs histories, one on each processor at a time, and says which was broken and how to repeat it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::bugs::Bug;
use super::faults::Coverage;
use super::invariant::Objection;
use super::world::World;
use crate::store::recount;

/// A history in which an invariant was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    pub seed: u64,
    pub objection: Objection,
}

/// Runs the histories of these seeds. Says what happened in them, or which was broken, the one with
/// the smallest seed of those that were found.
pub fn run(seeds: std::ops::Range<u64>, bug: Option<Bug>) -> Result<Coverage, Broken> {
    let next = AtomicU64::new(seeds.start);
    // No history behind a broken one is begun.
    let end = AtomicU64::new(seeds.end);
    let is_told = std::env::var_os("FARROW_SIM_TELL").is_some();
    let work = |processor: usize| {
        stay_on(processor);
        let mut coverage = Coverage::default();
        let mut broken: Option<Broken> = None;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        block_on(async {
            let mut connection = recount::in_memory().await;
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end.load(Ordering::Relaxed) {
                    return;
                }
                // What a history has written is undone at its end, so that the next begins with nothing.
                sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
                let mut world = World::new(&mut connection, seed, bug);
                world.is_told = is_told;
                let ended = world.run().await;
                sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
                match ended {
                    Ok(seen) => coverage.add(&seen),
                    Err(objection) => {
                        end.fetch_min(seed, Ordering::Relaxed);
                        broken = Some(Broken { seed, objection });
                        return;
                    }
                }
            }
        });
        (coverage, broken)
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let threads = processors().into_iter().map(|at| scope.spawn(move || work(at)));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut coverage = Coverage::default();
    ended.iter().for_each(|(seen, _)| coverage.add(seen));
    let broken = ended.into_iter().filter_map(|(_, broken)| broken);
    broken.min_by_key(|broken| broken.seed).map_or(Ok(coverage), Err)
}

/// The processors that this process may use.
fn processors() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&at| allowed.is_set(at).unwrap()).collect()
}

/// Keeps this thread, and SQLite's that it starts, on one processor: they take turns, and to wake a
/// processor that sleeps takes longer than to change threads on one that does not.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Runs a future that waits for another thread only: SQLite's. Parking costs a third of what a
/// runtime's driver does, and a history waits a thousand times.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
