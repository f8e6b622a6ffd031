//! Texts that may not be JSON, written for R and read back: what comes back is what was sent.

#![no_main]

use std::collections::BTreeMap;

use agent::rserial::{self, Writer};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

fuzz_target!(|text: &[u8]| {
    let sent = serde_json::from_slice::<&RawValue>(text);
    for as_arguments in [false, true] {
        let write = if as_arguments { rserial::write_arguments } else { rserial::write_json };
        let mut writer = Writer::new();
        let written = write(&mut writer, text);
        let bytes = writer.into_bytes();
        if written.is_err() {
            assert_eq!(bytes, Writer::new().into_bytes(), "what is refused leaves nothing behind");
            continue;
        }
        let sent = sent.as_ref().expect("what is written was JSON");
        let value = rserial::read(&bytes).expect("what is written can be read");
        let mut json = Vec::new();
        rserial::write_value(&mut json, &value).expect("what was JSON can be JSON again");
        let json = std::str::from_utf8(&json).expect("JSON is UTF-8");
        let back = serde_json::from_str::<&RawValue>(json).expect("what is written is JSON");
        if is_plain(sent) {
            assert!(is_same(sent, back, as_arguments), "{} became {json}", sent.get());
        }
    }
});

/// Whether no name in it is empty or stands twice: R's names are made unique.
fn is_plain(value: &RawValue) -> bool {
    match value.get().as_bytes()[0] {
        b'[' => array(value).into_iter().all(is_plain),
        b'{' => {
            let Members(members) = object(value);
            let names: BTreeMap<&str, ()> =
                members.iter().map(|(name, _)| (name.as_str(), ())).collect();
            names.len() == members.len()
                && !names.contains_key("")
                && members.iter().all(|(_, value)| is_plain(value))
        }
        _ => true,
    }
}

/// Whether `back` is what is to come back of `sent`: `items` says that an array is always one.
fn is_same(sent: &RawValue, back: &RawValue, items: bool) -> bool {
    match sent.get().as_bytes()[0] {
        b'[' => {
            let sent = array(sent);
            if !items
                && let [only] = sent[..]
                && !matches!(only.get().as_bytes()[0], b'[' | b'{')
            {
                // A vector of length 1 is a scalar.
                return is_same(only, back, false);
            }
            if back.get().as_bytes()[0] != b'[' {
                return false;
            }
            let back = array(back);
            let are_rows = !items
                && !sent.is_empty()
                && sent.iter().all(|item| item.get().as_bytes()[0] == b'{');
            let is_same = |(sent, back): (&&RawValue, &&RawValue)| match are_rows {
                true => is_same_row(sent, back),
                false => is_same(sent, back, false),
            };
            sent.len() == back.len() && sent.iter().zip(&back).all(is_same)
        }
        b'{' if back.get().as_bytes()[0] == b'{' => {
            let (Members(sent), Members(back)) = (object(sent), object(back));
            let is_same = |(sent, back): (&(String, &RawValue), &(String, &RawValue))| {
                sent.0 == back.0 && is_same(sent.1, back.1, false)
            };
            sent.len() == back.len() && sent.iter().zip(&back).all(is_same)
        }
        b'{' => false,
        b'"' => text(sent) == text(back),
        b'-' | b'0'..=b'9' => number(sent).is_some() && number(sent) == number(back),
        _ => sent.get() == back.get(),
    }
}

/// Whether `back` has the cells of a row, and nothing but `null` beside them.
fn is_same_row(sent: &RawValue, back: &RawValue) -> bool {
    if back.get().as_bytes()[0] != b'{' {
        return false;
    }
    let (Members(sent), Members(back)) = (object(sent), object(back));
    let sent: BTreeMap<String, &RawValue> = sent.into_iter().collect();
    let back: BTreeMap<String, &RawValue> = back.into_iter().collect();
    sent.keys().all(|name| back.contains_key(name))
        && back.iter().all(|(name, cell)| match sent.get(name) {
            Some(sent) => is_same(sent, cell, false),
            None => cell.get() == "null",
        })
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Pairs).map(Self)
    }
}

fn array(value: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(value.get()).expect("it is an array")
}

fn object(value: &RawValue) -> Members<'_> {
    serde_json::from_str(value.get()).expect("what was taken is an object of Unicode names")
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A number, by a parser that rounds correctly.
fn number(value: &RawValue) -> Option<f64> {
    value.get().parse().ok()
}
