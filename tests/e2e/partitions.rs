//! Networks that fail as real ones do: packets that vanish in one direction, and connections that
//! are slow, break in the middle of a message or are reset.

use std::time::Duration;

use serde_json::json;
use tests::audit::taking;
use tests::namespaces::{Cable, End};
use tests::procfs;
use tests::recount::{REPORTED_WITHIN, RESULT};
use tests::world::LEASE_SECONDS;
use tests::{Audit, Chance, Flow, Proxy, Recount, World, chance, clock};

const N_ELEMENTS: usize = 24;

/// The agent "one" stands in a namespace of its own, "two" beside the server.
async fn map_through_a_cut(cable: &Cable, silent: End) {
    // The agent calls the server by the address at the far end.
    let far = cable.address(End::Far).to_string();
    let world = World::start_with(&["--host", &far]).await;
    let network = Proxy::on(cable.listen(), &world.urls());
    let through = [network.url().to_owned()];
    let flags = ["--runtime", "python"];
    let command = world.agent_command(&through, "one", 2, &flags);
    let one = world.agent_by_command("one", &mut cable.inside(&command)).await;
    let _two = world.agent_with("two", 2, &flags).await;
    let audit = Audit::new(&world, "map");
    let job = taking(0.2, audit.python(&json!({"range": [0, N_ELEMENTS]}), RESULT));
    let id = world.client.submit(&job).await;
    audit.started(8).await;
    cable.cut(silent);
    let at = clock::wall_millis();
    let healing = async {
        tokio::time::sleep(Duration::from_secs_f64(LEASE_SECONDS * 3.0)).await;
        cable.mend(silent);
    };
    let (value, ()) = tokio::join!(world.client.value(&id), healing);
    world.agent_is(&one, "live").await;
    let recount = Recount::of(&audit);
    let values = value.as_array().expect("a value is a list");
    recount.check(&world.client, &id, values, N_ELEMENTS).await;
    let mut given_up = world.given_up();
    given_up.remove("one");
    if !given_up.is_empty() && procfs::load_of_a_core() > procfs::BUSY {
        eprintln!("the machine was too slow to count what ran twice");
        return;
    }
    assert!(given_up.is_empty(), "agents were given up that nothing was done to: {given_up:?}");
    // What ran twice ran on the agent that was cut off when it could not report.
    for (element, executions) in recount.repeated() {
        let is_cut_off = |e: &&&tests::recount::Execution| {
            e.agent == one.process.pid()
                && e.ended_at.is_none_or(|ended| ended + REPORTED_WITHIN >= at)
        };
        let n_cut_off = executions.iter().filter(is_cut_off).count();
        assert!(executions.len() == 2 && n_cut_off > 0, "{element}: {executions:#?}");
    }
}

#[tokio::test]
async fn packets_that_vanish_in_either_direction_lose_no_value() {
    let cables = [End::Near, End::Far].map(|silent| Some((Cable::lay()?, silent)));
    let [Some((near, requests)), Some((far, answers))] = cables else { return };
    tokio::join!(map_through_a_cut(&near, requests), map_through_a_cut(&far, answers));
}

#[tokio::test]
async fn connections_that_are_slow_break_and_are_reset_lose_no_value_and_run_nothing_twice() {
    let mut chance = Chance::new(chance::seed(), "connections");
    let world = World::start_with(&["--lease", "20"]).await;
    let network = Proxy::start(&world.urls()).await;
    let through = [network.url().to_owned()];
    let flags = ["--runtime", "python"];
    let mut command = world.agent_command(&through, "one", 2, &flags);
    let _agent = world.agent_by_command("one", &mut command).await;
    let audit = Audit::new(&world, "map");
    let job = taking(0.05, audit.python(&json!({"range": [0, N_ELEMENTS]}), RESULT));
    let words = tests::audit::as_command(&job, u32::try_from(N_ELEMENTS).expect("small"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut map = world.spawn("map", world.command(&words).env("FARROW_URL", network.url()));
    for n_started in (1..N_ELEMENTS).step_by(2) {
        audit.started(n_started).await;
        let n_bytes = chance.between(0, 2_000);
        match chance.between(0, 5) {
            0 => network.cut_requests_after(n_bytes),
            1 => network.cut_answers_after(n_bytes),
            2 => network.reset(),
            3 => network.requests(Flow::Late(Duration::from_millis(n_bytes as u64 / 20))),
            _ => network.answers(Flow::Late(Duration::from_millis(n_bytes as u64 / 20))),
        }
    }
    network.requests(Flow::Open);
    network.answers(Flow::Open);
    let mapped = map.finished().await;
    assert_eq!(mapped.code, Some(0), "{mapped:?}");
    let lines = mapped.stdout.lines();
    let values: Vec<_> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let jobs = world.client.get("/v1/jobs").await.json();
    let jobs = jobs["items"].as_array().expect("jobs are listed").clone();
    assert_eq!(jobs.len(), 1, "a submission that was repeated made another job: {jobs:#?}");
    let id = jobs[0]["id"].as_str().expect("a job has an id");
    let recount = Recount::of(&audit);
    recount.check(&world.client, id, &values, N_ELEMENTS).await;
    assert!(recount.repeated().is_empty(), "{:#?}", recount.repeated());
}
