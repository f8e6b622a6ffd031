//! Old jobs deleted, references to blobs.

use protocol::JobId;
use protocol::agent::Constant;
use protocol::job::{Encoding, JobState};

use super::super::blocks::Place;
use super::super::db::args;
use super::super::retries;
use super::super::{drafts, ends, references, trash};
use super::{Fixture, all_of, collecting, new_job, read, write};
use crate::blobs::Blobs;
use crate::retry::work_out;

/// Ends a job that has not begun.
async fn cancel(fixture: &Fixture, job: JobId, now: i64) {
    write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, now));
}

/// Runs all that can be run.
async fn run(fixture: &Fixture) {
    let agent = fixture.agent(4).await;
    loop {
        let grants = fixture.grant(agent, 64).await;
        if grants.is_empty() {
            break;
        }
        fixture.report(agent, grants.iter().flat_map(all_of).collect()).await;
    }
}

/// The jobs that are deleted because they ended before `before`.
async fn expire(fixture: &Fixture, before: i64) -> Vec<JobId> {
    let (mut deleted, mut from) = (Vec::new(), None);
    loop {
        let expired = write!(fixture, |tx| trash::expire(tx, before, from, 2));
        deleted.extend(expired.deleted);
        from = expired.next;
        if from.is_none() {
            return deleted;
        }
    }
}

#[tokio::test]
async fn jobs_go_by_the_time_at_which_they_ended_and_those_that_have_not_stay() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for now in [30, 10, 20, 20, 20] {
        let job = fixture.map(3).await;
        cancel(&fixture, job, now).await;
        ids.push(job);
    }
    let open = fixture.map(3).await;
    assert_eq!(expire(&fixture, 10).await, []);
    assert_eq!(expire(&fixture, 21).await, ids[1..]);
    assert_eq!(expire(&fixture, i64::MAX).await, ids[..1]);
    assert_eq!(fixture.job(open).await.state, JobState::Queued);
    while write!(fixture, |tx| trash::clear(tx, 100)) {}
    let left = read!(fixture, |tx| tx.all("select distinct job_id from blocks", args![]));
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn what_a_job_comes_after_stays_until_that_has_ended() {
    let fixture = Fixture::new().await;
    let before = fixture.map(2).await;
    run(&fixture).await;
    let mut after = new_job(2);
    after.after = vec![before];
    let after = fixture.submit(after).await;
    // It waits for nothing any more, and its function may still ask for the value.
    assert_eq!(read!(fixture, |tx| ends::waits_for(tx, after)), []);
    assert_eq!(expire(&fixture, 100).await, []);
    cancel(&fixture, after, 11).await;
    assert_eq!(expire(&fixture, 100).await, [before, after]);
}

#[tokio::test]
async fn what_is_being_retried_stays_until_the_retry_has_ended() {
    let fixture = Fixture::new().await;
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let job = fixture.submit(collecting(4)).await;
    cancel(&fixture, job, 8).await;
    let retry = work_out(&fixture.store, &blobs, &fixture.job(job).await).await.unwrap();
    let id = retry.id;
    // While it is written in slices.
    write!(fixture, |tx| drafts::open(tx, id, Some(job), 5));
    assert_eq!(expire(&fixture, 100).await, []);
    write!(fixture, |tx| retries::publish(tx, &retry, 11));
    // And while it runs.
    assert_eq!(expire(&fixture, 100).await, []);
    cancel(&fixture, id, 12).await;
    assert_eq!(expire(&fixture, 10).await, [job]);
    assert_eq!(fixture.job(id).await.retry_of, Some(job));

    // A job whose retry is gone can be retried once more.
    let job = fixture.submit(collecting(4)).await;
    cancel(&fixture, job, 50).await;
    let retry = work_out(&fixture.store, &blobs, &fixture.job(job).await).await.unwrap();
    let id = retry.id;
    write!(fixture, |tx| retries::insert(tx, retry, 11));
    cancel(&fixture, id, 20).await;
    assert_eq!(fixture.job(job).await.retried_as, Some(id));
    assert_eq!(expire(&fixture, 30).await.last(), Some(&id));
    assert_eq!(fixture.job(job).await.retried_as, None);
}

#[tokio::test]
async fn a_step_that_is_repeated_deletes_nothing_more() {
    let fixture = Fixture::new().await;
    let job = fixture.map(3).await;
    cancel(&fixture, job, 10).await;
    let first = write!(fixture, |tx| trash::expire(tx, 100, None, 9));
    let second = write!(fixture, |tx| trash::expire(tx, 100, None, 9));
    assert_eq!((first.deleted, second.deleted), (vec![job], vec![]));
}

/// A job that refers to three blobs.
async fn referring(fixture: &Fixture) -> JobId {
    let mut job = new_job(3);
    let constant = Constant::Blob { digest: "sha256:a".to_owned(), encoding: Encoding::Json };
    job.spec.args.insert("x".to_owned(), constant.clone());
    job.spec.globals.insert("y".to_owned(), constant);
    job.spec.files = Some("sha256:b".to_owned());
    job.elements.blocks[0].place = Place::Blob("sha256:c".to_owned());
    fixture.submit(job).await
}

#[tokio::test]
async fn blobs_are_referred_to_as_long_as_the_rows_are_there() {
    let fixture = Fixture::new().await;
    let all: Vec<String> = ["a", "b", "c", "d", "e"].map(|name| format!("sha256:{name}")).into();
    let unreferenced = async || {
        let all = all.clone();
        let found: Vec<String> = read!(fixture, |tx| references::unreferenced(tx, &all));
        found.iter().map(|digest| digest["sha256:".len()..].to_owned()).collect::<String>()
    };
    assert_eq!(unreferenced().await, "abcde");
    let job = referring(&fixture).await;
    assert_eq!(unreferenced().await, "de");
    let agent = fixture.agent(4).await;
    let grants = fixture.grant(agent, 4).await;
    let mut pieces: Vec<_> = grants.iter().flat_map(all_of).collect();
    pieces[0].block.place = Place::Blob("sha256:d".to_owned());
    fixture.report(agent, pieces).await;
    assert_eq!(unreferenced().await, "e");
    let pages =
        async |after: &'static str| read!(fixture, |tx| references::referenced(tx, after, 3));
    assert_eq!(pages("").await, all[..3]);
    assert_eq!(pages("sha256:c").await, all[3..4]);

    run(&fixture).await;
    cancel(&fixture, job, 10).await;
    assert_eq!(write!(fixture, |tx| trash::delete(tx, job)), trash::Deleted::Now);
    assert_eq!(unreferenced().await, "abe", "what is in large tables goes with their rows");
    while write!(fixture, |tx| trash::clear(tx, 1)) {}
    assert_eq!(unreferenced().await, "abcde");
}

#[tokio::test]
async fn a_retry_refers_to_what_its_job_refers_to() {
    let fixture = Fixture::new().await;
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let job = referring(&fixture).await;
    cancel(&fixture, job, 8).await;
    let retry = work_out(&fixture.store, &blobs, &fixture.job(job).await).await.unwrap();
    write!(fixture, |tx| retries::insert(tx, retry, 11));
    write!(fixture, |tx| trash::delete(tx, job));
    while write!(fixture, |tx| trash::clear(tx, 9)) {}
    let left = read!(fixture, |tx| references::referenced(tx, "", 9));
    assert_eq!(left, ["sha256:a", "sha256:b", "sha256:c"]);
}
