//! Types: what each value must be.

use std::process::Command;

use agent::runtimes::WorkerJob;
use protocol::job::Runtime::{self, Python, R};
use protocol::job::{ElementError, Encoding, Options, ValueType, Variant};
use serde_json::{Value, json};

use crate::harness::{Outcomes, Worker, elements, job};

const TYPES: [(ValueType, &str); 4] = [
    (ValueType::Chr, "chr"),
    (ValueType::Dbl, "dbl"),
    (ValueType::Int, "int"),
    (ValueType::Lgl, "lgl"),
];

fn typed(value_type: ValueType, function: &str) -> WorkerJob {
    let options = Options { value_type, ..Options::default() };
    WorkerJob { options, ..job(function) }
}

/// Values as they are, errors as their kind.
fn told(outcomes: Outcomes) -> Vec<Value> {
    let tell = |outcome: Result<Vec<u8>, _>| match outcome {
        Ok(value) => serde_json::from_slice(&value).unwrap(),
        Err(ElementError { kind, .. }) => json!({"error": kind}),
    };
    outcomes.into_iter().map(tell).collect()
}

/// Values that purrr's `map_chr()` and its like are asked about. (R's compiler takes a constant -0
/// for the constant 0 beside it.)
const EXPRESSIONS: [&str; 38] = [
    "TRUE",
    "NA",
    "1L",
    "0L",
    "2L",
    "NA_integer_",
    "1",
    "0",
    "as.numeric('-0')",
    "1.5",
    "0.1",
    "NA_real_",
    "3e9",
    "1e5",
    "2147483647",
    "-2147483647",
    "1e-300",
    "123456.7",
    "'a'",
    "'1'",
    "NA_character_",
    "NULL",
    "1:2",
    "character()",
    "list(1)",
    "factor('a')",
    "as.Date('2020-01-01')",
    "c(a = 1)",
    "matrix(1)",
    "I(1)",
    "structure(1L, class = 'foo')",
    "structure('a', class = 'foo')",
    "structure(list(1), class = 'foo')",
    "as.raw(1)",
    "1i",
    "quote(a)",
    "data.frame(a = 1)",
    "sum",
];

/// What `map_<type>()` of the purrr that is installed says of each: `value`, or `error`.
fn purrr(value_type: &str) -> Vec<String> {
    let list = EXPRESSIONS.map(|expression| format!("quote({expression})")).join(", ");
    let script = format!(
        "suppressWarnings(for (e in list({list})) {{
           text <- tryCatch({{
             value <- purrr::map_{value_type}(list(eval(e)), identity)
             if (is.na(value)) 'null' else if (is.character(value)) dQuote(value, FALSE)
             else if (is.logical(value)) tolower(value) else sprintf('%.17g', value)
           }}, error = function(e) 'error')
           cat(text, '\\n', sep = '') }})"
    );
    let output = Command::new("Rscript").args(["--vanilla", "-e", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), EXPRESSIONS.len(), "is r-cran-purrr there? {errors}");
    said.lines().map(str::to_owned).collect()
}

#[test]
fn types_of_r_are_purrrs() {
    let mut worker = Worker::start(R);
    let function = format!("function(i) list({})[[i]]", EXPRESSIONS.join(", "));
    let indexes: Vec<_> = (1..=EXPRESSIONS.len()).map(|index| index.to_string()).collect();
    let indexes: Vec<_> = indexes.iter().map(String::as_str).collect();
    for (value_type, name) in TYPES {
        let outcomes = worker.outcomes(&typed(value_type, &function), &elements(&indexes));
        let rows = outcomes.into_iter().zip(purrr(name)).zip(EXPRESSIONS);
        for ((outcome, expected), expression) in rows {
            match outcome {
                Err(error) => {
                    assert_eq!(error.kind, "TypeMismatch");
                    assert_eq!(expected, "error", "map_{name}: {expression}: {error:?}");
                }
                Ok(value) => {
                    let value: Value = serde_json::from_slice(&value).unwrap();
                    let expected = serde_json::from_str::<Value>(&expected);
                    let expected = expected.unwrap_or_else(|_| panic!("{name} {expression}"));
                    match (value.as_f64(), expected.as_f64()) {
                        (Some(got), Some(expected)) => {
                            assert_eq!(got.to_bits(), expected.to_bits(), "{name} {expression}");
                        }
                        _ => assert_eq!(value, expected, "map_{name}: {expression}"),
                    }
                }
            }
        }
    }
}

#[test]
fn an_integer_that_r_has_not_is_refused_where_purrr_makes_it_na() {
    let outcomes = Worker::start(R)
        .outcomes(&typed(ValueType::Int, "function(x) -2147483648"), &elements(&["0"]));
    assert_eq!(told(outcomes), [json!({"error": "TypeMismatch"})]);
}

