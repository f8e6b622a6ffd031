//! The leases that the agent holds: what it tells the server, and how it hears that one is not
//! its own any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::LeaseId;
use tokio_util::sync::CancellationToken;

/// Leases from the moment they are received until everything of them is accepted or given back.
#[derive(Debug, Default)]
pub struct Held(Mutex<BTreeMap<LeaseId, CancellationToken>>);

impl Held {
    /// Holds a lease from now on. The token is cancelled when the lease is revoked. Nothing when it
    /// is held already: the server gave it twice, because an answer seemed lost.
    pub fn insert(&self, lease: LeaseId) -> Option<CancellationToken> {
        let mut held = self.lock();
        if held.contains_key(&lease) {
            return None;
        }
        let revoked = CancellationToken::new();
        held.insert(lease, revoked.clone());
        Some(revoked)
    }

    /// All that are held.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.lock().keys().copied().collect()
    }

    /// Holds a lease no longer.
    pub fn remove(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }

    /// Stops what runs of these leases.
    pub fn revoke(&self, leases: &[LeaseId]) {
        let mut held = self.lock();
        for lease in leases {
            if let Some(revoked) = held.remove(lease) {
                tracing::info!(%lease, "lease revoked");
                revoked.cancel();
            }
        }
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_once_and_revoked_once() {
        let held = Held::default();
        let lease = LeaseId::new();
        let revoked = held.insert(lease).unwrap();
        assert!(held.insert(lease).is_none());
        assert_eq!(held.ids(), [lease]);
        held.revoke(&[lease, LeaseId::new()]);
        assert!(revoked.is_cancelled() && held.ids().is_empty());
    }
}
