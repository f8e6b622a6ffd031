//! The API against its own description, by schemathesis: what the description promises must be so,
//! and what it forbids must be refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::procfs::is_alive;
use tests::wait::until_within;
use tests::{World, process, token};

/// It makes some thousands of requests, which takes a minute or two.
const HANG: Duration = Duration::from_secs(600);

/// Where `make test` installs it.
fn schemathesis() -> PathBuf {
    let program = process::program();
    // target/debug/farrow
    let target = program.ancestors().nth(2).expect("the program stands in target/PROFILE");
    let schemathesis = target.join("venv/bin/schemathesis");
    assert!(schemathesis.exists(), "no {}: run `make venv`", schemathesis.display());
    schemathesis
}

/// Jobs of every kind and end, an agent and blobs, for requests that name what is there: their ids
/// in the files that `schemathesis.toml` names.
async fn furnish(world: &World) {
    let job = |change: Value| {
        let mut job = json!({"runtime": "python", "function": "lambda x: print(x) or 1 / x"});
        let change = change.as_object().expect("an object").clone();
        job.as_object_mut().expect("an object").extend(change);
        job
    };
    let collect = json!({"on_error": "collect"});
    let pickle = json!({"encoding": "pickle"});
    let mut jobs = Vec::new();
    for job in [
        job(json!({"elements": {"a": 1, "b": 2}})),
        job(json!({"elements": [1, 0]})),
        job(json!({"elements": [1, 0], "options": collect})),
        job(json!({"function": "lambda: [1, 2]", "options": pickle})),
        job(json!({"function": "42"})),
    ] {
        let id = world.client.submit(&job).await;
        world.client.outcome(&id).await;
        jobs.push(id);
    }
    // Nobody has R here: one job is cancelled, one goes on waiting.
    for _ in 0..2 {
        jobs.push(world.client.submit(&job(json!({"runtime": "r", "elements": [1]}))).await);
    }
    assert_eq!(world.client.cancel(&jobs[5]).await.status, 200);
    let agents = world.client.get("/v1/agents").await.json();
    let agents = [agents["items"][0]["id"].as_str().expect("an agent has an id").to_owned()];
    // The empty blob, by its digest.
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let put = world.client.send("PUT", &format!("/v1/blobs/{empty}"), &[], Vec::new()).await;
    assert_eq!(put.status, 201, "{}", put.text());
    for (name, ids) in [("jobs", &jobs[..]), ("agents", &agents), ("blobs", &[empty.to_owned()])] {
        let lines: String = ids.iter().map(|id| format!("{id:?}\n")).collect();
        fs::write(world.path(&format!("{name}.dict")), lines).expect("a file can be written");
    }
}

#[tokio::test]
async fn the_api_is_as_it_is_described() {
    let mut world = World::start().await;
    // Generated jobs for R and for commands are not run: what they would do nobody has read.
    let _agent = world.python_agent("one", 1).await;
    furnish(&world).await;
    for name in ["schemathesis.toml", "hooks.py"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract").join(name);
        fs::copy(file, world.path(name)).expect("a file can be copied");
    }
    let mut command = Command::new(schemathesis());
    command
        .current_dir(world.path(""))
        .env("SCHEMATHESIS_HOOKS", "hooks.py")
        .env("FARROW_TOKEN", token())
        .args(["--config-file", "schemathesis.toml", "run", "--no-color"])
        .arg(format!("{}/openapi.json", world.url()));
    let mut checking = world.spawn("schemathesis", &mut command);
    let pid = checking.pid();
    until_within(HANG, "schemathesis ends", async || (!is_alive(pid)).then_some(())).await;
    let checked = checking.finished().await;
    println!("{}{}", checked.stdout, checked.stderr);
    assert_eq!(checked.code, Some(0), "the API is not as it is described: see above");

    // After all that the server is as it was. Generated requests may have drained the agent.
    let log = world.server().stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    let _other = world.python_agent("another", 1).await;
    let sound = json!({"runtime": "python", "function": "abs", "elements": [-1, 2]});
    assert_eq!(world.client.run(&sound).await, json!([1, 2]));
}
