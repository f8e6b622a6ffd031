//! Which slots are free, and which leases wait for one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::demand::{Ahead, Demand};

/// The slots of an agent, numbered from 0.
#[derive(Debug)]
pub struct Slots {
    total: u32,
    book: Mutex<Book>,
    demand: watch::Sender<Demand>,
}

#[derive(Debug, Default)]
struct Book {
    free: BTreeSet<u32>,
    /// Leases that wait for slots, in order.
    waiting: VecDeque<Waiting>,
    n_waited: u64,
    ahead: Ahead,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    count: usize,
    claim: oneshot::Sender<Claim>,
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
        let book = Book { free: (0..total).collect(), ..Book::default() };
        let demand = watch::Sender::new(Demand { free: total, ahead: 0 });
        Arc::new(Self { total, book: Mutex::new(book), demand })
    }

    /// What the agent would be given, to be waited on.
    pub fn demand(&self) -> watch::Receiver<Demand> {
        self.demand.subscribe()
    }

    /// Gets in line for the lowest `count` free slots: who came first is served first. No lease takes
    /// more slots than there are.
    pub fn queue(self: &Arc<Self>, count: u32) -> Turn {
        let (sender, claimed) = oneshot::channel();
        let mut book = self.lock();
        book.n_waited += 1;
        let number = book.n_waited;
        let count = count.clamp(1, self.total.max(1)) as usize;
        book.waiting.push_back(Waiting { number, count, claim: sender });
        self.serve(&mut book);
        Turn { slots: Arc::clone(self), number, claimed }
    }

    /// Notes how long an element takes in a slot.
    pub fn note_pace(&self, slot: u32, element: Duration) {
        let mut book = self.lock();
        book.ahead.note_pace(slot, element);
        self.tell(&book);
    }

    /// Notes how long a way to the server and back took that it did not hold up.
    pub fn note_way(&self, took: Duration) {
        let mut book = self.lock();
        book.ahead.note_way(took);
        self.tell(&book);
    }

    /// Notes whether the server had more to lease when it gave some.
    pub fn note_more(&self, more: bool) {
        let mut book = self.lock();
        book.ahead.note_more(more);
        self.tell(&book);
    }

    /// Gives free slots to those who wait.
    fn serve(self: &Arc<Self>, book: &mut Book) {
        while let Some(first) = book.waiting.front() {
            let Some(slots) = book.take(first.count) else { break };
            let Some(first) = book.waiting.pop_front() else { break };
            let claim = Claim { slots, book: Arc::clone(self) };
            if let Err(mut unwanted) = first.claim.send(claim) {
                book.free.extend(std::mem::take(&mut unwanted.slots));
            }
        }
        self.tell(book);
    }

    fn tell(&self, book: &Book) {
        let now = book.demand();
        self.demand.send_if_modified(|demand| std::mem::replace(demand, now) != now);
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn demand(&self) -> Demand {
        // A slot that is free behind somebody who waits for several is not to be had.
        let free = if self.waiting.is_empty() { self.free.len() } else { 0 };
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        Demand { free, ahead: self.ahead.wanted(free, self.waiting.len()) }
    }

    /// Takes the lowest `count` free slots, if there are so many.
    fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        if self.free.len() < count {
            return None;
        }
        let slots: Vec<u32> = self.free.iter().copied().take(count).collect();
        self.free.retain(|slot| !slots.contains(slot));
        Some(slots)
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
        if self.slots.is_empty() {
            return;
        }
        let mut book = self.book.lock();
        book.free.extend(&self.slots);
        self.book.serve(&mut book);
    }
}

/// A place in the line for slots, left when it is dropped.
#[derive(Debug)]
pub struct Turn {
    slots: Arc<Slots>,
    number: u64,
    claimed: oneshot::Receiver<Claim>,
}

impl Turn {
    /// Waits for the slots and takes them.
    pub async fn claim(&mut self) -> Claim {
        match (&mut self.claimed).await {
            Ok(claim) => claim,
            // The sender stands in the line until it is used, or its place is given up.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut book = self.slots.lock();
        book.waiting.retain(|waiting| waiting.number != self.number);
        // It may have been what held up those behind it.
        self.slots.serve(&mut book);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn demand(slots: &Slots) -> (u32, u32) {
        let demand = *slots.demand().borrow();
        (demand.free, demand.ahead)
    }

    fn claim(slots: &Arc<Slots>, count: u32) -> Option<Claim> {
        slots.queue(count).claim().now_or_never()
    }

    #[test]
    fn claims_take_the_lowest_and_give_them_back() {
        let slots = Slots::new(4);
        let one = claim(&slots, 1).unwrap();
        let two = claim(&slots, 2).unwrap();
        assert_eq!((one.slots(), two.slots()), (&[0][..], &[1, 2][..]));
        assert!(claim(&slots, 2).is_none());
        assert_eq!(demand(&slots), (1, 0));
        drop(two);
        assert_eq!(demand(&slots), (3, 0));
        assert_eq!(claim(&slots, 2).unwrap().slots(), [1, 2]);
    }

    #[test]
    fn more_slots_than_there_are_means_all() {
        assert_eq!(claim(&Slots::new(2), 9).unwrap().slots(), [0, 1]);
    }

    #[test]
    fn who_came_first_is_served_first_however_many_slots_it_needs() {
        let slots = Slots::new(2);
        let [first, second] = [claim(&slots, 1).unwrap(), claim(&slots, 1).unwrap()];
        let (mut both, mut one) = (slots.queue(2), slots.queue(1));
        drop(first);
        assert!(one.claim().now_or_never().is_none(), "it would go past who needs both");
        assert_eq!(demand(&slots), (0, 0), "it is not to be had");
        drop(second);
        let claimed = both.claim().now_or_never().unwrap();
        assert_eq!(claimed.slots(), [0, 1]);
        drop(claimed);
        assert_eq!(one.claim().now_or_never().unwrap().slots(), [0]);
    }

    #[test]
    fn who_waits_no_more_holds_nobody_up_and_keeps_no_slot() {
        let slots = Slots::new(2);
        let claimed = claim(&slots, 1).unwrap();
        let (both, mut one) = (slots.queue(2), slots.queue(1));
        assert!(one.claim().now_or_never().is_none());
        drop(both);
        assert_eq!(one.claim().now_or_never().unwrap().slots(), [1]);
        let unused = slots.queue(1);
        assert_eq!(demand(&slots).0, 0, "it has its slot, and nobody has taken it");
        drop((unused, claimed));
        assert_eq!(demand(&slots).0, 2);
    }

    #[test]
    fn leases_that_wait_count_as_those_ahead() {
        let slots = Slots::new(2);
        let claims = [claim(&slots, 1).unwrap(), claim(&slots, 1).unwrap()];
        (0..2).for_each(|slot| slots.note_pace(slot, Duration::from_millis(1)));
        slots.note_more(true);
        assert_eq!(demand(&slots), (0, 2));
        let _waits = slots.queue(1);
        assert_eq!(demand(&slots), (0, 1));
        slots.note_pace(0, Duration::from_secs(2));
        assert_eq!(demand(&slots), (0, 0));
        slots.note_more(false);
        drop(claims);
        assert_eq!(demand(&slots), (1, 1), "it has its slot and waits no more");
    }
}