#[test]
fn types_of_python_take_one_scalar_of_their_kind() {
    let no = json!({"error": "TypeMismatch"});
    // For chr, dbl, int, lgl.
    let rows = [
        ("'a'", [json!("a"), no.clone(), no.clone(), no.clone()]),
        ("1", [no.clone(), json!(1.0), json!(1), no.clone()]),
        ("1.5", [no.clone(), json!(1.5), no.clone(), no.clone()]),
        ("2.0", [no.clone(), json!(2.0), no.clone(), no.clone()]),
        ("True", [no.clone(), no.clone(), no.clone(), json!(true)]),
        ("None", [no.clone(), no.clone(), no.clone(), no.clone()]),
        ("[1]", [no.clone(), no.clone(), no.clone(), no.clone()]),
        ("2 ** 53 + 1", [no.clone(), no.clone(), json!((1_u64 << 53) + 1), no.clone()]),
        ("10 ** 400 * 0 + 7", [no.clone(), json!(7.0), json!(7), no]),
    ];
    let mut worker = Worker::start(Python);
    for (expression, expected) in rows {
        for ((value_type, name), expected) in TYPES.into_iter().zip(expected) {
            let job = typed(value_type, &format!("lambda x: {expression}"));
            let outcomes = worker.outcomes(&job, &elements(&["0"]));
            assert_eq!(told(outcomes), [expected], "{name}: {expression}");
        }
    }
}

#[test]
fn a_mismatch_names_the_element_and_what_it_gave() {
    let rows = [
        (R, ValueType::Dbl, "if (x) c('a', 'b') else 1", "one dbl, is a character of length 2"),
        (R, ValueType::Int, "if (x) 1.5 else 1", "one int, is a double of length 1 (1.5)"),
        (R, ValueType::Lgl, "if (x) NULL else 1", "one lgl, is NULL"),
        (R, ValueType::Chr, "if (x) lm(mpg ~ wt, mtcars) else 'a'", "one chr, is a <lm>"),
        (
            Python,
            ValueType::Dbl,
            "['a', 'b'] if x else 1",
            "one dbl (a float), is a list of length 2",
        ),
        (Python, ValueType::Int, "1.5 if x else 1", "one int, is a float"),
        (Python, ValueType::Lgl, "None if x else True", "one lgl (a bool), is None"),
        (Python, ValueType::Chr, "{} if x else 'a'", "one chr (a str), is a dict of length 0"),
    ];
    let mut workers = [R, Python].map(Worker::start);
    for (runtime, value_type, expression, what) in rows {
        let worker = &mut workers[usize::from(runtime == Python)];
        let head = if runtime == R { "function(x) " } else { "lambda x: " };
        let mut batch = elements(&["false", "true", "false"]);
        batch.iter_mut().for_each(|element| element.index += 2);
        let outcomes = worker.outcomes(&typed(value_type, &format!("{head}{expression}")), &batch);
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{expression}: {outcomes:?}");
        let error = outcomes[1].as_ref().unwrap_err();
        assert_eq!(error.message, format!("element 3: the value must be {what}"));
        assert_eq!((error.kind.as_str(), error.fatal), ("TypeMismatch", false));
    }
}

#[test]
fn every_type_goes_with_every_variant_and_encoding() {
    let function = |runtime: Runtime| match runtime {
        R => "function(x, ...) 1L",
        _ => "lambda x, *more: 1",
    };
    for (runtime, encoding) in [
        (R, Encoding::Json),
        (R, Encoding::Rds),
        (Python, Encoding::Json),
        (Python, Encoding::Pickle),
    ] {
        let mut worker = Worker::start(runtime);
        for variant in [Variant::Map, Variant::Pmap, Variant::Imap, Variant::Walk] {
            for (value_type, name) in TYPES {
                let options = Options { variant, value_type, encoding, ..Options::default() };
                let job = WorkerJob { options, ..job(function(runtime)) };
                let outcome = worker.outcomes(&job, &elements(&["[5]"])).remove(0);
                let takes = variant == Variant::Walk
                    || matches!(value_type, ValueType::Dbl | ValueType::Int)
                    || runtime == R;
                assert_eq!(outcome.is_ok(), takes, "{encoding:?} {variant:?} {name}: {outcome:?}");
                if encoding == Encoding::Json && takes {
                    let expected = match (variant, value_type) {
                        (Variant::Walk, _) => "null",
                        (_, ValueType::Chr) => "\"1\"",
                        (_, ValueType::Dbl) => "1.0",
                        (_, ValueType::Lgl) => "true",
                        _ => "1",
                    };
                    assert_eq!(outcome.unwrap(), expected.as_bytes(), "{variant:?} {name}");
                }
            }
        }
    }
}
