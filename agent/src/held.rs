//! The leases that the agent holds: what it tells the server, and how it hears that one is not
//! its own any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::LeaseId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Leases from the moment they are received until everything of them is accepted or given back.
#[derive(Debug, Default)]
pub struct Held(Mutex<Leases>);

#[derive(Debug, Default)]
struct Leases {
    held: BTreeMap<LeaseId, Tokens>,
    /// Those that were revoked and are still being ended, by what is cancelled when they are.
    ending: BTreeMap<LeaseId, CancellationToken>,
    /// Requests for work that were begun.
    asked: u64,
    /// Those that ended because nothing of them was left, the latest at the end, each with the number of
    /// the request that was the last to be begun before.
    ended: VecDeque<(LeaseId, u64)>,
}

/// Ended leases that are remembered: more than end while a request for work is on its way.
const REMEMBERED: usize = 4096;

#[derive(Clone, Debug, Default)]
struct Tokens {
    revoked: CancellationToken,
    ended: CancellationToken,
    wanted: Arc<Notify>,
}

/// One holding of a lease. The server may give a lease again that it has revoked; then the next
/// holding begins before this one has ended.
#[derive(Debug)]
pub struct Holding {
    lease: LeaseId,
    tokens: Tokens,
    /// Cancelled when the holding before, which was revoked, has ended.
    before: Option<CancellationToken>,
}

impl Holding {
    /// Cancelled when the lease is revoked.
    pub fn revoked(&self) -> &CancellationToken {
        &self.tokens.revoked
    }

    /// Waits until an idle slot elsewhere wants what has not begun of the lease.
    pub async fn wanted(&self) {
        self.tokens.wanted.notified().await;
    }

    /// Waits until no earlier holding of the lease runs or throws away outcomes.
    pub async fn alone(&self) {
        if let Some(before) = &self.before {
            before.cancelled().await;
        }
    }
}

impl Held {
    /// Counts a request for work that is about to be sent. Gives its number.
    pub fn ask(&self) -> u64 {
        let mut leases = self.lock();
        leases.asked += 1;
        leases.asked
    }

    /// Holds a lease from now on that was given to request number `asked`. Nothing when it is held already,
    /// or has ended since that request: the server gave it twice, because an answer seemed lost.
    pub fn insert(&self, lease: LeaseId, asked: u64) -> Option<Holding> {
        let mut leases = self.lock();
        let has_ended = |&(ended, at): &(LeaseId, u64)| ended == lease && at >= asked;
        if leases.held.contains_key(&lease) || leases.ended.iter().rev().any(has_ended) {
            return None;
        }
        let tokens = Tokens::default();
        leases.held.insert(lease, tokens.clone());
        Some(Holding { lease, tokens, before: leases.ending.remove(&lease) })
    }

    /// All that are held.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.lock().held.keys().copied().collect()
    }

    /// Ends a holding. If the lease was revoked and has been given again, it stays held.
    pub fn end(&self, holding: &Holding) {
        let mut leases = self.lock();
        holding.tokens.ended.cancel();
        // What was revoked is not held by this holding any more, but perhaps by the next.
        if !holding.tokens.revoked.is_cancelled() {
            leases.held.remove(&holding.lease);
            let asked = leases.asked;
            leases.ended.push_back((holding.lease, asked));
            if leases.ended.len() > REMEMBERED {
                leases.ended.pop_front();
            }
        }
        leases.ending.retain(|_, ended| !ended.is_cancelled());
    }

    /// Says of these leases that an idle slot elsewhere wants what has not begun.
    pub fn want(&self, wanted: &[LeaseId]) {
        let leases = self.lock();
        for tokens in wanted.iter().filter_map(|lease| leases.held.get(lease)) {
            tokens.wanted.notify_one();
        }
    }

    /// Stops what runs of these leases.
    pub fn revoke(&self, revoked: &[LeaseId]) {
        let mut leases = self.lock();
        for lease in revoked {
            if let Some(tokens) = leases.held.remove(lease) {
                tracing::info!(%lease, "lease revoked");
                tokens.revoked.cancel();
                leases.ending.insert(*lease, tokens.ended);
            }
        }
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_lease_is_held_once_and_revoked_once() {
        let held = Held::default();
        let lease = LeaseId::new();
        let holding = held.insert(lease, 1).unwrap();
        assert!(held.insert(lease, 1).is_none());
        assert_eq!(held.ids(), [lease]);
        held.revoke(&[lease, LeaseId::new()]);
        assert!(holding.revoked().is_cancelled() && held.ids().is_empty());
    }

    #[test]
    fn the_end_of_a_revoked_holding_leaves_the_next_one_alone() {
        let held = Held::default();
        let lease = LeaseId::new();
        let first = held.insert(lease, 1).unwrap();
        held.revoke(&[lease]);
        let second = held.insert(lease, 1).unwrap();
        assert!(first.alone().now_or_never().is_some());
        assert!(second.alone().now_or_never().is_none(), "the first still runs");
        held.end(&first);
        assert!(second.alone().now_or_never().is_some());
        assert_eq!(held.ids(), [lease]);
        held.end(&second);
        let leases = held.lock();
        assert!(leases.held.is_empty() && leases.ending.is_empty());
    }

    #[test]
    fn a_lease_that_has_ended_is_not_run_again_for_an_answer_that_was_on_its_way() {
        let held = Held::default();
        let lease = LeaseId::new();
        let (first, second) = (held.ask(), held.ask());
        let holding = held.insert(lease, first).unwrap();
        held.end(&holding);
        assert!(held.insert(lease, second).is_none(), "it was asked before the lease ended");
        assert!(held.insert(LeaseId::new(), second).is_some());
        // Who did not list it and is given it all the same is to run it.
        let third = held.ask();
        assert!(held.insert(lease, third).is_some());
    }
}
