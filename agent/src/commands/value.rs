//! What a command wrote to its standard output, as a value. Pure.

use protocol::job::{ElementError, Encoding, Options, Output, ValueType, Variant};
use serde_json::value::RawValue;

use super::failure;

/// The length at which a value is too large: what the workers of all runtimes may send.
pub const TOO_LONG: usize = 1 << 31;

/// The value of the element at `index`.
///
/// # Errors
/// When what was written is no value of the form or the type that the job asks for.
pub fn value(written: Vec<u8>, index: u64, options: &Options) -> Result<Vec<u8>, ElementError> {
    let is_bytes = options.encoding == Encoding::Bytes;
    if options.variant == Variant::Walk {
        return Ok(if is_bytes { Vec::new() } else { b"null".to_vec() });
    }
    if is_bytes {
        return Ok(written);
    }
    let json = match options.output {
        Output::Text => text(&written)?,
        Output::Json => json(&written)?,
    };
    if json.len() >= TOO_LONG {
        return Err(too_large(TOO_LONG));
    }
    check(&json, index, options.value_type)?;
    Ok(json)
}

/// The error of a command that writes more than a value can be.
pub fn too_large(limit: usize) -> ElementError {
    let limit = if limit == TOO_LONG { "2 GiB".to_owned() } else { format!("{limit} bytes") };
    failure(
        "TooLarge",
        format!(
            "it wrote more than {limit} to standard output, which is more than a value can be; \
             write it to a file or an object store, and print where it is"
        ),
    )
}

/// A JSON string, without the line ends behind it.
fn text(written: &[u8]) -> Result<Vec<u8>, ElementError> {
    let text = std::str::from_utf8(written).map_err(|error| {
        failure(
            "Untranslatable",
            format!(
                "its standard output is not UTF-8 (at byte {}); for bytes as they are submit \
                 with options.encoding bytes",
                error.valid_up_to()
            ),
        )
    })?;
    serde_json::to_vec(text.trim_end_matches(['\n', '\r']))
        .map_err(|error| failure("Untranslatable", error.to_string()))
}

/// JSON as it was written.
fn json(written: &[u8]) -> Result<Vec<u8>, ElementError> {
    let written = written.trim_ascii();
    if written.is_empty() {
        let message = "it wrote nothing to standard output, but options.output is json: let it \
                       print one JSON value, such as null";
        return Err(failure("Untranslatable", message.to_owned()));
    }
    serde_json::from_slice::<&RawValue>(written).map_err(|error| {
        let start: String = String::from_utf8_lossy(written).chars().take(60).collect();
        failure(
            "Untranslatable",
            format!("its standard output is not one JSON value: {error}; it begins `{start}`"),
        )
    })?;
    Ok(written.to_vec())
}

/// Whether a value is of the type that was asked for.
fn check(json: &[u8], index: u64, wanted: ValueType) -> Result<(), ElementError> {
    let first = json.first().copied().unwrap_or_default();
    let is_number = first == b'-' || first.is_ascii_digit();
    let (is_it, name) = match wanted {
        ValueType::List => return Ok(()),
        ValueType::Chr => (first == b'"', "chr"),
        ValueType::Dbl => (is_number, "dbl"),
        ValueType::Int => (is_number && is_whole(json), "int"),
        ValueType::Lgl => (matches!(first, b't' | b'f'), "lgl"),
    };
    if is_it {
        return Ok(());
    }
    let what = describe(json);
    let message = format!("element {index}: the value must be one {name}, is {what}");
    Err(failure("TypeMismatch", message))
}

/// Whether a number is whole, however it is written: `2`, `2.0`, `1e3`.
fn is_whole(number: &[u8]) -> bool {
    if !number.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return true;
    }
    let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<f64>().ok());
    number.is_some_and(|number| number.is_finite() && number.fract() == 0.0)
}

