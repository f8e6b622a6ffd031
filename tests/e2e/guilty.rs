//! A chunk whose worker, or whose whole agent, dies of one of its elements: that one fails, with its
//! story, and no other.

use serde_json::{Value, json};
use tests::{Audit, World};

/// The outcomes of a job by element.
async fn outcomes(world: &World, id: &str) -> Vec<Value> {
    let text = world.client.get(&format!("/v1/jobs/{id}/outcomes")).await.text();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn a_chunk_that_kills_its_workers_is_narrowed_down_to_the_one_element() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let says = "os.write(2, b'the last words\\n')";
    for (name, runtime, dies, guilty, retries, story) in [
        ("exits", "python", format!("({says}, os._exit(3))"), 41, 2, "exit status 3"),
        ("segfaults", "python", format!("({says}, os.kill(os.getpid(), 11))"), 0, 0, "SIGSEGV"),
        ("is-killed", "python", format!("({says}, os.kill(os.getpid(), 9))"), 99, 1, "SIGKILL"),
        (
            "quits",
            "r",
            "{ cat('the last words\\n', file = stderr()); quit(status = 3) }".into(),
            7,
            1,
            "exit status 3",
        ),
    ] {
        let audit = Audit::new(&world, name);
        let result = if runtime == "r" {
            format!("if (x == {guilty}) {dies} else x")
        } else {
            format!("{dies} if x == {guilty} else x")
        };
        let mut job = audit.of(runtime, &json!({"range": [0, 100]}), &result);
        job["options"] = json!({"chunk_size": 100, "on_error": "collect", "retries": retries});
        let id = world.client.submit(&job).await;
        let value = world.client.value(&id).await;
        let value = value.as_array().unwrap();
        for (x, value) in value.iter().enumerate().filter(|(x, _)| *x != guilty) {
            assert_eq!(*value, json!(x), "{name}");
        }
        let error = &value[guilty]["error"];
        assert_eq!((error["type"].as_str(), value.len()), (Some("WorkerDied"), 100), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(story) && message.contains("the last words"), "{message}");
        // Once with the others, which is nobody's fault yet, then alone as often as it may.
        let (attempts, starts) = (retries + 1, audit.starts());
        assert_eq!(outcomes(&world, &id).await[guilty]["attempts"], attempts, "{name}");
        let alone = starts[&guilty.to_string()] - u32::try_from(attempts).unwrap();
        assert!(alone <= 1, "{name}: {starts:?}");
        let innocent = starts.iter().filter(|(x, _)| **x != guilty.to_string());
        assert!(innocent.map(|(_, n)| *n).max() <= Some(2), "{name}: {starts:?}");
    }
}

#[tokio::test]
async fn an_element_that_takes_agent_after_agent_down_is_given_up_and_its_neighbours_are_not() {
    let world = World::start_with(&["--lease", "1"]).await;
    let audit = Audit::new(&world, "work");
    let result = "os.kill(agent(), 9) or time.sleep(1000) if x == 13 else x";
    let mut job = audit.python(&json!({"range": [0, 40]}), result);
    job["options"] = json!({"chunk_size": 40, "on_error": "collect", "retries": 0});
    let id = world.client.submit(&job).await;
    let mut lost = 0;
    let value = loop {
        // As a machine does that starts its agent again.
        let mut agent = world.python_agent(&format!("agent-{lost}"), 2).await;
        tokio::select! {
            value = world.client.value(&id) => break value,
            _ = agent.process.ended() => lost += 1,
        }
        // Without this the next agent would be there before the loss of this one is known.
        world.agent_is(&agent, "gone").await;
        assert!(lost <= 10, "{:?}", audit.starts());
    };
    let value = value.as_array().unwrap();
    for (x, value) in value.iter().enumerate().filter(|(x, _)| *x != 13) {
        assert_eq!(*value, json!(x));
    }
    let error = &value[13]["error"];
    assert_eq!((error["type"].as_str(), lost), (Some("AgentLost"), 10), "{error}");
    let starts = audit.starts();
    assert_eq!(starts["13"], 10);
}
