//! Submissions whose parts do not go together: encodings, types, calls, seeds, blobs, batches.

use serde_json::{Value, json};

use super::submissions::{option, submission};
use super::{BLOB, INVALID, NO_BLOB, NOBODY, Refusal, refusal};

/// A job of runtime `command` that is sound but for `change`.
fn command(change: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    let mut whole = json!({"runtime": "command", "function": ["echo", "{}"]});
    whole.as_object_mut().expect("an object").extend(change.as_object().expect("one").clone());
    submission(&whole, field, says)
}

/// A job of runtime `r` with these options.
fn r(options: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    submission(&json!({"runtime": "r", "options": options}), field, says)
}

/// A call that is sound but for `change`.
fn call(change: &Value, field: &'static str, says: &[&'static str]) -> Refusal {
    let mut whole = json!({"elements": null});
    whole.as_object_mut().expect("an object").extend(change.as_object().expect("one").clone());
    submission(&whole, field, says)
}

pub fn of_options() -> Vec<Refusal> {
    let state = json!([10403, 1, 2, 3, 4, 5, 6]);
    vec![
        option("variant", &json!("modify"), "options.variant", &["unknown value", "`imap`"]),
        option("type", &json!("double"), "options.type", &["unknown value", "`dbl`"]),
        option("encoding", &json!("xml"), "options.encoding", &["unknown value", "`pickle`"]),
        option("encoding", &json!("rds"), "options.encoding", &["rds", "python"]),
        r(&json!({"encoding": "pickle"}), "options.encoding", &["pickle"]),
        option("output", &json!("yaml"), "options.output", &["unknown value", "`text`"]),
        option("output", &json!("json"), "options.output", &["only runtime command"]),
        option("seed", &json!("abc"), "options.seed", &["must be a whole number"]),
        option("seed", &json!(1.5), "options.seed", &["must be a whole number"]),
        option("seed", &state, "options.seed", &["runtime r"]),
        r(&json!({"seed": state}), "options.seed", &["10407 and six"]),
        r(&json!({"seed": 1_u64 << 40}), "options.seed", &["from -2147483647 to 2147483647"]),
        option("memory", &json!(0), "options.memory", &["at least 1048576", "null"]),
        option("memory", &json!("2 GB"), "options.memory", &["a whole number from 0"]),
        option("retry_on_error", &json!("yes"), "options.retry_on_error", &["boolean"]),
        option("stdout", &json!(1), "options.stdout", &["boolean"]),
        option("conditions", &json!(null), "options.conditions", &["boolean"]),
        submission(
            &json!({"options": {"encoding": "bytes", "type": "chr"}, "elements": ["eA=="]}),
            "options.type",
            &["must be list with encoding bytes"],
        ),
        submission(
            &json!({"options": {"encoding": "bytes", "variant": "pmap"}, "elements": ["eA=="]}),
            "options.variant",
            &["is pmap", "give map"],
        ),
        submission(
            &json!({"options": {"encoding": "pickle"}, "elements": [1]}),
            "elements[0]",
            &["is a number", "base64"],
        ),
        submission(
            &json!({"options": {"encoding": "pickle"}, "elements": {"a": "gA==", "b": "?"}}),
            "elements.b",
            &["is not base64"],
        ),
    ]
}

pub fn of_commands_and_calls() -> Vec<Refusal> {
    let two_levels = json!([{"strategy": "cluster"}, {"strategy": "multisession"}]);
    vec![
        command(&json!({"function": "echo {}"}), "function", &["is a string, must be an array"]),
        command(&json!({"function": []}), "function", &["is empty", "a program"]),
        command(&json!({"function": [""]}), "function", &["is empty"]),
        command(&json!({"function": ["echo", 1]}), "function", &["an array of the program"]),
        command(&json!({"function": ["echo", "a\u{0}b"]}), "function", &["NUL"]),
        command(&json!({"packages": ["jq"]}), "packages", &["must be empty", "`prepare`"]),
        command(&json!({"options": {"encoding": "rds"}}), "options.encoding", &["rds"]),
        command(&json!({"options": {"type": "dbl"}}), "options.type", &["output"]),
        call(&json!({"options": {"variant": "imap"}}), "options.variant", &["must be map or walk"]),
        call(&json!({"options": {"variant": "pmap"}}), "options.variant", &["must be map or walk"]),
        call(&json!({"plan": two_levels}), "plan", &["must have one level for a call"]),
        call(&json!({"function": "", "elements": null}), "function", &["is empty"]),
    ]
}

