//! How many leases the agent would be given: for slots that are free, and ahead of those that will be.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::agent::MOST_AHEAD;

/// Elements that take no longer are quick: a slot that runs such has its next lease fetched ahead, so
/// that it does not wait for the way to the server and back. The server gives leases ahead only of
/// elements that were measured to be as quick.
const QUICK: Duration = Duration::from_secs(1);

/// Leases that wait for a slot hold so much work at the least, where there is enough: so many are held
/// ahead a slot that they last for the way to the server and back. As the server's rule says
/// (`scheduler::chunking`).
const LEAST_OF_A_LEASE: Duration = Duration::from_millis(50);

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

/// What is known of how many leases should wait for slots.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Slots whose last elements were quick.
    quick: BTreeSet<u32>,
    /// The way to the server and back, as far as it is known.
    way: Option<Duration>,
    /// Whether the server had more to lease when it gave some last.
    more: bool,
}

impl Ahead {
    /// Notes how long an element takes in a slot.
    pub fn note_pace(&mut self, slot: u32, element: Duration) {
        if element <= QUICK {
            self.quick.insert(slot);
        } else {
            self.quick.remove(&slot);
        }
    }

    /// Notes how long a way to the server and back took that it did not hold up. A shorter one is believed
    /// at once, a longer one by an eighth.
    pub fn note_way(&mut self, took: Duration) {
        let known = self.way.unwrap_or(took);
        self.way = Some(took.min((known * 7 + took) / 8));
    }

    /// Notes whether the server had more to lease when it gave some. If not, leases ahead are asked for only
    /// along with slots that are free.
    pub fn note_more(&mut self, more: bool) {
        self.more = more;
    }

    /// Leases to be asked for ahead when so many slots are free and so many leases wait.
    pub fn wanted(&self, free: u32, n_waiting: usize) -> u32 {
        if !self.more && free == 0 {
            return 0;
        }
        let all = self.quick.len() * self.of_a_slot();
        u32::try_from(all.saturating_sub(n_waiting)).unwrap_or(u32::MAX)
    }

    /// Leases that a slot has ahead.
    fn of_a_slot(&self) -> usize {
        let way = self.way.unwrap_or_default().as_nanos();
        let lasting = way.div_ceil(LEAST_OF_A_LEASE.as_nanos()).max(1);
        usize::try_from(lasting).map_or(1, |lasting| lasting.min(MOST_AHEAD as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_slots_want_a_lease_ahead_each_while_there_is_something_to_be_had() {
        let mut ahead = Ahead::default();
        ahead.note_pace(0, Duration::from_millis(1));
        ahead.note_pace(1, QUICK);
        assert_eq!(ahead.wanted(0, 0), 0, "there is nothing to be had");
        assert_eq!(ahead.wanted(1, 0), 2, "along with what is asked for anyway");
        ahead.note_more(true);
        assert_eq!((ahead.wanted(0, 0), ahead.wanted(0, 1), ahead.wanted(0, 3)), (2, 1, 0));
        ahead.note_pace(0, QUICK * 2);
        assert_eq!(ahead.wanted(0, 0), 1);
    }

    #[test]
    fn the_longer_the_way_the_more_is_ahead() {
        let mut ahead = Ahead::default();
        ahead.note_more(true);
        ahead.note_pace(0, Duration::from_millis(1));
        for millis in [4, 50, 1] {
            ahead.note_way(Duration::from_millis(millis));
            assert_eq!(ahead.wanted(0, 0), 1, "{millis}");
        }
        (0..100).for_each(|_| ahead.note_way(Duration::from_millis(201)));
        assert_eq!(ahead.wanted(0, 0), 5, "a long way is believed when it stays");
        (0..100).for_each(|_| ahead.note_way(Duration::from_secs(10)));
        assert_eq!(ahead.wanted(0, 0), MOST_AHEAD);
        ahead.note_way(Duration::from_millis(3));
        assert_eq!(ahead.wanted(0, 0), 1);
    }
}
