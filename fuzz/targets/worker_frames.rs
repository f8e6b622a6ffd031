//! What a worker writes to its agent: a stream of frames, cut anywhere.
//!
//! The first two bytes say where the stream is cut once, the rest is the stream.

#![no_main]

use agent::frame::{self, Frame};
use bytes::{Buf, BytesMut};
use libfuzzer_sys::fuzz_target;

/// The frames of a stream that comes in these parts, how many bytes they are, and the kind at which
/// the stream is no worker's.
fn frames_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, usize, Option<u8>) {
    let (mut buffer, mut frames, mut n_read) = (BytesMut::new(), Vec::new(), 0);
    for part in parts {
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
    let Some((&cut, stream)) = data.split_first_chunk::<2>() else { return };
    let (head, tail) = stream.split_at(usize::from(u16::from_le_bytes(cut)).min(stream.len()));
    let whole = frames_of([stream].into_iter());
    assert_eq!(frames_of([head, tail].into_iter()), whole, "in two parts");
    assert_eq!(frames_of(stream.chunks(1)), whole, "byte by byte");
    let (frames, n_bytes, refused) = whole;
    let mut again = Vec::new();
    for frame in &frames {
        let frame =
            frame::encode(frame.kind, frame.body.clone()).expect("it is no longer than it was");
        again.extend(frame.unsent().copy_to_bytes(frame.size()));
    }
    assert_eq!(again, stream[..n_bytes], "what is read and written again is the same");
    let is_workers = |kind: u8| b"hjcopr".contains(&kind);
    assert!(frames.iter().all(|frame| is_workers(frame.kind)), "no worker sends others");
    match (refused, stream[n_bytes..].split_first_chunk::<5>()) {
        (Some(kind), next) => {
            assert_eq!(next.map(|(head, _)| head[4]), Some(kind));
            assert!(!is_workers(kind), "a worker sends these");
        }
        (None, None) => {}
        (None, Some((&[a, b, c, d, kind], behind))) => {
            assert!(is_workers(kind), "what is no frame is not waited for");
            let length = u32::from_le_bytes([a, b, c, d]);
            assert!(behind.len() < length as usize, "what is whole is taken");
        }
    }
});
