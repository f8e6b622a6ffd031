//! What a collector removes and what it leaves, whoever else is at work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::tests::clock::Stopwatch;
use ::tests::wait::HANG;
use bytes::Bytes;

use super::collect;
use crate::blobs::{Blobs, Folder, Kept, Removed};
use crate::state::AppState;
use crate::state::tests::opened;
use crate::store::jobs;
use crate::store::tests::new_job;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes a blob look as if it had been written two days ago.
fn age(blobs: &Blobs, digest: &str) {
    let file = std::fs::File::options().write(true).open(blobs.path(digest).unwrap()).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - 2 * DAY).unwrap();
}

async fn put(state: &AppState, text: &'static str) -> String {
    state.blobs.put(Bytes::from_static(text.as_bytes())).await.unwrap()
}

async fn is_there(blobs: &Blobs, digest: &str) -> bool {
    blobs.size(digest).await.unwrap().is_some()
}

fn folder_of(state: &AppState) -> Folder {
    let Kept::Folder(folder) = state.blobs.kept() else { panic!("a folder") };
    folder.clone()
}

async fn removed(state: &AppState) -> u64 {
    collect(&state.store, &state.blobs, DAY).await.unwrap().n
}

/// Submits a job whose files are this blob.
async fn refer_to(state: &AppState, digest: &str) {
    let mut job = new_job(1);
    job.spec.files = Some(digest.to_owned());
    state
        .store
        .write(move |tx| Box::pin(async move { jobs::insert(tx, job, 1).await }))
        .await
        .unwrap();
}

async fn state() -> (AppState, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (opened(folder.path()).await, folder)
}

#[tokio::test]
async fn what_is_old_and_not_referred_to_is_removed() {
    let (state, _folder) = state().await;
    let (old, young, needed) =
        (put(&state, "old").await, put(&state, "young").await, put(&state, "needed").await);
    refer_to(&state, &needed).await;
    age(&state.blobs, &old);
    age(&state.blobs, &needed);
    let collected = collect(&state.store, &state.blobs, DAY).await.unwrap();
    assert_eq!(collected, Removed { n: 1, bytes: 3 });
    assert!(!is_there(&state.blobs, &old).await);
    assert!(is_there(&state.blobs, &young).await && is_there(&state.blobs, &needed).await);
    assert_eq!(removed(&state).await, 0);
}

#[tokio::test]
async fn whoever_puts_or_finds_a_blob_makes_it_young() {
    let (state, _folder) = state().await;
    let blobs = &state.blobs;
    let digest = put(&state, "again").await;
    // It is put again, uploaded again, asked for by who wants to submit something with it.
    age(blobs, &digest);
    put(&state, "again").await;
    assert_eq!(removed(&state).await, 0);
    age(blobs, &digest);
    let body = futures::stream::iter([Ok::<_, String>(Bytes::from_static(b"again"))]);
    assert!(!blobs.upload(&digest, body, 9).await.unwrap().is_new);
    assert_eq!(removed(&state).await, 0);
    age(blobs, &digest);
    assert_eq!(blobs.find(&digest).await.unwrap(), Some(5));
    assert_eq!(removed(&state).await, 0);
    // Who only reads it does not.
    age(blobs, &digest);
    blobs.get(&digest).await.unwrap();
    assert_eq!(removed(&state).await, 1);
    assert_eq!(blobs.find(&digest).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_removed_while_a_snapshot_is_read() {
    let (state, _folder) = state().await;
    let digest = put(&state, "old").await;
    age(&state.blobs, &digest);
    let held = folder_of(&state).keep_all().await.unwrap();
    assert_eq!(removed(&state).await, 0);
    drop(held);
    assert_eq!(removed(&state).await, 1);
}

/// A blob becomes young, or referred to, between the first look and the second.
#[tokio::test]
async fn a_blob_is_looked_at_once_more_before_it_is_removed() {
    let (state, _folder) = state().await;
    let blobs = &state.blobs;
    let (found, gone) = (put(&state, "found").await, put(&state, "gone").await);
    age(blobs, &found);
    age(blobs, &gone);
    let removing = folder_of(&state).begin_removing().await.unwrap().unwrap();
    let (other, digest) = (blobs.clone(), found.clone());
    let finding = tokio::spawn(async move { other.find(&digest).await.unwrap() });
    // Who finds it waits for the collector, or was before it: never in the middle.
    let removed = removing.remove(vec![gone.clone()], DAY).await.unwrap();
    drop(removing);
    assert_eq!((removed.n, finding.await.unwrap()), (1, Some(5)));
    let removing = folder_of(&state).begin_removing().await.unwrap().unwrap();
    assert_eq!(removing.remove(vec![found.clone(), gone], DAY).await.unwrap().n, 0);
    assert!(is_there(blobs, &found).await);
}

#[tokio::test]
async fn only_one_collects_at_a_time_and_others_leave_it_to_it() {
    let (state, _folder) = state().await;
    let removing = folder_of(&state).begin_removing().await.unwrap().unwrap();
    assert!(folder_of(&state).begin_removing().await.unwrap().is_none());
    drop(removing);
    assert!(folder_of(&state).begin_removing().await.unwrap().is_some());
}

fn incoming(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("blobs/incoming")).unwrap().count()
}

#[tokio::test]
async fn what_broken_uploads_have_left_is_removed_when_it_is_old() {
    let (state, folder) = state().await;
    std::fs::write(folder.path().join("blobs/incoming/half"), "far").unwrap();
    removed(&state).await;
    assert_eq!(incoming(folder.path()), 1);
    collect(&state.store, &state.blobs, Duration::ZERO).await.unwrap();
    assert_eq!(incoming(folder.path()), 0);
}

/// Many put, refer and forget while several collect: what is referred to is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_blob_that_was_put_and_referred_to_is_never_missing() {
    let (state, _folder) = state().await;
    let grace = DAY;
    let stop = tokio_util::sync::CancellationToken::new();
    let n_collected = Arc::new(AtomicU64::new(0));
    let collectors: Vec<_> = (0..2)
        .map(|_| {
            let (state, stop, n) = (state.clone(), stop.clone(), Arc::clone(&n_collected));
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let collected = collect(&state.store, &state.blobs, grace).await.unwrap();
                    n.fetch_add(collected.n, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut digests = Vec::new();
    let limit = Stopwatch::start();
    for round in 0_u32.. {
        // The collectors may come late.
        if round >= 60 && n_collected.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(limit.elapsed() < HANG, "nothing was collected");
        // A few of the same again and again: old ones are found while they are collected. After 21 rounds all seven are
        // referred to, and others come.
        let text = format!("payload {}", round / 21 * 7 + round % 7);
        let digest = state.blobs.put(text.clone().into()).await.unwrap();
        if round % 3 == 0 {
            refer_to(&state, &digest).await;
            digests.push(digest);
        } else if !digests.contains(&digest) {
            age(&state.blobs, &digest);
        }
    }
    stop.cancel();
    for collector in collectors {
        collector.await.unwrap();
    }
    for digest in digests {
        assert!(is_there(&state.blobs, &digest).await, "{digest} is missing");
    }
}
