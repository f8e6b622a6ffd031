//! Rules by which chunks are sized.

/// How many elements a chunk takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Ours: measured, with leases ahead and takeover.
    Ours,
    /// An even share for each slot, cut beforehand.
    Static,
    /// One element.
    Single,
    /// Guided self-scheduling (Polychronopoulos and Kuck, 1987): an even share of what is left.
    Guided,
    /// Factoring (Hummel, Schonberg and Flynn, 1992), in the form that knows nothing of the times
    /// (FAC2): rounds of equal chunks for all slots, each round half of what is left.
    Factoring,
}

/// Sizes of a rule that is not ours.
#[derive(Debug, Default)]
pub struct Sizes {
    /// Of factoring: the size of a round's chunks, and how many are left of them.
    round: (u64, u64),
}

impl Sizes {
    /// The size of the next chunk, of `total` elements of which `left` are left.
    pub fn next(&mut self, rule: Rule, total: u64, left: u64, slots: u64) -> Option<u64> {
        match rule {
            Rule::Ours => None,
            Rule::Static => Some(total.div_ceil(slots)),
            Rule::Single => Some(1),
            Rule::Guided => Some(left.div_ceil(slots)),
            Rule::Factoring => {
                if self.round.1 == 0 {
                    self.round = (left.div_ceil(2 * slots), slots);
                }
                self.round.1 -= 1;
                Some(self.round.0)
            }
        }
    }
}
