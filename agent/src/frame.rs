//! Frames: what an agent and a worker say to one another, on descriptors of their own.
//!
//! A worker reads frames from descriptor 3 and writes frames to descriptor 4, both pipes. Standard
//! input is `/dev/null`, and standard output and error belong to the user's code, so that nothing it
//! prints can be taken for a frame (the idea is callr's, which uses descriptor 3 for its status).
//!
//! ```text
//! u32, little endian: length of the body | u8: kind, an ASCII letter | body
//! ```
//!
//! | kind | from | body | then |
//! | --- | --- | --- | --- |
//! | `h` hello | worker | JSON: `{"version": "4.2.2"}`; once, when it is ready for frames | |
//! | `J` job | agent | function, args, globals, packages, setup, cores | `j` |
//! | `j` | worker | empty, or the error because of which the job cannot be run | |
//! | `E` elements | agent | n elements, only after a `j` without an error | `o`, `w`, `p` until n outcomes, or `S` |
//! | `c` condition | worker | an element's position in its `E`, and a message or warning; sent at once | |
//! | `o` outcomes | worker | the next outcomes in order, one or more, never past the end of the `E` | |
//! | `w` waits | worker | as `o`; they took long, and the next element is not begun before `G` | `G` or `S`, if fewer than n outcomes are there |
//! | `p` printed | worker | as `w`, but the last one's element has printed | as after `w` |
//! | `G` go on | agent | empty; what was printed has been read | |
//! | `S` stop | agent | empty; what is left of the `E` is not to be run | |
//! | `R` reset | agent | forget the job, as a new process would; not empty: and give memory back, for no job waits | `r` |
//! | `r` | worker | empty | |
//!
//! Bodies of `J`, `j`, `E`, `c`, `o`, `w`, `p` are the runtime's: JSON for Python, R's serialization for
//! R ([`crate::runtimes`]), envelopes for commands ([`crate::commands::wire`]).

use bytes::buf::Chain;
use bytes::{Buf, Bytes, BytesMut};

/// The kinds of frames.
pub mod kind {
    /// A worker is ready for frames.
    pub const HELLO: u8 = b'h';
    /// A job to set up.
    pub const JOB: u8 = b'J';
    /// The answer to [`JOB`].
    pub const READY: u8 = b'j';
    /// Elements to run.
    pub const ELEMENTS: u8 = b'E';
    /// An element signalled a condition.
    pub const CONDITION: u8 = b'c';
    /// Outcomes of elements.
    pub const OUTCOMES: u8 = b'o';
    /// Outcomes of elements that took long: the worker waits for [`GO_ON`] or [`STOP`] if elements are
    /// left.
    pub const WAITS: u8 = b'w';
    /// Outcomes of elements, the last of which has printed: the worker waits as after [`WAITS`].
    pub const PRINTED: u8 = b'p';
    /// What was printed has been read: begin the next element.
    pub const GO_ON: u8 = b'G';
    /// Forget the elements that are left of the frame.
    pub const STOP: u8 = b'S';
    /// Forget the job.
    pub const RESET: u8 = b'R';
    /// The answer to [`RESET`].
    pub const RESET_DONE: u8 = b'r';
}

/// All that a worker sends.
const FROM_WORKER: [u8; 7] = [
    kind::HELLO,
    kind::READY,
    kind::CONDITION,
    kind::OUTCOMES,
    kind::WAITS,
    kind::PRINTED,
    kind::RESET_DONE,
];

/// Bytes for which room is made before they are there: user code may announce 4 GiB by a few bytes.
const MOST_ROOM: usize = 16 << 20;

/// Bytes of a frame whose memory no other shares.
const LARGE: usize = 1 << 20;

/// Bytes of a frame before its body.
const HEAD: usize = 5;

/// A frame to be sent. Its body may be large, and is not copied: not with it, nor behind its head.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    head: Bytes,
    body: Bytes,
}

/// What is left of a frame that is being written.
pub type Unsent = Chain<Bytes, Bytes>;

impl Outgoing {
    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// It behind a frame without a body.
    pub fn behind(&self, kind: u8) -> Self {
        let head = [&[0, 0, 0, 0, kind], &*self.head].concat();
        Self { head: head.into(), body: self.body.clone() }
    }

    /// All of it, to be written.
    pub fn unsent(&self) -> Unsent {
        self.head.clone().chain(self.body.clone())
    }
}

/// Makes a frame, or says that its body is longer than the 4 GiB that a frame can hold.
pub fn encode(kind: u8, body: impl Into<Bytes>) -> Option<Outgoing> {
    let body = body.into();
    let [a, b, c, d] = u32::try_from(body.len()).ok()?.to_le_bytes();
    Some(Outgoing { head: Bytes::copy_from_slice(&[a, b, c, d, kind]), body })
}

/// One frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// What it says.
    pub body: Bytes,
}

/// Takes the first frame that a worker sent off `buffer`, if it is there in full. A kind that no
/// worker sends is refused at once: what stands before it is not a length but whatever user code
/// wrote to the descriptor.
///
/// # Errors
/// The kind that is none.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, u8> {
    let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
    let [a, b, c, d, kind] = *head;
    if !FROM_WORKER.contains(&kind) {
        return Err(kind);
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let missing = length.saturating_sub(buffer.len() - HEAD);
    if missing > 0 {
        // At once: a buffer that grows bit by bit is copied again and again. Only what has been
        // announced by a frame that has begun to arrive, and no more than that may be untrue.
        buffer.reserve(missing.min(MOST_ROOM));
        return Ok(None);
    }
    buffer.advance(HEAD);
    let body = buffer.split_to(length).freeze();
    if length >= LARGE {
        // Whoever keeps a part of what comes next would keep all of this one.
        *buffer = BytesMut::from(&buffer[..]);
    }
    Ok(Some(Frame { kind, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let sent = [(kind::HELLO, &b"{}"[..]), (kind::OUTCOMES, b"")];
        let sent = sent.map(|(kind, body)| encode(kind, body).unwrap());
        let sent = [sent[0].clone(), sent[1].behind(kind::RESET_DONE)];
        assert_eq!(sent.iter().map(Outgoing::size).sum::<usize>(), 17);
        let stream = sent.map(|frame| frame.unsent().copy_to_bytes(frame.size())).concat();
        let mut buffer = BytesMut::new();
        let mut received = Vec::new();
        for byte in stream {
            buffer.extend_from_slice(&[byte]);
            received.extend(take(&mut buffer).unwrap());
        }
        assert_eq!(received.iter().map(|frame| frame.kind).collect::<Vec<_>>(), b"hro");
        assert_eq!(received[0].body, &b"{}"[..]);
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_waited_for() {
        for kind in *b"\nxHE" {
            let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff, kind][..]);
            assert_eq!(take(&mut buffer), Err(kind));
        }
    }
}
