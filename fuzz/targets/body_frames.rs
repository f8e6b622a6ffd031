//! Elements and values that are not JSON, and envelopes, as bodies of requests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{envelope, frames};

fuzz_target!(|body: &[u8]| {
    let mut again = Vec::new();
    for frame in frames::iterate(body) {
        match frame {
            Ok(frame) => assert!(frames::push(&mut again, frame.kind, frame.payload)),
            Err(at) => {
                assert_eq!(at, again.len(), "what is cut off begins behind what is whole");
                assert!(at < body.len());
            }
        }
    }
    assert_eq!(again, body[..again.len()]);
    if let Ok((header, start)) = envelope::open::<serde_json::Value>(body) {
        let sealed = envelope::seal(&header, &body[start..]).expect("it was sealed before");
        let (same, start_again) = envelope::open(&sealed).expect("what is sealed is opened");
        assert_eq!((header, &body[start..]), (same, &sealed[start_again..]));
    }
});
