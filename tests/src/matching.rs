//! Whether what was printed is what a document says is printed: `…` stands for what differs from run
//! to run.
//!
//! In text, `…` in a line stands for any characters, and a line `…` for any lines. In JSON, `…`
//! stands for any value, in a string for any characters, and behind the last member or item for any
//! others.

use serde_json::{Deserializer, Map, Value};

/// What stands for anything.
const ANY: &str = "…";

/// Checks text, line by line; says where it differs.
///
/// # Errors
/// The first line that is not as expected.
pub fn text(expected: &str, printed: &str) -> Result<(), String> {
    let expected: Vec<&str> = expected.trim_end().lines().collect();
    let printed: Vec<&str> = printed.trim_end().lines().map(str::trim_end).collect();
    if lines(&expected, &printed) {
        return Ok(());
    }
    let same = expected.iter().zip(&printed).take_while(|(e, p)| glob(e, p)).count();
    let line =
        |lines: &[&str]| lines.get(same).map_or("nothing more".to_owned(), |l| format!("{l:?}"));
    Err(format!("line {}: expected {}, printed {}", same + 1, line(&expected), line(&printed)))
}

fn lines(expected: &[&str], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((&ANY, others)), _) => (0..=printed.len()).any(|n| lines(others, &printed[n..])),
        (Some((first, others)), Some((line, rest))) => glob(first, line) && lines(others, rest),
        (Some(_), None) => false,
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once(ANY) {
        None => pattern.trim_end() == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| glob(rest, &text[at..]))
        }),
    }
}

/// Checks one document of JSON, or several, one behind the other; says where they differ.
///
/// # Errors
/// The first place that is not as expected.
pub fn json(expected: &str, printed: &str) -> Result<(), String> {
    let read = |text: &str, what: &str| -> Result<Vec<Value>, String> {
        let values: Result<_, _> = Deserializer::from_str(text).into_iter().collect();
        values.map_err(|error| format!("what is {what} is not JSON: {error}"))
    };
    let (expected, printed) = (read(&quoted(expected), "expected")?, read(printed, "printed")?);
    if expected.len() != printed.len() {
        return Err(format!("expected {} documents, printed {}", expected.len(), printed.len()));
    }
    let mut pairs = expected.iter().zip(&printed).enumerate();
    pairs.try_for_each(|(i, (e, p))| value(e, p, &format!("document {i}")))
}

fn value(expected: &Value, printed: &Value, path: &str) -> Result<(), String> {
    let differs = || Err(format!("{path}: expected {expected}, printed {printed}"));
    match (expected, printed) {
        (Value::String(any), _) if any == ANY => Ok(()),
        (Value::String(pattern), Value::String(text)) if glob(pattern, text) => Ok(()),
        (Value::Array(items), Value::Array(others)) => {
            let is_open = items.last().is_some_and(|last| last == ANY);
            let n_items = items.len() - usize::from(is_open);
            if others.len() < n_items || (!is_open && others.len() > n_items) {
                return differs();
            }
            let mut pairs = items[..n_items].iter().zip(others).enumerate();
            pairs.try_for_each(|(i, (e, p))| value(e, p, &format!("{path}[{i}]")))
        }
        (Value::Object(members), Value::Object(others)) => object(members, others, path),
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => Ok(()),
        (expected, printed) if expected == printed => Ok(()),
        _ => differs(),
    }
}

fn object(
    expected: &Map<String, Value>,
    printed: &Map<String, Value>,
    path: &str,
) -> Result<(), String> {
    for (name, wanted) in expected.iter().filter(|(name, _)| *name != ANY) {
        let found = printed.get(name).ok_or_else(|| format!("{path}: there is no {name:?}"))?;
        value(wanted, found, &format!("{path}.{name}"))?;
    }
    let more = printed.keys().find(|name| !expected.contains_key(*name));
    match more {
        Some(name) if !expected.contains_key(ANY) => {
            Err(format!("{path}: {name:?} was not expected"))
        }
        _ => Ok(()),
    }
}

/// JSON in which every bare `…` is a string, or a member of an object.
fn quoted(text: &str) -> String {
    let (mut json, mut in_string, mut escaped) = (String::new(), false, false);
    // The last character outside of strings that is no white space, and the brackets that are open.
    let (mut before, mut open) = (' ', Vec::new());
    for c in text.chars() {
        if !in_string && c == '…' {
            let is_member = open.last() == Some(&'{') && matches!(before, '{' | ',');
            json.push_str(if is_member { "\"…\":\"…\"" } else { "\"…\"" });
            before = c;
            continue;
        }
        json.push(c);
        match c {
            '"' if !escaped => in_string = !in_string,
            '{' | '[' if !in_string => open.push(c),
            '}' | ']' if !in_string => drop(open.pop()),
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
        if !in_string && !c.is_whitespace() {
            before = c;
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_differs_only_where_it_may() {
        assert_eq!(text("a …\n…\nz", "a 17\nb\nc\nz\n"), Ok(()));
        assert_eq!(text("a\n…", "a\n"), Ok(()));
        assert!(text("a …\nz", "a 17\nb\nz").unwrap_err().contains("line 2"));
        assert!(text("a\nb", "a").unwrap_err().contains("nothing more"));
        assert!(text("", "a").is_err());
        assert!(text("x…", "ax").is_err());
    }

    #[test]
    fn json_differs_only_where_it_may() {
        let printed = r#"{"id": "01-23", "n": 1.0, "list": [1, {"a": "…, b"}, 3], "z": null}"#;
        assert_eq!(json(r#"{"id": "01-…", "n": 1, …}"#, printed), Ok(()));
        assert_eq!(json(r#"{"list": [1, …], "id": …, …}"#, printed), Ok(()));
        assert_eq!(json(r#"{"list": [1, {"a": "…, b"}, 3], …}"#, printed), Ok(()));
        assert_eq!(json(r#"{"list": [1, …, 3], …}"#, printed), Ok(()));
        assert!(json(r#"{"list": [1, …, 4], …}"#, printed).is_err());
        assert!(json(r#"{"id": "01-…", "n": 1}"#, printed).unwrap_err().contains("\"list\""));
        assert!(json(r#"{"n": 2, …}"#, printed).unwrap_err().contains("document 0.n"));
        assert!(json(r#"{"m": …, …}"#, printed).unwrap_err().contains("no \"m\""));
        assert_eq!(json("{\"a\": 1}\n{\"a\": …}", "{\"a\":1}\n{\"a\":2}\n"), Ok(()));
        assert!(json("[…]", "[1]\n[2]").unwrap_err().contains("1 documents"));
    }
}
