//! Variants: how the function is called with an element.

use agent::runtimes::{Element, Input, Key, WorkerJob};
use protocol::job::Runtime::{self, Python, R};
use protocol::job::{Options, Seed, Variant};
use serde_json::{Value, json};

use crate::harness::{CALL, Worker, constants, elements, job, json_values};

fn of(variant: Variant, function: &str) -> WorkerJob {
    let options = Options { variant, ..Options::default() };
    WorkerJob { options, ..job(function) }
}

/// A function, elements, and what comes of them; an error is its message.
struct Case {
    runtime: Runtime,
    variant: Variant,
    function: &'static str,
    elements: &'static [&'static str],
    expected: Value,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let case = |runtime, variant, function, elements, expected| Case {
        runtime,
        variant,
        function,
        elements,
        expected,
    };
    vec![
        case(R, Variant::Map, "function(x) x * 2", &["1", "2.5"], json!([2.0, 5.0])),
        case(R, Variant::Map, "~ ..1 + .x + .", &["1", "2"], json!([3, 6])),
        case(R, Variant::Map, "local({ a <- 10L; ~ .x + a })", &["1"], json!([11])),
        case(R, Variant::Walk, "function(x) x * 2", &["1", "2"], json!([null, null])),
        case(
            R,
            Variant::Walk,
            "function(x) if (x == 1) stop('no') else x",
            &["1", "2"],
            json!([{"error": "no"}, null]),
        ),
        case(R, Variant::Pmap, "function(x, y) x - y", &["[5, 3]", "[1, 4]"], json!([2, -3])),
        case(
            R,
            Variant::Pmap,
            "function(x, y) x - y",
            &[r#"{"y": 5, "x": 3}"#, "[1, 4]"],
            json!([-2, -3]),
        ),
        case(R, Variant::Pmap, "~ ..1 + .y", &["[1, 2]", "[3, 4]"], json!([3, 7])),
        case(R, Variant::Pmap, "~ ..1 * ..2 - ..3", &["[2, 3, 4]"], json!([2])),
        case(R, Variant::Pmap, "~ .x / .y", &["[6, 3]"], json!([2.0])),
        case(R, Variant::Pmap, "function(...) ...length()", &["[]", "{}", "[1]"], json!([0, 0, 1])),
        case(
            R,
            Variant::Pmap,
            "function(a, b) list(class(a), is.null(b))",
            &["[1, null]", r#"[[1, 2], {"c": 1}]"#, r#"[{"a": 1}, {"a": 2}]"#],
            json!([["integer", true], ["integer", false], ["list", false]]),
        ),
        case(
            R,
            Variant::Pmap,
            "sum",
            &["[1]", "3", "null", "\"a\"", "[2, 3]"],
            json!([
                1,
                {"error": "element 1: pmap needs an array or an object, whose items are the arguments; this is an integer of length 1 (3)"},
                {"error": "element 2: pmap needs an array or an object, whose items are the arguments; this is NULL"},
                {"error": "element 3: pmap needs an array or an object, whose items are the arguments; this is a character of length 1"},
                5,
            ]),
        ),
        case(
            R,
            Variant::Imap,
            "function(x, i) list(x, i)",
            &["\"a\"", "\"b\""],
            json!([["a", 1], ["b", 2]]),
        ),
        case(R, Variant::Imap, "~ .x * .y", &["10", "20", "30"], json!([10, 40, 90])),
        case(Python, Variant::Map, "lambda x: x * 2", &["1", "2.5"], json!([2, 5.0])),
        case(Python, Variant::Walk, "lambda x: x * 2", &["1", "2"], json!([null, null])),
        case(
            Python,
            Variant::Walk,
            "def f(x):\n    if x == 1:\n        raise ValueError('no')\n    return {1, 2}",
            &["1", "2"],
            json!([{"error": "no"}, null]),
        ),
        case(Python, Variant::Pmap, "lambda x, y: x - y", &["[5, 3]", "[1, 4]"], json!([2, -3])),
        case(
            Python,
            Variant::Pmap,
            "lambda x, y: x - y",
            &[r#"{"y": 5, "x": 3}"#, "[1, 4]"],
            json!([-2, -3]),
        ),
        case(
            Python,
            Variant::Pmap,
            "lambda *a, **k: [len(a), len(k)]",
            &["[]", "{}", "[[1, 2]]", r#"{"a": 1}"#],
            json!([[0, 0], [0, 0], [1, 0], [0, 1]]),
        ),
        case(
            Python,
            Variant::Pmap,
            "max",
            &["3", "null", "[2, 3]"],
            json!([
                {"error": "element 0: pmap needs an array or an object, whose items are the arguments; this is an int"},
                {"error": "element 1: pmap needs an array or an object, whose items are the arguments; this is None"},
                3,
            ]),
        ),
        case(
            Python,
            Variant::Imap,
            "lambda x, i: [x, i]",
            &["\"a\"", "\"b\""],
            json!([["a", 0], ["b", 1]]),
        ),
    ]
}

#[test]
fn every_variant_calls_as_its_model_does() {
    let mut workers = [R, Python].map(Worker::start);
    for Case { runtime, variant, function, elements: texts, expected } in cases() {
        let worker = &mut workers[usize::from(runtime == Python)];
        let outcomes = worker.outcomes(&of(variant, function), &elements(texts));
        let told = outcomes.into_iter().map(|outcome| match outcome {
            Ok(value) => serde_json::from_slice(&value).unwrap(),
            Err(error) => json!({"error": error.message}),
        });
        assert_eq!(told.collect::<Value>(), expected, "{variant:?} {function}");
    }
}

#[test]
fn args_are_added_by_name_in_every_variant() {
    let rows = [
        (R, Variant::Map, "function(x, by) x * by"),
        (R, Variant::Pmap, "function(x, y, by) (x + y) * by"),
        (R, Variant::Imap, "function(x, i, by) c(x[[1]], i) * by"),
        (Python, Variant::Map, "lambda x, by: x * by"),
        (Python, Variant::Pmap, "lambda x, y, by: (x + y) * by"),
        (Python, Variant::Imap, "lambda x, i, by: [x[0] * by, (i + 1) * by]"),
    ];
    for (runtime, variant, function) in rows {
        let with_args = WorkerJob { args: constants(&[("by", "10")]), ..of(variant, function) };
        let (element, expected) = match variant {
            Variant::Map => ("2", json!(20)),
            Variant::Pmap => ("[1, 2]", json!(30)),
            _ => ("[3, 4]", json!([30, 10])),
        };
        let outcomes = Worker::start(runtime).outcomes(&with_args, &elements(&[element]));
        assert_eq!(json_values(outcomes), [expected], "{function}");
    }
}

#[test]
fn imap_gives_names_and_under_a_nested_plan_both_keys() {
    let keys = [
        (Key { index: 6, name: Some("ä b"), outer: None }, json!(["ä b"]), json!(["ä b"])),
        (Key { index: 6, name: None, outer: None }, json!([7]), json!([6])),
        (Key { index: 6, name: None, outer: Some((2, None)) }, json!([7, 3]), json!([6, 2])),
        (
            Key { index: 0, name: None, outer: Some((2, Some("gear"))) },
            json!([1, "gear"]),
            json!([0, "gear"]),
        ),
    ];
    let functions = [(R, "function(x, ...) list(...)"), (Python, "lambda x, *keys: keys")];
    for (runtime, function) in functions {
        let mut worker = Worker::start(runtime);
        let input = Input::Json(b"null");
        let batch: Vec<_> =
            keys.iter().map(|(key, ..)| Element { index: 40, input, key: Some(*key) }).collect();
        let values = json_values(worker.outcomes(&of(Variant::Imap, function), &batch));
        for (value, (_, in_r, in_python)) in values.iter().zip(&keys) {
            // One item in a list is an array too.
            assert_eq!(value, if runtime == R { in_r } else { in_python });
        }
    }
}

/// Packages look at all calls: rlang, whenever it signals an error.
#[test]
fn user_code_that_looks_at_the_calls_sees_none_that_is_null() {
    let function = "function(...) any(vapply(sys.calls(), is.null, NA))";
    let seeded = Options { seed: Some(Seed::Number(1)), ..Options::default() };
    let mut jobs = [Variant::Map, Variant::Pmap, Variant::Imap].map(|v| of(v, function)).to_vec();
    jobs.push(WorkerJob { options: seeded, ..job(function) });
    for job in jobs {
        let values = json_values(Worker::start(R).outcomes(&job, &elements(&["[1]"])));
        assert_eq!(values, [json!(false)], "{:?}", job.options);
    }
    for function in [function, "any(vapply(sys.calls(), is.null, NA))"] {
        let call = WorkerJob { is_call: true, ..job(function) };
        assert_eq!(json_values(Worker::start(R).outcomes(&call, &[CALL])), [json!(false)]);
    }
}

#[test]
fn the_story_of_an_error_begins_with_the_users_code() {
    for variant in [Variant::Map, Variant::Pmap, Variant::Imap] {
        let function = "function(...) { g <- function(y) stop('no'); g(1) }";
        let outcomes = Worker::start(R).outcomes(&of(variant, function), &elements(&["[1]"]));
        let error = outcomes[0].as_ref().unwrap_err();
        assert!(error.traceback[0].starts_with("f(element"), "{variant:?}: {error:?}");
        assert_eq!(error.traceback[1..], ["g(1)", "stop(\"no\")"], "{variant:?}");
        assert_eq!(error.call.as_deref(), Some("g(1)"));
        let function = "def f(*a):\n    raise ValueError('no')";
        let outcomes = Worker::start(Python).outcomes(&of(variant, function), &elements(&["[1]"]));
        let error = outcomes[0].as_ref().unwrap_err();
        assert_eq!(error.traceback.len(), 1, "{variant:?}: {error:?}");
        assert!(error.traceback[0].starts_with("File \"<function>\", line 2, in f"), "{error:?}");
    }
}
