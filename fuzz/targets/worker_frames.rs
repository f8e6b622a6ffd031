//! What a worker writes to its agent: frames of any bytes, cut anywhere, and what they say.
//!
//! The first byte says how the stream is cut, the rest is the stream.

#![no_main]

use agent::frame::{self, Frame};
use agent::runtimes;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use protocol::job::Runtime;

/// The frames at the start of a stream that comes `at_a_time` bytes each, how many bytes they are, and
/// the kind at which it is no worker's.
fn frames_of(stream: &[u8], at_a_time: usize) -> (Vec<Frame>, usize, Option<u8>) {
    let (mut buffer, mut frames, mut n_read) = (BytesMut::new(), Vec::new(), 0);
    for part in stream.chunks(at_a_time) {
        buffer.extend_from_slice(part);
        n_read += part.len();
        loop {
            match frame::take(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(kind) => return (frames, n_read - buffer.len(), Some(kind)),
            }
        }
    }
    (frames, n_read - buffer.len(), None)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let cut_up = frames_of(stream, usize::from(*cut) + 1);
    assert_eq!(cut_up, frames_of(stream, stream.len().max(1)), "however it is cut");
    let (frames, n_bytes, _) = cut_up;
    let mut again = Vec::new();
    for frame in &frames {
        again.extend(frame::encode(frame.kind, &frame.body).expect("it is no longer than it was"));
    }
    assert_eq!(again, stream[..n_bytes]);
    for frame in &frames {
        for runtime in [Runtime::R, Runtime::Python, Runtime::Command] {
            // A refusal is an answer: the worker is replaced.
            let _ = runtimes::decode(runtime, frame.kind, &frame.body);
        }
    }
});
