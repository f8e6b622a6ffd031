//! The elements of one lease: which are still to run, and which have killed their worker.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protocol::{Range, RangeSet};

/// One element to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its index in the job.
    pub index: u64,
    /// Its input: JSON text, or bytes in the job's encoding.
    pub input: Bytes,
}

/// What is left of a lease. Several workers may draw from it; each takes the next elements, so
/// that a slow one holds up only itself.
#[derive(Debug)]
pub struct Chunk {
    waiting: VecDeque<Element>,
    /// So many at the front are to run alone: one of them killed a worker that ran several.
    suspects: usize,
    /// Runs of single elements that came to no outcome: they killed their worker, or ended with an
    /// error after which the job runs them again.
    deaths: BTreeMap<u64, u32>,
    retries: u32,
    /// Elements without an outcome, in flight or waiting.
    unfinished: usize,
    /// Frames of several elements that are being run.
    loans: usize,
    /// How often elements have come back from behind a slow one.
    returns: u64,
    /// No more is to be taken: the job cannot be run.
    closed: bool,
}

/// Whether there is more to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// There is.
    More,
    /// Only if elements come back of a frame of several.
    Perhaps,
    /// There is not, but for an element that its own lane runs again.
    None,
}

/// What a death in a frame of its own means for an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// It is run again.
    Again,
    /// It has been run this often, and fails.
    Out(u32),
}

impl Chunk {
    /// All of a lease, with the deaths that single elements caused under earlier leases.
    pub fn new(elements: VecDeque<Element>, deaths: BTreeMap<u64, u32>, retries: u32) -> Self {
        let unfinished = elements.len();
        Self {
            waiting: elements,
            suspects: 0,
            deaths,
            retries,
            unfinished,
            loans: 0,
            returns: 0,
            closed: false,
        }
    }

    /// Whether more is to be taken.
    pub fn prospect(&self) -> Prospect {
        match (self.closed, self.waiting.is_empty()) {
            (false, false) => Prospect::More,
            (false, true) if self.loans > 0 => Prospect::Perhaps,
            _ => Prospect::None,
        }
    }

    /// Notes that the run of several elements that were taken together is over.
    pub fn end_loan(&mut self) {
        self.loans -= 1;
    }

    /// Elements that have no outcome yet.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// How often single elements have killed their worker.
    pub fn deaths(&self) -> &BTreeMap<u64, u32> {
        &self.deaths
    }

    /// How often an element has been run once it has its outcome.
    pub fn attempts(&self, index: u64) -> u32 {
        self.deaths.get(&index).map_or(1, |deaths| deaths + 1)
    }

    /// Takes the next elements: at most `count`, and no more than `bytes` of input unless the
    /// first alone is larger. An element that has killed a worker, or may have, comes alone. When several have
    /// been run, or some of them, that is told by [`Chunk::end_loan`].
    pub fn take(&mut self, count: usize, bytes: usize) -> Vec<Element> {
        if self.closed {
            return Vec::new();
        }
        let count = if self.suspects > 0 { 1 } else { count.max(1) };
        let mut taken: Vec<Element> = Vec::new();
        let mut size = 0;
        while let Some(next) = self.waiting.front() {
            size += next.input.len();
            let alone = self.deaths.contains_key(&next.index);
            let fits = taken.len() < count && size <= bytes && !alone;
            if !taken.is_empty() && !fits {
                break;
            }
            taken.extend(self.waiting.pop_front());
            if alone {
                break;
            }
        }
        self.suspects = self.suspects.saturating_sub(taken.len());
        self.loans += usize::from(taken.len() > 1);
        taken
    }

    /// Takes out half of what has not begun, the last of it, for a slot elsewhere that has nothing to do.
    /// Nothing where workers have died: what is to run alone, and what has killed before, stays.
    pub fn spare(&mut self) -> RangeSet {
        let n_kept = self.waiting.len() / 2;
        let has_killed = |element: &Element| self.deaths.contains_key(&element.index);
        if self.closed || self.suspects > 0 || self.waiting.iter().skip(n_kept).any(has_killed) {
            return RangeSet::default();
        }
        let given = self.waiting.split_off(n_kept);
        self.unfinished -= given.len();
        given.iter().map(|element| Range(element.index, element.index + 1)).collect()
    }

