//! Serializations that R may never have written, read and written as JSON.

#![no_main]

use agent::rserial;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|serialized: &[u8]| {
    let Ok(value) = rserial::read(serialized) else { return };
    let mut json = Vec::new();
    if rserial::write_value(&mut json, &value).is_ok() {
        let text = std::str::from_utf8(&json).expect("JSON is UTF-8");
        serde_json::from_str::<&RawValue>(text).expect("what is written is JSON");
    }
});
