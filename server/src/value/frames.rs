//! A value as frames: `protocol::frames` says how they look.

use bytes::Bytes;
use protocol::frames::{self, Group, HEAD, kind};

use super::parts::{Part, Payload};
use super::written::Written;
use crate::store::outcomes::Extent;
use crate::store::{StoreError, db};

/// Writes a part of a value.
///
/// # Errors
/// When a name is not what this program writes, or a payload is beyond what a frame holds.
pub fn write(part: Part, written: &mut Written) -> Result<(), StoreError> {
    match part {
        Part::Group { n, name } => {
            let name = name.as_ref().map(text).transpose()?;
            push(kind::GROUP, db::json_text(&Group { n, name })?.into_bytes(), written)
        }
        Part::Outcome { name, payload, is_error } => {
            if let Some(name) = name {
                push(kind::KEY, text(&name)?.into_bytes(), written)?;
            }
            push(if is_error { kind::ERROR } else { kind::VALUE }, payload, written)
        }
    }
}

/// How many bytes outcomes take, without names and groups.
pub fn n_bytes(extent: Extent) -> u64 {
    extent.n * HEAD as u64 + extent.n_bytes
}

/// A name without its quotes.
fn text(name: &Bytes) -> Result<String, StoreError> {
    serde_json::from_slice(name)
        .map_err(|e| StoreError::Corrupt { column: "blocks", value: format!("a name: {e}") })
}

fn push(kind: u8, payload: impl Into<Payload>, written: &mut Written) -> Result<(), StoreError> {
    let payload = payload.into();
    let length = usize::try_from(payload.len()).ok();
    let head = length.and_then(|length| frames::head(kind, length)).ok_or_else(|| {
        StoreError::Corrupt { column: "outcomes", value: "a payload of 4 GiB".to_owned() }
    })?;
    written.text().extend_from_slice(&head);
    written.payload(payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_groups_and_errors_are_frames_of_their_own() {
        let outcome = |name, payload: &'static [u8], is_error| Part::Outcome {
            name,
            payload: Payload::from(payload.to_vec()),
            is_error,
        };
        let parts = [
            Part::Group { n: 2, name: Some("\"a\\n\"".into()) },
            outcome(None, &[0, 255], false),
            outcome(Some("\"ü\"".into()), b"{}", true),
            Part::Group { n: 0, name: None },
        ];
        let mut written = Written::default();
        for part in parts {
            write(part, &mut written).unwrap();
        }
        let body = std::mem::take(written.text());
        let read: Result<Vec<_>, _> = frames::iterate(&body).collect();
        let read: Vec<_> = read.unwrap().iter().map(|f| (char::from(f.kind), f.payload)).collect();
        let wanted = [
            ('g', &br#"{"n":2,"name":"a\n"}"#[..]),
            ('v', &[0, 255]),
            ('k', "ü".as_bytes()),
            ('e', b"{}"),
            ('g', br#"{"n":0}"#),
        ];
        assert_eq!(read, wanted);
    }
}
