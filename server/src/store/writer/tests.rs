//! What SQLite's writer promises, whoever writes.

use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::store::db::args;

/// A writer on a database of one table, which nothing keeps from writing at once.
async fn writer() -> (Writer, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute_batch("create table notes (note text not null) strict").unwrap();
    (Writer::start(Place::Sqlite(file)).await.unwrap(), folder)
}

/// Writes a note down, and says whether the writer's own thread did.
fn note(
    text: &'static str,
) -> impl for<'a, 'b> FnOnce(&'a mut Tx<'b>) -> BoxFuture<'a, Result<bool, StoreError>> {
    move |tx| {
        Box::pin(async move {
            tx.execute("insert into notes (note) values ($1)", args![text]).await?;
            if text == "wrong" { Err(StoreError::Closed) } else { Ok(is_writers_thread()) }
        })
    }
}

fn is_writers_thread() -> bool {
    thread::current().name() == Some("writer")
}

async fn notes(writer: &Writer) -> Vec<String> {
    let reading = writer.put(Manner::InTurn, |tx| {
        Box::pin(async move {
            let rows = tx.all("select note from notes order by rowid", args![]).await?;
            rows.iter().map(|row| row.text("note")).collect()
        })
    });
    reading.await.unwrap().await.unwrap()
}

impl Writer {
    fn is_flushed(&self) -> bool {
        self.n_flushed() == self.n_committed()
    }
}

#[tokio::test]
async fn who_finds_nobody_writing_writes_at_once() {
    let (writer, _folder) = writer().await;
    for (manner, by_thread) in
        [(Manner::InTurn, true), (Manner::AtOnce, false), (Manner::Unflushed, false)]
    {
        writer.settle().await;
        assert_eq!(writer.put(manner, note("one")).await.unwrap().await.unwrap(), by_thread);
    }
    assert_eq!(notes(&writer).await, ["one"; 3]);
}

