//! The commands about jobs that were submitted: what they said, what became of each element, again
//! what failed, and away with them; and blobs.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::wait::until;
use tests::{Audit, Finished, Gate, World};

use crate::proxy;

const UNKNOWN: &str = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";

fn printed(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    &finished.stdout
}

fn lines_of_json(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

async fn detached(world: &World, words: &[&str]) -> String {
    let words = [&["map", "--detach", "--runtime", "python"], words].concat();
    printed(&world.farrow(&words).await).trim_end().to_owned()
}

#[tokio::test]
async fn what_elements_print_is_shown_while_they_run() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let gate = world.path("gate");
    let function = format!(
        "import os, sys, time\n\
         def f(x):\n    print('begin', x)\n    \
         while not os.path.exists({gate:?}): time.sleep(0.01)\n    \
         print('end', file=sys.stderr)\n    return x"
    );
    let words = ["map", "--runtime", "python", &function, "a"];
    let mut map = world.spawn("map", &mut world.command(&words));
    until("the map shows what its element prints", async || {
        map.stderr().contains("[0] begin a\n").then_some(())
    })
    .await;
    let id = world.client.get("/v1/jobs").await.json()["items"][0]["id"].clone();
    let id = id.as_str().unwrap();
    let mut logs = world.spawn("logs", &mut world.command(&["logs", "--follow", id]));
    until("the log shows it", async || logs.stdout().contains("[0] begin a\n").then_some(())).await;
    fs::write(&gate, "").unwrap();
    let mapped = map.finished().await;
    assert_eq!(printed(&mapped), "\"a\"\n");
    assert_says(&mapped.stderr, &["[0] end\n"]);
    assert_eq!(printed(&logs.finished().await), "[0] begin a\n[0] end\n");

    let said = lines_of_json(printed(&world.farrow(&["logs", "--json", id]).await));
    assert!(
        said.iter().any(|line| line["stream"] == "stderr" && line["text"] == "end\n"),
        "{said:?}"
    );
    assert_eq!(printed(&world.farrow(&["logs", "--element", "1", id]).await), "");
    let quiet = ["map", "--quiet", "--runtime", "python", &function, "a"];
    let mapped = world.farrow(&quiet).await;
    assert_eq!((printed(&mapped), mapped.stderr.as_str()), ("\"a\"\n", ""));
    let no_live = ["map", "--no-live", "--runtime", "python", &function, "a"];
    assert!(!world.farrow(&no_live).await.stderr.contains("begin"));
}

#[tokio::test]
async fn outcomes_tell_of_each_element_and_at_length_of_errors() {
    let world = World::start().await;
    let _agent = world.python_agent("box", 1).await;
    let function = "def f(x):\n    print('trying', x)\n    if x == 'b': raise ValueError('no b')\n    return x * 2";
    let id = detached(&world, &["--on-error", "collect", "--named", function, "a", "b", "c"]).await;
    assert_eq!(world.farrow(&["value", &id]).await.code, Some(0));

    let table = world.farrow(&["outcomes", &id]).await;
    let rows: Vec<&str> = printed(&table).lines().collect();
    assert_eq!(rows.len(), 4, "{table:?}");
    assert_says(rows[0], &["ELEMENT", "RUNS", "VALUE OR ERROR"]);
    assert_says(rows[1], &["0 a", "ok", "box", "\"aa\""]);
    assert_says(rows[2], &["1 b", "failed", "ValueError: no b"]);
    let failed = world.farrow(&["outcomes", "--failed", &id]).await;
    assert_says(
        printed(&failed),
        &[
            "element 1 b: failed",
            "ValueError: no b",
            "line 3, in f",
            "standard output:\n    trying b",
        ],
    );
    assert!(!failed.stdout.contains("trying a"), "{failed:?}");

    let outcomes = world.farrow(&["outcomes", "--json", "--limit", "2", &id]).await;
    let indexes: Vec<_> =
        lines_of_json(printed(&outcomes)).iter().map(|outcome| outcome["index"].clone()).collect();
    assert_eq!(indexes, [0, 1]);
    let refused = world.farrow(&["outcomes", "--follow", "--order", "index", &id]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
}

#[tokio::test]
async fn outcomes_are_followed_as_they_land() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let mut job = gate.hold_from(2, audit.python(&serde_json::json!([]), "x"));
    job["elements"] = serde_json::json!([0, 1, 2]);
    let id = world.client.submit(&job).await;
    let words = ["outcomes", "--follow", "--json", &id];
    let mut follow = world.spawn("outcomes", &mut world.command(&words));
    until("two outcomes are shown", async || (follow.stdout().lines().count() == 2).then_some(()))
        .await;
    gate.open();
    let outcomes = lines_of_json(printed(&follow.finished().await));
    let ranks: Vec<_> = outcomes.iter().map(|outcome| outcome["rank"].clone()).collect();
    assert_eq!(ranks, [0, 1, 2]);
    assert_eq!(outcomes[2]["index"], 2);
}

#[tokio::test]
async fn a_failed_map_says_how_to_go_on_and_its_retry_ends_it() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let mended = world.path("mended");
    let function = format!(
        "import os\ndef f(x):\n    if x == 'b' and not os.path.exists({mended:?}): raise KeyError('b')\n    return x * 2"
    );
    let id = detached(&world, &["--named", &function, "a", "b", "c"]).await;
    let failed = world.farrow(&["value", &id]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_says(
        &failed.stderr,
        &[
            "element 1",
            "name: b",
            "KeyError",
            &format!("farrow outcomes {id} --failed"),
            &format!("farrow retry {id}"),
        ],
    );
    fs::write(mended, "").unwrap();
    let retried = world.farrow(&["retry", &id]).await;
    assert_eq!(printed(&retried), "a\t\"aa\"\nb\t\"bb\"\nc\t\"cc\"\n");
    let again = world.farrow(&["retry", "--detach", &id]).await;
    let new = printed(&again).trim_end();
    assert_says(&retried.stderr, &[new]);
    let status = world.farrow(&["status", &id, new]).await;
    assert_says(printed(&status), &[&format!("retried as  {new}"), &format!("retry of   {id}")]);
    assert_eq!(world.farrow(&["retry", new]).await.code, Some(3), "there is nothing to retry");
}

