//! What is kept, and for how long; what is given back; copies that are made while a server runs, and
//! what is found wrong with data that is damaged.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::taking;
use tests::wait::until;
use tests::{Audit, Finished, Gate, World};

/// Something could not go on, or is not as it must be.
const FAILED: i32 = 1;

/// Bytes of all files in a folder and those in it.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size_of = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let each = |path: &Path| if path.is_dir() { size(path) } else { size_of(path) };
    entries.map(|entry| each(&entry.expect("a folder can be read").path())).sum()
}

/// What `farrow server check` says of a data folder.
async fn check(world: &World, data: &Path) -> Finished {
    let data = data.to_str().expect("the path is UTF-8");
    world.farrow(&["server", "check", "--deep", "--data", data]).await
}

async fn all_is_well(world: &World, data: &Path) {
    let checked = check(world, data).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.starts_with("all is well: "), "{checked:?}");
}

/// A server of its own on `data`, and a client that asks it for the value of a job.
async fn value_elsewhere(world: &World, data: &Path, job: &str) -> Value {
    let arguments = ["server", "--json", "--listen", "127.0.0.1:0", "--data"];
    let mut command = world.command(&arguments);
    let mut server = world.spawn("restored", command.arg(data));
    let place: Value =
        serde_json::from_str(&server.first_line().await).expect("a server says where it listens");
    let client = tests::Client::new(place["url"].as_str().expect("a server says its address"));
    let value = client.value(job).await;
    server.signal(Signal::SIGTERM);
    server.ended().await;
    value
}

#[tokio::test]
async fn jobs_that_ended_long_ago_are_deleted_and_those_that_are_needed_stay() {
    let world = World::start_with(&["--keep", "1s"]).await;
    let _agent = world.python_agent("one", 1).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let call = json!({"runtime": "python", "function": "lambda: 1"});
    let needed = world.client.submit(&call).await;
    let mut after = gate.hold(audit.python(&json!([1]), "x"));
    after["after"] = json!([needed]);
    let after = world.client.submit(&after).await;
    let is_gone = async |job: &str| {
        let answer = world.client.get(&format!("/v1/jobs/{job}")).await;
        (answer.status == 404).then_some(())
    };
    // What ended later is gone, and what goes on still has what it comes after.
    audit.started(1).await;
    world.client.value(&needed).await;
    let other = json!({"runtime": "python", "function": "lambda x: x", "elements": []});
    let other = world.client.submit(&other).await;
    until("a job that has ended is deleted", async || is_gone(&other).await).await;
    assert_eq!(world.client.status(&needed).await["state"], "resolved");
    assert_eq!(world.client.status(&after).await["state"], "running");
    gate.open();
    for job in [&after, &needed] {
        until("nothing holds it any more", async || is_gone(job).await).await;
    }
    all_is_well(&world, &world.data()).await;
}

#[tokio::test]
async fn the_data_folder_is_small_again_after_a_large_job_was_deleted() {
    let mut world = World::start_with(&["--blob-grace", "1s"]).await;
    let agent = world.python_agent("one", 2).await;
    // Values that stand in rows, each below 64 KiB, and values in blobs.
    let random = "lambda x: __import__('random').Random(x).randbytes(n).hex()";
    let mut jobs = Vec::new();
    for (n, elements) in [("20_000", 400), ("200_000", 40)] {
        let job = json!({
            "runtime": "python", "function": random, "globals": {"n": n.replace('_', "").parse::<u64>().unwrap()},
            "elements": {"range": [0, elements]}, "options": {"chunk_size": 1}
        });
        let id = world.client.submit(&job).await;
        world.client.done(&id, elements).await;
        jobs.push(id);
    }
    let (file, blobs) = (world.data().join("farrow.db"), world.data().join("blobs"));
    let length = || file.metadata().unwrap().len();
    assert!(size(&blobs) > 8 << 20, "{} bytes of blobs", size(&blobs));
    drop(agent);
    for job in &jobs {
        let deleted =
            world.client.send("DELETE", &format!("/v1/jobs/{job}"), &[], Vec::new()).await;
        assert_eq!(deleted.status, 204);
    }
    // Killed while it clears: the next one goes on.
    world.server().kill();
    all_is_well(&world, &world.data()).await;
    world.restart().await;
    until("the blobs are gone", async || (size(&blobs) == 0).then_some(())).await;
    until("the file is small", async || (length() < 3 << 20).then_some(())).await;
    let log = file.with_extension("db-wal").metadata().map_or(0, |metadata| metadata.len());
    assert!(log <= 20 << 20, "the log has {log} bytes");
    all_is_well(&world, &world.data()).await;
}

