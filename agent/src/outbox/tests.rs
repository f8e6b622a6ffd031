use futures::FutureExt;
use protocol::AgentId;

use super::*;
use crate::parcel::PIECE_BYTES;
use crate::parcel::tests::{error, finished};
use crate::spool::Spool;

const AT_ONCE: Duration = Duration::ZERO;
const NEVER: Duration = Duration::MAX;

/// An outbox and its spool, below a folder that is removed in the end.
fn outbox(most_bytes: usize) -> (Outbox, Spool, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::new(SpoolFolder::new(folder.path().to_owned(), AgentId::new()));
    let outbox = Outbox { most_bytes, ..Outbox::new(spool.folder().clone()) };
    (outbox, spool, folder)
}

/// Writes what is due to disk; how many parcels that is.
fn keep(outbox: &Outbox, spool: &mut Spool, patience: Duration) -> usize {
    spool.settle(outbox.freed());
    let parcels = outbox.due(patience);
    outbox.kept(spool.keep(&parcels, None).unwrap());
    parcels.len()
}

/// Takes what is in memory.
fn take(outbox: &Outbox) -> Vec<Arc<Parcel>> {
    outbox.take().now_or_never().unwrap()
}

fn firsts(parcels: &[Arc<Parcel>]) -> Vec<u64> {
    parcels.iter().map(|parcel| parcel.piece.first).collect()
}

/// Has all that was taken judged.
fn judge(outbox: &Outbox, parcels: &[Arc<Parcel>]) {
    outbox.settle(parcels);
    outbox.reported();
}

/// Every parcel differs from its neighbours by its worker, so that none joins another.
fn apart(lease: LeaseId, first: u64, value: &str) -> Finished {
    Finished { pid: u32::try_from(first).unwrap(), ..finished(lease, first, &[value]) }
}

#[test]
fn neighbours_become_one_piece() {
    let ((outbox, ..), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 3, &["1", "22"]));
    let mut next = finished(lease, 5, &["333", ""]);
    next.outcomes[1] = Err(error("no"));
    outbox.put(next);
    let parcels = take(&outbox);
    let [parcel] = &parcels[..] else { panic!("{parcels:?}") };
    let (piece, body) = (&parcel.piece, &parcel.body);
    assert_eq!((piece.first, piece.errors.as_slice()), (3, &[3][..]));
    assert_eq!(piece.lengths[..3], [1, 2, 3]);
    assert_eq!(piece.notes.iter().map(|note| note.position).collect::<Vec<_>>(), [0, 2]);
    assert!((piece.seconds - 1.0).abs() < 1e-9);
    assert_eq!(&body[..], &br#"122333{"type":"E","message":"no"}"#[..]);
}

#[test]
fn gaps_other_workers_and_full_pieces_begin_a_new_piece() {
    let ((outbox, ..), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &["1"]));
    outbox.put(finished(lease, 2, &["2"]));
    outbox.put(Finished { pid: 8, ..finished(lease, 3, &["3"]) });
    outbox.put(Finished { slot: 2, ..finished(lease, 4, &["4"]) });
    outbox.put(Finished { pid: 8, ..finished(lease, 4, &[&"x".repeat(PIECE_BYTES)]) });
    assert_eq!(firsts(&take(&outbox)), [0, 2, 3, 4, 4]);
}

#[test]
fn a_report_is_bounded_but_takes_what_is_large_by_itself() {
    let ((outbox, ..), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &[&"x".repeat(REPORT_BYTES + 1)]));
    outbox.put(finished(lease, 1, &["1"]));
    for rest in [1, 0] {
        let parcels = take(&outbox);
        assert_eq!((parcels.len(), outbox.lock().full.len()), (1, rest));
        judge(&outbox, &parcels);
    }
    assert!(outbox.take().now_or_never().is_none());
    assert_eq!(outbox.lock().bytes, 0);
}

#[test]
fn a_lease_is_settled_when_all_of_it_is() {
    let ((outbox, ..), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &["1"]));
    let first = take(&outbox);
    outbox.put(finished(lease, 1, &["2"]));
    judge(&outbox, &first);
    assert!(outbox.settled(lease).now_or_never().is_none());
    outbox.discard(lease);
    assert!(outbox.settled(lease).now_or_never().is_some());
    assert_eq!(outbox.unsettled(), 0);
    assert!(outbox.take().now_or_never().is_none());
}

#[test]
fn what_is_on_its_way_is_settled_after_its_lease_was_lost() {
    let ((outbox, ..), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &["1", "2"]));
    let parcels = take(&outbox);
    outbox.put(finished(lease, 2, &["3"]));
    outbox.discard(lease);
    assert_eq!(outbox.unsettled(), 2);
    for part in crate::parcel::split(&parcels[0]) {
        outbox.settle(&[Arc::new(part)]);
    }
    outbox.reported();
    assert!(outbox.settled(lease).now_or_never().is_some());
}

