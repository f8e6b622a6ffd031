//! Properties: JSON to R and back, and bytes that R never wrote.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{Data, Untranslatable, Value, Writer, read, splice, write_json, write_value};

/// What becomes of a JSON text in R and back.
fn there_and_back(text: &str) -> Result<String, Untranslatable> {
    let mut writer = Writer::new();
    write_json(&mut writer, text.as_bytes())?;
    let bytes = writer.into_bytes();
    let mut out = Vec::new();
    write_value(&mut out, &read(&bytes)?)?;
    Ok(String::from_utf8(out).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,6}"
}

fn key() -> impl Strategy<Value = String> {
    "[^\\x00]{1,4}"
}

fn double() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
}

fn scalar() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (i32::MIN + 1..).prop_map(Json::from),
        double().prop_map(Json::from),
        text().prop_map(Json::from),
    ]
}

/// At least two scalars of one kind, or `null`: one alone would come back as a scalar, and integers
/// among doubles as doubles.
fn vector() -> impl Strategy<Value = Json> {
    fn of<T: Into<Json>>(kind: impl Strategy<Value = T>) -> impl Strategy<Value = Json> {
        let item = prop_oneof![1 => Just(Json::Null), 4 => kind.prop_map(Into::into)];
        vec(item, 2..6).prop_map(Json::from)
    }
    prop_oneof![of(any::<bool>()), of(i32::MIN + 1..), of(double()), of(text())]
}

/// Rows that have the same keys.
fn table(cell: impl Strategy<Value = Json> + 'static) -> impl Strategy<Value = Json> {
    let cell = cell.boxed();
    (vec(key(), 0..4), 1_usize..4).prop_flat_map(move |(keys, rows)| {
        let columns = vec(vec(cell.clone(), rows), keys.len());
        columns.prop_map(move |mut columns| {
            columns.iter_mut().for_each(|column| agree_on_doubles(column));
            let row = |at: usize| columns.iter().map(move |column| column[at].clone());
            let object = |at| keys.iter().cloned().zip(row(at)).collect::<Map<_, _>>();
            (0..rows).map(|at| Json::Object(object(at))).collect()
        })
    })
}

/// Integers among doubles come back as doubles.
fn agree_on_doubles(column: &mut [Json]) {
    if column.iter().any(Json::is_f64) {
        for cell in column {
            if let Some(integer) = cell.as_i64() {
                *cell = json!(f64::from(i32::try_from(integer).unwrap()));
            }
        }
    }
}

/// An array that is none of the above, because its first item is an array.
fn list(item: impl Strategy<Value = Json> + Clone) -> impl Strategy<Value = Json> {
    (vector(), vec(item, 0..3)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        Json::Array(rest)
    })
}

/// JSON that R can hold and tell apart.
fn common_ground() -> impl Strategy<Value = Json> {
    prop_oneof![scalar(), vector()].prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            btree_map(key(), inner.clone(), 0..5).prop_map(|map| map.into_iter().collect()),
            table(inner.clone()),
            list(inner),
        ]
    })
}