/// What a piece of JSON is, for people.
pub fn describe(json: &[u8]) -> String {
    match json.first() {
        Some(b'"') => "a string".to_owned(),
        Some(b'[') => {
            let items = serde_json::from_slice::<Vec<&RawValue>>(json);
            format!("an array of length {}", items.map_or(0, |items| items.len()))
        }
        Some(b'{') => "an object".to_owned(),
        Some(b'-' | b'0'..=b'9') => {
            let number: String = String::from_utf8_lossy(json).chars().take(30).collect();
            format!("the number {number}")
        }
        _ => String::from_utf8_lossy(json).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(written: &[u8], options: &Options) -> Result<String, ElementError> {
        value(written.to_vec(), 3, options).map(|value| String::from_utf8(value).unwrap())
    }

    fn typed(value_type: ValueType) -> Options {
        Options { value_type, output: Output::Json, ..Options::default() }
    }

    #[test]
    fn text_loses_the_line_ends_behind_it_alone() {
        let options = Options::default();
        let table = [
            (&b"a\n"[..], r#""a""#),
            (b"\n a \n\r\n\n", r#""\n a ""#),
            (b"", r#""""#),
            (b"\n", r#""""#),
            ("é \"😀\" \\".as_bytes(), r#""é \"😀\" \\""#),
            (b"a\0b", r#""a\u0000b""#),
        ];
        for (written, expected) in table {
            assert_eq!(of(written, &options).as_deref(), Ok(expected));
        }
        let error = of(b"abc\xff", &options).unwrap_err();
        assert!(error.message.contains("at byte 3") && error.message.contains("encoding bytes"));
    }

    #[test]
    fn json_is_kept_as_it_was_written() {
        let options = typed(ValueType::List);
        for written in ["1.50", "[1,  2]", r#"{"a": null}"#, "\"é\"", "12345678901234567890"] {
            assert_eq!(of(format!(" {written}\n").as_bytes(), &options).as_deref(), Ok(written));
        }
        for broken in ["", " \n", "nan", "[1", "1 2", "{'a': 1}", "NaN", "\"a"] {
            let error = of(broken.as_bytes(), &options).unwrap_err();
            assert_eq!(error.kind, "Untranslatable", "{broken}");
            assert!(error.message.contains("standard output"), "{}", error.message);
        }
        assert!(of(b"\"\xff\"", &options).is_err());
        assert!(of("[".repeat(100_000).as_bytes(), &options).is_err());
    }

    #[test]
    fn a_type_is_checked() {
        use ValueType::{Chr, Dbl, Int, Lgl, List};
        let fits = [
            (List, "null"),
            (Chr, r#""a""#),
            (Dbl, "1"),
            (Dbl, "-1.5e3"),
            (Int, "-7"),
            (Int, "7.0"),
            (Int, "1e3"),
            (Lgl, "true"),
            (Lgl, "false"),
        ];
        for (wanted, written) in fits {
            assert_eq!(of(written.as_bytes(), &typed(wanted)).as_deref(), Ok(written));
        }
        let misfits = [
            (Dbl, r#""1""#, "dbl, is a string"),
            (Dbl, "[1, 2]", "dbl, is an array of length 2"),
            (Dbl, "true", "dbl, is true"),
            (Dbl, "null", "dbl, is null"),
            (Int, "1.5", "int, is the number 1.5"),
            (Chr, "1", "chr, is the number 1"),
            (Lgl, "0", "lgl, is the number 0"),
            (Lgl, "{}", "lgl, is an object"),
        ];
        for (wanted, written, what) in misfits {
            let error = of(written.as_bytes(), &typed(wanted)).unwrap_err();
            assert_eq!(error.kind, "TypeMismatch");
            assert_eq!(error.message, format!("element 3: the value must be one {what}"));
        }
        let text = Options { value_type: Chr, ..Options::default() };
        assert_eq!(of(b"a\n", &text).as_deref(), Ok("\"a\""));
    }

    #[test]
    fn bytes_are_left_alone_and_walk_drops_all() {
        let bytes = Options { encoding: Encoding::Bytes, ..Options::default() };
        assert_eq!(value(b"\xff\n".to_vec(), 0, &bytes), Ok(b"\xff\n".to_vec()));
        let walk = Options { variant: Variant::Walk, ..Options::default() };
        assert_eq!(of(b"\xff", &walk).as_deref(), Ok("null"));
        let walk = Options { encoding: Encoding::Bytes, ..walk };
        assert_eq!(of(b"\xff", &walk).as_deref(), Ok(""));
    }
}
