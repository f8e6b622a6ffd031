//! Elements that are the integers of a range: the server keeps the range, not the numbers.

use std::str::FromStr;

use serde_json::value::RawValue;

use super::raw;

/// The integers from `from` up to, not including, `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerRange {
    from: i64,
    to: i64,
}

impl IntegerRange {
    /// As it stands in a submission.
    pub fn to_json(self) -> Box<RawValue> {
        raw(format!("{{\"range\":[{},{}]}}", self.from, self.to))
    }
}

impl FromStr for IntegerRange {
    type Err = String;

    /// As Rust writes ranges: `0..100`, `0..=100`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").ok_or("not of the form FROM..TO: 0..100")?;
        let (to, is_closed) = match to.strip_prefix('=') {
            Some(to) => (to, true),
            None => (to, false),
        };
        let (from, to) = (whole(from)?, whole(to)?);
        let to = if is_closed { to.checked_add(1).ok_or("ends beyond all numbers")? } else { to };
        match from <= to {
            true => Ok(Self { from, to }),
            false => Err(format!("ends before it begins; {from}..{from} is the empty range")),
        }
    }
}

fn whole(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| format!("{text:?} is not a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_unless_they_say_otherwise() {
        let json =
            |text: &str| text.parse::<IntegerRange>().map(|range| range.to_json().get().to_owned());
        assert_eq!(json("0..100").unwrap(), r#"{"range":[0,100]}"#);
        assert_eq!(json("-5..=5").unwrap(), r#"{"range":[-5,6]}"#);
        assert_eq!(json("3..3").unwrap(), r#"{"range":[3,3]}"#);
        for (wrong, says) in [
            ("5", "FROM..TO"),
            ("a..5", "\"a\""),
            ("5..", "\"\""),
            ("5..4", "before"),
            ("0..=9223372036854775807", "beyond"),
        ] {
            assert!(json(wrong).unwrap_err().contains(says), "{wrong}");
        }
    }
}