#[tokio::test]
async fn a_backup_made_under_load_is_whole_and_a_server_runs_on_it() {
    let world = World::start_with(&["--blob-grace", "1s"]).await;
    let _agents = [world.python_agent("one", 2).await, world.python_agent("two", 2).await];
    // A large function argument and large values: blobs.
    let text = "farrow ".repeat(20_000);
    let finished = json!({
        "runtime": "python", "function": "lambda x, text: str(x) + text",
        "elements": {"range": [0, 12]}, "args": {"text": text}, "options": {"chunk_size": 1}
    });
    let expected: Vec<String> = (0..12).map(|x| format!("{x}{text}")).collect();
    let id = world.client.submit(&finished).await;
    assert!(world.client.value(&id).await == json!(expected));
    let busy = json!({
        "runtime": "python", "function": "lambda x: [__import__('time').sleep(0.02), x][1]",
        "elements": {"range": [0, 400]}
    });
    let busy = world.client.submit(&busy).await;
    world.client.status_when(&busy, |status| status["elements"]["done"].as_u64() >= Some(4)).await;

    for (name, link) in [("copy", None), ("link", Some("--link"))] {
        let target = world.path(name);
        let data = world.data();
        let mut arguments = vec!["server", "backup", target.to_str().unwrap(), "--json", "--data"];
        arguments.push(data.to_str().unwrap());
        arguments.extend(link);
        let made = world.farrow(&arguments).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        let made: Value = serde_json::from_str(&made.stdout).unwrap();
        assert!(made["blobs"].as_u64().unwrap() > 0 && made["damaged"] == json!([]), "{made}");
        let n_linked = if link.is_some() { made["blobs"].clone() } else { json!(0) };
        assert_eq!(made["linked"], n_linked);
        all_is_well(&world, &target).await;
        assert!(!target.join("admin.token").exists());
    }
    // What becomes of the server's own data is nothing to the backups.
    let deleted = world.client.send("DELETE", &format!("/v1/jobs/{id}"), &[], Vec::new()).await;
    assert_eq!(deleted.status, 204);
    for name in ["copy", "link"] {
        assert!(value_elsewhere(&world, &world.path(name), &id).await == json!(expected));
        all_is_well(&world, &world.path(name)).await;
    }
    assert_eq!(world.client.value(&busy).await, (0..400).collect::<Value>());
    all_is_well(&world, &world.data()).await;
}

#[tokio::test]
async fn what_was_running_goes_on_from_a_backup() {
    let world = World::start().await;
    let one = world.python_agent("one", 1).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold_from(5, taking(0.02, audit.python(&json!({"range": [0, 10]}), "x * x")));
    let id = world.client.submit(&job).await;
    world.client.done(&id, 5).await;
    let (data, target) = (world.data(), world.path("backup"));
    let arguments =
        ["server", "backup", target.to_str().unwrap(), "--data", data.to_str().unwrap()];
    assert_eq!(world.farrow(&arguments).await.code, Some(0));
    all_is_well(&world, &target).await;
    drop((one, world.client.cancel(&id).await));
    gate.open();
    // Another server and another agent: the lease of the first lapses there.
    let mut command =
        world.command(&["server", "--json", "--listen", "127.0.0.1:0", "--lease", "1", "--data"]);
    let mut server = world.spawn("restored", command.arg(&target));
    let place: Value = serde_json::from_str(&server.first_line().await).unwrap();
    let url = place["url"].as_str().unwrap();
    let arguments = ["agent", "--server", url, "--name", "two", "--runtime", "python"];
    let _agent = world.spawn("two", &mut world.command(&arguments));
    let value = tests::Client::new(url).value(&id).await;
    assert_eq!(value, (0..10).map(|x| x * x).collect::<Value>());
}