    /// Gives back elements that stand behind a slow one: they may be as slow, whoever takes them.
    pub fn give_back_behind_slow(&mut self, elements: Vec<Element>) {
        self.returns += 1;
        self.give_back(elements);
    }

    /// How often elements have been given back that may be slow.
    pub fn returns(&self) -> u64 {
        self.returns
    }

    /// Gives back elements that were taken but not run: they come next, behind those that are to run alone.
    pub fn give_back(&mut self, elements: Vec<Element>) {
        let suspects = self.waiting.drain(..self.suspects).collect();
        self.put_first(elements);
        self.put_first(suspects);
    }

    fn put_first(&mut self, elements: Vec<Element>) {
        for element in elements.into_iter().rev() {
            self.waiting.push_front(element);
        }
    }

    /// Gives back the elements of a frame in which the worker died: each is run alone now, so that
    /// the one at fault shows.
    pub fn narrow(&mut self, elements: Vec<Element>) {
        self.suspects += elements.len();
        self.put_first(elements);
    }

    /// Counts the death of a worker that ran this element alone.
    pub fn strike(&mut self, element: &Element) -> Strike {
        let deaths = self.deaths.entry(element.index).or_default();
        *deaths += 1;
        if *deaths > self.retries {
            return Strike::Out(*deaths);
        }
        self.narrow(vec![element.clone()]);
        Strike::Again
    }

    /// Counts a run that ended with an error of the element's own, where such are run again. Whether
    /// this one is; if not, the error is its outcome.
    pub fn may_run_again(&mut self, index: u64) -> bool {
        let failures = self.deaths.get(&index).copied().unwrap_or_default();
        let may = failures < self.retries && !self.closed;
        if may {
            self.deaths.insert(index, failures + 1);
        }
        may
    }

    /// Notes that `count` elements have their outcomes.
    pub fn finish(&mut self, count: usize) {
        self.unfinished -= count;
    }

