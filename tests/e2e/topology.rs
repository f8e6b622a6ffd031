//! Plans: which agent runs what, and how much at once.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::audit::taking;
use tests::{Audit, Gate, World};

/// The distinct numbers in a value, whatever its nesting.
fn numbers(value: &Value) -> BTreeSet<i64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Object(items) => items.values().flat_map(numbers).collect(),
        other => other.as_i64().into_iter().collect(),
    }
}

fn with_plan(mut job: Value, plan: Value) -> Value {
    job["plan"] = plan;
    job
}

fn vignettes_plan() -> Value {
    json!([{"strategy": "cluster"}, {"strategy": "multisession"}])
}

#[tokio::test]
async fn the_vignettes_topology_runs_all_eight_at_once_and_keeps_the_nesting() {
    let world = World::start().await;
    let (_one, _two) = tokio::join!(world.agent("one", 4), world.agent("two", 4));
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let elements: Vec<Vec<Value>> =
        (1..=2).map(|i| (1..=4).map(|j| json!({"i": i, "j": j})).collect()).collect();
    let instance = r#"sprintf("Instance: %d and core: %d", x$i, x$j)"#;
    let job = with_plan(gate.hold(audit.r(&json!(elements), instance)), vignettes_plan());
    let id = world.client.submit(&job).await;
    // All eight stand at the gate together: nothing less than eight slots could hold them.
    audit.started(8).await;
    gate.open();
    let value = world.client.value(&id).await;
    let expected: Vec<Vec<String>> = (1..=2)
        .map(|i| (1..=4).map(|j| format!("Instance: {i} and core: {j}")).collect())
        .collect();
    assert_eq!(value, json!(expected));
    assert_eq!(audit.pids().len(), 8);
}

#[tokio::test]
async fn an_outer_element_is_wholly_on_one_agent() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 2));
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    // More inner elements than slots, more outer ones than agents.
    let elements = json!([[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11], [12]]);
    let job = gate.hold(taking(0.05, audit.python(&elements, "agent()")));
    let id = world.client.submit(&with_plan(job, vignettes_plan())).await;
    audit.started(4).await;
    gate.open();
    let value = world.client.value(&id).await;
    let sizes: Vec<usize> =
        value.as_array().unwrap().iter().map(|o| o.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [5, 3, 4, 1]);
    for outer in value.as_array().unwrap() {
        assert_eq!(numbers(outer).len(), 1, "{value}");
    }
    // One at a time an agent: so the first two were on different ones.
    assert_eq!(numbers(&value), BTreeSet::from([one.pid(), two.pid()]), "{value}");
    assert_ne!(value[0][0], value[1][0], "{value}");
}

#[tokio::test]
async fn outer_names_and_empty_inner_arrays_are_kept() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    for (elements, expected) in [
        (r#"{"z": [1, 2], "a": [], "m": [3]}"#, r#"{"z":[11,12],"a":[],"m":[13]}"#),
        ("[[], [4], []]", "[[],[14],[]]"),
        ("[[], []]", "[[],[]]"),
        ("[]", "[]"),
        ("{}", "{}"),
    ] {
        let job = format!(
            r#"{{"runtime": "python", "function": "lambda x: x + 10", "elements": {elements},
                "plan": {}}}"#,
            vignettes_plan()
        );
        let id = world.client.submit_text(job).await;
        assert_eq!(world.client.outcome(&id).await.text(), expected);
    }
}

#[tokio::test]
async fn a_flat_map_without_elements_is_resolved_at_once_even_without_agents() {
    let world = World::start().await;
    for (elements, value) in
        [(json!([]), json!([])), (json!({"range": [3, 3]}), json!([])), (json!({}), json!({}))]
    {
        let job = json!({"runtime": "r", "function": "~ .x", "elements": elements});
        assert_eq!(world.client.run(&job).await, value);
    }
}

