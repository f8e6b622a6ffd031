//! Backups that are made while everything moves, and restored elsewhere: nothing is found wrong with
//! them, what had a value has it, and what had none gets it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::wait::until;
use tests::{Audit, Client, Finished, Gate, Process, World};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Clients that submit, wait, compare and delete.
const N_CLIENTS: usize = 4;

/// For how long a blob stays to which nothing refers, so short that it goes during the test.
const GRACE: Duration = Duration::from_secs(2);

/// Between two looks of the server for such blobs, when their grace is as short.
const COLLECTS_EVERY: Duration = Duration::from_secs(1);

/// Which agents run what is meant for after the restoration.
const PLACE: &str = "place=elsewhere";

/// What clients know of their jobs. Each note has a number, which tells what came before what.
#[derive(Debug, Default)]
struct Books {
    n_notes: u64,
    jobs: BTreeMap<String, Entry>,
    digests: Vec<String>,
    n_values: usize,
    n_deleted: usize,
    /// Jobs that are left to be deleted by age.
    left: VecDeque<String>,
}

/// What is known of a job.
#[derive(Clone, Debug)]
struct Entry {
    /// The value that it has or is to have.
    value: Value,
    /// Whether it stays on the server until all backups are made.
    stays: bool,
    /// When its submission had been answered.
    submitted: u64,
    /// When a client had its value.
    valued: Option<u64>,
}

/// Clients at one server.
#[derive(Debug)]
struct Load {
    client: Client,
    is_over: AtomicBool,
    books: Mutex<Books>,
}

impl Load {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a note that is made now.
    fn now(&self) -> u64 {
        let mut books = self.books();
        books.n_notes += 1;
        books.n_notes
    }

    async fn submit(&self, job: &Value, value: Value, stays: bool) -> String {
        let id = self.client.submit(job).await;
        self.note(&id, value, stays);
        id
    }

    fn note(&self, id: &str, value: Value, stays: bool) {
        let entry = Entry { value, stays, submitted: self.now(), valued: None };
        self.books().jobs.insert(id.to_owned(), entry);
    }

    /// Submits a job whose argument was uploaded before, and whose values are as large.
    async fn submit_large(&self, word: &str, n: u64, labels: &Value, stays: bool) -> String {
        let text = word.repeat(100_000 / word.len());
        let digest = self.client.upload(json!(text).to_string().into_bytes()).await;
        let job = json!({
            "runtime": "python", "function": "lambda x, text: str(x) + text",
            "elements": {"range": [0, n]}, "args": {"text": {"blob": digest}},
            "options": {"chunk_size": 1, "labels": labels},
        });
        let value = (0..n).map(|x| format!("{x}{text}")).collect();
        let id = self.submit(&job, value, stays).await;
        self.books().digests.push(digest);
        id
    }

    async fn submit_small(&self, n: u64) -> String {
        let job = json!({
            "runtime": "python", "function": "lambda x: x * x", "elements": {"range": [0, n]},
        });
        self.submit(&job, (0..n).map(|x| x * x).collect(), false).await
    }

    /// Waits for the value of a job and compares it. One that is asked for late may have been
    /// deleted by its age.
    async fn has_value(&self, id: &str) {
        let answer = self.client.outcome(id).await;
        let now = self.now();
        let mut books = self.books();
        let entry = books.jobs.get_mut(id).expect("a job that was submitted");
        if answer.status == 404 && !entry.stays {
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.json() == entry.value, "another value of {id}");
        entry.valued = Some(now);
        books.n_values += 1;
    }

    async fn delete(&self, id: &str) {
        let answer = self.client.send("DELETE", &format!("/v1/jobs/{id}"), &[], Vec::new()).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        self.books().n_deleted += 1;
    }

    /// One client: small jobs and large ones, some for later, some deleted, some left.
    async fn go_on(&self, name: usize) {
        for n in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let word = format!("{name}-{n} ");
            let large = self.submit_large(&word, 3, &json!({}), false).await;
            let small = self.submit_small(20 + n % 7).await;
            if n % 3 == 0 {
                let labels = json!({"place": "elsewhere"});
                self.submit_large(&format!("later {word}"), 1, &labels, true).await;
            }
            tokio::join!(self.has_value(&small), self.has_value(&large));
            match n % 2 {
                0 => self.delete(&large).await,
                _ => self.books().left.push_back(large),
            }
        }
    }

    /// Waits until since now values have come, jobs and blobs have gone, and some jobs by their age.
    async fn has_moved(&self, data: &Path) {
        let (n_values, n_deleted, gone) = {
            let books = self.books();
            (books.n_values, books.n_deleted, n_gone(&books.digests, data))
        };
        until("values come, jobs and blobs go", async || {
            let books = self.books();
            let is_more = books.n_values > n_values + N_CLIENTS && books.n_deleted > n_deleted;
            (is_more && n_gone(&books.digests, data) > gone).then_some(())
        })
        .await;
        let aging = until("a job is left", async || self.books().left.pop_front()).await;
        until("it is deleted by age", async || {
            let answer = self.client.get(&format!("/v1/jobs/{aging}")).await;
            (answer.status == 404).then_some(())
        })
        .await;
    }
}

