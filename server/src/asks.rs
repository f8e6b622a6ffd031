//! What is asked of busy agents on behalf of slots that have nothing to do. It stands in memory, as do
//! those who wait: an ask that is lost with a heartbeat's answer or with a server is made again when
//! an agent next waits with nothing to do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{AgentId, LeaseId};

use crate::clock::Millis;
use crate::scheduler::takeover::Spare;
use crate::signals::{Outbound, Topic};
use crate::watchers::Watchers;

/// Milliseconds after which a lease may be asked for again, and an ask that no heartbeat has taken is
/// forgotten.
const AGAIN: Millis = 1000;

/// The leases of which something is wanted.
#[derive(Debug)]
pub struct Asks {
    asks: Mutex<HashMap<LeaseId, Ask>>,
    /// Heartbeats that wait for orders.
    agent_watchers: Arc<Watchers<AgentId>>,
    /// Tells the other servers of the database.
    outbound: Option<Arc<Outbound>>,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    at: Millis,
    /// A heartbeat here has taken it.
    is_taken: bool,
}

impl Asks {
    /// With nothing asked.
    pub fn new(agent_watchers: Arc<Watchers<AgentId>>, outbound: Option<Arc<Outbound>>) -> Self {
        Self { asks: Mutex::default(), agent_watchers, outbound }
    }

    /// The leases that have been asked for not long before `now`.
    pub fn recent(&self, now: Millis) -> HashSet<LeaseId> {
        let mut asks = self.lock();
        asks.retain(|_, ask| now - ask.at < AGAIN);
        asks.keys().copied().collect()
    }

    /// Asks the holders of these leases, at whichever server they hold their heartbeats.
    pub fn ask(&self, wanted: &[Spare], now: Millis) {
        for spare in wanted {
            self.heard(spare.lease, now);
            if let Some(outbound) = &self.outbound {
                outbound.tell(Topic::Wanted, &spare.lease);
            }
            self.agent_watchers.wake(&spare.holder);
        }
    }

    /// Notes that the holders of these leases have given: they may be asked for more.
    pub fn given(&self, leases: impl Iterator<Item = LeaseId>) {
        let mut asks = self.lock();
        for lease in leases {
            asks.remove(&lease);
        }
    }

    /// Notes that a lease is wanted.
    pub fn heard(&self, lease: LeaseId, now: Millis) {
        self.lock().insert(lease, Ask { at: now, is_taken: false });
    }

    /// Those of the leases `held` by an agent that are wanted, each once.
    pub fn take(&self, held: &[LeaseId], now: Millis) -> Vec<LeaseId> {
        let mut asks = self.lock();
        let mut is_wanted = |lease: &&LeaseId| match asks.get_mut(lease) {
            Some(ask) if !ask.is_taken && now - ask.at < AGAIN => {
                ask.is_taken = true;
                true
            }
            _ => false,
        };
        held.iter().filter(|lease| is_wanted(lease)).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Ask>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use protocol::JobId;

    use super::*;

    #[test]
    fn an_ask_is_taken_once_by_the_holder_and_made_again_only_after_a_while() {
        let asks = Asks::new(Arc::default(), None);
        let (wanted, other) = (LeaseId::new(), LeaseId::new());
        let (holder, job) = (AgentId::new(), JobId::new());
        asks.ask(&[Spare { lease: wanted, holder, job, elements: 3, age: 0 }], 10);
        assert_eq!(asks.take(&[other], 11), []);
        assert_eq!(asks.take(&[other, wanted], 11), [wanted]);
        assert_eq!(asks.take(&[other, wanted], 12), []);
        assert!(asks.recent(10 + AGAIN - 1).contains(&wanted));
        assert!(asks.recent(10 + AGAIN).is_empty());
    }

    #[test]
    fn who_has_given_may_be_asked_for_more() {
        let asks = Asks::new(Arc::default(), None);
        let wanted = LeaseId::new();
        asks.heard(wanted, 10);
        assert_eq!(asks.take(&[wanted], 11), [wanted]);
        asks.given([wanted].into_iter());
        assert!(asks.recent(12).is_empty());
    }

    #[test]
    fn an_ask_that_nobody_took_is_forgotten() {
        let asks = Asks::new(Arc::default(), None);
        let wanted = LeaseId::new();
        asks.heard(wanted, 10);
        assert_eq!(asks.take(&[wanted], 10 + AGAIN), []);
    }
}
