//! The elements of a submission, taken apart without copying or understanding them.

use std::collections::HashSet;
use std::fmt;

use protocol::FieldError;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::store::jobs::Shape;

/// Elements of a range at the most.
const MAX_RANGE: u64 = 1 << 40;

/// Elements taken apart, counted through all levels.
#[derive(Debug)]
pub struct Elements<'a> {
    /// How many.
    pub total: u64,
    /// Where they are and how the value is put together.
    pub shape: Shape,
    /// Their JSON texts; none if they are a range.
    pub payloads: Vec<&'a [u8]>,
    /// The JSON strings that name them, if they have names.
    pub names: Vec<String>,
    /// The JSON strings that name the outer elements, if these have names.
    pub outer_names: Vec<String>,
    /// How many inner elements each outer one has, if they are nested.
    pub groups: Vec<u64>,
}

/// Takes the elements of a submission apart; under a `nested` plan by both levels.
///
/// # Errors
/// Which part of `elements` cannot be, and what can.
pub fn parse(elements: &RawValue, nested: bool) -> Result<Elements<'_>, FieldError> {
    let (names, items) = level(elements, "elements")?;
    if let (false, Some([name]), [item]) = (nested, names.as_deref(), items.as_slice())
        && name == "range"
    {
        return range_elements(item);
    }
    let mut parsed = Elements {
        total: items.len() as u64,
        shape: Shape { nested, ..Shape::default() },
        payloads: Vec::with_capacity(items.len()),
        names: Vec::new(),
        outer_names: Vec::new(),
        groups: Vec::new(),
    };
    if nested {
        parsed.shape.outer_named = names.is_some();
        parsed.outer_names = names.map_or(Vec::new(), json_strings);
        for (i, outer) in items.into_iter().enumerate() {
            let inner = inner_level(outer, i)?;
            parsed.groups.push(inner.len() as u64);
            parsed.payloads.extend(inner.iter().map(|item| item.get().as_bytes()));
        }
        parsed.total = parsed.payloads.len() as u64;
    } else {
        parsed.shape.named = names.is_some();
        parsed.names = names.map_or(Vec::new(), json_strings);
        parsed.payloads.extend(items.iter().map(|item| item.get().as_bytes()));
    }
    Ok(parsed)
}

fn inner_level(outer: &RawValue, i: usize) -> Result<Vec<&RawValue>, FieldError> {
    let field = format!("elements[{i}]");
    if !outer.get().starts_with('[') {
        return Err(FieldError {
            field,
            message: format!(
                "is {}, must be an array: under a plan of two levels each outer element holds its \
                 inner elements",
                kind_of(outer)
            ),
        });
    }
    level(outer, &field).map(|(_, items)| items)
}

/// One level: the items of an array, or the names and items of an object.
fn level<'a>(
    value: &'a RawValue,
    field: &str,
) -> Result<(Option<Vec<String>>, Vec<&'a RawValue>), FieldError> {
    let fault = |message: String| FieldError { field: field.to_owned(), message };
    match value.get().as_bytes().first() {
        Some(b'[') => {
            let items = serde_json::from_str(value.get()).map_err(|e| fault(e.to_string()))?;
            Ok((None, items))
        }
        Some(b'{') => {
            let Named(pairs) =
                serde_json::from_str(value.get()).map_err(|e| fault(e.to_string()))?;
            let (names, items): (Vec<String>, Vec<&RawValue>) = pairs.into_iter().unzip();
            if let Some(twice) = first_duplicate(&names) {
                return Err(fault(format!("has the name {twice:?} twice")));
            }
            Ok((Some(names), items))
        }
        _ => Err(fault(format!(
            "is {}, must be an array, an object, or {{\"range\": [from, to]}}",
            kind_of(value)
        ))),
    }
}

fn first_duplicate(names: &[String]) -> Option<&String> {
    let mut seen = HashSet::with_capacity(names.len());
    names.iter().find(|name| !seen.insert(*name))
}

fn json_strings(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|name| serde_json::Value::String(name).to_string()).collect()
}

fn range_elements(range: &RawValue) -> Result<Elements<'_>, FieldError> {
    let [from, to] = serde_json::from_str::<[i64; 2]>(range.get()).map_err(|_| FieldError {
        field: "elements.range".to_owned(),
        message: format!(
            "is {}, must be [from, to], two whole numbers; a single element that is called \
             \"range\" must be given another name",
            range.get().chars().take(80).collect::<String>()
        ),
    })?;
    let total = u64::try_from(to.saturating_sub(from)).ok().filter(|&n| n <= MAX_RANGE);
    let total = total.ok_or_else(|| FieldError {
        field: "elements.range".to_owned(),
        message: format!(
            "runs from {from} up to {to}: must not end before it starts, and hold at most \
             {MAX_RANGE} elements"
        ),
    })?;
    Ok(Elements {
        total,
        shape: Shape { range: Some(from), ..Shape::default() },
        payloads: Vec::new(),
        names: Vec::new(),
        outer_names: Vec::new(),
        groups: Vec::new(),
    })
}

fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'[') => "an array",
        Some(b'{') => "an object",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// The pairs of an object, in order.
struct Named<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn an_object_keeps_names_and_order() {
        let text = raw(r#"{"b": [1, 2], "a\n": null}"#);
        let elements = parse(&text, false).unwrap();
        assert_eq!(elements.payloads, [&b"[1, 2]"[..], b"null"]);
        assert_eq!(elements.names, ["\"b\"", "\"a\\n\""]);
        assert!(elements.shape.named);
    }

    #[test]
    fn nested_elements_are_counted_through() {
        let text = raw("[[1,2],[],[3]]");
        let elements = parse(&text, true).unwrap();
        assert_eq!((elements.total, elements.groups), (3, vec![2, 0, 1]));
    }

    #[test]
    fn a_range_has_no_payloads() {
        let text = raw(r#"{"range": [-2, 3]}"#);
        let elements = parse(&text, false).unwrap();
        assert_eq!((elements.total, elements.shape.range), (5, Some(-2)));
        assert!(elements.payloads.is_empty());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text: &str, nested| parse(&raw(text), nested).unwrap_err();
        assert_eq!(refused("3", false).field, "elements");
        assert_eq!(refused("[[1], 2]", true).field, "elements[1]");
        assert!(refused(r#"{"a": 1, "a": 2}"#, false).message.contains("\"a\" twice"));
        for range in ["[3, 1]", "[0, 10, 2]", "[0, 1e1]", "7"] {
            let field = refused(&format!(r#"{{"range": {range}}}"#), false).field;
            assert_eq!(field, "elements.range", "{range}");
        }
    }
}
