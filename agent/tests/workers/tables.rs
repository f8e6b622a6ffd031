//! What docs/values.md says, done: each row of its tables is run.

use agent::runtimes::WorkerJob;
use protocol::job::Runtime::{self, Python, R};
use protocol::job::{Encoding, Options, ValueType};
use serde_json::Value;

use crate::harness::{CALL, Worker, elements, encode, job};

/// The rows of the table below a heading of a chapter, cell by cell, without marks of code.
fn table(chapter: &str, heading: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/values.md"));
    let page = page.unwrap();
    let chapter = page.split_once(&format!("\n## {chapter}\n")).unwrap().1;
    let chapter = chapter.split("\n## ").next().unwrap();
    let section = chapter.split_once(&format!("\n### {heading}\n")).unwrap().1;
    let section = section.split("\n### ").next().unwrap();
    let lines: Vec<_> = section.lines().filter(|line| line.starts_with('|')).collect();
    let cells = |line: &&str| {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| bare(cell.trim()).to_owned()).collect()
    };
    let rows: Vec<_> = lines[2..].iter().map(cells).collect();
    assert!(rows.len() > 5, "a table below {heading}");
    rows
}

/// A cell that is nothing but code, without its marks.
fn bare(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).unwrap_or(cell)
}

/// The value of an expression as a call's JSON text, or the error's message.
fn evaluate(worker: &mut Worker, expression: &str, options: Options) -> Result<String, String> {
    let job = WorkerJob { is_call: true, options, ..job(expression) };
    match worker.outcomes(&job, &[CALL]).remove(0) {
        Ok(json) => Ok(String::from_utf8(json).unwrap()),
        Err(error) => {
            let known = ["Untranslatable", "TypeMismatch"];
            assert!(known.contains(&error.kind.as_str()), "{expression}: {error:?}");
            Err(error.message)
        }
    }
}

/// As [`evaluate`]; a function is the value, and is not called.
fn translate(worker: &mut Worker, runtime: Runtime, expression: &str) -> Result<String, String> {
    let function = match runtime {
        R => format!("function() {expression}"),
        _ => format!("lambda: {expression}"),
    };
    evaluate(worker, &function, Options::default())
}

/// What an element is in the worker: the value of `check`, in which it is `x`.
fn check(worker: &mut Worker, runtime: Runtime, json: &str, check: &str) -> Result<bool, String> {
    let head = if runtime == R { "function(x)" } else { "lambda x:" };
    encode(runtime, &[json]).map_err(|(_, error)| error.message)?;
    let outcomes = worker.outcomes(&job(&format!("{head} {check}")), &elements(&[json]));
    let outcome = outcomes.into_iter().next().unwrap().unwrap();
    Ok(outcome == b"true")
}

fn assert_json(got: &str, expected: &str, row: &[String]) {
    let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    assert_eq!(parse(got), parse(expected), "{row:?}");
    // The same text but for spaces: `1` is not `1.0`, and digits do not fit into a `Value`.
    let without_spaces = |text: &str| text.replace(' ', "");
    assert_eq!(without_spaces(got), without_spaces(expected), "{row:?}");
}

/// Whether a row is about a package that is not there.
fn is_missing(worker: &mut Worker, row: &[String]) -> bool {
    let package = ["numpy", "pandas"].into_iter().find(|name| row[1].contains(*name));
    package.is_some_and(|package| {
        let found = format!("__import__('importlib.util').util.find_spec('{package}') is not None");
        evaluate(worker, &found, Options::default()) == Ok("false".to_owned())
    })
}

