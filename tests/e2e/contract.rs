//! The API against its own description, by schemathesis: what the description promises must be so,
//! and what it forbids must be refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tests::procfs::is_alive;
use tests::wait::until_within;
use tests::{TOKEN, World, process};

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

#[tokio::test]
async fn the_api_is_as_it_is_described() {
    let mut world = World::start().await;
    // Generated jobs for R and for commands are not run: what they would do nobody has read.
    let _agent = world.python_agent("one", 1).await;
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract");
    let mut command = Command::new(schemathesis());
    command
        .current_dir(world.path(""))
        .env("SCHEMATHESIS_HOOKS", settings.join("hooks.py"))
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .env("FARROW_TOKEN", TOKEN)
        .args(["run", "--no-color"])
        .arg(format!("{}/openapi.json", world.url()));
    let mut checking = world.spawn("schemathesis", &mut command);
    let pid = checking.pid();
    until_within(HANG, "schemathesis ends", async || (!is_alive(pid)).then_some(())).await;
    let checked = checking.finished().await;
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);

    // After all that the server is as it was. Generated requests may have drained the agent.
    let log = world.server().stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    let _other = world.python_agent("another", 1).await;
    let sound = json!({"runtime": "python", "function": "abs", "elements": [-1, 2]});
    assert_eq!(world.client.run(&sound).await, json!([1, 2]));
}
