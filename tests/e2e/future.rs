//! A submitted job is a future: it returns at once, and its value is there when somebody asks.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::{as_command, taking};
use tests::procfs::is_alive;
use tests::wait::until;
use tests::{Audit, Client, Gate, World};

/// The value of an audited job of the elements `0..n` whose result is `x * 10`.
fn tens(n: i64) -> Value {
    (0..n).map(|x| x * 10).collect()
}

#[tokio::test]
async fn a_submission_is_answered_at_once_and_its_value_comes_when_it_is_there() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let client = &world.client;
    let (audit, gate) = (Audit::new(&world, "first"), Gate::new(&world, "first"));
    let first =
        client.submit(&gate.hold_from(2, audit.python(&json!({"range": [0, 5]}), "x * 10"))).await;
    client.done(&first, 2).await;
    audit.started(3).await;

    let quick = json!({"runtime": "python", "function": "lambda x: x", "elements": [7, 8]});
    let answer = client.post("/v1/jobs", &quick).await;
    let second = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!((answer.status, &*answer.header("retry-after")), (202, "1"));
    assert_eq!(answer.header("location"), format!("/v1/jobs/{second}"));
    assert_eq!(answer.json()["state"], "queued");
    let waiting = client.status(&second).await;
    assert_eq!(waiting["waiting_for"], "a free slot: all are busy with other work");
    assert_eq!(waiting["elements"], counts(2, 0, 0, 2));

    let early = client.get(&format!("/v1/jobs/{first}/value")).await;
    assert_eq!((early.status, &*early.header("retry-after")), (202, "1"));
    let status = early.json();
    assert_eq!((&status["state"], &status["elements"]["done"]), (&json!("running"), &json!(2)));
    assert_eq!(status["slots"], 1);

    gate.open();
    assert_eq!(client.value(&first).await, tens(5));
    assert_eq!(client.value(&second).await, json!([7, 8]));
    let again = client.get(&format!("/v1/jobs/{first}/value")).await;
    assert_eq!((again.status, again.json()), (200, tens(5)));
    let status = client.status(&first).await;
    assert_eq!((&status["state"], &status["elements"]), (&json!("resolved"), &counts(5, 5, 0, 0)));
    assert!(status["finished_at"].is_string() && status["remaining"].is_null(), "{status:#}");
}

fn counts(total: u64, done: u64, running: u64, waiting: u64) -> Value {
    json!({"total": total, "done": done, "failed": 0, "running": running, "waiting": waiting})
}

#[tokio::test]
async fn a_status_is_waited_for_until_it_differs_or_until_the_end() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let client = &world.client;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = client.submit(&gate.hold(audit.python(&json!([1]), "x"))).await;
    audit.started(1).await;
    let path = format!("/v1/jobs/{job}");
    let ask = async |wait: u32, tag: &str| {
        client
            .send("GET", &format!("{path}?wait={wait}"), &[("if-none-match", tag)], Vec::new())
            .await
    };

    let mut tag = client.get(&path).await.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    // Nothing moves while the gate is closed, once the last report of the start is in.
    until("a status that stays as it is", async || {
        let same = ask(0, &tag).await;
        tag = same.header("etag");
        (same.status == 304).then_some(())
    })
    .await;
    let same = ask(1, &tag).await;
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, tag.clone(), 0));
    let other = ask(20, "\"another\"").await;
    assert_eq!((other.status, other.header("etag")), (200, tag.clone()));

    let (at_the_end, as_value) = (format!("{path}?wait=60"), format!("{path}/value?wait=60"));
    let (differs, ends, value, ()) =
        tokio::join!(ask(60, &tag), client.get(&at_the_end), client.get(&as_value), async {
            gate.open();
        },);
    assert_eq!(differs.status, 200);
    assert_ne!(differs.header("etag"), tag);
    assert_eq!(ends.json()["state"], "resolved");
    assert_eq!((value.status, value.json()), (200, json!([1])));
}

