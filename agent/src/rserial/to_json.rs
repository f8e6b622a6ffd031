//! R values to JSON text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::data_frame::write_data_frame;
use super::value::{Data, Doubles, Integers, Text, Value};
use super::{DEPTH_LIMIT, Untranslatable, calendar};

/// How many rows without a cell are still written out: a few bytes must not become all of memory.
const MOST_EMPTY_ROWS: usize = 1_000_000;

/// The length of a sequence that is still written out, for the same reason. Inputs of fuzzing are small,
/// and so is what may become of them.
const LONGEST_SEQUENCE: usize = if cfg!(feature = "fuzzing") { 50_000 } else { 50_000_000 };

/// Bytes of text from which on nothing is written further: twenty sequences, or a factor whose levels
/// are long, are nothing in R and gigabytes here, and a server takes less in any case.
pub(super) const LARGEST_TEXT: usize = if cfg!(feature = "fuzzing") { 4 << 20 } else { 512 << 20 };

/// Appends the JSON text of a value.
///
/// # Errors
/// When it has none; what was appended is then to be thrown away.
pub fn write_value(out: &mut Vec<u8>, value: &Value<'_>) -> Result<(), Untranslatable> {
    check_size(out)?;
    if value.inherits("data.frame") {
        return write_data_frame(out, value);
    }
    let as_is = value.inherits("AsIs");
    let items = Items::of(value)?;
    if value.dim().len() > 1 {
        check_dim(value)?;
        return nested(out, &items, value.dim(), 0, 1);
    }
    if let Some(names) = value.names() {
        check_length(Some(names.len()), value.len())?;
        return object(out, &items, names);
    }
    match (&items, value.len()) {
        (Items::Nothing, _) => json(out, &()),
        (Items::Values(_), _) => array(out, &items, value.len()),
        (_, 1) if !as_is => items.write(out, 0),
        (_, length) => array(out, &items, length),
    }
}

/// Stops what becomes too large.
pub(super) fn check_size(out: &[u8]) -> Result<(), Untranslatable> {
    if out.len() <= LARGEST_TEXT {
        return Ok(());
    }
    let what = format!("comes after {} MiB of JSON text, too much", out.len() >> 20);
    Err(Untranslatable::new(what))
}

/// Whether a matrix or array can be written: how deeply, and how many brackets if it has no cell.
fn check_dim(value: &Value<'_>) -> Result<(), Untranslatable> {
    let dim = value.dim();
    if dim.len() > DEPTH_LIMIT {
        let what = format!("is an array of more than {DEPTH_LIMIT} dimensions");
        return Err(Untranslatable::new(what));
    }
    let product = |sizes: &[usize]| sizes.iter().try_fold(1_usize, |n, size| n.checked_mul(*size));
    check_length(if dim.contains(&0) { Some(0) } else { product(dim) }, value.len())?;
    let n_filled = dim.iter().position(|size| *size == 0).unwrap_or(0);
    check_rows(product(&dim[..n_filled]).unwrap_or(usize::MAX), value.len())
}

/// What R guarantees, but bytes from a pipe do not.
pub(super) fn check_length(expected: Option<usize>, length: usize) -> Result<(), Untranslatable> {
    if expected == Some(length) {
        return Ok(());
    }
    Err(Untranslatable::new("is broken: its attributes do not fit its length"))
}

pub(super) fn check_rows(rows: usize, cells: usize) -> Result<(), Untranslatable> {
    if cells > 0 || rows <= MOST_EMPTY_ROWS {
        return Ok(());
    }
    Err(Untranslatable::new(format!("has {rows} rows and not one cell")))
}

fn check_sequence(data: &Data<'_>) -> Result<(), Untranslatable> {
    match data {
        Data::Integer(Integers::Sequence(sequence)) | Data::Double(Doubles::Sequence(sequence))
            if sequence.length > LONGEST_SEQUENCE =>
        {
            let what = format!("is a sequence of {} numbers, too long", sequence.length);
            Err(Untranslatable::new(what))
        }
        _ => Ok(()),
    }
}

/// The items of a vector, as what its class makes of them.
pub(super) enum Items<'v, 'a> {
    Nothing,
    Logicals(&'v Integers<'a>),
    Integers(&'v Integers<'a>),
    Doubles(&'v Doubles<'a>),
    Texts(&'v [Text<'a>]),
    Factor(&'v Integers<'a>, &'v [Text<'a>]),
    Dates(Numbers<'v, 'a>),
    Times(Numbers<'v, 'a>),
    Values(&'v [Value<'a>]),
}

