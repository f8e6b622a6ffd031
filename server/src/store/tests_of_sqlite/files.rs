//! The files of a database: one server on them, and what they hold after a crash.

use super::super::db::args;
use super::super::tests::new_job;
use super::super::{Store, jobs};
use super::{Fixture, read};

/// `.cargo/config.toml` says how, which a variable of the environment overrules.
#[tokio::test]
async fn sqlite_is_built_as_it_is_to_be() {
    let fixture = Fixture::new().await;
    let rows = read!(fixture, |tx| tx.all("pragma compile_options", args![]));
    let options: Vec<String> =
        rows.iter().map(|row| row.text("compile_options").unwrap()).collect();
    let is_there = |option: &str| options.iter().any(|there| there == option);
    assert!(is_there("DEFAULT_MEMSTATUS=0"), "{options:?}");
    for without in ["ENABLE_MEMORY_MANAGEMENT", "ENABLE_API_ARMOR"] {
        assert!(!is_there(without), "{options:?}");
    }
}

#[tokio::test]
async fn a_second_server_is_kept_off_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path()).await.unwrap();
    let Err(refused) = Store::open(folder.path()).await else { panic!("two servers on one file") };
    assert!(refused.to_string().contains("another farrow server"));
    drop(first);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_the_process_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let job = new_job(3);
    let id = job.id;
    store.write(|tx| Box::pin(async move { jobs::insert(tx, job, 0).await })).await.unwrap();
    // As kill -9 leaves it: the files as they are, copied without closing anything.
    let copy = tempfile::tempdir().unwrap();
    for file in ["farrow.db", "farrow.db-wal"] {
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    let reopened = Store::open(copy.path()).await.unwrap();
    let found =
        reopened.read(|tx| Box::pin(async move { jobs::find(tx, id).await })).await.unwrap();
    assert_eq!(found.unwrap().counts.total, 3);
}

#[tokio::test]
async fn who_reads_does_not_wait_for_who_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let (outer, inner) = (store.clone(), store.clone());
    let count = "select count(*) as n from jobs";
    let reading = async move {
        // The second reader needs a connection that is made now.
        let both = outer.read(move |tx| {
            Box::pin(async move {
                tx.all(count, args![]).await?;
                inner.read(move |tx| Box::pin(tx.all(count, args![]))).await
            })
        });
        both.await
    };
    let writing = store.write(|tx| {
        Box::pin(async move {
            tx.execute("update meta set value = value", args![]).await?;
            reading.await
        })
    });
    assert_eq!(writing.await.unwrap().len(), 1);
}
