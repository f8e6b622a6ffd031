//! Outcomes that no server took outlive the agent that finished them.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::wait::until;
use tests::{Audit, Gate, World};

/// Whether a file below `folder` holds `text`.
fn holds(folder: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let bytes = std::fs::read(&path).unwrap_or_default();
        let is_in = bytes.windows(text.len()).any(|window| window == text.as_bytes());
        is_in || (path.is_dir() && holds(&path, text))
    })
}

/// Waits until these values are on disk.
async fn are_kept(folder: &Path, values: &[String]) {
    until(&format!("{values:?} in {}", folder.display()), async || {
        values.iter().all(|value| holds(folder, value)).then_some(())
    })
    .await;
}

fn values(n: u32) -> Vec<String> {
    (0..n).map(|x| format!("value of {x}")).collect()
}

#[tokio::test]
async fn a_server_is_killed_then_the_agent_and_nothing_that_was_finished_runs_again() {
    let mut world = World::start().await;
    let spool = world.path("spool");
    let flags = ["--runtime", "python", "--spool", spool.to_str().unwrap()];
    let mut one = world.agent_with("one", 2, &flags).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let mut job = gate.hold_from(2, audit.python(&json!({"range": [0, 8]}), "f'value of {x}'"));
    // Both slots have all that they are to run before the server goes away.
    job["options"] = json!({"chunk_size": 4});
    let id = world.client.submit(&job).await;
    audit.started(4).await;
    world.server().kill();
    gate.open();
    audit.ended(8).await;
    are_kept(&spool, &values(8)[2..]).await;
    one.process.kill();
    world.restart().await;
    let two = world.agent_with("two", 2, &flags).await;
    assert_eq!(world.client.value(&id).await, json!(values(8)));
    let starts = audit.starts();
    assert_eq!((starts.len(), audit.repeated()), (8, [].into()), "{starts:?}");
    // The agent that finished them is the one that is named.
    let outcomes = world.client.get(&format!("/v1/jobs/{id}/outcomes")).await.text();
    let agents = outcomes.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(agents.into_iter().all(|outcome| outcome["agent_name"] == "one"), "{outcomes}");
    until("nothing is left on disk", async || (!holds(&spool, "value of")).then_some(())).await;
    drop(two);
}

#[tokio::test]
async fn what_was_leased_anew_before_it_could_be_delivered_changes_nothing() {
    let mut world = World::start().await;
    let spool = world.path("spool");
    let flags = ["--runtime", "python", "--spool", spool.to_str().unwrap()];
    let mut one = world.agent_with("one", 2, &flags).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    // Whoever runs them says so in the value.
    let job = gate.hold(audit.python(&json!([0, 1]), "f'value of {x} by {agent()}'"));
    let id = world.client.submit(&job).await;
    audit.started(2).await;
    world.server().kill();
    gate.open();
    audit.ended(2).await;
    are_kept(&spool, &values(2)).await;
    one.process.kill();
    world.restart().await;
    world.agent_is(&one, "gone").await;
    // An agent of another machine: it knows nothing of this one's disk.
    let far = world.path("far");
    let other = ["--runtime", "python", "--spool", far.to_str().unwrap()];
    let two = world.agent_with("two", 2, &other).await;
    let value = world.client.value(&id).await;
    let by_two = |x| format!("value of {x} by {}", two.pid());
    assert_eq!(value, json!([by_two(0), by_two(1)]));
    let mut three = world.agent_with("three", 2, &flags).await;
    until("nothing is left on disk", async || (!holds(&spool, "value of")).then_some(())).await;
    assert_eq!(world.client.value(&id).await, value);
    three.process.signal(Signal::SIGTERM);
    assert_eq!(three.process.ended().await.code(), Some(0), "{}", three.process.stderr());
}