/// How many blobs are not there any more.
fn n_gone(digests: &[String], data: &Path) -> usize {
    let is_gone = |digest: &&String| {
        let hex = digest.trim_start_matches("sha256:");
        !data.join("blobs").join(&hex[..2]).join(hex).exists()
    };
    digests.iter().filter(is_gone).count()
}

/// A backup, and between which notes it was made.
#[derive(Debug)]
struct Backup {
    name: String,
    folder: PathBuf,
    begun: u64,
}

impl Backup {
    /// Begins one.
    fn begin(world: &World, load: &Load, name: &str, flags: &[&str]) -> (Self, Process) {
        let folder = world.path("backups").join(name);
        let begun = load.now();
        let mut command = world.command(&["server", "backup", "--json"]);
        let process =
            world.spawn("backup", command.arg("--data").arg(world.data()).args(flags).arg(&folder));
        (Self { name: name.to_owned(), folder, begun }, process)
    }

    /// Waits until it is whole.
    async fn is_whole(&self, world: &World, mut process: Process) {
        let made = process.finished().await;
        assert_eq!(made.code, Some(0), "{}: {made:?}", self.name);
        let made: Value = serde_json::from_str(&made.stdout).expect("it says in JSON what it is");
        assert!(made["blobs"].as_u64() > Some(0) && made["damaged"] == json!([]), "{made}");
        all_is_well(world, &self.folder).await;
    }

    /// Whether it copies blobs and has not copied all.
    fn copies_blobs(&self) -> bool {
        let within = |folder: &Path| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let named =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = self.folder.parent().expect("it is in a folder");
        let begins = format!(".{}.partial-", self.name);
        let partial = within(parent).into_iter().find(|path| named(path).starts_with(&begins));
        let parts = partial.map(|partial| within(&partial.join("blobs"))).unwrap_or_default();
        parts.iter().any(|part| named(part).len() == 2 && !within(part).is_empty())
    }
}

/// Begins backups until one is stopped while it copies blobs; those that were too quick are whole.
async fn stopped_while_it_copies(world: &World, load: &Load) -> (Backup, Process) {
    for n in 0.. {
        let (backup, mut process) = Backup::begin(world, load, &format!("stopped-{n}"), &[]);
        while !backup.copies_blobs() && !process.has_ended() {
            sleep(Duration::from_millis(1)).await;
        }
        if !process.has_ended() {
            process.signal(Signal::SIGSTOP);
            if !backup.folder.exists() {
                return (backup, process);
            }
            process.signal(Signal::SIGCONT);
        }
        backup.is_whole(world, process).await;
    }
    unreachable!("there is always another one")
}

/// Waits until the server has looked for blobs to remove, after now.
async fn collector_has_looked(data: &Path) {
    let looked = || -> SystemTime {
        let file = data.join("blobs").join("locks").join("now");
        file.metadata().and_then(|metadata| metadata.modified()).expect("the server has looked")
    };
    let before = looked();
    until("the server looks for blobs to remove", async || {
        (looked() > before + 2 * COLLECTS_EVERY).then_some(())
    })
    .await;
}

async fn check(world: &World, data: &Path) -> Finished {
    let data = data.to_str().expect("the path is UTF-8");
    world.farrow(&["server", "check", "--deep", "--data", data]).await
}

async fn all_is_well(world: &World, data: &Path) {
    let checked = check(world, data).await;
    assert_eq!(checked.code, Some(0), "{}: {checked:?}", data.display());
    assert!(checked.stdout.starts_with("all is well: "), "{checked:?}");
}

/// The states of all jobs of a server.
async fn states(client: &Client) -> BTreeMap<String, String> {
    let (mut states, mut next) = (BTreeMap::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/jobs?limit=100{next}")).await.json();
        for job in page["items"].as_array().expect("jobs are listed") {
            let [id, state] = ["id", "state"].map(|name| job[name].as_str().expect("a text"));
            states.insert(id.to_owned(), state.to_owned());
        }
        match page["next"].as_str() {
            Some(cursor) => next = format!("&after={cursor}"),
            None => return states,
        }
    }
}

