//! Random streams: what an element's random numbers begin with, from the job's seed and the
//! element's index alone.
//!
//! For R they are exactly those of `furrr_options(seed = …)`: L'Ecuyer's MRG32k3a, of which element
//! *i* gets the first substream of the *i*-th stream. A stream is a jump of 2^127 steps, and a jump
//! is a product with a matrix, so *i* streams ahead is one power of it, in O(log *i*) (L'Ecuyer,
//! Simard, Chen and Kelton: An object-oriented random-number package with many long streams and
//! substreams, 2002).

use std::sync::LazyLock;

use protocol::job::Seed;
use sha2::{Digest, Sha256};

/// The modulus of the first three numbers of a state, and of the last three.
const MODULI: [u64; 2] = [4_294_967_087, 4_294_944_443];

/// The first number of a `.Random.seed`: L'Ecuyer-CMRG, inversion, rejection.
const KIND: i32 = 10_407;

/// Streams are so many doublings of a step apart, and substreams.
const STREAM: u32 = 127;
const SUBSTREAM: u32 = 76;

/// A state of R's generator L'Ecuyer-CMRG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream([[u64; 3]; 2]);

impl Stream {
    /// What `set.seed(seed, kind = "L'Ecuyer-CMRG")` makes of a number.
    pub fn from_number(seed: i32) -> Self {
        let mut word = seed.cast_unsigned();
        let mut next = || {
            word = word.wrapping_mul(69_069).wrapping_add(1);
            u64::from(word)
        };
        for _ in 0..50 {
            next();
        }
        let mut below = || {
            loop {
                let word = next();
                if word < MODULI[1] {
                    return word;
                }
            }
        };
        Self(std::array::from_fn(|_| std::array::from_fn(|_| below())))
    }

    /// A `.Random.seed`: the kind, and six numbers, which R shows as signed.
    ///
    /// # Errors
    /// When R would not take it for one of kind L'Ecuyer-CMRG.
    pub fn from_state(state: &[i64]) -> Result<Self, String> {
        let [kind, numbers @ ..] = state else {
            return Err("it is empty".into());
        };
        let Ok(numbers) = <[i64; 6]>::try_from(numbers) else {
            return Err(format!("it holds {} numbers, not seven", state.len()));
        };
        if *kind != i64::from(KIND) {
            return Err(format!("its first number is {kind}, not {KIND}"));
        }
        let mut halves = [[0; 3]; 2];
        for (at, number) in numbers.into_iter().enumerate() {
            let word = i32::try_from(number).map(i32::cast_unsigned);
            let word = word.or_else(|_| u32::try_from(number)).map_err(|_| {
                format!("its number {} is {number}, which is beyond 32 bits", at + 2)
            })?;
            if u64::from(word) >= MODULI[at / 3] {
                return Err(format!("its number {} is {number}, beyond the generator's", at + 2));
            }
            halves[at / 3][at % 3] = u64::from(word);
        }
        if halves.contains(&[0; 3]) {
            return Err("three of its numbers, which belong together, are all 0".into());
        }
        Ok(Self(halves))
    }

    /// What a job's elements begin with in R; `None` if the job has no seed.
    ///
    /// # Errors
    /// When R takes no such seed.
    pub fn of(seed: Option<&Seed>) -> Result<Option<Self>, String> {
        match seed {
            None | Some(Seed::Drawn(_)) => Ok(None),
            Some(Seed::State(state)) => Self::from_state(state).map(Some),
            Some(Seed::Number(number)) => match i32::try_from(*number) {
                Ok(number) if number != i32::MIN => Ok(Some(Self::from_number(number))),
                _ => Err(format!("it is {number}, and R's integers end at 2147483647")),
            },
        }
    }

    /// `nextRNGStream()`, so many times.
    pub fn jump(self, streams: u64) -> Self {
        let [first, second] = &*STREAM_MATRICES;
        self.times(&[first.power(streams, MODULI[0]), second.power(streams, MODULI[1])])
    }

    /// `nextRNGStream()`.
    pub fn next_stream(self) -> Self {
        self.times(&STREAM_MATRICES)
    }

    /// `nextRNGSubStream()`.
    pub fn next_substream(self) -> Self {
        self.times(&SUBSTREAM_MATRICES)
    }

    /// As R has it in `.Random.seed`.
    pub fn random_seed(self) -> [i32; 7] {
        let mut seed = [KIND; 7];
        for (place, number) in seed[1..].iter_mut().zip(self.0.as_flattened()) {
            *place = u32::try_from(*number).unwrap_or_default().cast_signed();
        }
        seed
    }

    fn times(self, matrices: &[Matrix; 2]) -> Self {
        let [first, second] = self.0;
        Self([matrices[0].apply(first, MODULI[0]), matrices[1].apply(second, MODULI[1])])
    }
}

/// The `.Random.seed` of elements of a job, one after the other: the first is reached by a power,
/// and the next ones, which mostly are neighbours, by steps.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    start: Stream,
    /// The stream of the element asked for last, and its index.
    stream: Stream,
    index: u64,
}

impl Seeds {
    /// Those of a job whose seed is `stream`.
    pub fn new(stream: Stream) -> Self {
        Self { start: stream, stream, index: 0 }
    }

