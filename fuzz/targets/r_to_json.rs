//! Serializations that R may never have written, read and written as JSON, and that JSON as R again.

#![no_main]

use agent::rserial::{self, Writer};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|serialized: &[u8]| {
    let Some(json) = to_json(serialized) else { return };
    let text = std::str::from_utf8(&json).expect("JSON is UTF-8");
    serde_json::from_str::<&RawValue>(text).expect("what is written is JSON");
    // R has no string with a NUL in it, but bytes from a pipe may say so; these are refused.
    let mut writer = Writer::new();
    if rserial::write_json(&mut writer, &json).is_err() {
        return;
    }
    let again = to_json(&writer.into_bytes()).expect("what was JSON can be JSON again");
    let mut writer = Writer::new();
    rserial::write_json(&mut writer, &again).expect("what went to R once goes there again");
    to_json(&writer.into_bytes()).expect("what was JSON can be JSON again");
});

fn to_json(serialized: &[u8]) -> Option<Vec<u8>> {
    let value = rserial::read(serialized).ok()?;
    let mut json = Vec::new();
    rserial::write_value(&mut json, &value).ok()?;
    Some(json)
}
