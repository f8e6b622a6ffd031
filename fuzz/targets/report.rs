//! Envelopes, and the reports of agents in them, as the server takes them apart.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use protocol::agent::Report;
use protocol::envelope;
use server::fuzzing::{Bodies, TakenPiece};
use tempfile::TempDir;

static SERVER: LazyLock<(Bodies, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    (Bodies::new(folder.path()).expect("the folder can be used"), folder)
});

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    let opened = envelope::open::<Report>(&body);
    let taken = SERVER.0.report(&body);
    let Ok((report, start)) = opened else {
        assert_eq!(taken, Err(400));
        return check_numbers(&body);
    };
    // Headers may have been written in another way; once written in ours, they stay the same.
    let payload = body.slice(start..);
    let sealed = Bytes::from(envelope::seal(&report, &payload).expect("it was sealed before"));
    let (again, start) = envelope::open::<Report>(&sealed).expect("what is sealed is opened");
    assert_eq!(sealed.slice(start..), payload);
    assert_eq!(envelope::seal(&again, &payload).expect("it was sealed before"), sealed);
    assert_eq!(SERVER.0.report(&sealed), taken, "what is read and written again is taken alike");
    match taken {
        Ok(pieces) => check(&pieces, &report, &payload),
        Err(status) => assert!(matches!(status, 422 | 429), "{status} is no refusal"),
    }
});

/// What is no envelope makes the numbers of a piece: the kinds of things that mutations of JSON hardly
/// bring about together.
fn check_numbers(data: &Bytes) {
    let Some((&[first, n_lengths, n_errors], rest)) = data.split_first_chunk::<3>() else { return };
    let (lengths, rest) = rest.split_at(usize::from(n_lengths % 8).min(rest.len()));
    let (errors, payload) = rest.split_at(usize::from(n_errors % 4).min(rest.len()));
    let n_bytes: usize = lengths.iter().map(|length| usize::from(length % 16)).sum();
    let errors: Vec<u32> = errors.iter().map(|at| u32::from(at % 10)).collect();
    let mut report: Report = serde_json::from_str(PIECE).expect("it is a report");
    report.pieces[0].first = u64::MAX >> (first % 64);
    report.pieces[0].lengths = lengths.iter().map(|length| u32::from(length % 16)).collect();
    report.pieces[0].errors.clone_from(&errors);
    let sealed = envelope::seal(&report, payload).expect("it is small");
    let is_right = !lengths.is_empty()
        && n_bytes <= payload.len()
        && first % 64 > 1
        && errors.is_sorted_by(|a, b| a < b)
        && errors.iter().all(|at| (*at as usize) < lengths.len());
    match SERVER.0.report(&sealed.into()) {
        Ok(pieces) => {
            assert!(is_right, "{report:?} is taken");
            check(&pieces, &report, payload);
        }
        Err(status) => assert!(status == 422 && !is_right, "{status} to {report:?}"),
    }
}

const PIECE: &str = r#"{"pieces": [{"lease": "019aab1f-0a2b-7c3d-9e4f-5a6b7c8d9e0f",
    "job": "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42", "first": 0, "lengths": [], "errors": [], "slot": 0,
    "pid": 1, "started_at": 0, "seconds": 0.5, "notes": []}]}"#;

/// Checks that these are the pieces that were sent.
fn check(pieces: &[TakenPiece], report: &Report, payload: &[u8]) {
    assert_eq!(pieces.len(), report.pieces.len());
    let mut joined = Vec::new();
    for (piece, sent) in pieces.iter().zip(&report.pieces) {
        assert_eq!((piece.first, piece.outcomes.len()), (sent.first, sent.lengths.len()));
        assert!(piece.errors.is_sorted_by(|a, b| a < b) && piece.errors == sent.errors);
        assert!(piece.errors.iter().all(|at| (*at as usize) < piece.outcomes.len()));
        let first_error = piece.errors.first().map(|at| piece.first + u64::from(*at));
        assert_eq!(piece.first_error, first_error);
        piece.outcomes.iter().for_each(|outcome| joined.extend_from_slice(outcome));
    }
    assert_eq!(joined, payload[..joined.len()], "the outcomes are the bytes that were sent");
}