    /// Where the element of that index begins.
    pub fn at(&mut self, index: u64) -> [i32; 7] {
        self.stream = match index.checked_sub(self.index) {
            None => self.start.jump(index),
            Some(0) => self.stream,
            Some(1) => self.stream.next_stream(),
            Some(gap) => self.stream.jump(gap),
        };
        self.index = index;
        self.stream.next_substream().random_seed()
    }
}

/// What a command's element finds in `FARROW_SEED`: the first 63 bits of the SHA-256 of the text
/// `seed:index`. All 256 of them are what Python's `random` is seeded with.
pub fn command_seed(seed: i64, index: u64) -> u64 {
    let digest = Sha256::digest(format!("{seed}:{index}"));
    let (first, _) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first) >> 1
}

static STREAM_MATRICES: LazyLock<[Matrix; 2]> = LazyLock::new(|| doubled(STREAM));
static SUBSTREAM_MATRICES: LazyLock<[Matrix; 2]> = LazyLock::new(|| doubled(SUBSTREAM));

/// The matrices of 2^`doublings` steps of the generator.
fn doubled(doublings: u32) -> [Matrix; 2] {
    let first = Matrix([[0, 1, 0], [0, 0, 1], [MODULI[0] - 810_728, 1_403_580, 0]]);
    let second = Matrix([[0, 1, 0], [0, 0, 1], [MODULI[1] - 1_370_589, 0, 527_612]]);
    let mut matrices = [first, second];
    for (matrix, modulus) in matrices.iter_mut().zip(MODULI) {
        for _ in 0..doublings {
            *matrix = matrix.times(matrix, modulus);
        }
    }
    matrices
}

/// A matrix of numbers below a modulus, which is below 2^32: a product of two fits, reduced a sum
/// of three.
#[derive(Clone, Copy, Debug)]
struct Matrix([[u64; 3]; 3]);

impl Matrix {
    const IDENTITY: Self = Self([[1, 0, 0], [0, 1, 0], [0, 0, 1]]);

    fn apply(&self, vector: [u64; 3], modulus: u64) -> [u64; 3] {
        self.0.map(|row| {
            row.iter().zip(vector).fold(0, |sum, (a, b)| (sum + a * b % modulus) % modulus)
        })
    }

    fn times(&self, other: &Self, modulus: u64) -> Self {
        let column = |at: usize| other.0.map(|row| row[at]);
        let columns: [[u64; 3]; 3] = std::array::from_fn(|at| self.apply(column(at), modulus));
        Self(std::array::from_fn(|row| std::array::from_fn(|at| columns[at][row])))
    }

    fn power(&self, mut exponent: u64, modulus: u64) -> Self {
        let (mut power, mut square) = (Self::IDENTITY, *self);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = power.times(&square, modulus);
            }
            square = square.times(&square, modulus);
            exponent >>= 1;
        }
        power
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = i32> {
        any::<i32>().prop_filter("R's NA is no seed", |number| *number != i32::MIN)
    }

    proptest! {
        #[test]
        fn a_power_is_as_many_steps(seed in numbers(), steps in 0_u64..200, more in 0_u64..200) {
            let start = Stream::from_number(seed);
            let stepped = (0..steps).fold(start, |stream, _| stream.next_stream());
            prop_assert_eq!(start.jump(steps), stepped);
            prop_assert_eq!(stepped.jump(more), start.jump(steps + more));
        }

        #[test]
        fn jumps_add_up(seed in numbers(), far in any::<u32>(), farther in any::<u32>()) {
            let start = Stream::from_number(seed);
            let (far, farther) = (u64::from(far), u64::from(farther));
            prop_assert_eq!(start.jump(far).jump(farther), start.jump(far + farther));
        }

        #[test]
        fn a_state_is_what_it_was_read_from(seed in numbers()) {
            let stream = Stream::from_number(seed);
            let state = stream.random_seed().map(i64::from);
            prop_assert_eq!(Stream::from_state(&state), Ok(stream));
        }

        #[test]
        fn seeds_do_not_depend_on_where_they_begin(seed in numbers(), first in 0_u64..1_000_000) {
            let stream = Stream::from_number(seed);
            let mut from_first = Seeds::new(stream);
            for index in [first, first + 1, first + 2, first + 7, first + 7, first + 1] {
                prop_assert_eq!(from_first.at(index), Seeds::new(stream).at(index));
            }
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let good = [10_407, 1, 2, 3, 4, 5, 6];
        assert!(Stream::from_state(&good).is_ok());
        let bad: [&[i64]; 6] = [
            &[],
            &good[..6],
            &[403, 1, 2, 3, 4, 5, 6],
            &[10_407, 1 << 33, 2, 3, 4, 5, 6],
            &[10_407, -1, 2, 3, 4, 5, 6],
            &[10_407, 1, 2, 3, 0, 0, 0],
        ];
        for state in bad {
            assert!(Stream::from_state(state).is_err(), "{state:?}");
        }
        assert!(Stream::of(Some(&Seed::Number(1 << 31))).is_err());
        assert_eq!(Stream::of(None), Ok(None));
    }

    #[test]
    fn a_commands_seed_is_63_bits_of_a_digest() {
        // printf 123:0 | sha256sum
        assert_eq!(command_seed(123, 0), 8_415_436_888_256_694_055);
        assert_ne!(command_seed(123, 1), command_seed(123, 0));
        assert_ne!(command_seed(12, 30), command_seed(123, 0));
    }
}