#[tokio::test]
async fn a_backup_that_cannot_be() {
    let world = World::start().await;
    let data = world.data();
    let data = data.to_str().unwrap();
    let full = world.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("something"), "").unwrap();
    let file = world.path("file");
    fs::write(&file, "").unwrap();
    let nothing = world.path("nothing");
    for (target, data, says) in [
        (full.as_path(), data, "is not empty: give a new folder"),
        (file.as_path(), data, "cannot be written"),
        (&file.join("below"), data, "cannot be written"),
        (&world.path("new"), nothing.to_str().unwrap(), "there is no database"),
    ] {
        let refused =
            world.farrow(&["server", "backup", target.to_str().unwrap(), "--data", data]).await;
        assert_eq!(refused.code, Some(FAILED), "{refused:?}");
        assert!(refused.stderr.contains(says), "{says:?} is not in {refused:?}");
    }
    assert!(!world.path("new").exists());
    let left = fs::read_dir(world.path("")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("partial")).count(), 0);
    for arguments in [
        &["server", "--lease", "3", "backup", "x"][..],
        &["server", "backup"],
        &["server", "restore", "x"],
        &["server", "--keep", "soon"],
        &["server", "--blob-grace", "0s"],
    ] {
        let refused = world.farrow(arguments).await;
        assert_eq!(refused.code, Some(2), "{arguments:?} {refused:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_damaged_is_found_and_named_and_left_out_of_a_backup() {
    let world = World::start().await;
    let text = "farrow ".repeat(20_000);
    let job = json!({
        "runtime": "python", "function": "lambda x, text: x", "elements": [1],
        "args": {"text": text}
    });
    let id = world.client.submit(&job).await;
    all_is_well(&world, &world.data()).await;
    let folders = fs::read_dir(world.data().join("blobs")).unwrap();
    let mut files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let is_blob = |path: &Path| path.file_name().unwrap().len() == 64;
    let blob = files.find(|file| is_blob(&file.as_ref().unwrap().path())).unwrap().unwrap().path();
    let digest = format!("sha256:{}", blob.file_name().unwrap().to_str().unwrap());
    fs::write(&blob, "other bytes").unwrap();

    let checked = check(&world, &world.data()).await;
    assert_eq!(checked.code, Some(FAILED), "{checked:?}");
    assert!(checked.stdout.contains(&digest) && checked.stdout.contains(&id), "{checked:?}");
    let (data, target) = (world.data(), world.path("backup"));
    let arguments =
        ["server", "backup", target.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let made = world.farrow(&arguments).await;
    assert_eq!(made.code, Some(FAILED), "{made:?}");
    assert!(made.stdout.contains(&digest) && made.stderr.contains("not in the backup"), "{made:?}");
    fs::remove_file(&blob).unwrap();
    let arguments = ["server", "check", "--json", "--data", data.to_str().unwrap()];
    let checked = world.farrow(&arguments).await;
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!((checked.code, &report["n_findings"]), (Some(FAILED), &json!(1)), "{report}");
    let finding = &report["findings"][0];
    assert_eq!((&finding["kind"], &finding["job"]), (&json!("blobs"), &json!(id)));
    assert!(finding["text"].as_str().unwrap().contains("is missing"), "{report}");
}

#[tokio::test]
async fn a_database_file_that_is_damaged_is_found() {
    let mut world = World::start().await;
    let job =
        json!({"runtime": "python", "function": "lambda x: x", "elements": {"range": [0, 9]}});
    for _ in 0..200 {
        world.client.submit(&job).await;
    }
    world.server().signal(Signal::SIGTERM);
    world.server().ended().await;
    let file = world.data().join("farrow.db");
    // The pages that hold jobs, some of which may not be in use any more; then also what says which
    // schema it has.
    for word in ["lambda x: x", "watching"] {
        let mut bytes = fs::read(&file).unwrap();
        for page in bytes.chunks_mut(4096).skip(1) {
            if page.windows(word.len()).any(|window| window == word.as_bytes()) {
                page.fill(0x5a);
            }
        }
        fs::write(&file, bytes).unwrap();
        let checked = check(&world, &world.data()).await;
        assert_eq!(checked.code, Some(FAILED), "{checked:?}");
        assert!(checked.stdout.starts_with("file  "), "{checked:?}");
        assert!(checked.stdout.contains("not all is well"), "{checked:?}");
    }
}

#[tokio::test]
async fn a_stopped_database_is_written_anew() {
    let mut world = World::start().await;
    let data = world.data();
    let arguments = ["server", "compact", "--json", "--data", data.to_str().unwrap()];
    let refused = world.farrow(&arguments).await;
    assert_eq!(refused.code, Some(FAILED), "{refused:?}");
    assert!(refused.stderr.contains("another farrow server"), "{refused:?}");
    world.server().kill();
    let compacted = world.farrow(&arguments).await;
    let sizes: Value = serde_json::from_str(&compacted.stdout).unwrap();
    assert!(sizes["bytes"].as_u64().unwrap() > 0, "{sizes}");
    world.restart().await;
}