pub fn of_blobs_and_others() -> Vec<Refusal> {
    let blob = |digest: &str| json!({"blob": digest});
    vec![
        submission(&json!({"elements": blob("sha256:17")}), "elements.blob", &["64 hex digits"]),
        submission(&json!({"elements": blob(NO_BLOB)}), "elements.blob", &["no blob", "PUT"]),
        submission(
            &json!({"elements": {"blob": BLOB, "encoding": "json"}}),
            "elements.encoding",
            &["must be left out"],
        ),
        // Its one line is no JSON, and its bytes are no frames.
        submission(&json!({"elements": blob(BLOB)}), "elements.blob", &["line 1", "NDJSON"]),
        submission(
            &json!({"elements": blob(BLOB), "options": {"encoding": "pickle"}}),
            "elements.blob",
            &["the frame at byte 0", "cut off"],
        ),
        submission(&json!({"args": {"x": blob(NO_BLOB)}}), "args.x", &["no blob"]),
        submission(
            &json!({"globals": {"x": {"blob": BLOB, "encoding": "zip"}}}),
            "globals.x.encoding",
            &["must be json, rds, pickle or bytes"],
        ),
        submission(
            &json!({"args": {"x": {"blob": BLOB, "encoding": "rds"}}}),
            "args.x.encoding",
            &["rds"],
        ),
        submission(&json!({"files": "project.tar.gz"}), "files", &["invalid type"]),
        submission(&json!({"files": [BLOB]}), "files", &["array", "an object such as"]),
        submission(&json!({"files": blob("project.tar.gz")}), "files.blob", &["not a digest"]),
        submission(&json!({"files": blob(NO_BLOB)}), "files.blob", &["no blob"]),
        submission(&json!({"files": {}}), "files", &["missing field `blob`"]),
        submission(
            &json!({"files": {"blob": BLOB, "encoding": "rds"}}),
            "files.encoding",
            &["must be left out", "tar.gz"],
        ),
        submission(&json!({"prepare": ["apt-get"]}), "prepare", &["invalid type"]),
        submission(&json!({"after": "none"}), "after", &["invalid type"]),
        submission(&json!({"after": ["17"]}), "after[0]", &["UUID"]),
        submission(&json!({"after": [NOBODY]}), "after[0]", &["no job", NOBODY]),
        submission(&json!({"after": vec![NOBODY; 1001]}), "after", &["1001 jobs", "at most"]),
    ]
}

pub fn of_batches() -> Vec<Refusal> {
    let sound = json!({"runtime": "python", "function": "1"});
    let batch = |jobs: &Value, field: &'static str, says: &[&'static str]| {
        let body = json!({"jobs": jobs}).to_string();
        Refusal { field: Some(field), ..refusal("POST", "/v1/jobs:batch", body, INVALID, says) }
    };
    let timeout = json!({"runtime": "python", "function": "1", "options": {"timeout": 0}});
    let after = json!({"runtime": "python", "function": "1", "after": [NOBODY]});
    vec![
        refusal("POST", "/v1/jobs:batch", "[]", INVALID, &["body"]),
        refusal("POST", "/v1/jobs:batch", "[[]]", INVALID, &["body: invalid type: array"]),
        refusal("POST", "/v1/jobs:batch", "{}", INVALID, &["missing field `jobs`"]),
        batch(&json!([]), "jobs", &["holds 0", "1 to 1000"]),
        batch(&vec![sound.clone(); 1001].into(), "jobs", &["1001", "1000"]),
        batch(
            &json!([sound, sound, sound, timeout]),
            "jobs[3].options.timeout",
            &["greater than 0"],
        ),
        batch(&json!([sound, {"runtime": "python"}]), "jobs[1]", &["missing field `function`"]),
        batch(&json!([sound, after]), "jobs[1].after[0]", &["no job"]),
    ]
}
