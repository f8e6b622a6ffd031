//! What a report and a loss change in a lease.

use protocol::{Range, RangeSet};

/// Agents that may be lost while they hold an element before it is given up: it may be the element
/// that takes its machine down. Apart from `retries`, for most lost agents are no element's fault.
pub const MAX_LOST_AGENTS: u32 = 10;

/// From so many lost agents on, elements are leased one by one, so that only the guilty one fails.
pub const SINGLE_AFTER_LOST: u32 = 3;

/// From so many lost agents on, elements of a job are suspects: one of them at the most is on an
/// agent at a time. So the guilty one loses its last agents without its neighbours, who would be
/// given up with it.
pub const SUSPECT_AFTER_LOST: u32 = 7;

/// Takes the elements of `piece` out of what a lease holds.
///
/// Says whether they were accepted: all of them must remain. What was reported before, or leased
/// anew, does not remain, and nothing changes.
pub fn accept(remaining: &mut RangeSet, piece: Range) -> bool {
    let accepted = !piece.is_empty() && remaining.contains(piece);
    if accepted {
        remaining.remove(piece);
    }
    accepted
}

/// What becomes of a lease whose agent was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    /// What remains can be leased anew, with this many lost agents on its account.
    Return {
        /// Agents lost so far.
        lost: u32,
    },
    /// The one element that remains is given up.
    GiveUp {
        /// Its index.
        element: u64,
    },
}

/// Decides what becomes of what remains of a lease whose agent was lost.
pub fn after_loss(remaining: &RangeSet, lost: u32) -> AfterLoss {
    let lost = lost + 1;
    match remaining.ranges() {
        [range] if range.len() == 1 && lost >= MAX_LOST_AGENTS => {
            AfterLoss::GiveUp { element: range.0 }
        }
        _ => AfterLoss::Return { lost },
    }
}

/// How many elements of a returned range of `n` to lease at once: fewer, the more agents were lost
/// with it. A chunk that is to stay `whole` (fixed by the user, or an outer element) does so until
/// it is clear that one of its elements is at fault.
pub fn narrowed(n: u64, lost: u32, whole: bool) -> u64 {
    match lost {
        SINGLE_AFTER_LOST.. => 1,
        _ if whole => n,
        _ => n >> lost,
    }
    .max(1)
}