#[tokio::test]
async fn many_jobs_are_asked_about_and_deleted() {
    let world = World::start().await;
    let queued = detached(&world, &["lambda x: x", "a"]).await;
    let ended = detached(&world, &["lambda x: x", "b"]).await;
    assert_eq!(world.farrow(&["cancel", &ended]).await.code, Some(0));
    let both = world.farrow(&["status", "--json", &ended, &queued]).await;
    let both: Value = serde_json::from_str(printed(&both)).unwrap();
    assert_eq!((&both[0]["state"], &both[1]["state"]), (&"cancelled".into(), &"queued".into()));
    let one_unknown = world.farrow(&["status", "--json", &queued, UNKNOWN]).await;
    assert_eq!(one_unknown.code, Some(3), "{one_unknown:?}");
    assert_says(&one_unknown.stderr, &[UNKNOWN]);
    assert_says(&one_unknown.stdout, &[&queued]);

    let deleted = world.farrow(&["delete", &ended, UNKNOWN, &queued]).await;
    assert_eq!(deleted.code, Some(3), "{deleted:?}");
    assert_eq!(deleted.stdout, format!("{ended}  deleted\n{UNKNOWN}  deleted\n"));
    assert_says(&deleted.stderr, &[&format!("farrow cancel {queued}")]);
    assert_eq!(world.farrow(&["value", &ended]).await.code, Some(3));
}

#[tokio::test]
async fn a_job_is_cancelled_and_deleted_though_the_first_answer_is_lost() {
    let world = World::start().await;
    let id = detached(&world, &["lambda x: x", "a"]).await;
    for (command, says) in [("cancel", "cancelled"), ("delete", "deleted")] {
        let address = proxy::losing_the_first_answer(&world).await;
        let mut asked = world.command(&[command, &id]);
        let done = world.spawn(command, asked.env("FARROW_URL", address)).finished().await;
        assert_eq!(printed(&done), format!("{id}  {says}\n"));
        assert_says(&done.stderr, &["trying again", "answers again"]);
    }
}

#[tokio::test]
async fn blobs_are_uploaded_once_and_fetched_whole() {
    let world = World::start().await;
    let (file, copy) = (world.path("file"), world.path("copy"));
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    fs::write(&file, &bytes).unwrap();
    let put = world.farrow(&["blobs", "put", file.to_str().unwrap()]).await;
    let digest = printed(&put).split_whitespace().next().unwrap().to_owned();
    assert_says(&put.stdout, &["sha256:", "97.7 KiB"]);
    let again = world.farrow(&["blobs", "put", file.to_str().unwrap()]).await;
    assert_says(printed(&again), &[&digest, "was there"]);
    let got = world.farrow(&["blobs", "get", "--out", copy.to_str().unwrap(), &digest]).await;
    assert_eq!(printed(&got), "");
    assert_eq!(fs::read(&copy).unwrap(), bytes);

    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(
        printed(&world.farrow(&["blobs", "has", &digest]).await),
        format!("{digest}  here\n")
    );
    let has = world.farrow(&["blobs", "has", &digest, &other]).await;
    assert_eq!((has.code, has.stderr.as_str()), (Some(5), ""), "{has:?}");
    assert_says(&has.stdout, &[&format!("{other}  not here\n")]);
    let missing = world.farrow(&["blobs", "get", &other]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(5), ""), "{missing:?}");
    assert_eq!(world.farrow(&["blobs", "get", "sha256:12"]).await.code, Some(2));
}

#[tokio::test]
async fn empty_variables_count_as_unset() {
    let world = World::start().await;
    let mut command = world.command(&["jobs"]);
    for variable in ["FARROW_TOKEN_FILE", "FARROW_STATE", "FARROW_LIMIT", "FARROW_JSON"] {
        command.env(variable, "");
    }
    let jobs = world.spawn("jobs", &mut command).finished().await;
    assert_says(printed(&jobs), &["no jobs yet"]);
}

#[tokio::test]
async fn a_value_that_is_interrupted_on_its_way_leaves_no_file() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let id = detached(&world, &["lambda n: 'x' * int(n)", "10000000"]).await;
    printed(&world.farrow(&["status", "--watch", &id]).await);
    let address = proxy::holding_back_the_rest(&world).await;
    let folder = world.path("values");
    fs::create_dir(&folder).unwrap();
    let out = folder.join("value");
    let files = || fs::read_dir(&folder).unwrap().count();
    for no_wait in [&[][..], &["--no-wait"]] {
        let words = [&["value", "--out", out.to_str().unwrap(), &id], no_wait].concat();
        let mut value = world.spawn("value", world.command(&words).env("FARROW_URL", &address));
        until("the value is on its way", async || (files() > 0).then_some(())).await;
        value.signal(Signal::SIGTERM);
        let interrupted = value.finished().await;
        assert_eq!((interrupted.code, files()), (Some(130), 0), "{interrupted:?}");
        assert_says(&interrupted.stderr, &["interrupted"]);
    }
}
