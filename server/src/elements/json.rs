//! Elements that stand in a submission's JSON, taken apart without copying or understanding them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::FieldError;
use protocol::job::{Encoding, Variant};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Given, Source, Wanted, fault};
use crate::blobs::parse_digest;
use crate::store::jobs::Shape;

/// Elements of a range at the most.
const MAX_RANGE: u64 = 1 << 40;

/// Takes the elements of a submission apart; under a nested plan by both levels.
///
/// # Errors
/// Which part of `elements` cannot be, and what can.
pub fn parse(elements: &RawValue, wanted: Wanted) -> Result<Source<'_>, FieldError> {
    let is_array = elements.get().starts_with('[');
    if is_array && !wanted.nested && wanted.encoding == Encoding::Json {
        return Ok(Source::Listed(elements));
    }
    let (names, items) = level(elements, "elements")?;
    match (names.as_deref(), items.as_slice()) {
        (Some([name]), [item]) if name == "blob" => return blob(item),
        (Some([name, other]), [item, _])
            if name == "blob" && other == "encoding" && digest_in(item).is_some() =>
        {
            let message = "must be left out: the elements have the encoding of options.encoding";
            return Err(fault("elements.encoding", message));
        }
        (Some([name]), [item]) if name == "range" && !wanted.nested => return range(item, wanted),
        (Some([name]), _) if name == "range" => {
            let message = "cannot be under a plan of two levels: the integers of a range have no inner \
                           elements; give an array of arrays, or a plan of one level";
            return Err(fault("elements.range", message));
        }
        _ => {}
    }
    let mut given =
        Given { shape: Shape { nested: wanted.nested, ..Shape::default() }, ..Given::default() };
    if wanted.nested {
        given.shape.outer_named = names.is_some();
        given.outer_names = names.map_or(Vec::new(), json_strings);
        for (i, outer) in items.into_iter().enumerate() {
            let inner = inner_level(outer, i)?;
            given.groups.push(inner.len() as u64);
            for (j, item) in inner.into_iter().enumerate() {
                let payload = payload(item, wanted, || format!("elements[{i}][{j}]"))?;
                given.payloads.push(payload);
            }
        }
    } else {
        given.shape.named = names.is_some();
        for (i, item) in items.into_iter().enumerate() {
            let place = || match names.as_ref().and_then(|names| names.get(i)) {
                Some(name) => format!("elements.{name}"),
                None => format!("elements[{i}]"),
            };
            given.payloads.push(payload(item, wanted, place)?);
        }
        given.names = names.map_or(Vec::new(), json_strings);
    }
    Ok(Source::Given(given))
}

/// The items of an array, one by one: a list of them would take more memory than they do.
pub(super) fn items(array: &RawValue) -> Items<'_> {
    Items { rest: array.get().strip_prefix('[').unwrap_or_default() }
}

/// What is left of the text of an array.
pub(super) struct Items<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a RawValue, FieldError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_start();
        let rest = rest.strip_prefix(',').unwrap_or(rest);
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
        let item = match rest.trim_start().starts_with(']') {
            true => None,
            false => values.next(),
        };
        self.rest = rest.get(values.byte_offset()..).unwrap_or_default();
        item.map(|item| item.map_err(|error| fault("elements", error.to_string())))
    }
}

/// The bytes of an element: its JSON text, or what a string of base64 stands for.
fn payload(
    item: &RawValue,
    wanted: Wanted,
    place: impl Fn() -> String,
) -> Result<Cow<'_, [u8]>, FieldError> {
    if wanted.encoding == Encoding::Json {
        return Ok(Cow::Borrowed(item.get().as_bytes()));
    }
    let encoding = wanted.encoding.as_str();
    let text: Cow<'_, str> =
        serde_json::from_str::<Text<'_>>(item.get()).map(|Text(text)| text).map_err(|_| {
            let message = format!(
                "is {}, must be a string, base64 of the element's bytes, with encoding {encoding}",
                kind_of(item)
            );
            fault(place(), message)
        })?;
    BASE64.decode(text.as_bytes()).map(Cow::Owned).map_err(|error| {
        let message = format!("is not base64, which it must be with encoding {encoding}: {error}");
        fault(place(), message)
    })
}

/// A string, borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn digest_in(item: &RawValue) -> Option<String> {
    let digest: String = serde_json::from_str(item.get()).ok()?;
    parse_digest(&digest)?;
    Some(digest)
}

fn blob(item: &RawValue) -> Result<Source<'_>, FieldError> {
    let message = || {
        format!(
            "is {}, must be `sha256:` and the 64 hex digits, in lower case, of the blob's SHA-256; \
             a single element that is called \"blob\" must be given another name",
            item.get().chars().take(80).collect::<String>()
        )
    };
    digest_in(item).map(Source::Blob).ok_or_else(|| fault("elements.blob", message()))
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
pub(super) fn level<'a>(
    value: &'a RawValue,
    field: &str,
) -> Result<(Option<Vec<String>>, Vec<&'a RawValue>), FieldError> {
    let fault = |message: String| fault(field, message);
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
            "is {}, must be an array, an object, {{\"range\": [from, to]}}, or {{\"blob\": \
             \"sha256:…\"}}; leave it out for a call",
            kind_of(value)
        ))),
    }
}

fn first_duplicate(names: &[String]) -> Option<&String> {
    let mut seen = HashSet::with_capacity(names.len());
    names.iter().find(|name| !seen.insert(*name))
}

