//! A simulation of servers, agents, clients and the network between them, on virtual time: thousands
//! of histories in which everything goes wrong that can, each repeated exactly by its seed.
//!
//! What decides is real: the functions of `presence`, `dispatcher`, `reaper` and `store`, on a
//! database in memory. What surrounds them is a model: a transaction is one moment (the database
//! lets writers run one after the other), and before, in and behind it a server may crash.
//!
//! * [`world`]: time, and what happens when.
//! * [`faults`]: what goes wrong, and how often it did. [`random`]: the chance that chooses it.
//! * [`network`]: messages, lost, late, repeated, cut off.
//! * [`server`], [`requests`]: servers, each request a transaction. [`transactions`]: what becomes of it.
//! * [`losses`]: how servers lose agents.
//! * [`agent`], [`client`]: those who ask.
//! * [`audit`], [`books`]: the auditor, with a truth of its own.
//! * [`bugs`]: deliberate bugs, to see it object.
//! * [`run`]: runs histories.

mod agent;
mod audit;
mod books;
mod bugs;
mod client;
mod faults;
mod invariant;
mod losses;
mod network;
pub mod random;
mod requests;
mod run;
mod server;
mod transactions;
mod world;

pub use bugs::Bug;

use crate::clock::Clock;
use run::run;

/// Histories that `make test` runs.
const HISTORIES: u64 = 300;

/// Histories within which a deliberate bug must be found.
const ENOUGH: u64 = 2000;

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, must be a number")))
}

/// Nothing is lost, nothing is counted twice, all comes to its end: `invariant::Invariant` says what
/// that means. `FARROW_SIM_HISTORIES` says how many, `FARROW_SIM_SEED` from which on, or the one to
/// be repeated.
#[test]
fn no_history_breaks_an_invariant() {
    let seed = number("FARROW_SIM_SEED");
    let histories = number("FARROW_SIM_HISTORIES").unwrap_or(seed.map_or(HISTORIES, |_| 1));
    let first = seed.unwrap_or(0);
    let clock = Clock::start();
    match run(first..first + histories, None) {
        Ok(coverage) => {
            let seconds = clock.uptime().as_secs_f64();
            println!("{histories} histories from seed {first} on in {seconds:.1} s; in them:");
            println!("{coverage}");
            let is_missing = |what: &&&str| histories >= HISTORIES && coverage.count(what) == 0;
            let missing: Vec<_> = HAPPENS.iter().filter(is_missing).collect();
            assert!(missing.is_empty(), "never happened: {missing:?}");
        }
        Err(broken) => panic!(
            "history {} is broken: {}\nrepeat it by\n  \
             FARROW_SIM_SEED={} cargo test -p server no_history_breaks_an_invariant -- --nocapture",
            broken.seed, broken.objection, broken.seed
        ),
    }
}

/// What must happen in so many histories, or they test less than they seem to.
const HAPPENS: [&str; 33] = [
    "agents crashed",
    "agents drained",
    "agents frozen",
    "agents left in the middle of something",
    "agents lost",
    "agents not known",
    "agents said to be dead",
    "agents taken for dead that may live",
    "jobs cancelled",
    "jobs deleted",
    "jobs retried",
    "leases ahead given to others",
    "leases asked for by idle slots",
    "leases given again after a lost answer",
    "leases given back",
    "leases lapsed",
    "leases revived",
    "leases revoked",
    "leases torn",
    "messages cut off",
    "messages late",
    "messages lost",
    "parts of leases given to others",
    "reports accepted before",
    "reports accepted of lapsed leases",
    "reports accepted of live leases",
    "reports that were stale",
    "servers crashed after the answer",
    "servers crashed before the commit",
    "servers crashed between commit and answer",
    "servers stopped after they had read the time",
    "submissions known before",
    "transactions failed",
];

#[test]
fn a_seed_gives_the_same_history_every_time() {
    let once = || run(0..10, None).unwrap();
    assert_eq!(once(), once());
}

#[test]
fn every_deliberate_bug_is_found_by_name() {
    let mut missed = Vec::new();
    for (bug, invariants) in Bug::ALL {
        match run(0..ENOUGH, Some(bug)) {
            Err(broken) => {
                println!("{bug:?}, found in history {}: {}", broken.seed, broken.objection);
                if !invariants.contains(&broken.objection.invariant) {
                    missed.push((bug, Some(broken.objection.invariant)));
                }
            }
            Ok(_) => missed.push((bug, None)),
        }
    }
    assert!(missed.is_empty(), "not found in {ENOUGH} histories, or taken for another: {missed:?}");
}
