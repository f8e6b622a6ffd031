//! Which slots are free.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The slots of an agent, numbered from 0.
#[derive(Debug)]
pub struct Slots {
    total: u32,
    free: Mutex<BTreeSet<u32>>,
    count: watch::Sender<u32>,
}

/// Slots that are taken until this is dropped, in order.
#[derive(Debug)]
pub struct Claim {
    slots: Vec<u32>,
    book: Arc<Slots>,
}

impl Slots {
    /// This many slots, all free.
    pub fn new(total: u32) -> Arc<Self> {
        let free = Mutex::new((0..total).collect());
        Arc::new(Self { total, free, count: watch::Sender::new(total) })
    }

    /// The number of free slots, to be waited on.
    pub fn watch(&self) -> watch::Receiver<u32> {
        self.count.subscribe()
    }

    /// Takes the lowest `count` free slots, or none if there are fewer. No lease takes more slots
    /// than there are.
    pub fn claim(self: &Arc<Self>, count: u32) -> Option<Claim> {
        let count = count.clamp(1, self.total) as usize;
        let mut free = self.lock();
        if free.len() < count {
            return None;
        }
        let slots: Vec<u32> = free.iter().copied().take(count).collect();
        free.retain(|slot| !slots.contains(slot));
        self.tell(&free);
        Some(Claim { slots, book: Arc::clone(self) })
    }

    /// Waits for so many free slots and takes them.
    pub async fn wait(self: &Arc<Self>, count: u32) -> Claim {
        let mut changes = self.watch();
        loop {
            if let Some(claim) = self.claim(count) {
                return claim;
            }
            changes.changed().await.ok();
        }
    }

    fn tell(&self, free: &BTreeSet<u32>) {
        self.count.send_replace(u32::try_from(free.len()).unwrap_or(u32::MAX));
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// The slots, lowest first.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut free = self.book.lock();
        free.extend(&self.slots);
        self.book.tell(&free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_take_the_lowest_and_give_them_back() {
        let slots = Slots::new(4);
        let one = slots.claim(1).unwrap();
        let two = slots.claim(2).unwrap();
        assert_eq!((one.slots(), two.slots()), (&[0][..], &[1, 2][..]));
        assert!(slots.claim(2).is_none());
        assert_eq!(*slots.watch().borrow(), 1);
        drop(two);
        assert_eq!(*slots.watch().borrow(), 3);
        assert_eq!(slots.claim(2).unwrap().slots(), [1, 2]);
    }

    #[test]
    fn more_slots_than_there_are_means_all() {
        assert_eq!(Slots::new(2).claim(9).unwrap().slots(), [0, 1]);
    }
}
