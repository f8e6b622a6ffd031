//! What is PostgreSQL's alone: several servers on one database.

use protocol::JobId;
use protocol::job::JobState;

use super::tests::{collecting, piece, register, round};
use super::{Store, StoreError, agents, jobs, leases, reports};

/// Two servers on one database.
async fn two() -> [Store; 2] {
    let url = ::tests::postgres::Postgres::shared().create_database();
    // At once, as when all are started anew.
    let (one, other) = tokio::join!(Store::connect(&url), Store::connect(&url));
    [one.unwrap(), other.unwrap()]
}

async fn submit(store: &Store, n: usize) -> JobId {
    let job = collecting(n);
    let id = job.id;
    store.write(|tx| Box::pin(async move { jobs::insert(tx, job, 5).await })).await.unwrap();
    id
}

/// One agent's life at a server that others share: it takes what there is until the job has ended,
/// reports each element by itself, every seventh one twice, and loses every fifth lease.
async fn work(store: Store, job: JobId) -> u64 {
    let agent = register(4);
    let id = agent.id;
    store
        .write(move |tx| Box::pin(async move { agents::register(tx, &agent, 0, 1000).await }))
        .await
        .unwrap();
    let mut accepted = 0;
    for turn in 1.. {
        let grants =
            store.write(move |tx| Box::pin(async move { round(tx, id, 2).await })).await.unwrap();
        if turn % 5 == 0 {
            let lapse = store.write(move |tx| Box::pin(async move { leases::lapse(tx, id).await }));
            lapse.await.unwrap();
        }
        for grant in &grants {
            for range in grant.ranges.ranges() {
                for element in range.0..range.1 {
                    let one = piece(grant, protocol::Range(element, element + 1));
                    let times = if element % 7 == 0 { 2 } else { 1 };
                    let pieces = vec![one; times];
                    let report = store.write(move |tx| {
                        Box::pin(async move { reports::report(tx, id, pieces, 9).await })
                    });
                    accepted += report.await.unwrap().accepted;
                }
            }
        }
        let found = store.read(|tx| Box::pin(async move { jobs::find(tx, job).await })).await;
        if found.unwrap().unwrap().state == JobState::Resolved {
            return accepted;
        }
    }
    unreachable!("the turns have no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_write_at_once_give_and_accept_each_element_once() {
    let stores = two().await;
    let job = submit(&stores[0], 120).await;
    let workers = (0..4).map(|i| tokio::spawn(work(stores[i % 2].clone(), job)));
    let mut accepted = 0;
    for worker in workers.collect::<Vec<_>>() {
        accepted += worker.await.unwrap();
    }
    assert_eq!(accepted, 120);
    let found =
        stores[1].read(|tx| Box::pin(async move { jobs::find(tx, job).await })).await.unwrap();
    assert_eq!(found.unwrap().counts.done, 120);
}

#[tokio::test]
async fn an_operation_that_fails_undoes_itself_and_nothing_else() {
    let [store, other] = two().await;
    let (kept, undone, last) = (collecting(1), collecting(1), collecting(1));
    let ids = [kept.id, undone.id, last.id];
    let again = undone.clone();
    let (kept, failed, last) = tokio::join!(
        store.write(|tx| Box::pin(async move { jobs::insert(tx, kept, 5).await })),
        store.write(|tx| {
            Box::pin(async move {
                jobs::insert(tx, undone, 5).await?;
                jobs::insert(tx, again, 5).await
            })
        }),
        store.write(|tx| Box::pin(async move { jobs::insert(tx, last, 5).await })),
    );
    assert!(kept.is_ok() && matches!(failed, Err(StoreError::Database(_))) && last.is_ok());
    let mut found = Vec::new();
    for id in ids {
        let job = other.read(|tx| Box::pin(async move { jobs::find(tx, id).await })).await.unwrap();
        found.push(job.is_some());
    }
    assert_eq!(found, [true, false, true]);
}

#[tokio::test]
async fn a_database_that_was_restarted_is_connected_to_anew() {
    let postgres = ::tests::postgres::Postgres::start();
    let store = Store::connect(&postgres.create_database()).await.unwrap();
    let before = submit(&store, 1).await;
    postgres.kill();
    let job = collecting(1);
    let away = store.write(|tx| Box::pin(async move { jobs::insert(tx, job, 5).await })).await;
    assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");
    let read = store.read(|tx| Box::pin(async move { jobs::find(tx, before).await })).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))));
    postgres.restart();
    submit(&store, 1).await;
    let found = store.read(|tx| Box::pin(async move { jobs::find(tx, before).await })).await;
    assert!(found.unwrap().is_some());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() {
    let Err(refused) = Store::connect("postgres://ada@127.0.0.1:1/none").await else {
        panic!("a database on port 1")
    };
    let text = refused.to_string();
    assert!(text.contains("none on 127.0.0.1:1") && text.contains("refused"), "{text}");
    let Err(refused) = Store::connect("mysql://ada@host/none").await else {
        panic!("a database of another kind")
    };
    assert!(refused.to_string().contains("--database-url"), "{refused}");
}
