//! Queries of lists, outcomes and logs, with their cursors.
//!
//! The first byte says of which list.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use server::fuzzing::{List, read_event_id, read_query};

const LISTS: [List; 6] =
    [List::Jobs, List::Agents, List::Tokens, List::Audit, List::Outcomes, List::Logs];

fuzz_target!(|data: &[u8]| {
    let Some((choice, query)) = data.split_first() else { return };
    let Ok(query) = std::str::from_utf8(query) else { return };
    let list = LISTS[usize::from(*choice) % LISTS.len()];
    match read_query(list, query) {
        Ok(taken) => check(list, &taken),
        Err(status) => assert_eq!(status, 422, "a refusal names the parameter"),
    }
    match read_event_id(query) {
        Ok(rank) => assert_eq!(read_event_id(&rank.to_string()), Ok(rank)),
        Err(status) => assert_eq!(status, 422, "a refusal names the header"),
    }
});

fn check(list: List, taken: &Value) {
    let query = written(taken);
    assert_eq!(read_query(list, &query).as_ref(), Ok(taken), "{query} asks for the same");
    if let Some(cursor) = taken["after"].as_str() {
        let decoded = URL_SAFE_NO_PAD.decode(cursor).expect("a cursor that we write is base64");
        assert!(!decoded.contains(&0), "not every database can be asked for a NUL character");
    }
    assert!(!taken.to_string().contains("\\u0000"), "nor for one in a name");
}

/// The query that asks for these parameters, every byte of them escaped.
fn written(parameters: &Value) -> String {
    let parameters = parameters.as_object().expect("parameters have names");
    let mut pairs = Vec::new();
    for (name, value) in parameters {
        match value {
            Value::Null => {}
            Value::Array(items) => pairs.extend(items.iter().map(|item| (name, item))),
            value => pairs.push((name, value)),
        }
    }
    let pair = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("{name}={escaped}")
    };
    pairs.into_iter().map(pair).collect::<Vec<_>>().join("&")
}
