//! Arguments that hold more than a word: `name=JSON`, `cluster,multisession=4`, text or `@file`.

use std::fs;

use protocol::job::{AllSlots, Level, Slots, Strategy};
use serde_json::value::RawValue;

use crate::elements::json;

/// Parses `name=JSON`.
pub fn name_and_json(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (name, value) = name_and_rest(text, "JSON")?;
    let value = json(value).map_err(|error| {
        format!("the value of {name} {error}; a text needs quotes: '{name}=\"text\"'")
    })?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses `name=value`.
pub fn name_and_text(text: &str) -> Result<(String, String), String> {
    name_and_rest(text, "VALUE").map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn name_and_rest<'a>(text: &'a str, value: &str) -> Result<(&'a str, &'a str), String> {
    match text.split_once('=') {
        Some((name, rest)) if !name.is_empty() => Ok((name, rest)),
        _ => Err(format!("not of the form NAME={value}")),
    }
}

/// Takes a text as it stands, or reads the file that it names after an `@`.
pub fn text_or_file(text: &str) -> Result<String, String> {
    match text.strip_prefix('@') {
        Some(file) => {
            fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))
        }
        None => Ok(text.to_owned()),
    }
}

/// Parses a number of slots, or `all`.
pub fn slots(text: &str) -> Result<Slots, String> {
    match (text, text.parse()) {
        ("all", _) => Ok(Slots::All(AllSlots::All)),
        (_, Ok(count)) if count > 0 => Ok(Slots::Count(count)),
        _ => Err("neither a number from 1 nor `all`".to_owned()),
    }
}

/// Parses one level of a plan: `cluster`, `multisession=4`.
pub fn level(text: &str) -> Result<Level, String> {
    let (name, workers) = match text.split_once('=') {
        Some((name, workers)) => (name, Some(workers)),
        None => (text, None),
    };
    let strategy = match name.trim() {
        "cluster" => Strategy::Cluster,
        "multisession" => Strategy::Multisession,
        "sequential" => Strategy::Sequential,
        other => return Err(format!("{other:?} is none of cluster, multisession, sequential")),
    };
    let workers = workers.map(|workers| match workers.trim().parse() {
        Ok(workers) if workers > 0 => Ok(workers),
        _ => Err(format!("{workers:?} is not a number of workers from 1")),
    });
    Ok(Level { strategy, workers: workers.transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_a_strategy_and_perhaps_a_bound() {
        assert_eq!(level("cluster"), Ok(Level::new(Strategy::Cluster)));
        assert_eq!(level("multisession=4").unwrap().workers, Some(4));
        assert!(level("multicore").unwrap_err().contains("none of cluster"));
        assert!(level("cluster=0").unwrap_err().contains("from 1"));
    }

    #[test]
    fn json_values_keep_their_text() {
        let (name, value) = name_and_json("x={\"a\": 1.10}").unwrap();
        assert_eq!((name.as_str(), value.get()), ("x", "{\"a\": 1.10}"));
        assert!(name_and_json("x=text").unwrap_err().contains("a text needs quotes"));
        assert!(name_and_json("x").unwrap_err().contains("NAME=JSON"));
    }

    #[test]
    fn slots_are_a_number_or_all() {
        assert_eq!(slots("2"), Ok(Slots::Count(2)));
        assert_eq!(slots("all"), Ok(Slots::All(AllSlots::All)));
        assert!(slots("0").is_err());
    }
}
