//! Those who wait for a job to move. Memory holds only the waiting: what happened stands in the
//! database, and whoever is woken looks there.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::signals::{Outbound, Topic};

/// Waiters by what they wait for.
#[derive(Debug)]
pub struct Watchers<K> {
    waiting: Mutex<HashMap<K, Weak<Notify>>>,
    /// Tells the other servers of the database whom to wake, of what.
    others: Option<(Topic, Arc<Outbound>)>,
}

impl<K> Default for Watchers<K> {
    fn default() -> Self {
        Self { waiting: Mutex::new(HashMap::new()), others: None }
    }
}

impl<K: Eq + Hash + Clone + Display> Watchers<K> {
    /// Waiters of `topic`, at this server and, by `outbound`, at the others of its database.
    pub fn of(topic: Topic, outbound: Option<&Arc<Outbound>>) -> Self {
        let others = outbound.map(|outbound| (topic, Arc::clone(outbound)));
        Self { waiting: Mutex::new(HashMap::new()), others }
    }

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

    /// Wakes all who wait for `key`, at whichever server.
    pub fn wake(&self, key: &K) {
        self.wake_here(key);
        if let Some((topic, outbound)) = &self.others {
            outbound.tell(*topic, key);
        }
    }

    /// What somebody waits for at this server.
    pub fn keys(&self) -> Vec<K> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let with_waiter = waiting.iter().filter(|(_, notify)| notify.strong_count() > 0);
        with_waiter.map(|(key, _)| key.clone()).collect()
    }

    /// Wakes all who wait at this server, for whatever.
    pub fn wake_all_here(&self) {
        self.keys().iter().for_each(|key| self.wake_here(key));
    }

    /// Wakes all who wait for `key` at this server.
    pub fn wake_here(&self, key: &K) {
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
