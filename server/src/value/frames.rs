//! A value as frames: `protocol::frames` says how they look.

use bytes::Bytes;
use protocol::frames::{self, Group, kind};

use super::parts::Part;
use crate::store::{StoreError, db};

/// Writes a part of a value.
///
/// # Errors
/// When a name is not what this program writes, or a payload is beyond what a frame holds.
pub fn write(part: &Part, body: &mut Vec<u8>) -> Result<(), StoreError> {
    match part {
        Part::Group { n, name } => {
            let name = name.as_ref().map(text).transpose()?;
            push(kind::GROUP, db::json_text(&Group { n: *n, name })?.as_bytes(), body)
        }
        Part::Outcome { name, payload, is_error } => {
            if let Some(name) = name {
                push(kind::KEY, text(name)?.as_bytes(), body)?;
            }
            push(if *is_error { kind::ERROR } else { kind::VALUE }, payload, body)
        }
    }
}

/// A name without its quotes.
fn text(name: &Bytes) -> Result<String, StoreError> {
    serde_json::from_slice(name)
        .map_err(|e| StoreError::Corrupt { column: "blocks", value: format!("a name: {e}") })
}

fn push(kind: u8, payload: &[u8], body: &mut Vec<u8>) -> Result<(), StoreError> {
    if frames::push(body, kind, payload) {
        return Ok(());
    }
    Err(StoreError::Corrupt { column: "outcomes", value: "a payload of 4 GiB".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_groups_and_errors_are_frames_of_their_own() {
        let parts = [
            Part::Group { n: 2, name: Some("\"a\\n\"".into()) },
            Part::Outcome { name: None, payload: vec![0, 255].into(), is_error: false },
            Part::Outcome { name: Some("\"ü\"".into()), payload: "{}".into(), is_error: true },
            Part::Group { n: 0, name: None },
        ];
        let mut body = Vec::new();
        for part in &parts {
            write(part, &mut body).unwrap();
        }
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
