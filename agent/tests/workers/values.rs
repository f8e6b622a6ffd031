//! Values, there and back, whatever the runtime.

use protocol::job::Runtime;
use serde_json::Value;

use crate::both::both;
use crate::harness::{encode, worker};

#[test]
fn values_come_back_in_order() {
    both("function(x) x", "lambda x: x", |runtime, function| {
        let texts = ["1", "\"é ∞ 😀\"", "null", "true", "[1, 2, 3]", "{\"a\": [1, {\"b\": null}]}"];
        let values = worker(runtime, function).run(&texts).values();
        let expected: Vec<Value> =
            texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert_eq!(values, expected);
    });
}

#[test]
fn doubles_keep_their_bits() {
    let texts = [
        "0.1",
        "1.7976931348623157e308",
        "5e-324",
        "2.2250738585072014e-308",
        "-0.0",
        "0.30000000000000004",
        "9007199254740993.5",
        "1e23",
        "123456789.12345679",
    ];
    both("function(x) x", "lambda x: x", |runtime, function| {
        let run = worker(runtime, function).run(&texts);
        for (value, text) in run.outcomes.iter().zip(texts) {
            // Rust's own parser, because serde_json's does not always find the nearest double.
            let [value, expected]: [f64; 2] =
                [value.as_ref().unwrap().as_str(), text].map(|text| text.parse().unwrap());
            assert_eq!(value.to_bits(), expected.to_bits(), "{text}");
        }
    });
}

/// Doubles of random bits, and those at the ends of their range.
fn random_doubles(count: usize) -> Vec<f64> {
    let ends = [0, 1, 2, 0xF_FFFF_FFFF_FFFF, 0x10_0000_0000_0000, 0x7FEF_FFFF_FFFF_FFFF];
    let mut word = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        // Marsaglia's xorshift.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    let random = std::iter::repeat_with(move || {
        let word = next();
        // One in eight is subnormal: of random bits few are.
        if word & 7 == 0 { f64::from_bits(word & !(0x7FF << 52)) } else { f64::from_bits(word) }
    });
    let signed = ends.into_iter().flat_map(|bits| [bits, bits | 1 << 63]).map(f64::from_bits);
    signed.chain(random).filter(|double| double.is_finite()).take(count).collect()
}

#[test]
fn a_hundred_thousand_doubles_keep_their_bits() {
    let doubles = random_doubles(100_000);
    let subnormal = doubles.iter().filter(|double| double.is_subnormal()).count();
    assert!(subnormal > 5_000, "{subnormal}");
    let texts: Vec<String> = doubles
        .chunks(500)
        .map(|chunk| {
            let texts: Vec<_> = chunk.iter().map(|double| format!("{double:e}")).collect();
            format!("[{}]", texts.join(","))
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    both("function(x) x", "lambda x: x", |runtime, function| {
        let run = worker(runtime, function).run(&texts);
        let back = run.outcomes.iter().flat_map(|outcome| {
            let text = outcome.as_ref().unwrap().trim_matches(['[', ']']);
            text.split(',').map(|text| text.trim().parse::<f64>().unwrap().to_bits())
        });
        let sent = doubles.iter().map(|double| double.to_bits());
        assert!(back.eq(sent), "{runtime:?}");
    });
}

#[test]
fn what_json_cannot_say_names_the_place() {
    both(
        "function(x) list(a = list(b = c(1, 2, x / 0 - x / 0)))",
        "lambda x: {'a': {'b': [1, 2, float('nan')]}}",
        |runtime, function| {
            let run = worker(runtime, function).run(&["0"]);
            let error = run.error(0);
            assert_eq!(error.kind, "Untranslatable");
            let place = if runtime == Runtime::R { "`$a$b[3]`" } else { "`['a']['b'][2]`" };
            assert!(error.message.contains(place), "{}", error.message);
            assert!(error.message.to_lowercase().contains("nan"), "{}", error.message);
        },
    );
}

#[test]
fn one_value_that_cannot_be_said_spoils_no_other() {
    both(
        "function(x) if (x == 1) function(y) y else if (x == 2) globalenv() else list(x)",
        "lambda x: (lambda y: y) if x == 1 else {1, 2} if x == 2 else [x]",
        |runtime, function| {
            let run = worker(runtime, function).run(&["0", "1", "2", "3"]);
            assert_eq!(run.outcomes[0].as_deref(), Ok("[0]"));
            assert_eq!(run.error(1).kind, "Untranslatable");
            assert_eq!(run.error(2).kind, "Untranslatable");
            assert_eq!(run.outcomes[3].as_deref(), Ok("[3]"));
        },
    );
}

#[test]
fn deep_nesting_goes_through_or_is_an_error() {
    let nested = |depth: usize| format!("{}1{}", "[[],".repeat(depth), "]".repeat(depth));
    let (deep, deeper) = (nested(200), nested(5_000));
    both("function(x) x", "lambda x: x", |runtime, function| {
        let mut worker = worker(runtime, function);
        let run = worker.run(&[&deep]);
        assert_eq!(run.outcomes[0].as_ref().unwrap().replace(' ', ""), deep);
        match encode(runtime, &["1", &deeper]) {
            Ok(_) => {
                let run = worker.run(&["1", &deeper]);
                assert_eq!(run.outcomes[0].as_deref(), Ok("1"));
                assert_eq!(run.error(1).kind, "RecursionError");
            }
            Err((position, error)) => {
                assert_eq!((position, error.kind.as_str()), (1, "Untranslatable"));
            }
        }
    });
    both(
        "function(n) Reduce(function(a, b) list(a), seq_len(n), 1)",
        "def f(n):\n    a = 1\n    for _ in range(n):\n        a = [a]\n    return a",
        |runtime, function| {
            let run = worker(runtime, function).run(&["3", "3000", "4"]);
            assert_eq!(run.error(1).kind, "Untranslatable");
            assert!(run.error(1).message.contains("nested"), "{}", run.error(1).message);
            assert!(run.outcomes[2].is_ok());
        },
    );
}
