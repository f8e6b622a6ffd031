//! How many elements a lease takes.
//!
//! **The problem.** Nobody knows how long elements take before they have run. Chunks that are too small
//! make slots wait for the server and the server busy with leases; what is in one chunk runs one after the
//! other, so that chunks that are too large end late, above all if one element in them takes far longer
//! than the others.
//!
//! **The rule** needs no tuning by the user. It starts with single elements, one for every idle slot, and
//! measures. Then a lease holds an even share of what is left, divided by [`SHARE_DIVISOR`]: that is large
//! while much is left and fine at the end. It holds at least [`LEAST_SECONDS`] of work, so that the way to
//! the server and back, behind a lease ahead, is hidden; and at most [`TARGET_SECONDS`], which is enough for
//! the cost of a lease to vanish. Whatever these say, it never holds more than half an even share, so that
//! the last `2 * slots` elements are leased one by one. Only if half an even share is less than
//! [`WORTH_SECONDS`] of work, which is not worth a lease, it holds that, but no more than an even share; or
//! what takes no longer than [`LITTLE_SECONDS`]. A slot that has nothing to do though it should have
//! had leases ahead shows that they are too short for the way to the server: its agent gets half a share,
//! also ahead.
//!
//! **The bounds.** Let what is left be `r` seconds of work for each slot when a chunk is cut, and elements
//! take what was measured. The chunk takes no longer than an element, or `max(r / 8, LEAST_SECONDS)`; and it
//! begins at once, or ahead, behind one that was cut when hardly more was left and is about as long. While
//! `r` is above twice `LEAST_SECONDS`, both together end before `r` has passed, which is before the map can
//! end. So only chunks that are cut later can hold it up, by no more than themselves and the one they wait
//! for: twice `LEAST_SECONDS`, a tenth of a second (more above 100 slots, see [`MOST_LEASES_A_SECOND`]).
//! At the very end a chunk may be an even share, but then it takes no longer than `WORTH_SECONDS`.
//! Chunks for slots that had nothing to do are larger: behind a long way, and where an agent joins late, the
//! bound is `r / 2`.
//!
//! Times are not what was measured: they vary, and those of elements that finish first are shorter than the
//! mean. Hence the divisor is 8 where 2 would do for equal times. A giant begins later than it would alone by
//! what stands before it in its chunk and in the one behind which that waits, about a quarter of what was
//! then left; with a divisor of 2 it would be all of it. What stands behind a giant is not held up by it:
//! idle slots take it over ([`super::takeover`]). What remains is the giant's own time, which no size of
//! chunks can shorten.
//!
//! **Papers.** An even share of what is left is guided self-scheduling (Polychronopoulos and Kuck, 1987). Its
//! known weakness is a first chunk that is too large when times vary; factoring (Hummel, Schonberg and
//! Flynn, 1992) therefore gives half a share, in rounds. Here the fraction is smaller: leases ahead make a
//! chunk cheaper, and lengthen what an element may wait behind. Chunks need not be fine enough for the worst
//! case, because they can be divided after they were given, as in work stealing (Blumofe and Leiserson,
//! 1999). `simulator` shows whole maps under these rules side by side.

/// Seconds of work that a lease is to hold at the most.
pub const TARGET_SECONDS: f64 = 1.0;

/// Seconds of work that a lease is to hold at the least: some ways to the server and back, so that the next
/// lease ahead is there before this one is done.
pub const LEAST_SECONDS: f64 = 0.05;

/// Leases a second to all slots together, above which leases are to hold more.
pub const MOST_LEASES_A_SECOND: f64 = 2000.0;

/// A lease is to take an even share of what is left, divided by this.
pub const SHARE_DIVISOR: u64 = 8;

/// A lease takes at most an even share of what is left, divided by this, also if that is less than
/// [`LEAST_SECONDS`].
pub const LEAST_SHARE_DIVISOR: u64 = 2;

/// Seconds of work that are worth a lease, which takes some milliseconds from the one who asks to the one
/// who has its outcomes: without this the last of a hundred thousand elements of microseconds were leased in
/// forty leases one after the other, each for less than its own way.
pub const WORTH_SECONDS: f64 = 0.004;

/// Seconds of work that are not worth being divided at all. Few elements, because what they take was measured
/// of others: those at the end may be the ones that take long.
pub const LITTLE_SECONDS: f64 = 0.000_25;

