//! Elements and values that are not JSON, in one body.
//!
//! The first two bytes say where the body is cut, the rest is the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frames::{self, Frame};

/// The frames that are whole, and where one is not.
fn read(body: &[u8]) -> (Vec<Frame<'_>>, Option<usize>) {
    let (mut whole, mut cut) = (Vec::new(), None);
    for frame in frames::iterate(body) {
        assert!(cut.is_none(), "nothing follows what is cut off");
        match frame {
            Ok(frame) => whole.push(frame),
            Err(at) => cut = Some(at),
        }
    }
    (whole, cut)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, body)) = data.split_first_chunk::<2>() else { return };
    let (whole, cut_at) = read(body);
    let mut again = Vec::new();
    for frame in &whole {
        assert!(frames::push(&mut again, frame.kind, frame.payload));
    }
    assert_eq!(again, body[..again.len()], "what is read and written again is the same");
    match cut_at {
        Some(at) => {
            assert!(at == again.len() && at < body.len(), "it is cut off at {at}");
            if let Some((&[a, b, c, d, _], behind)) = body[at..].split_first_chunk::<5>() {
                assert!(behind.len() < u32::from_le_bytes([a, b, c, d]) as usize, "it is whole");
            }
        }
        None => assert_eq!(again.len(), body.len(), "all of it was read"),
    }
    // The frames of its first part are the first of its frames, and the others begin behind them.
    let first = &body[..usize::from(u16::from_le_bytes(cut)).min(body.len())];
    let (mut joined, n_read) = match read(first) {
        (frames, Some(at)) => (frames, at),
        (frames, None) => (frames, first.len()),
    };
    joined.extend(read(&body[n_read..]).0);
    assert_eq!(joined, whole, "in two parts");
});
