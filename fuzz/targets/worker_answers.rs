//! What the frames of a worker say, as each runtime says it.
//!
//! The first byte chooses the runtime and the kind of the frame, the rest is its body.

#![no_main]

use agent::rserial;
use agent::runtimes::{self, Answer};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use protocol::job::Runtime;
use serde_json::value::RawValue;

/// Bytes of a message or a call at the most, and some for the note that says what is left out.
const LONGEST_TEXT: usize = 70_000;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let runtime = [Runtime::R, Runtime::Python, Runtime::Command][usize::from(choice % 3)];
    let kind = b"hjcopr"[usize::from(choice / 3 % 6)];
    let body = Bytes::copy_from_slice(body);
    let answer = runtimes::decode(runtime, kind, &body);
    assert_eq!(answer, runtimes::decode(runtime, kind, &body), "it depends on the frame alone");
    let Ok(answer) = answer else { return };
    let is_right = match &answer {
        Answer::Hello { version } => kind == b'h' && version.len() <= body.len(),
        Answer::Ready => kind == b'j' && body.is_empty(),
        Answer::Refused(error) => kind == b'j' && error.message.len() <= LONGEST_TEXT,
        Answer::Condition { condition, .. } => {
            kind == b'c' && condition.message.len() <= LONGEST_TEXT
        }
        Answer::Outcomes { printed, .. } => *printed == (kind == b'p') && b"op".contains(&kind),
        Answer::ResetDone => kind == b'r',
    };
    assert!(is_right, "{answer:?} to a frame {:?}", char::from(kind));
    let Answer::Outcomes { outcomes, .. } = answer else { return };
    let values = || outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
    let is_translated = runtime == Runtime::R
        && rserial::read(&body).is_ok_and(|value| value.into_list().is_some_and(|l| l.len() == 3));
    if is_translated {
        for value in values() {
            let text = std::str::from_utf8(value).expect("JSON is UTF-8");
            serde_json::from_str::<&RawValue>(text).expect("what R's values become is JSON");
        }
    } else {
        let n_bytes: usize = values().map(Bytes::len).sum();
        // Of R's, each may have got the head of the whole.
        let most = if runtime == Runtime::R { 24 * body.len() } else { body.len() };
        assert!(n_bytes <= most, "values are parts of the frame");
    }
});
