//! What blobs are read as, and what is refused.

use bytes::Bytes;
use protocol::job::Variant;

use super::*;

const FLAT: Wanted = Wanted { nested: false, encoding: Encoding::Json, variant: Variant::Map };
const NESTED: Wanted = Wanted { nested: true, ..FLAT };

struct Fixture {
    blobs: Blobs,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { blobs: Blobs::open(folder.path()).unwrap(), _folder: folder }
    }

    async fn read(&self, wanted: Wanted, body: &[u8]) -> Result<Elements, ApiError> {
        let digest = self.blobs.put(Bytes::copy_from_slice(body)).await.unwrap();
        store(&digest, wanted, &self.blobs, Shelf::new(None)).await
    }

    async fn refused(&self, wanted: Wanted, body: &[u8]) -> String {
        match self.read(wanted, body).await {
            Err(ApiError::Invalid(faults)) => faults[0].message.clone(),
            other => panic!("{other:?}"),
        }
    }

    async fn texts(&self, blocks: &[StoredBlock]) -> Vec<String> {
        let mut texts = Vec::new();
        for block in blocks {
            let block = block.clone().load(&self.blobs).await.unwrap();
            texts.extend(block.payloads().map(|p| String::from_utf8(p.into()).unwrap()));
        }
        texts
    }
}

/// Frames, by kind and payload.
type Body<'a> = &'a [(u8, &'a str)];

fn frames(of: Body<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, payload) in of {
        assert!(frames::push(&mut body, *kind, payload.as_bytes()));
    }
    body
}

#[tokio::test]
async fn lines_are_elements() {
    let fixture = Fixture::new();
    let read = fixture.read(FLAT, b"1\n\n {\"a\": 2} \r\n\"x\"").await.unwrap();
    assert_eq!(fixture.texts(&read.blocks).await, ["1", "{\"a\": 2}", "\"x\""]);
    assert_eq!((read.total, read.input_bytes), (3, 12));
    let read = fixture.read(NESTED, b"[1, 2]\n[]\n[3]\n").await.unwrap();
    assert_eq!((read.total, read.groups, read.shape.nested), (3, vec![2, 0, 1], true));
    let refused = fixture.refused(FLAT, b"1\n{2\n").await;
    assert!(refused.starts_with("line 2 is not JSON"), "{refused}");
    let refused = fixture.refused(NESTED, b"[1]\n2\n").await;
    assert!(refused.starts_with("line 2 is a number"), "{refused}");
}

#[tokio::test]
async fn many_lines_are_many_blocks_in_order() {
    let fixture = Fixture::new();
    let body: String = (0..200_000).map(|i| format!("{i}\n")).collect();
    let read = fixture.read(FLAT, body.as_bytes()).await.unwrap();
    assert_eq!(read.total, 200_000);
    let expected: Vec<String> = (0..200_000).map(|i| i.to_string()).collect();
    assert!(fixture.texts(&read.blocks).await == expected);
}

#[tokio::test]
async fn frames_keep_names_and_groups() {
    let fixture = Fixture::new();
    let bytes = Wanted { encoding: Encoding::Bytes, ..FLAT };
    let named = frames(&[(b'k', "b"), (b'v', "x"), (b'k', "a\""), (b'v', "")]);
    let read = fixture.read(bytes, &named).await.unwrap();
    assert_eq!(fixture.texts(&read.names).await, ["\"b\"", "\"a\\\"\""]);
    assert_eq!(fixture.texts(&read.blocks).await, ["x", ""]);
    assert!(read.shape.named);

    let nested = Wanted { encoding: Encoding::Bytes, ..NESTED };
    let body = [
        (b'g', r#"{"n": 2, "name": "one"}"#),
        (b'v', "x"),
        (b'v', "y"),
        (b'g', r#"{"n": 0, "name": "two"}"#),
    ];
    let read = fixture.read(nested, &frames(&body)).await.unwrap();
    assert_eq!(fixture.texts(&read.outer_names).await, ["\"one\"", "\"two\""]);
    assert_eq!((read.total, read.groups, read.shape.outer_named), (2, vec![2, 0], true));
}

#[tokio::test]
async fn frames_that_hold_no_elements_are_refused() {
    let fixture = Fixture::new();
    let flat = Wanted { encoding: Encoding::Pickle, ..FLAT };
    let nested = Wanted { encoding: Encoding::Pickle, ..NESTED };
    let cases: [(Wanted, Body<'_>, &str); 12] = [
        (flat, &[(b'e', "{}")], "is an error"),
        (flat, &[(b'x', "")], "unknown kind 'x'"),
        (flat, &[(b'g', r#"{"n": 1}"#)], "needs a plan of two levels"),
        (flat, &[(b'v', ""), (b'k', "a"), (b'v', "")], "before each value or before none"),
        (flat, &[(b'k', "a"), (b'v', ""), (b'v', "")], "has no name"),
        (flat, &[(b'k', "a"), (b'v', ""), (b'k', "a"), (b'v', "")], "stands before"),
        (flat, &[(b'k', "a")], "a name stands at the end"),
        (nested, &[(b'v', "")], "outside of a group"),
        (nested, &[(b'g', r#"{"n": 2}"#), (b'v', "")], "not full"),
        (nested, &[(b'g', r#"{"n": 1}"#), (b'g', r#"{"n": 1}"#)], "before the last one is full"),
        (nested, &[(b'g', "3")], "is no group"),
        (nested, &[(b'g', r#"{"n": 0}"#), (b'g', r#"{"n": 0, "name": "a"}"#)], "if and only if"),
    ];
    for (wanted, body, expected) in cases {
        let refused = fixture.refused(wanted, &frames(body)).await;
        assert!(refused.contains(expected), "{refused}");
    }
    let whole = frames(&[(b'v', "abc")]);
    for end in 1..whole.len() {
        let refused = fixture.refused(flat, &whole[..end]).await;
        assert!(refused.starts_with("the frame at byte 0 is cut off"), "{refused}");
    }
}
