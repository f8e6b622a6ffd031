//! Elements and values that are not JSON, in one body: `application/vnd.farrow.frames`.
//!
//! A body is frames back to back, each
//!
//! ```text
//! u32, little endian: length of the payload | u8: kind, an ASCII letter | payload
//! ```
//!
//! | kind | payload |
//! | --- | --- |
//! | `v` value | an element's or value's bytes, in the job's encoding |
//! | `e` error | the JSON of an [`ElementError`](crate::job::ElementError), in place of a value; never in elements |
//! | `k` key | the UTF-8 name of the `v` or `e` that follows; before all or none of a body |
//! | `g` group | JSON, `{"n": 3, "name": "a"}`: the next `n` are one outer element, which may have a name; under nested plans |
//!
//! They stand in element order. A value in this form can be the elements of a next job.

use serde::{Deserialize, Serialize};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.farrow.frames";

/// Bytes before a payload.
pub const HEAD: usize = 5;

/// The kinds of frames.
pub mod kind {
    /// A value.
    pub const VALUE: u8 = b'v';
    /// An error in the place of a value.
    pub const ERROR: u8 = b'e';
    /// The name of what follows.
    pub const KEY: u8 = b'k';
    /// An outer element begins.
    pub const GROUP: u8 = b'g';
}

/// The payload of a [`kind::GROUP`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its inner elements.
    pub n: u64,
    /// Its name, if outer elements have names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The head of a frame, or `None` for a payload beyond the 4 GiB that a frame can hold.
pub fn head(kind: u8, length: usize) -> Option<[u8; HEAD]> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_le_bytes();
    Some([a, b, c, d, kind])
}

/// Appends a frame to `body`; `false`, and nothing appended, for a payload beyond 4 GiB.
pub fn push(body: &mut Vec<u8>, kind: u8, payload: &[u8]) -> bool {
    match head(kind, payload.len()) {
        Some(head) => {
            body.extend_from_slice(&head);
            body.extend_from_slice(payload);
            true
        }
        None => false,
    }
}

/// A frame in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`kind`], if the body is as it should be.
    pub kind: u8,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Reads the frames of a body; ends with the offset of a frame that is cut off, if one is.
pub fn iterate(body: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= body.len() {
            return None;
        }
        let start = at;
        // Whatever follows a frame that is cut off means nothing.
        at = body.len();
        let rest = &body[start..];
        let Some((&[a, b, c, d, kind], behind)) = rest.split_first_chunk::<HEAD>() else {
            return Some(Err(start));
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(payload) = behind.get(..length) else { return Some(Err(start)) };
        at = start + HEAD + length;
        Some(Ok(Frame { kind, payload }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_a_cut_is_found() {
        let mut body = Vec::new();
        assert!(push(&mut body, kind::KEY, b"a"));
        assert!(push(&mut body, kind::VALUE, b""));
        let cut = body.len();
        assert!(push(&mut body, kind::VALUE, b"xyz"));
        let frames: Result<Vec<_>, _> = iterate(&body).collect();
        let frames: Vec<_> = frames.unwrap().iter().map(|f| (f.kind, f.payload)).collect();
        assert_eq!(frames, [(b'k', &b"a"[..]), (b'v', b""), (b'v', b"xyz")]);
        for end in cut + 1..body.len() {
            let last = iterate(&body[..end]).last();
            assert_eq!(last, Some(Err(cut)));
        }
    }
}
