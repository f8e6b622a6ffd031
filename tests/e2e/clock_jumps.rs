//! The server's clock is set by an hour, forth and back, in mid-map: libfaketime stands between the
//! server and the system's time of day.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::audit::taking;
use tests::recount::RESULT;
use tests::wait::until;
use tests::world::Agent;
use tests::{Audit, Database, Recount, World};

const N_ELEMENTS: usize = 36;

/// Debian keeps it in a folder named after the machine's kind.
fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("/usr/lib is there").flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("libfaketime is there: `make setup` installs it")
}

/// A file that says how far the server's clock is from the machine's.
struct Offset(PathBuf);

impl Offset {
    fn new(folder: &Path) -> Self {
        let offset = Self(folder.join("offset"));
        offset.set("+0");
        offset
    }

    /// All at once: the server must not read half of it.
    fn set(&self, offset: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset}\n")).expect("a file can be written");
        fs::rename(&new, &self.0).expect("a file can be renamed");
    }
}

/// Starts an agent, and gives the hour of the day in which the server says that it has registered.
async fn hour_of_registration(world: &World, name: &str) -> (Agent, i64) {
    let agent = world.python_agent(name, 2).await;
    let mark = format!("name=\"{name}\"");
    let is_it = |line: &&str| line.contains("an agent has registered") && line.contains(&mark);
    // It is known to the database before the log tells of it.
    let line = until(&format!("a server tells of {name}"), async || {
        let logs = fs::read_dir(world.path("")).expect("the folder is there").flatten();
        let mut texts = logs.filter_map(|log| fs::read_to_string(log.path()).ok());
        texts.find_map(|text| text.lines().find(is_it).map(str::to_owned))
    })
    .await;
    // 2026-11-25T16:37:45.617343Z
    let hour = line.get(11..13).and_then(|text| text.parse().ok());
    (agent, hour.expect("an hour"))
}

async fn jumps_change_nothing(database: Database) {
    let folder = tempfile::TempDir::with_prefix("farrow-clock-").expect("a folder");
    let offset = Offset::new(folder.path());
    let library = libfaketime();
    let variables = [
        ("LD_PRELOAD", library.to_str().expect("a path that is text")),
        ("FAKETIME_TIMESTAMP_FILE", offset.0.to_str().expect("a path that is text")),
        ("FAKETIME_NO_CACHE", "1"),
        // The time since the machine's start is nobody's to set.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut world = World::start_on(database, &[], &variables).await;
    let (_one, first) = hour_of_registration(&world, "one").await;
    let audit = Audit::new(&world, "map");
    let job = taking(0.2, audit.python(&json!({"range": [0, N_ELEMENTS]}), RESULT));
    let id = world.client.submit(&job).await;
    audit.started(4).await;
    offset.set("+3600");
    // The jump happens: the log tells of it. (An hour may turn by itself meanwhile.)
    let (_two, second) = hour_of_registration(&world, "two").await;
    assert!((1..=2).contains(&(second - first).rem_euclid(24)), "{first} {second}");
    audit.started(10).await;
    offset.set("-3600");
    audit.started(16).await;
    // A server that starts when the clock is behind what it has stored.
    world.server().kill();
    world.restart().await;
    audit.started(22).await;
    offset.set("+0");
    let value = world.client.value(&id).await;
    let recount = Recount::of(&audit);
    let values: &Vec<Value> = value.as_array().expect("a value is a list");
    recount.check(&world.client, &id, values, N_ELEMENTS).await;
    assert_eq!(world.given_up(), [].into(), "an agent was given up");
    assert!(recount.repeated().is_empty(), "{:#?}", recount.repeated());
}

#[tokio::test]
async fn a_clock_that_is_set_in_mid_map_changes_nothing() {
    for &database in Database::ALL {
        jumps_change_nothing(database).await;
    }
}