/// Dates and times may be integers or doubles.
pub(super) enum Numbers<'v, 'a> {
    Integers(&'v Integers<'a>),
    Doubles(&'v Doubles<'a>),
}

impl Numbers<'_, '_> {
    fn get(&self, index: usize) -> Option<f64> {
        match self {
            Self::Integers(integers) => integers.get(index).map(f64::from),
            Self::Doubles(doubles) => doubles.get(index),
        }
    }
}

impl<'v, 'a> Items<'v, 'a> {
    pub(super) fn of(value: &'v Value<'a>) -> Result<Self, Untranslatable> {
        check_sequence(&value.data)?;
        let mut classes = value.class().iter().filter_map(Text::as_str);
        match classes.find(|class| *class != "AsIs") {
            None => Self::plain(value),
            Some("factor" | "ordered") => match (&value.data, &value.attributes) {
                (Data::Integer(codes), Some(attributes)) => {
                    Ok(Self::Factor(codes, &attributes.levels))
                }
                _ => Err(value.fault()),
            },
            Some("Date") => Self::numbers(value).map(Self::Dates),
            Some("POSIXct") => Self::numbers(value).map(Self::Times),
            Some(_) => Err(value.fault()),
        }
    }

    fn plain(value: &'v Value<'a>) -> Result<Self, Untranslatable> {
        Ok(match &value.data {
            Data::Null => Self::Nothing,
            Data::Logical(values) => Self::Logicals(values),
            Data::Integer(values) => Self::Integers(values),
            Data::Double(values) => Self::Doubles(values),
            Data::Character(texts) => Self::Texts(texts),
            Data::List(values) => Self::Values(values),
            Data::Raw(_) | Data::Pairlist(_) | Data::Symbol(_) | Data::Other(_) => {
                return Err(value.fault());
            }
        })
    }

