//! Processes that are killed, stopped or asked to end in mid-map.
//!
//! Elements stand at a gate when the blow falls, so that it is known what ran, what had been
//! accepted, and what had not begun.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::audit::taking;
use tests::procfs::{descendants, is_alive, parent};
use tests::wait::until;
use tests::{Audit, Gate, World};

/// The value of a job of the elements `0..n` whose result is `x + x`.
fn doubles(n: i64) -> Value {
    (0..n).map(|x| x + x).collect()
}

/// The elements that are running in workers of the agent with this process id.
fn running_on(audit: &Audit, agent: Pid) -> BTreeSet<String> {
    let events = audit.events();
    let is_open = |element: &str| !events.iter().any(|e| e.is_end && e.element == element);
    let on_agent = |pid: Pid| parent(pid).and_then(parent) == Some(agent);
    let here = events.iter().filter(|event| on_agent(event.pid) && is_open(&event.element));
    here.map(|event| event.element.clone()).collect()
}

async fn are_dead(what: &str, pids: Vec<Pid>) {
    until(what, async || (!pids.iter().any(|pid| is_alive(*pid))).then_some(())).await;
}

#[tokio::test]
async fn an_agent_is_killed_and_only_what_it_was_running_runs_again() {
    for runtime in ["python", "r"] {
        let world = World::start().await;
        let (mut one, _two) = tokio::join!(world.agent("one", 3), world.agent("two", 3));
        let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
        let elements = json!({"range": [0, 30]});
        let job = gate.hold_from(10, taking(0.02, audit.of(runtime, &elements, "x + x")));
        let id = world.client.submit(&job).await;
        world.client.done(&id, 10).await;
        audit.started(16).await;
        let lost = running_on(&audit, one.process.pid());
        assert_eq!(lost.len(), 3, "{lost:?}");
        let processes = descendants(one.process.pid());
        one.process.kill();
        are_dead("the workers of a killed agent die", processes).await;
        gate.open();
        assert_eq!(world.client.value(&id).await, doubles(30), "{runtime}");
        let starts = audit.starts();
        assert_eq!((starts.len(), audit.repeated()), (30, lost), "{starts:?}");
        assert!(starts.values().all(|n| *n <= 2), "{starts:?}");
        world.agent_is(&one, "gone").await;
    }
}

/// The lease is longer than this test may take.
#[tokio::test]
async fn what_a_killed_agent_held_runs_again_as_soon_as_the_next_one_starts_in_its_place() {
    let world = World::start_with(&["--lease", "3600"]).await;
    let mut one = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold_from(4, taking(0.02, audit.python(&json!({"range": [0, 8]}), "x + x")));
    let id = world.client.submit(&job).await;
    world.client.done(&id, 4).await;
    audit.started(6).await;
    let lost = running_on(&audit, one.process.pid());
    one.process.kill();
    gate.open();
    let _two = world.python_agent("two", 1).await;
    assert_eq!(world.client.value(&id).await, doubles(8));
    assert_eq!(lost.len(), 2, "{lost:?}");
    assert_eq!(audit.repeated(), lost);
    world.agent_is(&one, "gone").await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_finishes_what_it_runs() {
    let world = World::start().await;
    let (mut one, _two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 1));
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold_from(6, taking(0.02, audit.python(&json!({"range": [0, 20]}), "x + x")));
    let id = world.client.submit(&job).await;
    audit.started(9).await;
    // Twice at once, as `timeout` does.
    one.process.signal(Signal::SIGTERM);
    one.process.signal(Signal::SIGTERM);
    world.agent_is(&one, "draining").await;
    gate.open();
    let ended = one.process.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", one.process.stderr());
    assert_eq!(world.client.value(&id).await, doubles(20));
    let starts = audit.starts();
    assert_eq!((starts.len(), audit.repeated()), (20, [].into()), "{starts:?}");
    world.agent_is(&one, "gone").await;
}

#[tokio::test]
async fn an_agent_that_comes_back_before_anybody_took_its_work_goes_on_with_it() {
    let world = World::start().await;
    let one = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold(audit.python(&json!({"range": [0, 6]}), "x + x"));
    let id = world.client.submit(&job).await;
    audit.started(2).await;
    one.process.signal(Signal::SIGSTOP);
    world.agent_is(&one, "gone").await;
    one.process.signal(Signal::SIGCONT);
    world.agent_is(&one, "live").await;
    gate.open();
    assert_eq!(world.client.value(&id).await, doubles(6));
    let starts = audit.starts();
    assert_eq!((starts.len(), audit.repeated()), (6, [].into()), "{starts:?}");
}

#[tokio::test]
async fn an_agent_that_comes_back_too_late_stops_what_others_took_over() {
    let world = World::start().await;
    let one = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold(audit.python(&json!([0, 1]), "agent()"));
    let id = world.client.submit(&job).await;
    audit.started(2).await;
    let late: Vec<Pid> = audit.pids().into_iter().collect();
    one.process.signal(Signal::SIGSTOP);
    world.agent_is(&one, "gone").await;
    let two = world.python_agent("two", 2).await;
    audit.started(4).await;
    one.process.signal(Signal::SIGCONT);
    world.agent_is(&one, "live").await;
    are_dead("what others took over is stopped", late).await;
    gate.open();
    assert_eq!(world.client.value(&id).await, json!([two.pid(), two.pid()]));
    assert_eq!(audit.events().iter().filter(|event| event.is_end).count(), 2);
}

#[tokio::test]
async fn a_late_report_changes_nothing() {
    let world = World::start().await;
    let one = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold(audit.python(&json!([0, 1]), "agent()"));
    let id = world.client.submit(&job).await;
    audit.started(2).await;
    one.process.signal(Signal::SIGSTOP);
    world.agent_is(&one, "gone").await;
    let two = world.python_agent("two", 2).await;
    audit.started(4).await;
    gate.open();
    // The workers of the stopped agent finish as well; it has yet to read what they say.
    audit.ended(4).await;
    let value = json!([two.pid(), two.pid()]);
    assert_eq!(world.client.value(&id).await, value);
    let status = world.client.status(&id).await;
    one.process.signal(Signal::SIGCONT);
    world.agent_is(&one, "live").await;
    // It takes new work only when it has got rid of the old.
    let elements = json!({"range": [0, 4]});
    let next = gate.hold(audit.python(&elements, "x + x"));
    drop(two);
    assert_eq!(world.client.run(&next).await, doubles(4));
    assert_eq!(world.client.value(&id).await, value);
    assert_eq!(world.client.status(&id).await, status);
}

#[tokio::test]
async fn a_worker_or_its_supervisor_is_killed_from_outside_and_its_element_runs_again() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for (runtime, supervisor) in [("python", false), ("python", true), ("r", false)] {
        let name = format!("{runtime}-{supervisor}");
        let (audit, gate) = (Audit::new(&world, &name), Gate::new(&world, &name));
        let elements = json!({"range": [0, 6]});
        let job = gate.hold_from(2, audit.of(runtime, &elements, "x + x"));
        let id = world.client.submit(&job).await;
        world.client.done(&id, 2).await;
        audit.started(4).await;
        let victim = audit.events().pop().expect("something runs");
        let pid = if supervisor { parent(victim.pid).unwrap() } else { victim.pid };
        kill(pid, Signal::SIGKILL).unwrap();
        are_dead("the worker is dead", vec![victim.pid]).await;
        audit.started(5).await;
        gate.open();
        assert_eq!(world.client.value(&id).await, doubles(6), "{name}");
        assert_eq!(audit.repeated(), [victim.element].into(), "{name}");
    }
}
