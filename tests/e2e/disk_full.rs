//! The disk of the server fills up in mid-map: a small file system in memory, which root alone may
//! mount.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;
use serde_json::{Value, json};
use tests::audit::taking;
use tests::procfs;
use tests::recount::RESULT;
use tests::wait::until;
use tests::world::Agent;
use tests::{Audit, Gate, Recount, World};

const SIZE: &str = "size=48m";
/// Room below which a server that has a floor takes no jobs.
const FLOOR: u64 = 8 << 20;

/// A mounted folder.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::TempDir::with_prefix("farrow-disk-").expect("a folder").keep();
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", SIZE, "farrow-test"]).arg(&folder).status();
        assert!(status.is_ok_and(|status| status.success()), "{mount:?}");
        Self { folder }
    }

    /// Takes all the room there is, and gives some back.
    fn fill(&self, but: u64) {
        let path = self.folder.join("filler");
        let mut file = File::create(&path).expect("a file");
        let block = vec![0; 1 << 16];
        let full = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        let length = file.metadata().expect("its size").len();
        file.set_len(length.saturating_sub(but)).expect("room is given back");
    }

    fn clear(&self) {
        fs::remove_file(self.folder.join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still runs may have it open.
        Command::new("umount").arg("-l").arg(&self.folder).status().ok();
        fs::remove_dir(&self.folder).ok();
    }
}

/// Says so, and gives none, where a disk cannot be mounted.
fn disk() -> Option<SmallDisk> {
    if Uid::effective().is_root() {
        return Some(SmallDisk::mount());
    }
    eprintln!("skipped: only root may mount a small disk");
    None
}

/// A map of which twelve elements are done, and the others wait at a gate, on a server that keeps
/// its data on a small disk.
struct InMidMap {
    world: World,
    _agent: Agent,
    audit: Audit,
    gate: Gate,
    id: String,
}

const N_ELEMENTS: usize = 24;
const N_DONE: usize = 12;

impl InMidMap {
    async fn start(disk: &Path, floor: u64) -> Self {
        let data = disk.join("data").display().to_string();
        let floor = floor.to_string();
        let world = World::start_with(&["--data", &data, "--min-free", &floor]).await;
        let agent = world.python_agent("one", 2).await;
        let (audit, gate) = (Audit::new(&world, "map"), Gate::new(&world, "map"));
        let job = audit.python(&json!({"range": [0, N_ELEMENTS]}), RESULT);
        let job = gate.hold_from(i64::try_from(N_DONE).expect("small"), taking(0.02, job));
        let id = world.client.submit(&job).await;
        world.client.done(&id, N_DONE as u64).await;
        audit.started(N_DONE + 2).await;
        Self { world, _agent: agent, audit, gate, id }
    }

    /// How many outcomes can be read.
    async fn n_outcomes(&self) -> usize {
        let path = format!("/v1/jobs/{}/outcomes", self.id);
        self.world.client.get(&path).await.text().lines().count()
    }

    /// The map comes to its value, by no more executions than elements, and new work is taken.
    async fn goes_on(&self) {
        let value = self.world.client.value(&self.id).await;
        let recount = Recount::of(&self.audit);
        let values = value.as_array().expect("a value is a list");
        recount.check(&self.world.client, &self.id, values, N_ELEMENTS).await;
        let repeated = recount.repeated();
        let given_up = self.world.given_up();
        let is_excused = procfs::load_of_a_core() > procfs::BUSY && !given_up.is_empty();
        assert!(repeated.is_empty() || is_excused, "{given_up:?} {repeated:#?}");
        assert_eq!(self.world.client.run(&another()).await, json!([2, 3]));
    }
}

fn another() -> Value {
    json!({"runtime": "python", "function": "lambda x: x + 1", "elements": [1, 2]})
}

#[tokio::test]
async fn below_the_floor_jobs_are_refused_and_results_are_taken() {
    let Some(disk) = disk() else { return };
    let map = InMidMap::start(&disk.folder, FLOOR).await;
    disk.fill(FLOOR / 2);
    let refused = until("jobs are refused", async || {
        let answer = map.world.client.post("/v1/jobs", &another()).await;
        (answer.status != 202).then_some(answer)
    })
    .await;
    let problem = refused.problem(507, "insufficient-storage");
    assert_ne!(refused.header("retry-after"), "", "{problem:#}");
    map.gate.open();
    let value = map.world.client.value(&map.id).await;
    assert_eq!(value.as_array().map(Vec::len), Some(N_ELEMENTS));
    disk.clear();
    until("jobs are taken again", async || {
        let answer = map.world.client.post("/v1/jobs", &another()).await;
        (answer.status == 202).then_some(())
    })
    .await;
    map.goes_on().await;
}

#[tokio::test]
async fn on_a_disk_that_is_full_accepted_results_stay_and_all_goes_on_when_there_is_room() {
    let Some(disk) = disk() else { return };
    let map = InMidMap::start(&disk.folder, 0).await;
    disk.fill(0);
    // Some may fit yet, into room that the database has already.
    let refused = until("jobs are refused", async || {
        let mut job = another();
        job["globals"] = json!({"filler": "x".repeat(60_000)});
        let answer = map.world.client.post("/v1/jobs", &job).await;
        (answer.status != 202).then_some(answer)
    })
    .await;
    refused.problem(507, "insufficient-storage");
    assert_eq!(map.n_outcomes().await, N_DONE);
    // Elements finish; whether or not their outcomes can be accepted now, none is lost.
    map.gate.open();
    map.audit.ended(N_DONE + 2).await;
    assert!(map.n_outcomes().await >= N_DONE);
    disk.clear();
    map.goes_on().await;
}