/// From so many elements a slot on, slots have leases ahead. One that has nothing to do all the same shows
/// that the way to the server is long.
pub const SETTLED_AFTER: u64 = 2;

/// A lease takes at most so many times the elements that were measured: one quick element says
/// little about a million others.
pub const EVIDENCE_FACTOR: u64 = 16;

/// Bytes of input that an adaptive lease is to hold at the most.
pub const MAX_BYTES: u64 = 1 << 20;

/// Bytes that an element counts beside its own: its length, index and place on the way to a worker and back.
/// Of elements of a few bytes a lease would otherwise hold so many that an agent's memory grew with the map.
pub const ELEMENT_BYTES: u64 = 64;

/// What is known of a job's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Elements finished.
    pub elements: u64,
    /// Seconds that they ran, added up.
    pub seconds: f64,
}

impl Measured {
    /// Seconds that an element takes; none, if nothing was measured.
    fn mean(self) -> Option<f64> {
        (self.elements > 0).then(|| self.seconds / self.elements as f64)
    }

    /// Elements that take so many seconds; none, if nothing was measured.
    fn elements_in(self, seconds: f64) -> u64 {
        // The cast saturates, which is what a mean of nothing needs.
        self.mean().map_or(0, |mean| (seconds / mean.max(1e-9)) as u64)
    }
}

/// The elements that a lease of a job takes, at least 1.
///
/// `left` are the elements not leased, `slots` the slots that share them, `bytes` the mean size of
/// an element.
pub fn adaptive(measured: Measured, left: u64, slots: u64, bytes: u64) -> u64 {
    let by_share = left.div_ceil(SHARE_DIVISOR * slots.max(1));
    bounded(by_share.max(least(measured, slots)), measured, left, slots, bytes)
}

/// The same for an agent of which slots have nothing to do: as much as there may be, once leases ahead
/// should have kept them at work.
pub fn for_idle(measured: Measured, left: u64, slots: u64, bytes: u64) -> u64 {
    if measured.elements < SETTLED_AFTER * slots {
        return adaptive(measured, left, slots, bytes);
    }
    bounded(u64::MAX, measured, left, slots, bytes)
}

/// The elements below which a lease does not hide its way. No more than each slot has run: what finishes
/// first is short, so that a young mean would have it take too much.
fn least(measured: Measured, slots: u64) -> u64 {
    lasting(LEAST_SECONDS.max(slots as f64 / MOST_LEASES_A_SECOND), measured, slots)
}

/// The elements that last for so long, as far as that is known.
fn lasting(seconds: f64, measured: Measured, slots: u64) -> u64 {
    measured.elements_in(seconds).min(measured.elements / slots.max(1))
}

/// What a lease takes that would take `wanted`.
fn bounded(wanted: u64, measured: Measured, left: u64, slots: u64, bytes: u64) -> u64 {
    let by_share = left.div_ceil(LEAST_SHARE_DIVISOR * slots.max(1));
    let most = left.div_ceil(slots.max(1)).max(lasting(LITTLE_SECONDS, measured, slots));
    let by_share = by_share.max(lasting(WORTH_SECONDS, measured, slots).min(most));
    let by_time = measured.elements_in(TARGET_SECONDS);
    let by_evidence = measured.elements.saturating_mul(EVIDENCE_FACTOR);
    let by_bytes = MAX_BYTES / bytes.saturating_add(ELEMENT_BYTES);
    wanted.min(by_share).min(by_time).min(by_evidence).min(by_bytes).max(1)
}

/// Whether `n` elements were measured to take no longer than a lease is to hold: the way to the
/// server and back is worth hiding behind them. (With twice the limit an agent whose slots ran elements of 1 s held the next
/// two of these when another's slots were free: 8 of 1 s and 56 of 0.05 s on 4 slots took 1.13 of the bound, not 1.02.)
pub fn is_quick(measured: Measured, n: u64) -> bool {
    measured.mean().is_some_and(|mean| mean * n as f64 <= TARGET_SECONDS)
}

/// The fixed size that furrr's `scheduling` means: `total` elements in `scheduling` chunks a slot.
pub fn from_scheduling(scheduling: f64, total: u64, slots: u64) -> u64 {
    let chunks = (scheduling * slots.max(1) as f64).round().max(1.0) as u64;
    total.div_ceil(chunks.max(1)).max(1)
}
