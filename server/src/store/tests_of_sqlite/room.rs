//! Room on disk, given back.

use std::path::Path;

use protocol::job::JobState;

use super::super::blocks::{Place, StoredBlock};
use super::super::db::args;
use super::super::space::compact;
use super::super::tests::new_job;
use super::super::{Store, ends, jobs, trash};
use super::{Fixture, write};

fn length(folder: &Path, file: &str) -> u64 {
    folder.join(file).metadata().map_or(0, |metadata| metadata.len())
}

/// A job of some 16 MiB in rows, which then is deleted.
async fn filled_and_deleted(fixture: &Fixture) {
    let mut job = new_job(0);
    job.elements.total = 256;
    job.elements.blocks = (0..256)
        .map(|i| StoredBlock {
            first: i,
            lengths: vec![1],
            place: Place::Row((0..64 << 10).map(|at: u64| (at * i % 251) as u8).collect()),
        })
        .collect();
    let job = fixture.submit(job).await;
    write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
    write!(fixture, |tx| trash::delete(tx, job));
    while write!(fixture, |tx| trash::clear(tx, 50)) {}
}

#[tokio::test]
async fn the_file_and_its_log_are_small_again_after_a_large_job_was_deleted() {
    let fixture = Fixture::new().await;
    let folder = fixture._folder.path();
    for _ in 0..3 {
        filled_and_deleted(&fixture).await;
        while fixture.store.shrink().await.unwrap() {}
        fixture.store.cut().await.unwrap();
        let (file, log) = (length(folder, "farrow.db"), length(folder, "farrow.db-wal"));
        assert!(file < 3 << 20 && log <= 16 << 20, "{file} bytes, {log} in the log");
    }
}

#[tokio::test]
async fn a_reader_that_never_lets_go_does_not_make_the_log_grow_when_it_has() {
    let fixture = Fixture::new().await;
    let folder = fixture._folder.path().to_owned();
    let store = fixture.store.clone();
    let (began, begin) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let reading = tokio::spawn(async move {
        store
            .read(|tx| {
                Box::pin(async move {
                    tx.all("select 1 from jobs", args![]).await?;
                    began.send(()).unwrap();
                    ended.await.ok();
                    Ok(())
                })
            })
            .await
    });
    begin.await.unwrap();
    for _ in 0..2 {
        filled_and_deleted(&fixture).await;
    }
    // It cannot be cut now, and others are not held up for long.
    fixture.store.cut().await.unwrap();
    assert!(length(&folder, "farrow.db-wal") > 16 << 20);
    fixture.map(1).await;
    end.send(()).unwrap();
    reading.await.unwrap().unwrap();
    fixture.store.cut().await.unwrap();
    assert_eq!(length(&folder, "farrow.db-wal"), 0);
}

#[tokio::test]
async fn a_stopped_database_is_written_anew_without_gaps() {
    let fixture = Fixture::new().await;
    filled_and_deleted(&fixture).await;
    let job = fixture.map(5).await;
    let Fixture { store, _folder: folder } = fixture;
    let refused = compact(folder.path()).await.unwrap_err().to_string();
    assert!(refused.contains("another farrow server"), "{refused}");
    drop(store);
    let compacted = compact(folder.path()).await.unwrap();
    assert!(compacted.before > 8 << 20 && compacted.after < 1 << 20, "{compacted:?}");
    let store = Store::open(folder.path()).await.unwrap();
    let found = store.read(|tx| Box::pin(async move { jobs::find(tx, job).await })).await;
    assert_eq!(found.unwrap().unwrap().counts.total, 5);
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = compact(elsewhere.path()).await.unwrap_err().to_string();
    assert!(refused.contains("there is no database"), "{refused}");
}
