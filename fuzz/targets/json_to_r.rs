//! Texts that may not be JSON, written for R and read back.

#![no_main]

use agent::rserial::{self, Writer};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

type Write = fn(&mut Writer, &[u8]) -> Result<(), rserial::Untranslatable>;

fuzz_target!(|text: &[u8]| {
    let is_json = serde_json::from_slice::<&RawValue>(text).is_ok();
    for write in [rserial::write_json as Write, rserial::write_arguments] {
        let mut writer = Writer::new();
        let written = write(&mut writer, text);
        let bytes = writer.into_bytes();
        if written.is_err() {
            assert_eq!(bytes, Writer::new().into_bytes(), "what is refused leaves nothing behind");
            continue;
        }
        assert!(is_json, "what is written was JSON");
        let value = rserial::read(&bytes).expect("what is written can be read");
        let mut json = Vec::new();
        rserial::write_value(&mut json, &value).expect("what was JSON can be JSON again");
        let json = std::str::from_utf8(&json).expect("JSON is UTF-8");
        serde_json::from_str::<&RawValue>(json).expect("what is written is JSON");
    }
});
