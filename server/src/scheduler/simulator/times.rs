//! How long elements take: made from a seed, or recorded.

use super::{MILLI, Nanos, SECOND};
use crate::simulation::random::Random;

/// 1,000 fits of local regressions, as one tunes them: R's `loess(mag ~ long + lat)` on bootstrap samples
/// of `quakes` (150, 250, 400 or 600 rows, drawn for each), fitted and predicted for all rows, over the
/// grid span 0.2 to 1, degree 1 and 2, statistics approximate and exact, in that order. Microseconds,
/// by wall clock, of a single R 4.2.2 on a machine that had other work: mean 63 ms, standard deviation 1.9
/// times that, largest 800 ms.
const LOCAL_REGRESSIONS: &str = include_str!("local_regressions.txt");

/// Elements of most maps.
const N: usize = 1000;

/// The spread of lognormal times.
const SIGMA: f64 = 1.5;

/// Names of maps, with the times of their elements.
pub fn all() -> Vec<(&'static str, Vec<Nanos>)> {
    vec![
        ("constant", vec![20 * MILLI; N]),
        ("uniform", uniform(1)),
        ("lognormal", lognormal(1)),
        ("bimodal", bimodal(1)),
        ("ascending", ascending(1)),
        ("descending", ascending(1).into_iter().rev().collect()),
        ("giant last", giant_at(N - 1)),
        ("giant first", giant_at(0)),
        ("8 of 1 s, 56 short", eight_long()),
        ("100,000 of 20 us", vec![20_000; 100_000]),
        ("resumed", resumed()),
        ("local regressions", local_regressions()),
    ]
}

/// 8 elements of 1 s, then 56 of 0.05 s.
pub fn eight_long() -> Vec<Nanos> {
    let time = |i| if i < 8 { SECOND } else { SECOND / 20 };
    (0..64).map(time).collect()
}

/// A map that goes on after a crash: 20,000 elements find their results there in 5 us, then 40 of 250 ms do not.
pub fn resumed() -> Vec<Nanos> {
    let time = |i| if i < 20_000 { 5_000 } else { SECOND / 4 };
    (0..20_040).map(time).collect()
}

/// Lognormal with sigma 1.5 and mean 20 ms.
pub fn lognormal(seed: u64) -> Vec<Nanos> {
    let mut random = Random::new(seed);
    let mu = 0.02_f64.ln() - SIGMA * SIGMA / 2.0;
    (0..N).map(|_| nanos((mu + SIGMA * normal(&mut random)).exp())).collect()
}

fn uniform(seed: u64) -> Vec<Nanos> {
    let mut random = Random::new(seed);
    (0..N).map(|_| nanos(0.04 * unit(&mut random))).collect()
}

/// One in ten takes eleven times as long.
fn bimodal(seed: u64) -> Vec<Nanos> {
    let mut random = Random::new(seed);
    (0..N).map(|_| if random.happens(100) { 110 * MILLI } else { 10 * MILLI }).collect()
}

fn ascending(seed: u64) -> Vec<Nanos> {
    let mut times = lognormal(seed);
    times.sort_unstable();
    times
}

/// Constant but for one of 2 s.
pub fn giant_at(index: usize) -> Vec<Nanos> {
    let mut times = vec![20 * MILLI; N];
    times[index] = 2 * SECOND;
    times
}

fn local_regressions() -> Vec<Nanos> {
    let micros = LOCAL_REGRESSIONS.lines().map(|line| line.parse::<Nanos>());
    micros.map(|micros| micros.expect("a number a line") * 1000).collect()
}

fn nanos(seconds: f64) -> Nanos {
    (seconds * SECOND as f64) as Nanos
}

/// Standard normal, by the transform of Box and Muller (1958).
fn normal(random: &mut Random) -> f64 {
    let (one, other) = (1.0 - unit(random), unit(random));
    (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
}

/// From 0 up to, not including, 1.
fn unit(random: &mut Random) -> f64 {
    random.below(1 << 53) as f64 / (1_u64 << 53) as f64
}
