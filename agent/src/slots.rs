//! Which slots are free, which leases wait for one, and how many the agent would have wait.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::agent::MOST_AHEAD;
use tokio::sync::{oneshot, watch};

/// Elements that take no longer are quick: a slot that runs such has its next lease fetched ahead, so
/// that it does not wait for the way to the server and back. The server gives leases ahead only of
/// elements that were measured to be as quick.
const QUICK: Duration = Duration::from_secs(1);

/// Leases that wait for a slot hold so much work at the least, where there is enough: so many are held
/// ahead a slot that they last for the way to the server and back. As the server's rule says
/// (`scheduler::chunking`).
const LEAST_OF_A_LEASE: Duration = Duration::from_millis(50);

/// The slots of an agent, numbered from 0.
#[derive(Debug)]
pub struct Slots {
    total: u32,
    book: Mutex<Book>,
    demand: watch::Sender<Demand>,
}

/// What the agent would be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Slots that have nothing to do.
    pub free: u32,
    /// Leases to hold beside, for slots that will soon have nothing to do.
    pub ahead: u32,
}

impl Demand {
    /// Whether there is any.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

#[derive(Debug, Default)]
struct Book {
    free: BTreeSet<u32>,
    /// Those whose last elements were quick.
    quick: BTreeSet<u32>,
    /// Leases that wait for slots, in order.
    waiting: VecDeque<Waiting>,
    n_waited: u64,
    /// The way to the server and back, as far as it is known.
    way: Option<Duration>,
    /// Whether the server had more to lease when it gave some last.
    more: bool,
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
        let has_changed =
            if element <= QUICK { book.quick.insert(slot) } else { book.quick.remove(&slot) };
        if has_changed {
            self.tell(&book);
        }
    }

    /// Notes how long a way to the server and back took that it did not hold up. A shorter one is believed
    /// at once, a longer one by an eighth.
    pub fn note_way(&self, took: Duration) {
        let mut book = self.lock();
        let known = book.way.unwrap_or(took);
        book.way = Some(took.min((known * 7 + took) / 8));
        self.tell(&book);
    }

    /// Notes whether the server had more to lease when it gave some. If not, leases ahead are asked for only
    /// along with slots that are free.
    pub fn note_more(&self, more: bool) {
        let mut book = self.lock();
        book.more = more;
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
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let wanted = book.quick.len() * book.ahead_of_a_slot();
        // A slot that is free behind somebody who waits for several is not to be had.
        let free = if book.waiting.is_empty() { book.free.len() } else { 0 };
        let is_worth_it = book.more || free > 0;
        let ahead = if is_worth_it { wanted.saturating_sub(book.waiting.len()) } else { 0 };
        let ahead = count(ahead);
        let now = Demand { free: count(free), ahead };
        self.demand.send_if_modified(|demand| std::mem::replace(demand, now) != now);
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Leases that a slot has ahead.
    fn ahead_of_a_slot(&self) -> usize {
        let way = self.way.unwrap_or_default().as_nanos();
        let lasting = way.div_ceil(LEAST_OF_A_LEASE.as_nanos()).max(1);
        usize::try_from(lasting).map_or(1, |lasting| lasting.min(MOST_AHEAD as usize))
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
    fn quick_slots_want_a_lease_ahead_each_and_those_that_wait_count() {
        let slots = Slots::new(2);
        let claims = [claim(&slots, 1).unwrap(), claim(&slots, 1).unwrap()];
        slots.note_pace(0, Duration::from_millis(1));
        slots.note_pace(1, QUICK);
        assert_eq!(demand(&slots), (0, 0), "there is nothing to be had");
        slots.note_more(true);
        assert_eq!(demand(&slots), (0, 2));
        let _waits = slots.queue(1);
        assert_eq!(demand(&slots), (0, 1));
        slots.note_pace(0, QUICK * 2);
        assert_eq!(demand(&slots), (0, 0));
        slots.note_more(false);
        drop(claims);
        assert_eq!(demand(&slots), (1, 1), "it has its slot and waits no more");
    }

    #[test]
    fn the_longer_the_way_the_more_is_ahead() {
        let slots = Slots::new(2);
        slots.note_pace(0, Duration::from_millis(1));
        for (millis, ahead) in [(4, 1), (50, 1), (1, 1)] {
            slots.note_way(Duration::from_millis(millis));
            assert_eq!(demand(&slots), (2, ahead), "{millis}");
        }
        (0..100).for_each(|_| slots.note_way(Duration::from_millis(201)));
        assert_eq!(demand(&slots), (2, 5), "a long way is believed when it stays");
        (0..100).for_each(|_| slots.note_way(Duration::from_secs(10)));
        assert_eq!(demand(&slots), (2, MOST_AHEAD));
        slots.note_way(Duration::from_millis(3));
        assert_eq!(demand(&slots), (2, 1));
    }
}
