//! Doubles that must come through to the last bit.

/// A JSON array of numbers, flat or nested, with each number read to its nearest double. (A JSON
/// library may be off by a unit in the last place.)
///
/// # Panics
/// When something in it is no number.
pub fn parse(json: &str) -> Vec<f64> {
    json.split(['[', ']', ',', ' ', '\n'])
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().unwrap_or_else(|_| panic!("not a number: {text}")))
        .collect()
}

/// The bits of doubles, for comparing.
pub fn bits(doubles: &[f64]) -> Vec<u64> {
    doubles.iter().map(|double| double.to_bits()).collect()
}

/// `n` finite doubles of every size: extreme and subnormal ones first, then random bits. The same
/// ones each time (SplitMix64, Steele, Lea and Flood 2014).
pub fn of_every_size(n: usize) -> Vec<f64> {
    let extremes = [
        0.0,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
        f64::EPSILON,
        f64::from_bits(1),
        -f64::from_bits(1),
        f64::from_bits((1 << 52) - 1),
        9_007_199_254_740_993.0,
        0.1 + 0.2,
        1.0 / 3.0,
        -1e-300,
        123_456_789_012_345_680.0,
    ];
    let mut state = 42_u64;
    let random = std::iter::from_fn(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(f64::from_bits(z ^ (z >> 31)))
    });
    // Every fiftieth is made subnormal, of which random bits hold one in two thousand.
    let spread = random.enumerate().map(|(i, double)| match i % 50 {
        0 => f64::from_bits(double.to_bits() & 0x800f_ffff_ffff_ffff),
        _ => double,
    });
    extremes.into_iter().chain(spread.filter(|double| double.is_finite())).take(n).collect()
}

/// Doubles as a JSON array, each with as many digits as bring it back.
pub fn as_json(doubles: &[f64]) -> String {
    let texts: Vec<String> = doubles.iter().map(|double| format!("{double:e}")).collect();
    format!("[{}]", texts.join(","))
}
