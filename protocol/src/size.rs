//! Numbers of bytes as people write them: `256MiB`.

use std::ops::RangeInclusive;

/// The units of bytes, in small letters, and what one is.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// What no size exceeds: what a signed column of a database holds.
pub const MAX: u64 = i64::MAX as u64;

/// Parses a number of bytes: `2GiB`, `512M` (binary, as its `MiB`), `1.5GB` (decimal), `1048576`.
///
/// # Errors
/// What is wrong with `text`, and what would be right.
pub fn parse(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, decimal) = (number.parse::<u64>().ok(), number.parse::<f64>().ok());
    let Some(decimal) = decimal else {
        return Err("not a number of bytes such as 2GiB or 1048576".to_owned());
    };
    let unit = unit.trim();
    let Some((_, bytes)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(format!("{unit:?} is no unit of bytes such as KiB, MiB, GiB or GB"));
    };
    let size = match whole {
        Some(whole) => whole.checked_mul(*bytes),
        None => Some((decimal * *bytes as f64).round())
            .filter(|size| *size < 1.8e19)
            .map(|size| size as u64),
    };
    size.ok_or_else(|| "more bytes than can be counted".to_owned())
}

/// A parser of sizes within bounds, for flags.
pub fn within<T: TryFrom<u64>>(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size = parse(text)?;
        if size < *bounds.start() {
            return Err(format!("must be at least {}", of(*bounds.start())));
        }
        if size > *bounds.end() {
            return Err(format!("must be at most {}", of(*bounds.end())));
        }
        T::try_from(size).map_err(|_| "more than this machine can count".to_owned())
    }
}

/// `512 B`, `1.5 MiB`, `2 GiB`.
pub fn of(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(units.len() as u32);
    let number = format!("{:.1}", bytes as f64 / 1024_f64.powi(power.cast_signed()));
    format!("{} {}", number.trim_end_matches(".0"), units[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, n) in [
            ("2GiB", 2 << 30),
            ("512M", 512 << 20),
            ("1.5 GB", 1_500_000_000),
            ("7", 7),
            ("0", 0),
            ("64kib", 64 << 10),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(n), "{text}");
        }
        for wrong in ["", "GiB", "2XB", "-1", "1.2.3M", ".", "9e9", "99999999999999T"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_told_the_bound() {
        let parse = within::<u32>(1024..=1 << 20);
        assert_eq!(parse("1KiB"), Ok(1024));
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("1023"), Err("must be at least 1 KiB".to_owned()));
        assert_eq!(parse("1048577"), Err("must be at most 1 MiB".to_owned()));
    }

    #[test]
    fn sizes_are_told_in_the_largest_unit() {
        let said = [0, 1023, 1024, 1_572_864, 2 << 30].map(of);
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "1.5 MiB", "2 GiB"]);
    }
}
