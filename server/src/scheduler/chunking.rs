//! How many elements a lease takes.
//!
//! The rule needs no tuning by the user. It starts with single elements, one for every idle slot,
//! and measures. Then a lease is to hold about [`TARGET_SECONDS`] of work, so that the cost of a
//! lease (a few milliseconds) vanishes, and never more than half of an even share of what is left,
//! so that the last chunks are small and the slots end together. That is guided self-scheduling
//! (Polychronopoulos and Kuck, 1987) with a factor of two against its known weakness, a first
//! chunk that is too large when times vary (Hummel, Schonberg and Flynn's factoring, 1992).

/// Seconds of work that a lease is to hold.
pub const TARGET_SECONDS: f64 = 1.0;

/// A lease takes at most an even share of what is left, divided by this.
pub const SHARE_DIVISOR: u64 = 2;

/// A lease takes at most so many times the elements that were measured: one quick element says
/// little about a million others.
pub const EVIDENCE_FACTOR: u64 = 16;

/// Bytes of input that an adaptive lease is to hold at the most.
pub const MAX_BYTES: u64 = 1 << 20;

/// What is known of a job's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Elements finished.
    pub elements: u64,
    /// Seconds that they ran, added up.
    pub seconds: f64,
}

/// The elements that a lease of a job takes, at least 1.
///
/// `left` are the elements not leased, `slots` the slots that share them, `bytes` the mean size of
/// an element.
pub fn adaptive(measured: Measured, left: u64, slots: u64, bytes: u64) -> u64 {
    if measured.elements == 0 {
        return 1;
    }
    // The cast saturates, which is what a mean of nothing needs.
    let mean = measured.seconds / measured.elements as f64;
    let by_time = (TARGET_SECONDS / mean.max(1e-9)) as u64;
    let by_share = left.div_ceil(SHARE_DIVISOR * slots.max(1));
    let by_evidence = measured.elements.saturating_mul(EVIDENCE_FACTOR);
    let by_bytes = MAX_BYTES / bytes.max(1);
    by_time.min(by_share).min(by_evidence).min(by_bytes).max(1)
}

/// Whether `n` elements were measured to take no longer than a lease is to hold: the way to the
/// server and back is worth hiding behind them.
pub fn is_quick(measured: Measured, n: u64) -> bool {
    let mean = measured.seconds / measured.elements as f64;
    measured.elements > 0 && mean * n as f64 <= TARGET_SECONDS
}

/// The fixed size that furrr's `scheduling` means: `total` elements in `scheduling` chunks a slot.
pub fn from_scheduling(scheduling: f64, total: u64, slots: u64) -> u64 {
    let chunks = (scheduling * slots.max(1) as f64).round().max(1.0) as u64;
    total.div_ceil(chunks.max(1)).max(1)
}