#[test]
fn what_is_accepted_promptly_is_not_written() {
    let ((outbox, mut spool, folder), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &["1"]));
    assert!(outbox.due(NEVER).is_empty());
    let parcels = take(&outbox);
    assert!(outbox.due(NEVER).is_empty());
    judge(&outbox, &parcels);
    assert_eq!(keep(&outbox, &mut spool, AT_ONCE), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_waits_is_written_once_whole_and_removed_when_it_is_accepted() {
    let ((outbox, mut spool, folder), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(apart(lease, 0, "1"));
    let parcels = take(&outbox);
    outbox.put(apart(lease, 1, "2"));
    assert_eq!(keep(&outbox, &mut spool, AT_ONCE), 2, "also what is on its way");
    assert_eq!(keep(&outbox, &mut spool, AT_ONCE), 0);
    // It would join the one before, which may have been read by another process already.
    outbox.put(Finished { pid: 1, ..finished(lease, 2, &["3"]) });
    assert_eq!(keep(&outbox, &mut spool, AT_ONCE), 1);
    judge(&outbox, &parcels);
    assert_eq!(spool.records(), 3, "nothing is told of yet");
    let rest = take(&outbox);
    assert_eq!(firsts(&rest), [1, 2]);
    judge(&outbox, &rest);
    spool.settle(outbox.freed());
    assert_eq!(spool.records(), 0);
    drop(spool);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert!(matches!(&left[..], [lock] if lock.file_name() == "lock"), "{left:?}");
}

#[test]
fn what_is_settled_while_it_is_written_is_removed_as_well() {
    let ((outbox, mut spool, _folder), lease) = (outbox(MOST_BYTES), LeaseId::new());
    outbox.put(finished(lease, 0, &["1"]));
    let writing = outbox.due(AT_ONCE);
    let parcels = take(&outbox);
    judge(&outbox, &parcels);
    outbox.kept(spool.keep(&writing, None).unwrap());
    spool.settle(outbox.freed());
    assert_eq!(spool.records(), 0);
}

#[tokio::test]
async fn what_is_too_much_for_memory_comes_back_from_disk_in_the_very_same_pieces() {
    let ((outbox, mut spool, _folder), lease) = (outbox(100_000), LeaseId::new());
    let value = "v".repeat(30_000);
    let mut expected = Vec::new();
    for first in 0..40 {
        outbox.put(apart(lease, first, &value));
        expected.push(first);
        if first % 7 == 0 {
            keep(&outbox, &mut spool, AT_ONCE);
        }
        assert!(outbox.lock().bytes < 8 * 70_000, "{}", outbox.lock().bytes);
    }
    let whole = Parcel::of(apart(lease, 0, &value));
    assert_eq!(outbox.unsettled(), 40);
    let mut seen = Vec::new();
    while outbox.unsettled() > 0 {
        let parcels = outbox.take().await;
        let is_same = |parcel: &Arc<Parcel>| {
            (&parcel.body, &parcel.piece.notes) == (&whole.body, &whole.piece.notes)
        };
        assert!(parcels.iter().all(is_same));
        seen.extend(firsts(&parcels));
        judge(&outbox, &parcels);
    }
    assert_eq!(seen, expected);
    spool.settle(outbox.freed());
    assert_eq!((spool.records(), outbox.lock().bytes), (0, 0));
}

#[tokio::test]
async fn what_was_lost_while_it_stood_on_disk_is_not_reported_and_what_followed_is() {
    let ((outbox, mut spool, _folder), lease) = (outbox(0), LeaseId::new());
    let other = LeaseId::new();
    for first in 0..3 {
        outbox.put(apart(lease, first, "1"));
        outbox.put(apart(other, first, "2"));
    }
    keep(&outbox, &mut spool, AT_ONCE);
    assert_eq!(outbox.lock().bytes, 0);
    outbox.discard(lease);
    assert!(outbox.settled(lease).now_or_never().is_some());
    // The lease was given again.
    outbox.put(apart(lease, 7, "1"));
    keep(&outbox, &mut spool, AT_ONCE);
    let mut seen = Vec::new();
    while outbox.unsettled() > 0 {
        let parcels = outbox.take().await;
        seen.extend(parcels.iter().map(|parcel| (parcel.piece.lease == lease, parcel.piece.first)));
        judge(&outbox, &parcels);
    }
    seen.sort_unstable();
    assert_eq!(seen, [(false, 0), (false, 1), (false, 2), (true, 7)]);
    spool.settle(outbox.freed());
    assert_eq!(spool.records(), 0);
}

#[tokio::test]
async fn what_cannot_be_read_back_is_given_up_and_holds_nothing_up() {
    let ((outbox, mut spool, _folder), lease) = (outbox(0), LeaseId::new());
    for first in 0..3 {
        outbox.put(apart(lease, first, "1"));
    }
    keep(&outbox, &mut spool, AT_ONCE);
    std::fs::remove_dir_all(spool.folder().path()).unwrap();
    outbox.put(apart(LeaseId::new(), 9, "2"));
    let parcels = outbox.take().await;
    assert_eq!(firsts(&parcels), [9]);
    assert!(outbox.settled(lease).now_or_never().is_some());
}
