//! Servers are ended and started again one by one, as an upgrade does, while a map runs and fifty
//! clients submit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::taking;
use tests::procfs;
use tests::recount::RESULT;
use tests::wait::until;
use tests::{Audit, Database, Patient, Recount, World};

const N_CLIENTS: usize = 50;
/// How often each server is started again.
const N_ROUNDS: usize = 2;
/// Values that clients get between one restart and the next.
const N_VALUES: usize = 10;
/// Elements of the map that runs meanwhile.
const N_ELEMENTS: usize = 40;

/// What the clients have got so far.
#[derive(Default)]
struct Progress {
    n_values: AtomicUsize,
    is_over: AtomicBool,
}

/// Submits one job after the other until it is over; the ids.
async fn submit_for_ever(client: Patient, name: usize, progress: Arc<Progress>) -> Vec<String> {
    let mut ids = Vec::new();
    while !progress.is_over.load(Ordering::Relaxed) {
        let first = ids.len() * 10;
        let job = json!({
            "name": name.to_string(), "runtime": "python", "function": "lambda x: x + 1",
            "elements": {"range": [first, first + 3]}, "options": {"labels": {"agent": "small"}},
        });
        let id = client.submit(&format!("{name}-{first}"), &job).await;
        assert_eq!(client.value(&id).await, json!([first + 1, first + 2, first + 3]));
        progress.n_values.fetch_add(1, Ordering::Relaxed);
        ids.push(id);
    }
    ids
}

/// Ends each server in its turn as a supervisor does, and starts it again when it has ended.
async fn roll(world: &mut World, progress: &Progress) {
    let n_servers = world.n_servers();
    for server_idx in (0..N_ROUNDS).flat_map(|_| 0..n_servers) {
        let before = progress.n_values.load(Ordering::Relaxed);
        world.server_at(server_idx).signal(Signal::SIGTERM);
        let ended = world.server_at(server_idx).ended().await;
        assert_eq!(ended.code(), Some(0), "{}", world.server_at(server_idx).stderr());
        world.restart_at(server_idx).await;
        until("clients get values again", async || {
            let now = progress.n_values.load(Ordering::Relaxed);
            (now >= before + N_VALUES).then_some(())
        })
        .await;
    }
    progress.is_over.store(true, Ordering::Relaxed);
}

async fn all_ids(client: &Patient) -> BTreeSet<String> {
    let (mut ids, mut next) = (BTreeSet::new(), String::new());
    loop {
        let page =
            client.send("GET", &format!("/v1/jobs?limit=1000{next}"), "", &Value::Null).await;
        let page = page.json();
        let items = page["items"].as_array().expect("jobs are listed");
        for item in items {
            assert_eq!(item["state"], "resolved", "{item:#}");
            let elements = &item["elements"];
            assert_eq!((&elements["done"], &elements["failed"]), (&elements["total"], &json!(0)));
            ids.insert(item["id"].as_str().expect("a job has an id").to_owned());
        }
        match page["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => return ids,
        }
    }
}

async fn rolls_without_a_failure(database: Database) {
    let mut world = World::start_on(database, &["--lease", "10"], &[]).await;
    let (_map, _small) = tokio::join!(
        world.agent_with("map", 2, &["--runtime", "python", "--label", "agent=map"]),
        world.agent_with("small", 4, &["--runtime", "python", "--label", "agent=small"]),
    );
    let audit = Audit::new(&world, "map");
    let mut job = taking(0.2, audit.python(&json!({"range": [0, N_ELEMENTS]}), RESULT));
    job["options"] = json!({"labels": {"agent": "map"}});
    let client = Patient::new(&world.urls());
    let map = client.submit("map", &job).await;
    let progress = Arc::<Progress>::default();
    let clients: Vec<_> = (0..N_CLIENTS)
        .map(|name| {
            let client = Patient::new(&world.urls());
            tokio::spawn(submit_for_ever(client, name, Arc::clone(&progress)))
        })
        .collect();
    audit.started(1).await;
    roll(&mut world, &progress).await;
    let mut ids = BTreeSet::from([map.clone()]);
    for client in clients {
        ids.extend(client.await.expect("no client fails"));
    }
    let value = client.value(&map).await;
    // No job is lost, none is there twice, and each has just its outcomes.
    assert_eq!(all_ids(&client).await, ids);
    let recount = Recount::of(&audit);
    let values = value.as_array().expect("a value is a list");
    recount.check(&world.answering().await, &map, values, N_ELEMENTS).await;
    let repeated = recount.repeated();
    // On a machine so slow that an agent is given up for it, what it ran runs again.
    let given_up = world.given_up();
    let is_excused = procfs::load_of_a_core() > procfs::BUSY && !given_up.is_empty();
    assert!(repeated.is_empty() || is_excused, "{given_up:?} {repeated:#?}");
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request_and_loses_no_job_on_sqlite() {
    rolls_without_a_failure(Database::Sqlite).await;
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request_and_loses_no_job_on_postgresql() {
    rolls_without_a_failure(Database::Postgres).await;
}