    fn numbers(value: &'v Value<'a>) -> Result<Numbers<'v, 'a>, Untranslatable> {
        match &value.data {
            Data::Integer(integers) => Ok(Numbers::Integers(integers)),
            Data::Double(doubles) => Ok(Numbers::Doubles(doubles)),
            _ => Err(value.fault()),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, index: usize) -> Result<(), Untranslatable> {
        check_size(out)?;
        match self {
            Self::Nothing => json(out, &()),
            Self::Logicals(values) => json(out, &values.get(index).map(|value| value != 0)),
            Self::Integers(values) => json(out, &values.get(index)),
            Self::Doubles(values) => double(out, values.get(index)),
            Self::Texts(texts) => text(out, &texts[index]),
            Self::Factor(codes, levels) => match codes.get(index) {
                None => json(out, &()),
                Some(code) => {
                    let at = usize::try_from(code).unwrap_or(0).wrapping_sub(1);
                    let level = levels.get(at);
                    text(
                        out,
                        level.ok_or_else(|| {
                            Untranslatable::new("is a factor without the level that it names")
                        })?,
                    )
                }
            },
            Self::Dates(days) => moment(out, days.get(index), calendar::date),
            Self::Times(seconds) => moment(out, seconds.get(index), calendar::time),
            Self::Values(values) => write_value(out, &values[index]),
        }
    }

    /// Which step leads from the vector to one of its items.
    pub(super) fn step(&self, index: usize) -> String {
        match self {
            Self::Values(_) => format!("[[{}]]", index + 1),
            _ => format!("[{}]", index + 1),
        }
    }
}

fn json<T: Serialize>(out: &mut Vec<u8>, value: &T) -> Result<(), Untranslatable> {
    serde_json::to_writer(out, value).map_err(|error| Untranslatable::new(error.to_string()))
}

fn double(out: &mut Vec<u8>, value: Option<f64>) -> Result<(), Untranslatable> {
    match value {
        Some(value) if !value.is_finite() => {
            let name = if value.is_nan() { "NaN" } else { "Inf" };
            let sign = if value < 0.0 { "-" } else { "" };
            let what = format!("is {sign}{name}, which JSON does not have (NA becomes null)");
            Err(Untranslatable::new(what))
        }
        value => json(out, &value),
    }
}

fn text(out: &mut Vec<u8>, text: &Text<'_>) -> Result<(), Untranslatable> {
    match text {
        Text::Na => json(out, &()),
        Text::Known(text) => json(out, text),
        Text::Bytes => Err(Untranslatable::new("is a string that is not UTF-8")),
    }
}

fn moment(
    out: &mut Vec<u8>,
    value: Option<f64>,
    format: fn(f64) -> Option<String>,
) -> Result<(), Untranslatable> {
    match value {
        Some(number) if !number.is_nan() => match format(number) {
            Some(text) => json(out, &text),
            None => Err(Untranslatable::new("is a date beyond the calendar")),
        },
        _ => json(out, &()),
    }
}

fn array(out: &mut Vec<u8>, items: &Items<'_, '_>, length: usize) -> Result<(), Untranslatable> {
    out.push(b'[');
    for index in 0..length {
        if index > 0 {
            out.push(b',');
        }
        items.write(out, index).map_err(|fault| fault.within(items.step(index)))?;
    }
    out.push(b']');
    Ok(())
}

/// A matrix or array, whose first index runs fastest in memory, with the last index innermost.
fn nested(
    out: &mut Vec<u8>,
    items: &Items<'_, '_>,
    dim: &[usize],
    start: usize,
    stride: usize,
) -> Result<(), Untranslatable> {
    let Some((size, rest)) = dim.split_first() else {
        return items.write(out, start).map_err(|fault| fault.within(items.step(start)));
    };
    check_size(out)?;
    out.push(b'[');
    for index in 0..*size {
        if index > 0 {
            out.push(b',');
        }
        nested(out, items, rest, start + index * stride, stride * size)?;
    }
    out.push(b']');
    Ok(())
}

fn object(
    out: &mut Vec<u8>,
    items: &Items<'_, '_>,
    names: &[Text<'_>],
) -> Result<(), Untranslatable> {
    out.push(b'{');
    for (index, name) in keys(names).iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        member(out, name, |out| items.write(out, index))?;
    }
    out.push(b'}');
    Ok(())
}

pub(super) fn member(
    out: &mut Vec<u8>,
    name: &str,
    value: impl FnOnce(&mut Vec<u8>) -> Result<(), Untranslatable>,
) -> Result<(), Untranslatable> {
    json(out, &name)?;
    out.push(b':');
    value(out).map_err(|fault| fault.within(dollar(name)))
}

/// `$name`, quoted as R wants it.
pub(super) fn dollar(name: &str) -> String {
    let mut characters = name.chars();
    let starts_well = characters.next().is_some_and(|first| first.is_alphabetic() || first == '.');
    let plain = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_');
    if starts_well && characters.all(plain) { format!("${name}") } else { format!("$`{name}`") }
}

/// Names as keys, of which there must be no two alike: jsonlite's way, which is `make.unique`'s.
pub(super) fn keys<'n>(names: &'n [Text<'_>]) -> Vec<Cow<'n, str>> {
    let key = |(index, name): (usize, &'n Text<'_>)| match name.as_str() {
        None | Some("") => Cow::Owned((index + 1).to_string()),
        Some(name) => Cow::Borrowed(name),
    };
    let mut keys: Vec<_> = names.iter().enumerate().map(key).collect();
    if has_repeats(&keys) {
        make_unique(&mut keys);
    }
    keys
}

fn has_repeats(keys: &[Cow<'_, str>]) -> bool {
    // Most objects are small, and a set costs more than the few comparisons.
    if keys.len() <= 8 {
        return keys.iter().enumerate().any(|(index, key)| keys[..index].contains(key));
    }
    let mut seen = HashSet::with_capacity(keys.len());
    !keys.iter().all(|key| seen.insert(key))
}

fn make_unique(keys: &mut [Cow<'_, str>]) {
    // Each key, and the last number that one like it was given: the search goes on from there.
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(keys.len());
    for key in keys {
        let Some(last) = seen.get(&**key).copied() else {
            seen.insert(key.to_string(), 0);
            continue;
        };
        let (unique, count) = (last + 1..)
            .map(|count| (format!("{key}.{count}"), count))
            .find(|(unique, _)| !seen.contains_key(unique))
            .unwrap_or_default();
        seen.insert(key.to_string(), count);
        seen.insert(unique.clone(), 0);
        *key = Cow::Owned(unique);
    }
}
