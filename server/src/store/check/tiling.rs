//! That each element is in one place, once. Pure.

use protocol::Range;

/// Where elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which.
    pub range: Range,
    /// What holds them, in words.
    pub holder: String,
}

/// What is wrong with pieces that must hold every element from 0 to `end` once and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Elements that none holds.
    pub nowhere: Vec<String>,
    /// Elements that a second one holds, or that there are not.
    pub others: Vec<String>,
}

impl Faults {
    /// All of it.
    pub fn all(self) -> impl Iterator<Item = String> {
        self.nowhere.into_iter().chain(self.others)
    }
}

/// Finds what is wrong with `pieces`.
pub fn faults(mut pieces: Vec<Piece>, end: u64) -> Faults {
    pieces.retain(|piece| !piece.range.is_empty());
    pieces.sort_by_key(|piece| (piece.range.0, piece.range.1));
    let (mut faults, mut next, mut last) = (Faults::default(), 0, String::new());
    for Piece { range, holder } in pieces {
        if range.0 < next {
            let both = Range(range.0, range.1.min(next));
            faults.others.push(format!("{} both {last} and {holder}", are(both)));
        } else if range.0 > next && next < end {
            faults.nowhere.push(format!("{} nowhere", are(Range(next, range.0.min(end)))));
        }
        if range.1 > end {
            let beyond = Range(range.0.max(end), range.1);
            faults.others.push(format!("{} {holder}, beyond {end}", are(beyond)));
        }
        if range.1 > next {
            (next, last) = (range.1, holder);
        }
    }
    if next < end {
        faults.nowhere.push(format!("{} nowhere", are(Range(next, end))));
    }
    faults
}

fn are(Range(from, to): Range) -> String {
    match to - from {
        1 => format!("element {from} is"),
        _ => format!("elements {from} to {} are", to - 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pieces(ranges: &[(u64, u64)]) -> Vec<Piece> {
        let piece = |(i, range): (usize, &(u64, u64))| Piece {
            range: Range(range.0, range.1),
            holder: format!("in {i}"),
        };
        ranges.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn each_fault_is_named() {
        assert_eq!(faults(pieces(&[(4, 9), (0, 4), (7, 7)]), 9), Faults::default());
        assert_eq!(faults(Vec::new(), 1).nowhere, ["element 0 is nowhere"]);
        let found = faults(pieces(&[(2, 5), (4, 6)]), 9);
        assert_eq!(found.nowhere, ["elements 0 to 1 are nowhere", "elements 6 to 8 are nowhere"]);
        assert_eq!(found.others, ["element 4 is both in 0 and in 1"]);
        let found: Vec<_> = faults(pieces(&[(0, 5)]), 3).all().collect();
        assert_eq!(found, ["elements 3 to 4 are in 0, beyond 3"]);
    }

    proptest! {
        #[test]
        fn there_is_none_exactly_when_each_element_is_in_one_place(
            ranges in prop::collection::vec((0..12_u64, 0..5_u64), 0..6),
            end in 0..12_u64,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(from, n)| (from, from + n)).collect();
            let all: Vec<u64> = ranges.iter().flat_map(|range| range.0..range.1).collect();
            let distinct: BTreeSet<u64> = all.iter().copied().collect();
            let is_right = distinct.len() == all.len() && distinct.into_iter().eq(0..end);
            prop_assert_eq!(faults(pieces(&ranges), end) == Faults::default(), is_right);
        }
    }
}
