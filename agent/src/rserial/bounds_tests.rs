//! A few bytes that would be all of memory, or of time, on the other side.

use std::borrow::Cow;

use super::to_json::LARGEST_TEXT;
use super::{Data, Writer, read, tag, write_json, write_value};
use crate::frame::kind;
use crate::runtimes::r;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn string(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [words(&[tag::STRING | tag::ASCII, length]), text.into()].concat()
}

fn symbol(name: &str) -> Vec<u8> {
    [words(&[tag::SYMBOL]), string(name)].concat()
}

/// The class of something.
fn class(name: &str) -> Vec<u8> {
    attribute("class", &[words(&[tag::CHARACTER, 1]), string(name)].concat())
}

fn attribute(name: &str, value: &[u8]) -> Vec<u8> {
    [&words(&[tag::PAIRLIST | tag::HAS_TAG]), &symbol(name), value].concat()
}

fn null() -> Vec<u8> {
    words(&[tag::NULL])
}

fn altrep(class: &str, state: &[u8], attributes: &[u8]) -> Vec<u8> {
    let class = [words(&[tag::PAIRLIST]), symbol(class), null()].concat();
    [&words(&[tag::ALTREP]), &class, state, attributes].concat()
}

/// `1:length`, as R writes it.
fn sequence(length: f64, first: f64, attributes: &[u8]) -> Vec<u8> {
    let numbers = [length, first, 1.0].map(f64::to_le_bytes).concat();
    altrep("compact_intseq", &[words(&[tag::DOUBLE, 3]), numbers].concat(), attributes)
}

fn integers(values: &[u32]) -> Vec<u8> {
    let length = u32::try_from(values.len()).unwrap();
    words(&[&[tag::INTEGER, length], values].concat())
}

fn array(dim: &[u32], cells: &[u32]) -> Vec<u8> {
    let mut cells = integers(cells);
    cells[..4].copy_from_slice(&(tag::INTEGER | tag::HAS_ATTRIBUTES).to_le_bytes());
    [cells, attribute("dim", &integers(dim)), null()].concat()
}

fn serialized(object: &[u8]) -> Vec<u8> {
    [&Writer::new().into_bytes(), object].concat()
}

fn refusal(object: &[u8]) -> String {
    let bytes = serialized(object);
    write_value(&mut Vec::new(), &read(&bytes).unwrap()).unwrap_err().to_string()
}

#[test]
fn a_sequence_of_fewer_than_three_numbers_is_broken() {
    for n in [0_u32, 1, 2, 4] {
        let numbers = vec![0; 8 * n as usize];
        let state = [words(&[tag::DOUBLE, n]), numbers].concat();
        for kind in ["compact_intseq", "compact_realseq"] {
            let read = read(&serialized(&altrep(kind, &state, &null()))).map(drop);
            assert!(read.unwrap_err().to_string().contains("three numbers"), "{kind} of {n}");
        }
    }
}

#[test]
fn a_long_sequence_is_refused_whatever_its_class() {
    for name in ["Date", "POSIXct", "factor", "AsIs"] {
        let dates = sequence(2e9, 1.0, &[class(name), null()].concat());
        let why = refusal(&dates);
        assert!(why.contains("is a sequence of 2000000000 numbers"), "{name}: {why}");
    }
}

#[test]
fn the_text_of_a_long_sequence_is_not_made() {
    let state = [words(&[tag::PAIRLIST]), sequence(1e15, 1.0, &null()), null()].concat();
    let texts = altrep("deferred_string", &state, &null());
    assert!(refusal(&texts).contains("text of 1000000000000000 numbers"));
}

#[test]
fn an_array_of_many_dimensions_is_refused() {
    assert!(refusal(&array(&[1; 100_000], &[7])).contains("more than 256 dimensions"));
    let long = [
        words(&[tag::INTEGER | tag::HAS_ATTRIBUTES, 1, 7]),
        attribute("dim", &sequence(1e15, 1.0, &null())),
        null(),
    ];
    assert!(refusal(&long.concat()).contains("more than 256 dimensions"));
}

