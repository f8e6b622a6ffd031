//! Chance that can be repeated: every draw follows from a seed, which a failing test prints.

use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The variable that repeats a run.
const VARIABLE: &str = "FARROW_SEED";

/// A source of numbers.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The source of a seed, for something of this name: each name has numbers of its own, so that
    /// one of many things can be repeated by itself.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, which is the same on every machine and in every version.
        let of_name = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { state: seed ^ of_name }
    }

    /// A number from 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept, as many as fit")]
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        share
    }

    /// A number from `from` to `to`, without `to`.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        let width = u64::try_from(to - from).unwrap_or(u64::MAX);
        from + usize::try_from(self.next() % width).unwrap_or(0)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.between(0, of.len())]
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The seed of this run: that of the variable `FARROW_SEED`, else another one each time. Printed,
/// so that a failure can be repeated.
///
/// # Panics
/// When the variable holds no number.
pub fn seed() -> u64 {
    let seed = match env::var(VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{VARIABLE}={text} is no number")),
        // Short, so that it can be typed.
        Err(_) => RandomState::new().build_hasher().finish() % 1_000_000,
    };
    eprintln!("seed: {VARIABLE}={seed} repeats what was drawn");
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_give_the_same_numbers_again() {
        let draw = |seed, name| {
            let mut chance = Chance::new(seed, name);
            [(); 4].map(|()| chance.between(0, 1_000_000))
        };
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut chance = Chance::new(7, "");
        let mut seen = [false; 3];
        for _ in 0..100 {
            seen[chance.between(10, 13) - 10] = true;
            assert!((0.0..1.0).contains(&chance.share()));
        }
        assert_eq!(seen, [true; 3]);
    }
}
