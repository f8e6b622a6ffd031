//! Runs histories, one on each processor at a time, and says which was broken and how to repeat it.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use futures::FutureExt as _;

use super::bugs::Bug;
use super::faults::Coverage;
use super::invariant::Objection;
use super::world::World;
use crate::store::{recount, sqlite};

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
    let work = || {
        let mut coverage = Coverage::default();
        let mut connection = recount::in_memory();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return (coverage, None);
            }
            // What a history has written is undone at its end, so that the next begins with nothing.
            sqlite::script(&connection, "begin").unwrap();
            let mut world = World::new(&mut connection, seed, bug);
            world.is_told = is_told;
            let ended = world.run().now_or_never().expect("nothing in a history is waited for");
            sqlite::script(&connection, "rollback").unwrap();
            match ended {
                Ok(seen) => coverage.add(&seen),
                Err(objection) => {
                    end.fetch_min(seed, Ordering::Relaxed);
                    return (coverage, Some(Broken { seed, objection }));
                }
            }
        }
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let n = thread::available_parallelism().map_or(1, NonZero::get);
        let threads: Vec<_> = (0..n).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut coverage = Coverage::default();
    ended.iter().for_each(|(seen, _)| coverage.add(seen));
    let broken = ended.into_iter().filter_map(|(_, broken)| broken);
    broken.min_by_key(|broken| broken.seed).map_or(Ok(coverage), Err)
}
