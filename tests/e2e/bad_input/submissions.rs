//! Submissions with a part that cannot be.

use serde_json::{Value, json};

use super::{INVALID, MAX_BODY, Refusal, UNREADABLE, refusal};

/// A submission that is sound but for `change`, and refused for `field`.
pub fn submission(change: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    let mut job = json!({"runtime": "python", "function": "abs", "elements": [1]});
    for (name, value) in change.as_object().expect("an object") {
        job[name] = value.clone();
    }
    let refusal = refusal("POST", "/v1/jobs", job.to_string(), INVALID, says);
    Refusal { field: Some(field), ..refusal }
}

pub fn option(name: &str, value: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    submission(&json!({"options": {name: value}}), field, says)
}

pub fn submissions() -> Vec<Refusal> {
    let text =
        |text: &str, how, says: &[&'static str]| refusal("POST", "/v1/jobs", text, how, says);
    vec![
        text("", UNREADABLE, &["not JSON"]),
        text("{", UNREADABLE, &["not JSON", "line 1 column 1"]),
        text("runtime=r", UNREADABLE, &["not JSON"]),
        text(
            r#"{"runtime": "r", "function": "~ 1", "elements": [1]} x"#,
            UNREADABLE,
            &["goes on after its JSON"],
        ),
        text(r#"{"runtime": "r", "function": "~ 1", "elements": [1,]}"#, UNREADABLE, &["not JSON"]),
        text("\u{feff}{}", UNREADABLE, &["not JSON"]),
        text("[]", INVALID, &["body"]),
        text("null", INVALID, &["body"]),
        // An array is never an object's fields in order.
        text(r#"[null, "python", "lambda: 1"]"#, INVALID, &["body: invalid type: array"]),
        submission(&json!({"options": []}), "options", &["array", "expected an object"]),
        submission(&json!({"plan": [["cluster", 1]]}), "plan[0]", &["array", "\"strategy\""]),
        text("{}", INVALID, &["runtime"]),
        text(r#"{"runtime": "r", "elements": [1]}"#, INVALID, &["function"]),
        text(
            r#"{"runtime": "command", "function": "~ 1"}"#,
            INVALID,
            &["function: is a string, must be an array"],
        ),
        text(
            r#"{"runtime": "r", "function": "~ 1", "function": "~ 2", "elements": [1]}"#,
            INVALID,
            &["duplicate field", "function"],
        ),
        submission(&json!({"elments": []}), "elments", &["unknown field", "expected one of"]),
        submission(
            &json!({"runtime": "julia"}),
            "runtime",
            &["unknown value `julia`", "`r`", "`python`"],
        ),
        submission(&json!({"runtime": 3}), "runtime", &["wrong type", "must be a word"]),
        submission(&json!({"function": ""}), "function", &["is empty", "lambda"]),
        submission(&json!({"function": " \n "}), "function", &["is empty"]),
        submission(&json!({"function": ["abs"]}), "function", &["is an array, must be a string"]),
        submission(&json!({"workdir": "project"}), "workdir", &["not an absolute path", "/srv"]),
        submission(
            &json!({
                "elements": {"range": [0, 4]},
                "plan": [{"strategy": "cluster"}, {"strategy": "multisession"}]
            }),
            "elements.range",
            &["plan of two levels", "array of arrays"],
        ),
        submission(&json!({"workdir": 3}), "workdir", &["expected a string"]),
        submission(&json!({"name": "x".repeat(201)}), "name", &["201 characters", "200"]),
        submission(&json!({"name": "a\u{0}b"}), "name", &["control character"]),
        submission(&json!({"elements": 3}), "elements", &["is a number", "must be an array"]),
        submission(&json!({"elements": "abc"}), "elements", &["is a string"]),
        submission(
            &json!({"elements": {"range": [5, 1]}}),
            "elements.range",
            &["must not end before it starts"],
        ),
        text(
            r#"{"runtime": "r", "function": "~ 1", "elements": {"a": 1, "a": 2}}"#,
            INVALID,
            &["elements: has the name \"a\" twice"],
        ),
        submission(&json!({"args": [1]}), "args", &["invalid type", "an object"]),
        submission(&json!({"args": {"": 1}}), "args", &["without a name"]),
        submission(&json!({"globals": {"": 1}}), "globals", &["without a name"]),
        submission(&json!({"packages": "math"}), "packages", &["invalid type"]),
        submission(
            &json!({"packages": ["math", "a b; system('x')"]}),
            "packages[1]",
            &["not the name of a package"],
        ),
        submission(&json!({"setup": 1}), "setup", &["invalid type"]),
        submission(&json!({"plan": []}), "plan", &["not a topology", "[cluster, multisession]"]),
        submission(
            &json!({"plan": [{"strategy": "multisession"}, {"strategy": "cluster"}]}),
            "plan",
            &["not a topology"],
        ),
        submission(
            &json!({"plan": [{"strategy": "multicore"}]}),
            "plan[0].strategy",
            &["unknown value `multicore`", "`cluster`"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster", "wrkers": 1}]}),
            "plan[0].wrkers",
            &["unknown field"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster", "workers": 0}]}),
            "plan[0].workers",
            &["must be at least 1"],
        ),
        submission(
            &json!({"plan": [{"strategy": "cluster"}, {"strategy": "multisession"}], "elements": [[1], 2]}),
            "elements[1]",
            &["is a number", "must be an array"],
        ),
        option("timeut", &json!(1), "options.timeut", &["unknown field"]),
        option(
            "on_error",
            &json!("ignore"),
            "options.on_error",
            &["unknown value `ignore`", "`collect`"],
        ),
        option("slots", &json!(0), "options.slots", &["must be at least 1"]),
        option("slots", &json!("some"), "options.slots", &["all"]),
        option("slots", &json!(-1), "options.slots", &["all"]),
        option("timeout", &json!(0), "options.timeout", &["greater than 0"]),
        option("timeout", &json!(-2.5), "options.timeout", &["greater than 0"]),
        option("timeout", &json!(1e12), "options.timeout", &["at most"]),
        option("retries", &json!(1_000_000), "options.retries", &["at most 1000"]),
        option("retries", &json!(-1), "options.retries", &["-1"]),
        option("chunk_size", &json!(0), "options.chunk_size", &["at least 1"]),
        option("scheduling", &json!(0), "options.scheduling", &["greater than 0"]),
        option("priority", &json!(1000), "options.priority", &["is 1000", "from -100 to 100"]),
        option("labels", &json!({"zone": 1}), "options.labels.zone", &["invalid type"]),
        refusal(
            "POST",
            "/v1/jobs",
            vec![b' '; MAX_BODY + 1],
            (413, "too-large"),
            &["1048576 bytes", "--max-body"],
        ),
    ]
}