#[tokio::test]
async fn who_finds_others_writing_or_waiting_or_the_disk_slow_waits_for_its_turn() {
    let (writer, _folder) = writer().await;
    let held = writer.desk.session.lock().await;
    let behind = writer.put(Manner::AtOnce, note("while another writes")).await.unwrap();
    drop(held);
    assert!(behind.await.unwrap());

    writer.settle().await;
    writer.desk.n_queued.fetch_add(1, Ordering::AcqRel);
    let behind = writer.put(Manner::AtOnce, note("while others wait")).await.unwrap();
    assert!(behind.await.unwrap());
    writer.desk.n_queued.fetch_sub(1, Ordering::AcqRel);

    writer.settle().await;
    writer.took(QUICK);
    assert!(writer.put(Manner::AtOnce, note("slow")).await.unwrap().await.unwrap());
    writer.settle().await;
    writer.took(QUICK);
    assert!(writer.put_both_at_once(Manner::AtOnce, note("no"), note("nor")).is_err());
    assert_eq!(notes(&writer).await, ["while another writes", "while others wait", "slow"]);
    let _nobody_writes = writer.desk.session.lock().await;
    assert_eq!(writer.desk.n_queued.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn of_two_neither_changes_what_becomes_of_the_other() {
    let (writer, _folder) = writer().await;
    for (first, second) in [("a", "b"), ("wrong", "c"), ("d", "wrong")] {
        writer.settle().await;
        let before = writer.stats().commits.get();
        let both = writer.put_both_at_once(Manner::AtOnce, note(first), note(second));
        let (of_first, of_second) = both.ok().unwrap();
        assert_eq!((of_first.is_ok(), of_second.is_ok()), (first != "wrong", second != "wrong"));
        assert_eq!(writer.stats().commits.get(), before + 1);
    }
    assert_eq!(notes(&writer).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn what_need_not_be_flushed_is_with_the_next_or_when_it_is_asked_for_or_soon() {
    let (writer, _folder) = writer().await;
    let unflushed = || async {
        writer.settle().await;
        writer.put(Manner::Unflushed, note("later")).await.unwrap().await.unwrap();
    };
    unflushed().await;
    let number = writer.n_committed();
    assert!(number > 0, "there is a log that can be flushed");
    writer.flushed(number).await.unwrap();
    assert!(writer.is_flushed());

    unflushed().await;
    writer.put(Manner::AtOnce, note("now")).await.unwrap().await.unwrap();
    assert!(writer.is_flushed());

    // In one batch with what must be flushed.
    let held = writer.desk.session.lock().await;
    let first = writer.put(Manner::Unflushed, note("later")).await.unwrap();
    let second = writer.put(Manner::InTurn, note("now")).await.unwrap();
    drop(held);
    first.await.unwrap();
    second.await.unwrap();
    assert!(writer.is_flushed());

    unflushed().await;
    while !writer.is_flushed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// SQLite does not flush a transaction that has changed nothing.
#[tokio::test]
async fn what_changes_nothing_flushes_nothing() {
    let (writer, _folder) = writer().await;
    for manner in [Manner::InTurn, Manner::AtOnce] {
        // Nobody else is to flush it.
        writer.desk.log.as_ref().unwrap().watch();
        writer.settle().await;
        writer.put(Manner::Unflushed, note("later")).await.unwrap().await.unwrap();
        let number = writer.n_committed();
        writer.settle().await;
        let reading = writer.put(manner, |tx| {
            Box::pin(async move { tx.all("select note from notes", args![]).await.map(drop) })
        });
        reading.await.unwrap().await.unwrap();
        writer.settle().await;
        writer.put(manner, note("wrong")).await.unwrap().await.unwrap_err();
        writer.settle().await;
        let both = writer.put_both_at_once(Manner::AtOnce, note("wrong"), |tx| {
            Box::pin(async move { tx.all("select note from notes", args![]).await.map(drop) })
        });
        assert!(matches!(both, Ok((Err(_), Ok(())))));
        writer.settle().await;
        assert_eq!((writer.n_committed(), writer.is_flushed()), (number, false), "{manner:?}");
        writer.all_flushed().await.unwrap();
        assert!(writer.is_flushed());
    }
}

/// Whatever else is in its batch.
#[tokio::test]
async fn what_has_changed_something_is_flushed_before_it_is_said_to_be() {
    let (writer, _folder) = writer().await;
    writer.desk.log.as_ref().unwrap().watch();
    for (first, second) in [("one", "read"), ("one", "wrong"), ("wrong", "one"), ("read", "one")] {
        writer.settle().await;
        let before = writer.n_committed();
        let both =
            writer.put_both_at_once(Manner::Unflushed, note_or_read(first), note_or_read(second));
        let (of_first, of_second) = both.ok().unwrap();
        assert_eq!((of_first.is_ok(), of_second.is_ok()), (first != "wrong", second != "wrong"));
        assert_eq!(
            (writer.n_committed(), writer.is_flushed()),
            (before + 1, false),
            "{first}, {second}"
        );
        writer.flushed(before + 1).await.unwrap();
        assert!(writer.is_flushed());
    }
    assert_eq!(notes(&writer).await, ["one"; 4]);
}

fn note_or_read(
    text: &'static str,
) -> impl for<'a, 'b> FnOnce(&'a mut Tx<'b>) -> BoxFuture<'a, Result<(), StoreError>> {
    move |tx| {
        Box::pin(async move {
            if text == "read" { count(tx).await.map(drop) } else { note(text)(tx).await.map(drop) }
        })
    }
}

#[tokio::test]
async fn behind_one_that_fails_another_is_written() {
    let (writer, _folder) = writer().await;
    // The writer's thread takes in what is put while an operation runs.
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (end, may_end) = std::sync::mpsc::channel();
    let fails = writer.put(Manner::InTurn, move |tx| {
        Box::pin(async move {
            tx.execute("insert into notes (note) values ('wrong')", args![]).await?;
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            Err::<(), _>(StoreError::Closed)
        })
    });
    let fails = fails.await.unwrap();
    has_begun.recv().unwrap();
    let commits = writer.stats().commits.get();
    let behind = writer.put(Manner::InTurn, note("behind")).await.unwrap();
    end.send(()).unwrap();
    fails.await.unwrap_err();
    behind.await.unwrap();
    assert_eq!(notes(&writer).await, ["behind"]);
    assert_eq!(writer.stats().failures.get(), 0, "it went with the same transaction");
    assert!(writer.stats().commits.get() > commits);
}

#[tokio::test]
async fn who_is_dropped_or_fails_leaves_the_queue_as_it_was() {
    let (writer, _folder) = writer().await;
    let held = writer.desk.session.lock().await;
    let mut puts = Vec::new();
    for _ in 0..QUEUE + MAX_BATCH {
        let put = writer.put(Manner::InTurn, note("many"));
        match tokio::time::timeout(Duration::from_millis(100), put).await {
            Ok(put) => puts.push(put.unwrap()),
            // There is no room, and it is dropped.
            Err(_) => break,
        }
    }
    assert!(puts.len() >= QUEUE);
    drop(held);
    for put in puts {
        put.await.unwrap();
    }
    // A transaction that SQLite gives up by itself, in the middle of a batch.
    let held = writer.desk.session.lock().await;
    let before = writer.put(Manner::InTurn, note("before")).await.unwrap();
    let ends_it = writer.put(Manner::InTurn, |tx| {
        Box::pin(async move { tx.execute("rollback", args![]).await.map(|_| true) })
    });
    let ends_it = ends_it.await.unwrap();
    let behind = writer.put(Manner::InTurn, note("behind")).await.unwrap();
    drop(held);
    for written in [before.await, ends_it.await, behind.await] {
        written.unwrap_err();
    }
    writer.settle().await;
    assert_eq!(writer.desk.n_queued.load(Ordering::Acquire), 0);
    assert!(!writer.put(Manner::AtOnce, note("at once")).await.unwrap().await.unwrap());
}

#[tokio::test]
async fn the_machine_is_asked_to_flush_before_a_commit_counts_as_flushed() {
    let (writer, _folder) = writer().await;
    let synchronous = || async {
        let asking = writer.put(Manner::InTurn, |tx| {
            Box::pin(async move {
                tx.first("pragma synchronous", args![]).await?.unwrap().int("synchronous")
            })
        });
        asking.await.unwrap().await.unwrap()
    };
    assert_eq!(synchronous().await, 2, "full");
    writer.settle().await;
    let asking = writer.put(Manner::Unflushed, |tx| {
        Box::pin(async move {
            tx.first("pragma synchronous", args![]).await?.unwrap().int("synchronous")
        })
    });
    assert_eq!(asking.await.unwrap().await.unwrap(), 1, "normal");
    assert_eq!(synchronous().await, 2, "full again");
}

fn count<'a>(tx: &'a mut Tx<'_>) -> BoxFuture<'a, Result<u64, StoreError>> {
    Box::pin(async move {
        let row = tx.first("select count(*) as n from notes", args![]).await?;
        row.map_or(Ok(0), |row| row.count("n"))
    })
}

#[tokio::test]
async fn who_reads_while_nobody_writes_does_so_on_the_connection_that_writes() {
    let (writer, _folder) = writer().await;
    writer.put(Manner::AtOnce, note("one")).await.unwrap().await.unwrap();
    let read = writer.read_at_once(count);
    assert_eq!(read.ok().unwrap().unwrap(), 1);
    let writing = writer.held_up().await;
    assert!(writer.read_at_once(count).is_err(), "it must not wait for who writes");
    drop(writing);
    // It leaves no transaction open, and keeps nobody from writing.
    writer.put(Manner::InTurn, note("two")).await.unwrap().await.unwrap();
    writer.settle().await;
    assert_eq!(writer.read_at_once(count).ok().unwrap().unwrap(), 2);
}