#[test]
fn an_array_without_cells_is_not_written_as_a_billion_brackets() {
    let why = refusal(&array(&[1000, 1000, 1000, 0], &[]));
    assert!(why.contains("has 1000000000 rows and not one cell"), "{why}");
    let bytes = serialized(&array(&[2, 0, 1000], &[]));
    let mut json = Vec::new();
    write_value(&mut json, &read(&bytes).unwrap()).unwrap();
    assert_eq!(json, b"[[],[]]");
}

#[test]
fn a_factor_of_long_levels_ends_where_text_is_too_large() {
    let mut factor = integers(&[1, 1, 1]);
    factor[..4].copy_from_slice(&(tag::INTEGER | tag::HAS_ATTRIBUTES).to_le_bytes());
    let levels = attribute("levels", &[words(&[tag::CHARACTER, 1]), string("level")].concat());
    let bytes = serialized(&[factor, levels, class("factor"), null()].concat());
    let value = read(&bytes).unwrap();
    let mut json = vec![b' '; LARGEST_TEXT - 3];
    let why = write_value(&mut json, &value).unwrap_err().to_string();
    assert!(why.contains("at `[2]` comes after 512 MiB of JSON text"), "{why}");
}

#[test]
fn many_names_that_are_alike_are_told_apart_in_little_time() {
    let n_names = 100_000_u32;
    let mut values = integers(&vec![7; n_names as usize]);
    values[..4].copy_from_slice(&(tag::INTEGER | tag::HAS_ATTRIBUTES).to_le_bytes());
    let names = [words(&[tag::CHARACTER, n_names]), string("a").repeat(n_names as usize)].concat();
    let bytes = serialized(&[values, attribute("names", &names), null()].concat());
    let mut json = Vec::new();
    write_value(&mut json, &read(&bytes).unwrap()).unwrap();
    assert!(json.starts_with(br#"{"a":7,"a.1":7,"a.2":7,"#) && json.ends_with(br#""a.99999":7}"#));
}

#[test]
fn what_refers_to_a_name_takes_no_copy_of_it() {
    let latin = [words(&[tag::SYMBOL, tag::STRING | tag::LATIN1, 3]), vec![0xE4; 3]].concat();
    let list = [words(&[tag::LIST, 2]), latin, words(&[tag::REFERENCE | 1 << 8])].concat();
    let bytes = serialized(&list);
    for item in read(&bytes).unwrap().into_list().unwrap() {
        assert!(matches!(item.data, Data::Symbol(Cow::Borrowed(_))), "{item:?}");
    }
}

#[test]
fn positions_that_are_a_long_sequence_of_nothing_are_not_counted_through() {
    let apart = sequence(9e15, -1e300, &null());
    let outcomes = [
        words(&[tag::LIST, 3]),
        apart,
        words(&[tag::LIST, 1]),
        integers(&[7]),
        words(&[tag::LIST, 0]),
    ];
    let answer = r::decode(kind::OUTCOMES, &serialized(&outcomes.concat()).into());
    assert!(answer.is_ok(), "{answer:?}");
}

/// The memory for a column is taken after that: of the million there would be some gigabytes.
#[test]
fn many_keys_behind_many_rows_without_any_are_refused_at_the_first_that_is_too_much() {
    let rows = "{},".repeat(1_000_000);
    let keys: Vec<_> = (0..100_000).map(|key| format!("\"{key}\":0")).collect();
    let text = format!("[{rows}{{{}}}]", keys.join(","));
    let why = write_json(&mut Writer::new(), text.as_bytes()).unwrap_err().to_string();
    assert!(why.contains("1000001 rows and 11 columns"), "{why}");
}

#[test]
fn rows_that_have_each_their_own_keys_do_not_become_a_square() {
    let rows: Vec<_> = (0..5000).map(|row| format!("{{\"{row}\":0}}")).collect();
    let text = format!("[{}]", rows.join(","));
    let why = write_json(&mut Writer::new(), text.as_bytes()).unwrap_err().to_string();
    assert!(why.contains("most of whose cells are missing"), "{why}");
}
