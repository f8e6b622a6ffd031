//! Those who wait for a job to move. Memory holds only the waiting: what happened stands in the
//! database, and whoever is woken looks there.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

/// Waiters by what they wait for.
#[derive(Debug)]
pub struct Watchers<K> {
    waiting: Mutex<HashMap<K, Weak<Notify>>>,
}

impl<K> Default for Watchers<K> {
    fn default() -> Self {
        Self { waiting: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash + Clone> Watchers<K> {
    /// Registers a waiter. Register first, then look, then wait on it: nothing is missed.
    pub fn register(&self, key: &K) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(key).and_then(Weak::upgrade) {
            return notify;
        }
        // Entries whose waiters have gone are cleared whenever the table would grow.
        if waiting.len() == waiting.capacity() {
            waiting.retain(|_, notify| notify.strong_count() > 0);
        }
        let notify = Arc::new(Notify::new());
        waiting.insert(key.clone(), Arc::downgrade(&notify));
        notify
    }

    /// Wakes all who wait for `key`.
    pub fn wake(&self, key: &K) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get(key).map(Weak::upgrade) {
            Some(Some(notify)) => notify.notify_waiters(),
            Some(None) => drop(waiting.remove(key)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_between_registering_and_waiting_is_not_missed() {
        let watchers = Watchers::default();
        let notify = watchers.register(&1);
        let woken = notify.notified();
        watchers.wake(&1);
        woken.await;
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let watchers = Watchers::default();
        for key in 0..10_000 {
            drop(watchers.register(&key));
        }
        assert!(watchers.waiting.lock().unwrap().len() < 100);
    }
}
