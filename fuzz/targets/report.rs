//! Envelopes, and the reports of agents in them, as the server takes them apart.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use protocol::agent::Report;
use protocol::envelope;
use server::fuzzing::Bodies;
use tempfile::TempDir;

static SERVER: LazyLock<(Bodies, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    (Bodies::new(folder.path()).expect("the folder can be used"), folder)
});

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    let opened = envelope::open::<Report>(&body);
    let taken = SERVER.0.report(&body);
    let Ok((report, start)) = opened else { return assert_eq!(taken, Err(400)) };
    // Headers may have been written in another way; once written in ours, they stay the same.
    let payload = body.slice(start..);
    let sealed = Bytes::from(envelope::seal(&report, &payload).expect("it was sealed before"));
    let (again, start) = envelope::open::<Report>(&sealed).expect("what is sealed is opened");
    assert_eq!(sealed.slice(start..), payload);
    assert_eq!(envelope::seal(&again, &payload).expect("it was sealed before"), sealed);
    assert_eq!(SERVER.0.report(&sealed), taken, "what is read and written again is taken alike");
    let pieces = match taken {
        Ok(pieces) => pieces,
        Err(status) => return assert!(matches!(status, 422 | 429), "{status} is no refusal"),
    };
    assert_eq!(pieces.len(), report.pieces.len());
    let mut joined = Vec::new();
    for (piece, sent) in pieces.iter().zip(&report.pieces) {
        assert_eq!((piece.first, piece.outcomes.len()), (sent.first, sent.lengths.len()));
        assert!(piece.errors.iter().is_sorted() && piece.errors == sent.errors);
        let first_error = piece.errors.first().map(|at| piece.first + u64::from(*at));
        assert_eq!(piece.first_error, first_error);
        piece.outcomes.iter().for_each(|outcome| joined.extend_from_slice(outcome));
    }
    assert_eq!(joined, payload[..joined.len()], "the outcomes are the bytes that were sent");
});