fn json_strings(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(json_string).collect()
}

/// A string as JSON.
pub(super) fn json_string(text: String) -> String {
    serde_json::Value::String(text).to_string()
}

fn range(range: &RawValue, wanted: Wanted) -> Result<Source<'_>, FieldError> {
    let [from, to] = serde_json::from_str::<[i64; 2]>(range.get()).map_err(|_| {
        let message = format!(
            "is {}, must be [from, to], two whole numbers; a single element that is called \
             \"range\" must be given another name",
            range.get().chars().take(80).collect::<String>()
        );
        fault("elements.range", message)
    })?;
    let total = u64::try_from(to.saturating_sub(from)).ok().filter(|&n| n <= MAX_RANGE);
    let total = total.ok_or_else(|| {
        let message = format!(
            "runs from {from} up to {to}: must not end before it starts, and hold at most \
             {MAX_RANGE} elements"
        );
        fault("elements.range", message)
    })?;
    if wanted.variant == Variant::Pmap {
        let message = "is a range, whose elements are numbers: variant pmap spreads arrays and \
                       objects; give map";
        return Err(fault("options.variant", message));
    }
    Ok(Source::Range { from, total })
}

pub(super) fn kind_of(value: &RawValue) -> &'static str {
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

    fn wanted(nested: bool, encoding: Encoding) -> Wanted {
        Wanted { nested, encoding, variant: Variant::Map }
    }

    fn given(text: &RawValue, nested: bool) -> Given<'_> {
        match parse(text, wanted(nested, Encoding::Json)).unwrap() {
            Source::Given(given) => given,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str, nested: bool) -> FieldError {
        parse(&raw(text), wanted(nested, Encoding::Json)).unwrap_err()
    }

    #[test]
    fn an_object_keeps_names_and_order() {
        let text = raw(r#"{"b": [1, 2], "a\n": null}"#);
        let elements = given(&text, false);
        assert_eq!(elements.payloads, [&b"[1, 2]"[..], b"null"]);
        assert_eq!(elements.names, ["\"b\"", "\"a\\n\""]);
        assert!(elements.shape.named);
    }

    #[test]
    fn an_array_is_taken_apart_as_it_stands() {
        for text in ["[]", "[ ]", "[1]", r#"[ 1 ,[2,"],"],{"a": [3]} , "x, y]" ,null,-4e1 ]"#] {
            let array = raw(text);
            let parsed = parse(&array, wanted(false, Encoding::Json)).unwrap();
            assert!(matches!(parsed, Source::Listed(_)), "{parsed:?}");
            let read: Vec<&RawValue> = serde_json::from_str(text).unwrap();
            let read: Vec<&str> = read.into_iter().map(RawValue::get).collect();
            let taken: Vec<&str> = items(&array).map(|item| item.unwrap().get()).collect();
            assert_eq!(taken, read, "{text}");
        }
    }

    #[test]
    fn nested_elements_are_counted_through() {
        let text = raw("[[1,2],[],[3]]");
        let elements = given(&text, true);
        assert_eq!((elements.payloads.len(), elements.groups), (3, vec![2, 0, 1]));
    }

    #[test]
    fn a_range_and_a_blob_have_no_payloads() {
        let text = raw(r#"{"range": [-2, 3]}"#);
        let range = parse(&text, wanted(false, Encoding::Json)).unwrap();
        assert!(matches!(range, Source::Range { from: -2, total: 5 }));
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = raw(&format!(r#"{{"blob": "{digest}"}}"#));
        let blob = parse(&text, wanted(true, Encoding::Rds)).unwrap();
        assert!(matches!(blob, Source::Blob(found) if found == digest));
    }

    #[test]
    fn other_encodings_are_base64() {
        let text = raw(r#"{"a": "AAEC", "b": ""}"#);
        let Ok(Source::Given(given)) = parse(&text, wanted(false, Encoding::Bytes)) else {
            panic!("base64 is refused")
        };
        assert_eq!(given.payloads, [&[0, 1, 2][..], &[]]);
        let refused = |text, nested| parse(&raw(text), wanted(nested, Encoding::Rds)).unwrap_err();
        assert_eq!(refused(r#"["AAEC", 7]"#, false).field, "elements[1]");
        assert_eq!(refused(r#"{"a": "not base64"}"#, false).field, "elements.a");
        assert_eq!(refused(r#"[[], ["AAEC", "A"]]"#, true).field, "elements[1][1]");
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(refused("3", false).field, "elements");
        assert_eq!(refused("[[1], 2]", true).field, "elements[1]");
        assert!(refused(r#"{"a": 1, "a": 2}"#, false).message.contains("\"a\" twice"));
        for range in ["[3, 1]", "[0, 10, 2]", "[0, 1e1]", "7"] {
            let field = refused(&format!(r#"{{"range": {range}}}"#), false).field;
            assert_eq!(field, "elements.range", "{range}");
        }
        assert_eq!(refused(r#"{"blob": "abc"}"#, false).field, "elements.blob");
        let digest = "a".repeat(64);
        let with_encoding = format!(r#"{{"blob": "sha256:{digest}", "encoding": "rds"}}"#);
        assert_eq!(refused(&with_encoding, false).field, "elements.encoding");
        let pmap = Wanted { variant: Variant::Pmap, ..wanted(false, Encoding::Json) };
        let refused = parse(&raw(r#"{"range": [0, 2]}"#), pmap).unwrap_err().field;
        assert_eq!(refused, "options.variant");
    }
}