    /// Stops handing out elements.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(indexes: std::ops::Range<u64>) -> Chunk {
        let elements = indexes.map(|index| Element { index, input: Bytes::from_static(b"1234") });
        Chunk::new(elements.collect(), BTreeMap::new(), 1)
    }

    fn indexes(elements: &[Element]) -> Vec<u64> {
        elements.iter().map(|element| element.index).collect()
    }

    #[test]
    fn takes_no_more_than_wanted_nor_than_fits() {
        let mut chunk = chunk(0..10);
        assert_eq!(indexes(&chunk.take(3, 100)), [0, 1, 2]);
        assert_eq!(indexes(&chunk.take(10, 8)), [3, 4]);
        assert_eq!(indexes(&chunk.take(10, 1)), [5], "one that is too large still goes");
        assert_eq!(chunk.unfinished(), 10);
    }

    #[test]
    fn half_of_what_has_not_begun_can_be_spared_unless_workers_have_died() {
        let mut one = chunk(0..10);
        let begun = one.take(3, 100);
        assert_eq!(one.spare().ranges(), [Range(6, 10)]);
        assert_eq!(one.unfinished(), 6);
        assert_eq!(indexes(&one.take(100, 100)), [3, 4, 5]);
        assert!(one.spare().is_empty(), "all has begun");
        let mut last = chunk(0..1);
        assert_eq!(last.spare().ranges(), [Range(0, 1)]);
        assert_eq!((last.prospect(), last.unfinished()), (Prospect::None, 0));
        let mut narrowed = chunk(0..4);
        narrowed.narrow(begun);
        assert!(narrowed.spare().is_empty());
        let elements = (0..4).map(|index| Element { index, input: Bytes::new() }).collect();
        let mut with_killer = Chunk::new(elements, BTreeMap::from([(3, 1)]), 2);
        assert!(with_killer.spare().is_empty());
    }

    #[test]
    fn after_a_death_the_rest_of_the_frame_runs_alone_and_then_frames_grow_again() {
        let mut chunk = chunk(0..10);
        let mut frame = chunk.take(4, 100);
        chunk.finish(1);
        chunk.narrow(frame.split_off(1));
        for index in 1..4 {
            assert_eq!(indexes(&chunk.take(100, 100)), [index]);
        }
        assert_eq!(indexes(&chunk.take(100, 100)), [4, 5, 6, 7, 8, 9]);
        assert!(chunk.deaths().is_empty(), "nobody is to blame yet");
    }

    #[test]
    fn more_may_come_back_while_a_frame_of_several_is_run() {
        let mut chunk = chunk(0..4);
        assert_eq!(chunk.prospect(), Prospect::More);
        let frame = chunk.take(4, 100);
        assert_eq!(chunk.prospect(), Prospect::Perhaps);
        chunk.give_back(frame);
        chunk.end_loan();
        assert_eq!(chunk.prospect(), Prospect::More);
        chunk.take(4, 100);
        chunk.end_loan();
        assert_eq!(chunk.prospect(), Prospect::None);
    }

    #[test]
    fn what_was_not_begun_comes_back_behind_what_is_to_run_alone() {
        let mut chunk = chunk(0..8);
        let (mut slow, died) = (chunk.take(3, 100), chunk.take(2, 100));
        chunk.narrow(died);
        chunk.give_back(slow.split_off(1));
        let frames: Vec<_> = (0..3).map(|_| indexes(&chunk.take(100, 100))).collect();
        assert_eq!(frames, [vec![3], vec![4], vec![1, 2, 5, 6, 7]]);
    }

    #[test]
    fn an_element_that_keeps_killing_is_out_after_its_retries() {
        let mut chunk = chunk(0..2);
        let first = chunk.take(1, 100).remove(0);
        assert_eq!(chunk.strike(&first), Strike::Again);
        let again = chunk.take(100, 100);
        assert_eq!(indexes(&again), [0]);
        assert_eq!(chunk.strike(&again[0]), Strike::Out(2));
        assert_eq!(indexes(&chunk.take(100, 100)), [1]);
        assert_eq!((chunk.attempts(0), chunk.attempts(1)), (3, 1));
    }

    #[test]
    fn errors_and_deaths_are_counted_together() {
        let elements = (0..2).map(|index| Element { index, input: Bytes::new() }).collect();
        let mut chunk = Chunk::new(elements, BTreeMap::from([(1, 1)]), 2);
        assert!(chunk.may_run_again(0) && chunk.may_run_again(0) && !chunk.may_run_again(0));
        assert!(chunk.may_run_again(1) && !chunk.may_run_again(1));
        assert_eq!((chunk.attempts(0), chunk.attempts(1)), (3, 3));
    }

    #[test]
    fn deaths_under_earlier_leases_count() {
        let elements = VecDeque::from([Element { index: 7, input: Bytes::new() }]);
        let mut chunk = Chunk::new(elements, BTreeMap::from([(7, 1)]), 1);
        let element = chunk.take(1, 1).remove(0);
        assert_eq!(chunk.strike(&element), Strike::Out(2));
    }

    #[test]
    fn a_known_killer_never_shares_a_frame() {
        let elements = (0..4).map(|index| Element { index, input: Bytes::new() }).collect();
        let mut chunk = Chunk::new(elements, BTreeMap::from([(2, 1)]), 2);
        let frames: Vec<_> = (0..3).map(|_| indexes(&chunk.take(100, 100))).collect();
        assert_eq!(frames, [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn a_closed_chunk_gives_nothing() {
        let mut chunk = chunk(0..2);
        chunk.close();
        assert!(chunk.take(1, 1).is_empty());
        assert_eq!((chunk.prospect(), chunk.unfinished()), (Prospect::None, 2));
    }
}