/// Restores a backup in another folder, and holds what is there against what clients know.
async fn restored_is_right(world: &World, backup: &Backup, jobs: &BTreeMap<String, Entry>) {
    let name = &backup.name;
    let data = world.path(&format!("restored-{name}"));
    let copied = Command::new("cp").arg("-r").arg(&backup.folder).arg(&data).status();
    assert!(copied.expect("cp runs").success());
    all_is_well(world, &data).await;
    let arguments = ["server", "--json", "--listen", "127.0.0.1:0", "--lease", "1", "--data"];
    let mut server = world.spawn("restored", world.command(&arguments).arg(&data));
    let place: Value = serde_json::from_str(&server.first_line().await).expect("where it listens");
    let url = place["url"].as_str().expect("a server says its address");
    let client = Client::new(url);

    let states = states(&client).await;
    for (id, job) in jobs.iter().filter(|(_, job)| job.stays && job.submitted < backup.begun) {
        let (submitted, begun) = (job.submitted, backup.begun);
        assert!(states.contains_key(id), "{name} lacks {id} of note {submitted}, begun at {begun}");
    }
    let mut n_unfinished = 0;
    for (id, state) in &states {
        let job = jobs.get(id).unwrap_or_else(|| panic!("{name} has {id}, which nobody submitted"));
        if job.valued.is_some_and(|valued| valued < backup.begun) {
            assert_eq!(state, "resolved", "{name}: {id} had its value before");
        }
        match state.as_str() {
            "resolved" => assert!(client.value(id).await == job.value, "{name}: value of {id}"),
            "queued" | "running" => n_unfinished += 1,
            _ => panic!("{name}: {id} is {state}"),
        }
    }
    assert!(n_unfinished > 1, "{name}: {n_unfinished} jobs go on");
    assert!(n_unfinished < states.len(), "{name}: no job has ended");

    // A machine of its own: nothing that agents of the first server have kept.
    let scratch = world.path(&format!("scratch-{name}"));
    let arguments = ["agent", "--server", url, "--name", name, "--runtime", "python"];
    let mut command = world.command(&arguments);
    let agent =
        world.spawn("elsewhere", command.args(["--label", PLACE, "--scratch"]).arg(scratch));
    for id in states.keys() {
        assert!(client.value(id).await == jobs[id].value, "{name}: value of {id}");
    }
    server.signal(Signal::SIGTERM);
    server.ended().await;
    drop(agent);
    all_is_well(world, &data).await;
}

#[tokio::test]
async fn backups_made_while_all_moves_are_whole_and_go_on_elsewhere() {
    let grace = format!("{}s", GRACE.as_secs());
    let mut world = World::start_with(&["--blob-grace", &grace, "--keep", "2s"]).await;
    let agents = [world.python_agent("one", 2).await, world.python_agent("two", 2).await];
    let load = Arc::new(Load {
        client: world.client.clone(),
        is_over: AtomicBool::new(false),
        books: Mutex::default(),
    });
    // A job that has three of its values and is held up; those before it are kept for its sake.
    let mut needed = Vec::new();
    for word in ["first ", "second "] {
        needed.push(load.submit_large(word, 6, &json!({}), true).await);
    }
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let mut held = gate.hold_from(3, audit.python(&json!({"range": [0, 4]}), "x * x"));
    held["after"] = json!(needed);
    let held = load.submit(&held, json!([0, 1, 4, 9]), true).await;
    for id in &needed {
        load.has_value(id).await;
    }
    load.client.done(&held, 3).await;

    let mut clients = JoinSet::new();
    for name in 0..N_CLIENTS {
        let load = Arc::clone(&load);
        clients.spawn(async move { load.go_on(name).await });
    }
    let mut backups = Vec::new();
    for (name, flags) in [("copy", &[][..]), ("link", &["--link"])] {
        load.has_moved(&world.data()).await;
        let (backup, process) = Backup::begin(&world, &load, name, flags);
        backup.is_whole(&world, process).await;
        backups.push(backup);
    }
    // One that takes long: the jobs whose blobs it is to copy are deleted meanwhile.
    let (backup, process) = stopped_while_it_copies(&world, &load).await;
    let n_values = load.books().n_values;
    for id in &needed {
        load.delete(id).await;
    }
    collector_has_looked(&world.data()).await;
    until("values come during the backup", async || {
        (load.books().n_values > n_values + N_CLIENTS).then_some(())
    })
    .await;
    process.signal(Signal::SIGCONT);
    backup.is_whole(&world, process).await;
    backups.push(backup);

    load.is_over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no client meets an error");
    }
    drop(agents);
    world.server().signal(Signal::SIGTERM);
    world.server().ended().await;
    all_is_well(&world, &world.data()).await;
    gate.open();
    let jobs = load.books().jobs.clone();
    let [copy, link, stopped] = &backups[..] else { panic!("{backups:?}") };
    tokio::join!(
        restored_is_right(&world, copy, &jobs),
        restored_is_right(&world, link, &jobs),
        restored_is_right(&world, stopped, &jobs),
    );
}
