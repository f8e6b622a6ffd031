//! What goes wrong in a history, and how often each of it happened in all.

use std::collections::BTreeMap;
use std::fmt;

use super::random::Random;

/// How often what goes wrong, of a thousand times; or how many times in all.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Messages that are lost.
    pub drop: u64,
    /// Messages that arrive when nobody waits for them any more.
    pub late: u64,
    /// Requests that arrive twice.
    pub duplicate: u64,
    /// Transactions that fail.
    pub fail: u64,
    /// Servers that crash before the commit, between commit and answer, after the answer.
    pub crash: [u64; 3],
    /// Requests that wait long for their transaction.
    pub stall: u64,
    /// Spans of time in which nothing gets through between two, in one direction or in both.
    pub cuts: u64,
    /// Servers that are stopped and started again.
    pub restarts: u64,
    /// Agents that are stopped for a while, as by SIGSTOP.
    pub freezes: u64,
    /// Agents that crash.
    pub agent_crashes: u64,
    /// Agents that, when they start, take another one for dead than the one whose place they take.
    pub false_deaths: u64,
    /// Agents that are told to drain.
    pub drains: u64,
}

impl Faults {
    /// Draws what goes wrong in a history: some kinds of faults often, others not at all, so that
    /// what only shows in the absence of another fault shows as well.
    pub fn draw(random: &mut Random) -> Self {
        let mut upto = |n: u64| if random.happens(500) { random.below(n + 1) } else { 0 };
        Self {
            drop: upto(120),
            late: upto(80),
            duplicate: upto(120),
            fail: upto(40),
            crash: [upto(25), upto(25), upto(25)],
            stall: upto(40),
            cuts: upto(3),
            restarts: upto(2),
            freezes: upto(2),
            agent_crashes: upto(3),
            drains: upto(1),
            false_deaths: upto(500),
        }
    }
}

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// It happened once more.
    pub fn saw(&mut self, what: &'static str) {
        self.saw_many(what, 1);
    }

    /// It happened so many times more.
    pub fn saw_many(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// How often it happened.
    pub fn count(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (what, n) in &other.0 {
            self.saw_many(what, *n);
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, n)| writeln!(f, "{n:>10}  {what}"))
    }
}
