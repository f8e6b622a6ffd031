//! Times, rates and plans as people say them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::job::{Level, Strategy};

/// `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

/// How long before `now` an RFC 3339 time was: `3 s ago`. A time that cannot be read stands as it is.
pub fn ago(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => match now.duration_since(then).as_secs_f64() {
            ..1.0 => "just now".to_owned(),
            seconds => format!("{} ago", duration(seconds.floor()).replace(".0 s", " s")),
        },
        Err(_) => time.to_owned(),
    }
}

/// Seconds between two RFC 3339 times.
pub fn seconds_between(from: &str, to: &str) -> Option<f64> {
    let (from, to) = (from.parse::<Timestamp>().ok()?, to.parse::<Timestamp>().ok()?);
    Some(to.duration_since(from).as_secs_f64())
}

/// `120/s`, `1.5/s`, `3.0/min`, `2.0/h`.
pub fn rate(a_second: f64) -> String {
    match a_second {
        10.0.. => format!("{a_second:.0}/s"),
        0.1.. => format!("{a_second:.1}/s"),
        0.002.. => format!("{:.1}/min", a_second * 60.0),
        _ => format!("{:.1}/h", a_second * 3600.0),
    }
}

/// `1 slot`, `8 slots`.
pub fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// `cluster,multisession=4`: what `--plan` takes.
pub fn plan(levels: &[Level]) -> String {
    let level = |level: &Level| match level.workers {
        Some(workers) => format!("{}={workers}", strategy(level.strategy)),
        None => strategy(level.strategy).to_owned(),
    };
    levels.iter().map(level).collect::<Vec<_>>().join(",")
}

/// `gpu=a100, zone=b`; `-` when there are none.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
    match labels.is_empty() {
        true => "-".to_owned(),
        false => pairs.collect::<Vec<_>>().join(", "),
    }
}

fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Cluster => "cluster",
        Strategy::Multisession => "multisession",
        Strategy::Sequential => "sequential",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_two_units_at_most() {
        let said: Vec<_> = [0.44, 9.4, 12.3, 185.0, 7800.0, 273_600.0].map(duration).into();
        assert_eq!(said, ["0.4 s", "9.4 s", "12 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"]);
    }

    #[test]
    fn ages_are_whole_seconds() {
        let now = "2026-11-23T04:00:10Z".parse().unwrap();
        assert_eq!(ago("2026-11-23T04:00:07.5Z", now), "2 s ago");
        assert_eq!(ago("2026-11-23T04:00:10Z", now), "just now");
        assert_eq!(ago("2026-11-23T03:00:10Z", now), "1 h 0 min ago");
        assert_eq!(ago("some day", now), "some day");
    }

    #[test]
    fn slow_rates_are_said_by_the_minute_or_hour() {
        let said: Vec<_> = [123.4, 1.54, 0.05, 0.001].map(rate).into();
        assert_eq!(said, ["123/s", "1.5/s", "3.0/min", "3.6/h"]);
    }
}
