//! R's dates and times as ISO 8601.

const DAY: i64 = 86_400;

/// Days since 1970-01-01, as `Date` has them: `2026-08-01`.
pub(super) fn date(days: f64) -> Option<String> {
    whole(days.floor()).map(|days| {
        let (year, month, day) = civil(days);
        format!("{year:04}-{month:02}-{day:02}")
    })
}

/// Seconds since 1970 in UTC, as `POSIXct` has them: `2026-08-01T09:30:00Z`, with microseconds
/// if there are any (a double holds no finer ones today).
pub(super) fn time(seconds: f64) -> Option<String> {
    let micros = whole((seconds * 1e6).round())?;
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match micros {
        0 => String::new(),
        _ => format!(".{micros:06}").trim_end_matches('0').to_owned(),
    };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// An integer, if it is one that the calendar can be asked about.
fn whole(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "within the range just checked")]
    (number.abs() < 1e17).then_some(number as i64)
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar. Years are counted
/// from March, so that the leap day is their last, in eras of 400 years, which are all alike.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / (ERA - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        let cases = [
            (0.0, "1970-01-01"),
            (-1.0, "1969-12-31"),
            (19_782.0, "2024-02-29"),
            (19_782.9, "2024-02-29"),
            (-25_567.0, "1900-01-01"),
            (-719_528.0, "0000-01-01"),
        ];
        for (days, text) in cases {
            assert_eq!(date(days).as_deref(), Some(text));
        }
        assert_eq!(date(f64::INFINITY), None);
    }

    #[test]
    fn seconds_have_their_times() {
        let cases = [
            (0.0, "1970-01-01T00:00:00Z"),
            (-0.5, "1969-12-31T23:59:59.5Z"),
            (1_785_576_600.0, "2026-08-01T09:30:00Z"),
            (1_785_576_600.25, "2026-08-01T09:30:00.25Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(time(seconds).as_deref(), Some(text));
        }
    }
}