proptest! {
    #[test]
    fn json_comes_back_as_it_was(json in common_ground()) {
        let text = json.to_string();
        prop_assert_eq!(there_and_back(&text), Ok(text));
    }

    #[test]
    fn any_double_keeps_its_bits(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let back: f64 = there_and_back(&json!(value).to_string()).unwrap().parse().unwrap();
        prop_assert_eq!(back.to_bits(), bits);
    }

    #[test]
    fn other_texts_are_refused_and_leave_nothing(text in "[\\[\\]{}:,\"a1 .eE+-]{0,12}") {
        let mut writer = Writer::new();
        writer.null();
        let before = writer.mark();
        let written = write_json(&mut writer, text.as_bytes());
        if serde_json::from_str::<Json>(&text).is_err() {
            prop_assert!(written.is_err(), "{} is no JSON", text);
            prop_assert_eq!(writer.mark(), before);
        }
    }

    #[test]
    fn bytes_that_r_never_wrote_do_no_harm(
        words in vec(prop_oneof![0_u32..32, 238_u32..256, 256_u32..2048, any::<u32>()], 0..60),
    ) {
        let mut bytes = Writer::new().into_bytes();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        if let Ok(value) = read(&bytes) {
            let _ = write_value(&mut Vec::new(), &value);
        }
    }

    #[test]
    fn a_serialization_that_was_cut_or_changed_does_no_harm(
        json in common_ground(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut writer = Writer::new();
        write_json(&mut writer, json.to_string().as_bytes()).unwrap();
        let mut bytes = writer.into_bytes();
        let at = at.index(bytes.len());
        prop_assert!(read(&bytes[..at]).is_err());
        bytes[at] = byte;
        if let Ok(value) = read(&bytes) {
            let _ = write_value(&mut Vec::new(), &value);
        }
    }

    #[test]
    fn whatever_is_joined_leaves_its_neighbours_whole(
        json in common_ground(), at in any::<prop::sample::Index>(),
        flipped in prop_oneof![Just(0), any::<u8>()],
    ) {
        let mut writer = Writer::new();
        write_json(&mut writer, json.to_string().as_bytes()).unwrap();
        let mut bytes = writer.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flipped;

        let mut writer = Writer::new();
        writer.list(3);
        writer.integer(7);
        let is_joined = splice(&mut writer, &bytes);
        prop_assert!(is_joined || flipped != 0, "what was not changed is a tree");
        if !is_joined {
            writer.null();
        }
        writer.integer(7);
        let list = writer.into_bytes();
        let items = read(&list).unwrap().into_list().unwrap();
        prop_assert_eq!(items.len(), 3);
        prop_assert_eq!([&items[0], &items[2]].map(Value::as_integer), [Some(7); 2]);
        if is_joined && flipped == 0 {
            let mut text = Vec::new();
            write_value(&mut text, &items[1]).unwrap();
            prop_assert_eq!(String::from_utf8(text).unwrap(), there_and_back(&json.to_string()).unwrap());
        }
    }
}

/// The R types that `json` becomes, from the outside in.
fn data_of(json: &str) -> String {
    let mut writer = Writer::new();
    write_json(&mut writer, json.as_bytes()).unwrap();
    let bytes = writer.into_bytes();
    describe(&read(&bytes).unwrap())
}

fn describe(value: &Value<'_>) -> String {
    let class = if value.inherits("data.frame") { "data.frame" } else { "list" };
    match &value.data {
        Data::Null => "NULL".into(),
        Data::Logical(_) => "logical".into(),
        Data::Integer(_) => "integer".into(),
        Data::Double(_) => "double".into(),
        Data::Character(_) => "character".into(),
        Data::List(items) => {
            let items: Vec<_> = items.iter().map(describe).collect();
            format!("{class}({})", items.join(", "))
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn arrays_become_what_jsonlite_makes_of_them() {
    let cases = [
        ("1", "integer"),
        ("1.0", "double"),
        ("-0", "double"),
        ("1e2", "double"),
        ("2147483647", "integer"),
        ("2147483648", "double"),
        ("-2147483648", "double"),
        ("[1, 2.5, null]", "double"),
        ("[null, 1]", "integer"),
        ("[null]", "logical"),
        ("[null, \"a\"]", "character"),
        ("[true, null]", "logical"),
        ("[]", "list()"),
        ("{}", "list()"),
        ("[1, \"a\", true, null]", "list(integer, character, logical, NULL)"),
        ("[[1, 2], [3, 4]]", "list(integer, integer)"),
        ("[{\"a\": 1}, 1]", "list(list(integer), integer)"),
        ("[{\"a\": 1}, {\"b\": \"x\"}]", "data.frame(integer, character)"),
        ("[{\"a\": 1}, {\"a\": \"x\"}]", "data.frame(list(integer, character))"),
        ("[{\"a\": [1]}, {}]", "data.frame(list(integer, NULL))"),
        ("[{\"a\": 1, \"b\": 2}, {\"b\": 2.5, \"a\": 1}]", "data.frame(integer, double)"),
    ];
    for (json, expected) in cases {
        assert_eq!(data_of(json), expected, "{json}");
    }
}

#[test]
fn what_r_cannot_hold_is_refused() {
    let cases = [
        (r#""a\u0000b""#, "\\u0000"),
        ("1e999", "too large"),
        (r#"[{"a": "\ud800"}]"#, "not Unicode"),
        ("[1,]", "not JSON at byte 3"),
        ("01", "not JSON"),
        ("", "not JSON at byte 0"),
        ("1 2", "not JSON at byte 2"),
        (r#"[{"a": [1}, "a": 2}]"#, "not JSON"),
    ];
    for (json, why) in cases {
        let error = there_and_back(json).unwrap_err().to_string();
        assert!(error.contains(why), "{json}: {error}");
    }
}

#[test]
fn missing_cells_are_null() {
    let text = r#"[{"a":1},{"b":"x"}]"#;
    assert_eq!(there_and_back(text).unwrap(), r#"[{"a":1,"b":null},{"a":null,"b":"x"}]"#);
}

#[test]
fn nesting_is_bounded_both_ways() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(there_and_back(&nested(200)).unwrap(), nested(200));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert_eq!(there_and_back(&objects(256)).unwrap(), objects(256), "what goes in comes out");
    let error = there_and_back(&nested(100_000)).unwrap_err();
    assert!(error.to_string().contains("nested more than 256 deep"), "{error}");
}
