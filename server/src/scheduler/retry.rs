//! What a retry runs again.

use protocol::{Range, RangeSet};

/// Ranges that one row of the job's leases holds at the most: a row is written whole with every
/// chunk that is taken from it.
pub const MAX_RANGES: usize = 256;

/// Collects, from outcomes in element order, which elements have no value.
#[derive(Debug, Default)]
pub struct Missing {
    next: u64,
    ranges: Vec<Range>,
}

impl Missing {
    /// Takes note that the elements from `first` on, `n` of them, have outcomes, of which those at
    /// the positions `errors` (ascending) are errors.
    pub fn outcomes(&mut self, first: u64, n: u64, errors: &[u32]) {
        self.lacks(Range(self.next, first));
        for &position in errors {
            let index = first + u64::from(position);
            self.lacks(Range(index, index + 1));
        }
        self.next = first + n;
    }

    /// The elements of a job of `total` that have no value, in order, neighbours joined.
    pub fn finish(mut self, total: u64) -> Vec<Range> {
        self.lacks(Range(self.next, total));
        self.ranges
    }

    fn lacks(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.1 == range.0 => last.1 = range.1,
            _ => self.ranges.push(range),
        }
    }
}

/// Divides `missing` among rows of bounded size.
pub fn rows(missing: &[Range]) -> Vec<RangeSet> {
    missing.chunks(MAX_RANGES).map(|some| some.iter().copied().collect()).collect()
}

/// Divides `missing` among the outer elements of a nested job, of which each has a row at the most:
/// it goes whole to one agent. `groups` are all of them, in order.
pub fn rows_by_group(missing: &[Range], groups: impl IntoIterator<Item = Range>) -> Vec<RangeSet> {
    let mut rows = Vec::new();
    let mut left = missing;
    for group in groups {
        let inside = |range: &Range| Range(range.0.max(group.0), range.1.min(group.1));
        // A range of neighbours may reach into the next groups.
        let n = left.partition_point(|range| range.0 < group.1);
        let row: RangeSet = left[..n].iter().map(inside).collect();
        let n_done = left[..n].partition_point(|range| range.1 <= group.1);
        left = &left[n_done..];
        rows.extend(Some(row).filter(|row| !row.is_empty()));
    }
    rows
}

/// The runs of values between the `errors` (positions, ascending) of `n` outcomes.
pub fn value_runs(n: u64, errors: &[u32]) -> Vec<Range> {
    let mut runs = Vec::with_capacity(errors.len() + 1);
    let mut from = 0;
    for &position in errors {
        let position = u64::from(position);
        runs.push(Range(from, position));
        from = position + 1;
    }
    runs.push(Range(from, n));
    runs.retain(|run| !run.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_has_no_value_is_run_again_and_nothing_else(
            // What became of each element: a value, an error, nothing; and where a piece ends.
            elements in prop::collection::vec((0..3_u8, any::<bool>()), 0..600),
            groups in prop::collection::vec(0..40_u64, 0..30),
        ) {
            let total = elements.len() as u64;
            let mut missing = Missing::default();
            let mut piece: Option<(u64, u64, Vec<u32>)> = None;
            let mut kept = 0;
            for (i, &(what, ends)) in (0_u64..).zip(&elements) {
                if (what == 2 || ends) && let Some((first, n, errors)) = piece.take() {
                    kept += value_runs(n, &errors).iter().map(|run| run.len()).sum::<u64>();
                    missing.outcomes(first, n, &errors);
                }
                if what == 2 {
                    continue;
                }
                let (first, n, errors) = piece.get_or_insert((i, 0, Vec::new()));
                if what == 1 {
                    errors.push((i - *first) as u32);
                }
                *n += 1;
            }
            if let Some((first, n, errors)) = piece {
                kept += value_runs(n, &errors).iter().map(|run| run.len()).sum::<u64>();
                missing.outcomes(first, n, &errors);
            }
            let missing = missing.finish(total);
            let expected: Vec<u64> =
                (0..total).filter(|&i| elements[i as usize].0 != 0).collect();
            prop_assert_eq!(kept, total - expected.len() as u64);

            let rows = rows(&missing);
            let indexes: Vec<u64> = rows.iter().flat_map(RangeSet::indexes).collect();
            prop_assert_eq!(&indexes, &expected);
            prop_assert!(rows.iter().all(|row| (1..=MAX_RANGES).contains(&row.ranges().len())));

            // Outer elements that hold all of them.
            let (mut first, mut outer) = (0, Vec::new());
            for n in groups.into_iter().chain([total]) {
                let end = total.min(first + n);
                outer.push(Range(first, end));
                first = end;
            }
            let rows = rows_by_group(&missing, outer.clone());
            let indexes: Vec<u64> = rows.iter().flat_map(RangeSet::indexes).collect();
            prop_assert_eq!(&indexes, &expected);
            for row in rows {
                let inside = |group: &Range| row.indexes().all(|index| group.contains(index));
                prop_assert!(outer.iter().any(inside), "a row of two outer elements");
            }
        }
    }
}
