//! Half-open ranges of element indexes, and ordered sets of them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The elements from `.0` up to, not including, `.1`. On the wire `[0, 8]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Range(pub u64, pub u64);

impl Range {
    /// How many elements it holds.
    pub fn len(self) -> u64 {
        self.1.saturating_sub(self.0)
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.1 <= self.0
    }

    /// Whether `index` lies in it.
    pub fn contains(self, index: u64) -> bool {
        self.0 <= index && index < self.1
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.0, self.1)
    }
}

/// Ranges in order, apart from one another, none empty. What a lease still holds is one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// The set that holds one range.
    pub fn from_range(range: Range) -> Self {
        Self(if range.is_empty() { Vec::new() } else { vec![range] })
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// How many elements it holds.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| range.len()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every element index, in order.
    pub fn indexes(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|range| range.0..range.1)
    }

    /// Whether all of `range` lies in it.
    pub fn contains(&self, range: Range) -> bool {
        self.0.iter().any(|own| own.0 <= range.0 && range.1 <= own.1)
    }

    /// Takes the elements of `range` out.
    pub fn remove(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let cut = |own: &Range| {
            [Range(own.0, own.1.min(range.0)), Range(own.0.max(range.1), own.1)]
                .into_iter()
                .filter(|piece| !piece.is_empty())
        };
        self.0 = self.0.iter().flat_map(cut).collect();
    }

    /// Puts the elements of `range` in, joining neighbours.
    pub fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let mut merged = range;
        let mut ranges = Vec::with_capacity(self.0.len() + 1);
        for own in self.0.drain(..) {
            if own.1 < merged.0 || merged.1 < own.0 {
                ranges.push(own);
            } else {
                merged = Range(own.0.min(merged.0), own.1.max(merged.1));
            }
        }
        let at = ranges.partition_point(|own| own.0 < merged.0);
        ranges.insert(at, merged);
        self.0 = ranges;
    }

    /// Splits off the elements that are also in `other` and leaves the rest.
    pub fn take_common(&mut self, other: &Self) -> Self {
        let before = self.clone();
        other.0.iter().for_each(|&range| self.remove(range));
        let mut common = before;
        self.0.iter().for_each(|&range| common.remove(range));
        common
    }

    /// Splits off the first `n` elements and leaves the rest.
    pub fn take(&mut self, n: u64) -> Self {
        let mut taken = Vec::new();
        let mut rest = Vec::new();
        let mut wanted = n;
        for range in self.0.drain(..) {
            let middle = range.0 + wanted.min(range.len());
            wanted -= middle - range.0;
            taken.extend(Some(Range(range.0, middle)).filter(|piece| !piece.is_empty()));
            rest.extend(Some(Range(middle, range.1)).filter(|piece| !piece.is_empty()));
        }
        self.0 = rest;
        Self(taken)
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        ranges.iter().map(|&(from, to)| Range(from, to)).collect()
    }

    #[test]
    fn insert_joins_neighbours_and_keeps_order() {
        assert_eq!(set(&[(5, 7), (0, 2), (2, 5)]).ranges(), &[Range(0, 7)]);
        assert_eq!(set(&[(5, 7), (0, 2)]).ranges(), &[Range(0, 2), Range(5, 7)]);
    }

    #[test]
    fn remove_cuts_in_the_middle() {
        let mut cut = set(&[(0, 10)]);
        cut.remove(Range(3, 5));
        assert_eq!(cut, set(&[(0, 3), (5, 10)]));
        assert!(cut.contains(Range(5, 10)));
        assert!(!cut.contains(Range(2, 4)));
    }

    #[test]
    fn what_is_common_is_taken_whatever_the_other_holds() {
        let mut own = set(&[(0, 3), (5, 10)]);
        let other = RangeSet(vec![Range(8, 20), Range(2, 6), Range(9, 9)]);
        assert_eq!(own.take_common(&other), set(&[(2, 3), (5, 6), (8, 10)]));
        assert_eq!(own, set(&[(0, 2), (6, 8)]));
        assert!(own.take_common(&set(&[(20, 30)])).is_empty());
        assert_eq!(own, set(&[(0, 2), (6, 8)]));
    }

    #[test]
    fn take_splits_across_ranges() {
        let mut rest = set(&[(0, 3), (5, 10)]);
        assert_eq!(rest.take(4), set(&[(0, 3), (5, 6)]));
        assert_eq!(rest, set(&[(6, 10)]));
        assert_eq!(rest.take(100), set(&[(6, 10)]));
        assert!(rest.is_empty());
    }
}
