//! Arguments that hold more than a word: `cluster,multisession=4`, text or `@file`.

use std::fs;
use std::num::NonZeroUsize;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::JobId;
use protocol::job::{AllSlots, Level, Seed, Slots, Strategy};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Parses one of the words that `T` has on the wire.
pub fn one_of<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words)
        .try_map(|word| serde_json::from_value(Value::from(word.to_ascii_lowercase())))
}

/// Parses the id of a job, which must be whole: the jobs of one moment begin with the same digits.
pub fn job_id(text: &str) -> Result<JobId, String> {
    text.parse().map_err(|error| format!("{error}: `farrow jobs` lists the jobs with their ids"))
}

/// Parses `name=value`.
pub fn name_and_text(text: &str) -> Result<(String, String), String> {
    name_and_rest(text, "VALUE").map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Splits `name=rest`; `rest` is called so when it is missing.
pub fn name_and_rest<'a>(text: &'a str, rest: &str) -> Result<(&'a str, &'a str), String> {
    match text.split_once('=') {
        Some((name, rest)) if !name.is_empty() => Ok((name, rest)),
        _ => Err(format!("not of the form NAME={rest}")),
    }
}

/// Parses how many of something are wanted.
pub fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "not a number from 1".to_owned())
}

/// Parses for how long something may take, in seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("not a number of seconds above 0, such as 90 or 0.5".to_owned()),
    }
}

/// Parses how many chunks each slot is to have, as furrr's `scheduling`.
pub fn scheduling(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(chunks) if chunks > 0.0 && chunks.is_finite() => Ok(chunks),
        Ok(f64::INFINITY) => Err("for one element a chunk give --chunk-size 1".to_owned()),
        _ => Err("not a number of chunks above 0, such as 1 or 2.5".to_owned()),
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

/// Parses what random numbers begin with: a number, `true`, or a `.Random.seed` of R in brackets.
pub fn seed(text: &str) -> Result<Seed, String> {
    match serde_json::from_str(text) {
        Ok(seed @ (Seed::Number(_) | Seed::Drawn(true))) => Ok(seed),
        Ok(Seed::State(state)) if state.len() == 7 => Ok(Seed::State(state)),
        _ => Err("neither a whole number, nor true, nor the seven numbers of an L'Ecuyer-CMRG \
                  `.Random.seed` in brackets"
            .to_owned()),
    }
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
    fn the_id_of_a_job_is_whole_and_who_has_none_is_told_where_they_are() {
        let id = JobId::new();
        assert_eq!(job_id(&id.to_string()), Ok(id));
        for wrong in ["nosuch", &id.to_string()[..8], ""] {
            assert!(job_id(wrong).unwrap_err().contains("`farrow jobs`"), "{wrong}");
        }
    }

    #[test]
    fn slots_are_a_number_or_all() {
        assert_eq!(slots("2"), Ok(Slots::Count(2)));
        assert_eq!(slots("all"), Ok(Slots::All(AllSlots::All)));
        assert!(slots("0").is_err());
    }

    #[test]
    fn a_seed_is_a_number_or_drawn_or_a_state_of_r() {
        assert_eq!(seed("-3"), Ok(Seed::Number(-3)));
        assert_eq!(seed("true"), Ok(Seed::Drawn(true)));
        assert_eq!(seed("[10407,1,2,3,4,5,6]"), Ok(Seed::State(vec![10407, 1, 2, 3, 4, 5, 6])));
        for wrong in ["false", "1.5", "[1,2]", "today", ""] {
            assert!(seed(wrong).unwrap_err().contains("neither"), "{wrong}");
        }
    }

    #[test]
    fn a_number_that_cannot_be_is_told_what_can() {
        assert_eq!(at_least_one("3").map(NonZeroUsize::get), Ok(3));
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "x", ""] {
            assert!(at_least_one(wrong).unwrap_err().contains("from 1"), "{wrong}");
            assert!(seconds(wrong).unwrap_err().contains("above 0"), "{wrong}");
        }
        assert!(seconds("inf").is_err() && seconds("nan").is_err());
    }

    #[test]
    fn what_furrr_writes_for_single_elements_is_written_otherwise() {
        assert_eq!(scheduling("2.5"), Ok(2.5));
        assert!(scheduling("Inf").unwrap_err().contains("--chunk-size 1"));
        for wrong in ["0", "-1", "nan", "-inf", "x"] {
            assert!(scheduling(wrong).unwrap_err().contains("above 0"), "{wrong}");
        }
    }
}
