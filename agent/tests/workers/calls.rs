//! Calls: a job without elements.

use agent::runtimes::WorkerJob;
use protocol::job::Runtime::{self, Python, R};
use protocol::job::{Encoding, Options, Seed, ValueType, Variant};
use serde_json::json;

use crate::both::both;
use crate::harness::{CALL, Worker, constants, job, json_values};

fn call(function: &str) -> WorkerJob {
    WorkerJob { is_call: true, ..job(function) }
}

#[test]
fn a_function_is_called_and_anything_else_is_the_value() {
    let rows = [
        (R, "function() 41 + 1", json!(42.0)),
        (R, "6 * 7", json!(42.0)),
        (R, "a <- 1:3\nrev(a)", json!([3, 2, 1])),
        (R, "\"sum\"", json!("sum")),
        (R, "NULL", json!(null)),
        (R, "", json!(null)),
        (R, "list(a = 1L)", json!({"a": 1})),
        (Python, "lambda: 42", json!(42)),
        (Python, "6 * 7", json!(42)),
        (Python, "async def f():\n    return 42", json!(42)),
        (Python, "def f():\n    return [1]", json!([1])),
        (Python, "x = 2\nx ** 10", json!(1024)),
        (Python, "x = 2", json!(null)),
        (Python, "{'a': None}", json!({"a": null})),
    ];
    let mut workers = [R, Python].map(Worker::start);
    for (runtime, function, expected) in rows {
        let worker = &mut workers[usize::from(runtime == Python)];
        let values = json_values(worker.outcomes(&call(function), &[CALL]));
        assert_eq!(values, [expected], "{function}");
    }
}

#[test]
fn a_call_has_args_and_globals() {
    both("function(x, y) x - y * z", "def f(x, y):\n    return x - y * z", |runtime, function| {
        let args = constants(&[("y", "2"), ("x", "10")]);
        let globals = constants(&[("z", "3")]);
        let values = Worker::start(runtime)
            .outcomes(&WorkerJob { args, globals, ..call(function) }, &[CALL]);
        assert_eq!(json_values(values), [json!(4)]);
    });
}

#[test]
fn what_a_call_does_is_its_elements() {
    let error_of = |runtime: Runtime, function: &str| {
        let mut outcomes = Worker::start(runtime).outcomes(&call(function), &[CALL]);
        outcomes.remove(0).unwrap_err()
    };
    let error = error_of(R, "g <- function() stop('no')\ng()");
    assert_eq!((error.message.as_str(), error.fatal), ("no", false));
    assert_eq!(error.traceback[error.traceback.len() - 2..], ["g()", "stop(\"no\")"]);
    let error = error_of(R, "function() stop('no')");
    assert_eq!(error.traceback, ["f()", "stop(\"no\")"]);
    let error = error_of(Python, "1 / 0");
    assert_eq!((error.kind.as_str(), error.fatal), ("ZeroDivisionError", false));
    assert!(error.traceback[0].starts_with("File \"<function>\", line 1"), "{error:?}");
    // A text that does not parse is refused before.
    both("function(", "lambda", |runtime, function| {
        let error = Worker::start(runtime).refusal(&call(function));
        assert_eq!((error.kind.as_str(), error.fatal), ("SyntaxError", true));
    });
}

#[test]
fn a_call_has_types_walks_encodings_and_seeds() {
    both("list(1, 2)", "[1, 2]", |runtime, function| {
        let mut worker = Worker::start(runtime);
        let with = |options| WorkerJob { options, ..call(function) };
        let options = Options { value_type: ValueType::Dbl, ..Options::default() };
        let error = worker.outcomes(&with(options), &[CALL]).remove(0).unwrap_err();
        assert_eq!(error.kind, "TypeMismatch");
        assert!(error.message.starts_with("the value must be one dbl"), "{}", error.message);
        let options = Options { variant: Variant::Walk, ..Options::default() };
        assert_eq!(json_values(worker.outcomes(&with(options), &[CALL])), [json!(null)]);
    });
    both("charToRaw('ab')", "b'ab'", |runtime, function| {
        let options = Options { encoding: Encoding::Bytes, ..Options::default() };
        let outcomes =
            Worker::start(runtime).outcomes(&WorkerJob { options, ..call(function) }, &[CALL]);
        assert_eq!(outcomes, [Ok(b"ab".to_vec())]);
    });
    both("runif(2)", "import random\n[random.random() for i in range(2)]", |runtime, function| {
        let options = Options { seed: Some(Seed::Number(7)), ..Options::default() };
        let job = WorkerJob { options, ..call(function) };
        let [first, again] = [(), ()].map(|()| Worker::start(runtime).outcomes(&job, &[CALL]));
        assert_eq!(first, again);
    });
}
