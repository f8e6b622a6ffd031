//! Retries that are written in slices: there for nobody before the last, and cleared when that does
//! not come.

use protocol::job::JobState;
use protocol::{Range, RangeSet};

use super::super::db::args;
use super::super::retries::{self, Retried, Retry};
use super::super::{drafts, ends, jobs, outcomes, trash};
use super::books::check_nothing_is_left;
use super::{Fixture, actor, collecting, failing, piece, read, write};
use crate::blobs::Blobs;
use crate::retry::{work_out, write_in_slices};

/// A job of 60 elements with pieces of ten, each with an error at its end, which was cancelled
/// before its last piece; and its retry.
async fn cancelled(fixture: &Fixture) -> Retry {
    let agent = fixture.agent(1).await;
    let mut submission = collecting(60);
    submission.options.chunk_size = Some(60);
    let job = fixture.submit(submission).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    for first in (0..50).step_by(10) {
        let mut mixed = piece(&grant, Range(first, first + 10));
        mixed.errors = vec![9];
        mixed.first_error = failing(&grant, first + 9, false).first_error;
        fixture.report(agent, vec![mixed]).await;
    }
    fixture.report(agent, vec![piece(&grant, Range(50, 55))]).await;
    write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    work_out(&fixture.store, &blobs, &fixture.job(job).await).await.unwrap()
}

#[tokio::test]
async fn a_retry_in_slices_is_the_one_that_is_written_at_once() {
    let mut written = Vec::new();
    for slice in [None, Some(1), Some(2), Some(5), Some(100)] {
        let fixture = Fixture::new().await;
        let retry = cancelled(&fixture).await;
        let id = retry.id;
        let retried = match slice {
            Some(slice) => {
                write_in_slices(&fixture.store, retry, slice, actor("1"), 11).await.unwrap()
            }
            None => write!(fixture, |tx| retries::insert(tx, retry, 11)),
        };
        assert_eq!(retried, Retried::Now);
        let pieces = read!(fixture, |tx| outcomes::accepted(tx, id, 0, 99));
        let pieces: Vec<_> = pieces.into_iter().map(|p| (p.rank, p.first, p.n)).collect();
        let agent = fixture.agent(1).await;
        let mut runs = RangeSet::default();
        while let Some(grant) = fixture.grant(agent, 1).await.pop() {
            grant.ranges.ranges().iter().for_each(|&range| runs.insert(range));
        }
        written.push((pieces, runs, fixture.job(id).await.counts));
    }
    assert_eq!(written[0].0.iter().map(|piece| piece.2).sum::<u64>(), 50);
    assert_eq!(written[0].1.len(), 10);
    assert!(written.iter().all(|other| other == &written[0]), "{written:#?}");
}

#[tokio::test]
async fn what_a_killed_server_has_left_of_a_retry_is_there_for_nobody_and_cleared() {
    let fixture = Fixture::new().await;
    let retry = cancelled(&fixture).await;
    let (of, id, cut, rows) = (retry.of, retry.id, retry.cut.clone(), retry.rows.clone());
    let again = Retry { id: protocol::JobId::new(), ..retry };
    write!(fixture, |tx| drafts::open(tx, id, Some(of), 11));
    let next = write!(fixture, |tx| drafts::copy_outcomes(tx, of, id, 0, 3));
    assert_eq!(next, Some(30));
    write!(fixture, |tx| drafts::insert_cuts(tx, of, id, &cut));
    write!(fixture, |tx| drafts::return_all(tx, id, &rows, 11));
    assert!(read!(fixture, |tx| jobs::find(tx, id)).is_none());
    assert!(!fixture.is_runnable(id).await);
    assert_eq!(fixture.job(of).await.retried_as, None);

    // The next server begins; were the first one still there, it would write no more.
    write!(fixture, |tx| drafts::must_be_there(tx, id));
    write!(fixture, |tx| drafts::discard_old(tx, 11));
    let late = fixture.store.write(move |tx| Box::pin(drafts::must_be_there(tx, id))).await;
    assert!(late.unwrap_err().to_string().contains("given up"));
    while write!(fixture, |tx| trash::clear(tx, 2)) {}
    let left = read!(fixture, |tx| tx.all(
        "select 1 from outcomes where job_id = $1 union all select 1 from leases
         union all select 1 from drafts union all select 1 from trash",
        args![id]
    ));
    assert_eq!(left.len(), 0);
    let second = again.id;
    assert_eq!(
        write_in_slices(&fixture.store, again, 3, actor("1"), 11).await.unwrap(),
        Retried::Now
    );
    write!(fixture, |tx| ends::end(tx, second, JobState::Cancelled, None, 8));
    for job in [second, of] {
        write!(fixture, |tx| trash::delete(tx, job));
    }
    while write!(fixture, |tx| trash::clear(tx, 100)) {}
    check_nothing_is_left(&fixture).await;
}

#[tokio::test]
async fn a_draft_whose_job_was_deleted_meanwhile_is_discarded() {
    let fixture = Fixture::new().await;
    let retry = cancelled(&fixture).await;
    let of = retry.of;
    write!(fixture, |tx| trash::delete(tx, of));
    assert_eq!(
        write_in_slices(&fixture.store, retry, 2, actor("1"), 11).await.unwrap(),
        Retried::Unknown
    );
    while write!(fixture, |tx| trash::clear(tx, 100)) {}
    check_nothing_is_left(&fixture).await;
}