#[tokio::test]
async fn cluster_uses_every_agent_and_workers_bounds_how_many() {
    let world = World::start().await;
    let (one, two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 2));
    let (audit, gate) = (Audit::new(&world, "all"), Gate::new(&world, "all"));
    let everywhere = gate.hold(audit.python(&json!({"range": [0, 8]}), "agent()"));
    let id = world.client.submit(&everywhere).await;
    audit.started(4).await;
    gate.open();
    let agents = numbers(&world.client.value(&id).await);
    assert_eq!(agents, BTreeSet::from([one.pid(), two.pid()]));
    assert_eq!(audit.most_agents_at_once(), 2);

    let audit = Audit::new(&world, "one");
    let job = taking(0.05, audit.python(&json!({"range": [0, 12]}), "agent()"));
    let bounded = with_plan(job, json!([{"strategy": "cluster", "workers": 1}]));
    world.client.run(&bounded).await;
    // It may move to the other when nothing of it runs.
    assert_eq!(audit.most_agents_at_once(), 1, "{:?}", audit.events());
}

#[tokio::test]
async fn levels_bound_what_runs_at_once() {
    let world = World::start().await;
    let (_one, _two) = tokio::join!(world.python_agent("one", 4), world.python_agent("two", 4));
    let nested = json!([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]);
    let flat = json!({"range": [0, 12]});
    for (name, elements, plan, most) in [
        ("sequential", &flat, json!([{"strategy": "sequential"}]), 1),
        ("two slots", &flat, json!([{"strategy": "multisession", "workers": 2}]), 2),
        (
            "two slots each",
            &nested,
            json!([{"strategy": "cluster"}, {"strategy": "multisession", "workers": 2}]),
            4,
        ),
        ("one slot each", &nested, json!([{"strategy": "cluster"}, {"strategy": "sequential"}]), 2),
        (
            "one agent",
            &nested,
            json!([{"strategy": "cluster", "workers": 1}, {"strategy": "multisession", "workers": 3}]),
            3,
        ),
    ] {
        let (audit, gate) = (Audit::new(&world, name), Gate::new(&world, name));
        let job = gate.hold(audit.python(elements, "x"));
        let id = world.client.submit(&with_plan(job, plan)).await;
        // As many as the plan allows stand at the gate together, and never one more.
        audit.started(most).await;
        gate.open();
        assert_eq!(world.client.value(&id).await, expected(elements), "{name}");
        assert_eq!(audit.starts().len(), 12, "{name}");
        assert_eq!(audit.most_at_once(), most, "{name}");
    }
}

fn expected(elements: &Value) -> Value {
    if elements.is_array() { elements.clone() } else { (0..12).collect() }
}

#[tokio::test]
async fn labels_choose_agents_and_what_is_missing_is_said() {
    let world = World::start().await;
    let (_a, b) = tokio::join!(
        world.agent_with(
            "a",
            2,
            &["--runtime", "python", "--label", "zone=a", "--label", "gpu=no"]
        ),
        world.agent_with(
            "b",
            2,
            &["--runtime", "python", "--label", "zone=b", "--label", "gpu=no"]
        ),
    );
    let audit = Audit::new(&world, "work");
    let job = |labels: Value| {
        let mut job = taking(0.05, audit.python(&json!({"range": [0, 8]}), "agent()"));
        job["options"] = json!({"labels": labels});
        job
    };
    let value = world.client.run(&job(json!({"zone": "b", "gpu": "no"}))).await;
    assert_eq!(numbers(&value), BTreeSet::from([b.pid()]));

    let id = world.client.submit(&job(json!({"zone": "c"}))).await;
    let status = world.client.status(&id).await;
    assert_eq!(status["state"], "queued");
    assert_eq!(status["waiting_for"], "no agent carries the labels zone=c");
    let c = world.agent_with("c", 1, &["--runtime", "python", "--label", "zone=c"]).await;
    assert_eq!(numbers(&world.client.value(&id).await), BTreeSet::from([c.pid()]));
}