#[tokio::test]
async fn a_cancelled_job_stops_at_once_and_for_good() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let client = &world.client;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "never"));
    let jobs = [
        client.submit(&gate.hold(audit.python(&json!({"range": [0, 9]}), "x"))).await,
        client.submit(&gate.hold(audit.r(&json!({"range": [100, 109]}), "x"))).await,
    ];
    for (job, n_started) in jobs.iter().zip([2, 4]) {
        audit.started(n_started).await;
        let workers = audit.pids();
        let waiting = client.outcome(job);
        let (cancelled, value) = tokio::join!(client.cancel(job), waiting);
        assert_eq!((cancelled.status, &cancelled.json()["state"]), (200, &json!("cancelled")));
        value.problem(410, "job-cancelled");
        until("what ran is killed", async || {
            (!workers.iter().any(|pid| is_alive(*pid))).then_some(())
        })
        .await;
        let again = client.cancel(job).await;
        assert_eq!((again.status, again.json()), (200, client.status(job).await));
    }
    gate.open();
    let sound = json!({"runtime": "python", "function": "lambda x: -x", "elements": [1, 2, 3]});
    assert_eq!(client.run(&sound).await, json!([-1, -2, -3]));
    assert_eq!(audit.events().len(), 4, "something of a cancelled job went on");
}

#[tokio::test]
async fn what_never_began_can_be_cancelled_and_what_has_ended_cannot() {
    let world = World::start().await;
    let client = &world.client;
    let job = |function: &str| json!({"runtime": "python", "function": function, "elements": [1]});
    let queued = client.submit(&job("lambda x: x")).await;
    assert_eq!(client.cancel(&queued).await.status, 200);
    client.outcome(&queued).await.problem(410, "job-cancelled");

    let _agent = world.python_agent("one", 1).await;
    let resolved = client.submit(&job("lambda x: x")).await;
    let value = client.value(&resolved).await;
    let problem = client.cancel(&resolved).await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("is resolved already"), "{problem:#}");
    assert_eq!(client.value(&resolved).await, value);

    let failed = client.submit(&job("lambda x: 1 / 0")).await;
    client.outcome(&failed).await.problem(409, "job-failed");
    client.cancel(&failed).await.problem(409, "conflict");
}

#[tokio::test]
async fn client_and_server_are_killed_and_another_client_gets_the_whole_value() {
    let mut world = World::start().await;
    let (_one, _two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 2));
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold_from(8, taking(0.05, audit.python(&json!([]), "x * 10")));
    let arguments = as_command(&job, 24);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut submitter = world.spawn("submitter", &mut world.command(&arguments));

    audit.started(12).await;
    let jobs = world.client.get("/v1/jobs").await.json();
    let id = jobs["items"][0]["id"].as_str().unwrap().to_owned();
    world.client.done(&id, 8).await;
    submitter.kill();
    world.server().kill();
    // What is in flight ends while no server is there.
    gate.open();
    audit.ended(12).await;
    world.restart().await;

    let other = Client::new(world.url());
    assert!(other.status(&id).await["elements"]["done"].as_u64() >= Some(8));
    assert_eq!(other.value(&id).await, tens(24));
    let starts = audit.starts();
    assert_eq!((starts.len(), audit.repeated()), (24, [].into()), "{starts:?}");
}

#[tokio::test]
async fn a_server_that_is_asked_to_stop_answers_those_who_wait() {
    let mut world = World::start().await;
    let job = json!({"runtime": "r", "function": "~ .x", "elements": [1]});
    let id = world.client.submit(&job).await;
    let client = world.client.clone();
    let path = format!("/v1/jobs/{id}/value?wait=60");
    let waiting = tokio::spawn(async move { client.get(&path).await });
    until("the request waits", async || {
        (world.client.metric("farrow_requests_waiting").await == 1).then_some(())
    })
    .await;
    world.server().signal(Signal::SIGTERM);
    let ended = world.server().ended().await;
    assert!(ended.success(), "{ended}");
    assert_eq!(waiting.await.unwrap().status, 202);
    world.restart().await;
    assert_eq!(Client::new(world.url()).status(&id).await["state"], "queued");
}