fn both_ways(runtime: Runtime, chapter: &str, same: fn(&str) -> String) {
    let mut worker = Worker::start(runtime);
    for row in table(chapter, &format!("From {chapter} to JSON, and back")) {
        let [_, expression, expected, back] = &row[..] else { panic!("{row:?}") };
        if runtime == Python && is_missing(&mut worker, &row) {
            continue;
        }
        let got = translate(&mut worker, runtime, expression);
        if let Some(why) = expected.strip_prefix("error: ") {
            let message = got.expect_err(&row.join(" "));
            assert!(message.contains(why), "{row:?}: {message}");
            assert_eq!(back, "", "{row:?}");
            let encoding = if runtime == R { "`rds`" } else { "`pickle`" };
            assert!(message.contains(encoding), "{row:?}: {message}");
            continue;
        }
        let got = got.unwrap_or_else(|why| panic!("{row:?}: {why}"));
        assert_json(&got, expected, &row);
        let back = if back == "same" { expression } else { back };
        let holds = check(&mut worker, runtime, &got, &same(back));
        assert_eq!(holds, Ok(true), "{row:?}: back it is not {back}");
    }
}

#[test]
fn values_of_r_become_what_the_page_says_and_come_back() {
    both_ways(R, "R", |back| format!("identical(x, {back})"));
}

#[test]
fn values_of_python_become_what_the_page_says_and_come_back() {
    both_ways(Python, "Python", |back| {
        format!("(lambda y: x == y and type(x) is type(y) and repr(x) == repr(y))({back})")
    });
}

fn from_json(runtime: Runtime, chapter: &str) {
    let mut worker = Worker::start(runtime);
    for row in table(chapter, &format!("From JSON to {chapter}")) {
        let [json, holds] = &row[..] else { panic!("{row:?}") };
        match holds.strip_prefix("error: ") {
            Some(why) => {
                let message = check(&mut worker, runtime, json, "TRUE").expect_err(json);
                assert!(message.contains(why), "{row:?}: {message}");
            }
            None => {
                assert_eq!(check(&mut worker, runtime, json, holds), Ok(true), "{row:?}");
            }
        }
    }
}

#[test]
fn json_becomes_in_r_what_the_page_says() {
    from_json(R, "R");
}

#[test]
fn json_becomes_in_python_what_the_page_says() {
    from_json(Python, "Python");
}

#[test]
fn types_are_what_the_page_says() {
    let types = [ValueType::Chr, ValueType::Dbl, ValueType::Int, ValueType::Lgl];
    for (runtime, chapter) in [(R, "R"), (Python, "Python")] {
        let mut worker = Worker::start(runtime);
        for row in table(chapter, "Types") {
            for (value_type, expected) in types.into_iter().zip(&row[1..]) {
                let options = Options { value_type, ..Options::default() };
                match evaluate(&mut worker, &row[0], options) {
                    Ok(got) => assert_json(&got, expected, &row),
                    Err(message) => assert_eq!(expected, "error", "{row:?}: {message}"),
                }
            }
        }
    }
}

#[test]
fn in_its_own_encoding_every_value_of_r_comes_back() {
    let mut worker = Worker::start(R);
    let options = || Options { encoding: Encoding::Rds, ..Options::default() };
    for row in table("R", "From R to JSON, and back") {
        // Connections are a process's own.
        if row[0] == "connection" {
            continue;
        }
        let function = format!("function() {}", row[1]);
        let call = WorkerJob { is_call: true, options: options(), ..job(&function) };
        let value = worker.outcomes(&call, &[CALL]).remove(0).unwrap();
        let same = format!(
            "function(x) if (is.environment(x)) is.environment({0}) else \
             identical(unserialize(serialize({0}, NULL)), x, ignore.environment = TRUE) || \
             isTRUE(all.equal(x, {0}))",
            row[1]
        );
        worker.prepare(&WorkerJob { options: options(), ..job(&same) });
        let input = agent::runtimes::Input::Encoded(&value);
        let element = agent::runtimes::Element { index: 0, input, key: None };
        let typed = WorkerJob { options: options(), ..job(&same) };
        let holds = worker.outcomes(&typed, &[element]).remove(0).unwrap();
        // A serialized TRUE ends in its one word.
        assert!(holds.ends_with(&[10, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]), "{row:?}");
    }
}
