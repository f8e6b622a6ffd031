//! What those who watch a job get: outcomes, events, logs, while it runs and afterwards.

use serde_json::{Value, json};
use tests::{Lines, World};

use crate::by_hand::{Agent, Piece};

fn squares(n: usize) -> Value {
    let elements: Vec<usize> = (0..n).collect();
    json!({"runtime": "python", "function": "lambda x: x * x", "elements": elements,
        "options": {"on_error": "collect", "chunk_size": n}})
}

async fn lines(world: &World, path: &str) -> Vec<Value> {
    let answer = world.client.get(path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn indexes(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["index"].as_u64().expect("an index")).collect()
}

async fn next_line(lines: &mut Lines) -> Value {
    serde_json::from_str(&lines.next().await.expect("another line")).expect("JSON")
}

#[tokio::test]
async fn outcomes_are_streamed_as_they_land_and_resumed_behind_the_last() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = world.client.submit(&squares(4)).await;
    let outcomes = format!("/v1/jobs/{job}/outcomes");
    let lease = agent.lease().await;

    let mut live = world.client.open(&format!("{outcomes}?wait=60"), &[]).await;
    assert!(agent.report(&[Piece::values(&lease, 2, &["4", "9"])]).await.is_empty());
    let first = next_line(&mut live).await;
    assert_eq!(
        (&first["index"], &first["rank"], &first["value"]),
        (&json!(2), &json!(0), &json!(4))
    );
    assert_eq!(world.client.status(&job).await["state"], "running", "the line came while it runs");
    next_line(&mut live).await;
    let ended = agent.report(&[Piece::values(&lease, 0, &["0", "1"])]).await;
    assert_eq!(ended, [job.as_str()], "the agent is told that its worker can forget it");
    let rest = [next_line(&mut live).await, next_line(&mut live).await];
    assert_eq!(indexes(&rest), [0, 1]);
    assert_eq!(live.next().await, None, "the stream ends with the job");

    let resumed = lines(&world, &format!("{outcomes}?order=completion&after=1")).await;
    assert_eq!(indexes(&resumed), [0, 1]);
    assert_eq!(indexes(&lines(&world, &outcomes).await), [0, 1, 2, 3]);
    assert_eq!(indexes(&lines(&world, &format!("{outcomes}?after=0&limit=2")).await), [1, 2]);
}

#[tokio::test]
async fn outcomes_say_who_ran_them_and_what_they_printed_and_are_filtered() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let mut job = squares(3);
    job["elements"] = json!({"a\"b": 1, "c": 2, "ü": 3});
    let job = world.client.submit(&job).await;
    let lease = agent.lease().await;
    let mut piece = Piece::values(
        &lease,
        0,
        &["{\n\"x\": [1]\r\n}", "{\"type\":\"E\",\"message\":\"no\"}", "3"],
    );
    piece.header["errors"] = json!([1]);
    piece.header["notes"] = json!([
        {"position": 2, "attempts": 2, "stdout": "hi\n", "stderr": "oh\n", "dropped": 5,
         "conditions": [{"kind": "warning", "message": "careful"}]}]);
    agent.report(&[piece]).await;

    let outcomes = format!("/v1/jobs/{job}/outcomes");
    let all = lines(&world, &outcomes).await;
    assert_eq!(all.iter().map(|line| &line["name"]).collect::<Vec<_>>(), ["a\"b", "c", "ü"]);
    assert_eq!(all[0]["value"], json!({"x": [1]}), "a value of several lines stays on its own");
    let last = json!({
        "index": 2, "name": "ü", "rank": 2, "ok": true, "value": 3, "attempts": 2,
        "agent": agent.id, "agent_name": "by hand", "slot": 0, "worker": 7,
        "started_at": "2023-11-14T22:13:20.000Z", "seconds": 0.5,
        "stdout": "hi\n", "stderr": "oh\n", "dropped": 5,
        "conditions": [{"kind": "warning", "message": "careful"}]
    });
    assert_eq!(all[2], last);
    let failed = lines(&world, &format!("{outcomes}?state=failed")).await;
    assert_eq!(indexes(&failed), [1]);
    assert_eq!((&failed[0]["ok"], &failed[0]["error"]["message"]), (&json!(false), &json!("no")));
    assert_eq!(failed[0].get("value"), None);
    assert_eq!(indexes(&lines(&world, &format!("{outcomes}?state=ok")).await), [0, 2]);
}

#[tokio::test]
async fn outcomes_of_nested_jobs_name_their_outer_element() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = json!({"runtime": "python", "function": "lambda x: x",
        "elements": {"a": [], "b": [1, 2], "c": [3]},
        "plan": [{"strategy": "cluster"}, {"strategy": "multisession"}]});
    let job = world.client.submit(&job).await;
    for _ in 0..2 {
        let lease = agent.lease().await;
        let values: Vec<String> = (0..lease.n).map(|i| (lease.first + i).to_string()).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        agent.report(&[Piece::values(&lease, lease.first, &values)]).await;
    }
    let lines = lines(&world, &format!("/v1/jobs/{job}/outcomes")).await;
    let places: Vec<_> = lines.iter().map(|line| (&line["name"], &line["nested"])).collect();
    let (b, c) = (json!("b"), json!("c"));
    let (first, second, third) = (json!([1, 0]), json!([1, 1]), json!([2, 0]));
    assert_eq!(places, [(&b, &first), (&b, &second), (&c, &third)]);
}

#[tokio::test]
async fn what_was_accepted_of_failed_and_cancelled_jobs_can_be_read() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    for end in ["failed", "cancelled"] {
        let mut job = squares(3);
        job["options"]["on_error"] = json!("stop");
        let job = world.client.submit(&job).await;
        let lease = agent.lease().await;
        agent.report(&[Piece::values(&lease, 1, &["1"])]).await;
        if end == "failed" {
            let mut piece = Piece::values(&lease, 0, &["{\"type\":\"E\",\"message\":\"no\"}"]);
            piece.header["errors"] = json!([0]);
            agent.report(&[piece]).await;
        } else {
            world.client.cancel(&job).await;
        }
        assert_eq!(world.client.status(&job).await["state"], end);
        let path = format!("/v1/jobs/{job}/outcomes?wait=60");
        let indexes = indexes(&lines(&world, &path).await);
        assert_eq!(indexes, if end == "failed" { vec![1, 0] } else { vec![1] });
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let world = World::start().await;
    let job = world.client.submit(&squares(1)).await;
    for (query, field) in [
        ("order=index&wait=1", "order"),
        ("limit=0", "limit"),
        ("state=done", "state"),
        ("after=-1", "after"),
        ("wait=61", "wait"),
    ] {
        let answer = world.client.get(&format!("/v1/jobs/{job}/outcomes?{query}")).await;
        assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["field"], field, "{query}");
    }
    let nobody = "/v1/jobs/019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";
    for what in ["outcomes", "events", "logs"] {
        world.client.get(&format!("{nobody}/{what}")).await.problem(404, "not-found");
    }
    let wrong = [("last-event-id", "x")];
    let path = format!("/v1/jobs/{job}/events");
    let answer = world.client.send("GET", &path, &wrong, Vec::new()).await;
    assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["field"], "Last-Event-ID");
}

/// An event: its name, its id and its data.
async fn next_event(lines: &mut Lines) -> Option<(String, String, Value)> {
    let (mut name, mut id, mut data) = (String::new(), String::new(), Value::Null);
    loop {
        let line = lines.next().await?;
        if let Some((field, value)) = line.split_once(": ") {
            match field {
                "event" => value.clone_into(&mut name),
                "id" => value.clone_into(&mut id),
                "data" => data = serde_json::from_str(value).expect("JSON"),
                _ => {}
            }
        } else if line.is_empty() && !name.is_empty() {
            return Some((name, id, data));
        }
    }
}

async fn next_outcomes(lines: &mut Lines) -> (String, Value) {
    loop {
        let (name, id, data) = next_event(lines).await.expect("another event");
        if name == "outcomes" {
            return (id, data);
        }
        assert_eq!(name, "status");
    }
}

#[tokio::test]
async fn events_tell_each_piece_once_also_after_a_break() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = world.client.submit(&squares(6)).await;
    let path = format!("/v1/jobs/{job}/events");
    let mut live = world.client.open(&path, &[]).await;
    let (name, id, status) = next_event(&mut live).await.expect("the status comes first");
    assert_eq!((name.as_str(), id.as_str(), &status["state"]), ("status", "0", &json!("queued")));
    let lease = agent.lease().await;
    agent.report(&[Piece::values(&lease, 3, &["9"])]).await;
    let (id, told) = next_outcomes(&mut live).await;
    let wanted = json!({"first": 3, "n": 1, "failed": [], "agent": agent.id,
        "agent_name": "by hand", "rank": 0});
    assert_eq!((id.as_str(), told), ("1", wanted));
    drop(live);

    let mut failing = Piece::values(&lease, 4, &["{\"type\":\"E\",\"message\":\"no\"}", "25"]);
    failing.header["errors"] = json!([0]);
    agent.report(&[failing]).await;
    let mut resumed = world.client.open(&path, &[("last-event-id", "1")]).await;
    let (id, told) = next_outcomes(&mut resumed).await;
    assert_eq!((id.as_str(), &told["failed"], &told["rank"]), ("3", &json!([4]), &json!(1)));
    agent.report(&[Piece::values(&lease, 0, &["0", "1", "4"])]).await;
    let (id, _) = next_outcomes(&mut resumed).await;
    assert_eq!(id, "6");
    let (name, id, status) = next_event(&mut resumed).await.expect("the end");
    assert_eq!((name.as_str(), id.as_str()), ("end", "end"));
    assert_eq!((&status["state"], &status["elements"]["failed"]), (&json!("resolved"), &json!(1)));
    assert!(next_event(&mut resumed).await.is_none(), "nothing follows the end");

    let after_end = [("last-event-id", "end")];
    let answer = world.client.send("GET", &path, &after_end, Vec::new()).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let all = world.client.get(&path).await;
    assert_eq!(all.header("content-type"), "text/event-stream");
    assert_eq!(all.text().matches("event: outcomes").count(), 3);
}

fn said(job: &str, element: Option<u64>, source: &str, text: &str) -> Value {
    let mut entry = json!({"job": job, "at": 1_700_000_000_000_u64, "source": source,
        "stream": "stdout", "text": text});
    if let Some(element) = element {
        entry["element"] = element.into();
    }
    entry
}

#[tokio::test]
async fn logs_are_read_live_by_cursor_and_by_element() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = world.client.submit(&squares(2)).await;
    let foreign = world.client.submit(&squares(2)).await;
    let lease = agent.lease().await;
    assert_eq!(lease.job, job);
    let path = format!("/v1/jobs/{job}/logs");
    let mut live = world.client.open(&format!("{path}?wait=60"), &[]).await;
    for _ in 0..2 {
        // The second is a repetition.
        let entries = [
            said(&job, None, "prepare", "installing\n"),
            said(&foreign, None, "prepare", "a lie\n"),
            said(&job, Some(1), "element", "one\n"),
        ];
        assert_eq!(agent.logs(1, &entries).await, 204);
    }
    let wanted = json!({"cursor": 12, "at": "2023-11-14T22:13:20.000Z", "agent": "by hand",
        "source": "prepare", "stream": "stdout", "text": "installing\n"});
    assert_eq!(next_line(&mut live).await, wanted);
    assert_eq!(next_line(&mut live).await["element"], 1);
    assert_eq!(agent.logs(2, &[said(&job, Some(0), "element", "two\n")]).await, 204);
    let last = next_line(&mut live).await;
    assert_eq!((&last["text"], &last["cursor"]), (&json!("two\n"), &json!(22)));
    agent.report(&[Piece::values(&lease, 0, &["0", "1"])]).await;
    assert_eq!(live.next().await, None, "the stream ends with the job");

    assert_eq!(agent.logs(3, &[said(&job, None, "setup", "late\n")]).await, 204);
    let texts = async |query: &str| {
        let lines = lines(&world, &format!("{path}?{query}")).await;
        lines.iter().map(|line| line["text"].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts("").await, ["installing\n", "one\n", "two\n", "late\n"]);
    assert_eq!(texts("after=12&source=element").await, ["one\n", "two\n"]);
    assert_eq!(texts("element=0").await, ["two\n"]);
    assert!(lines(&world, &format!("/v1/jobs/{foreign}/logs")).await.is_empty());
}

#[tokio::test]
async fn an_agent_that_is_not_known_must_register_to_send_logs() {
    let world = World::start().await;
    let nobody = "/v1/agents/019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d43/logs";
    let logs = json!({"batch": 1, "entries": []});
    world.client.post(nobody, &logs).await.problem(404, "unknown-agent");
    let logs = json!({"batch": 0, "entries": []});
    world.client.post(nobody, &logs).await.problem(422, "invalid-field");
}

#[tokio::test]
async fn a_preferred_wait_is_the_parameter_and_is_acknowledged() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let prefer = [("prefer", "wait=600")];
    for path in ["", "/value", "/outcomes", "/logs"] {
        let job = world.client.submit(&squares(1)).await;
        let path = format!("/v1/jobs/{job}{path}");
        let waiting = world.client.send("GET", &path, &prefer, Vec::new());
        let running = async {
            let lease = agent.lease().await;
            agent.report(&[Piece::values(&lease, 0, &["0"])]).await;
        };
        let (answer, ()) = tokio::join!(waiting, running);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("preference-applied"), "wait=60", "{path}");
        assert_eq!(world.client.get(&path).await.header("preference-applied"), "", "{path}");
    }
}

#[tokio::test]
async fn jobs_are_asked_for_by_their_ids() {
    let world = World::start().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(world.client.submit(&squares(1)).await);
    }
    let nobody = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";
    let path = format!("/v1/jobs?id={}&id={nobody}&id={}", jobs[2], jobs[0]);
    let page = world.client.get(&path).await.json();
    let found: Vec<_> = page["items"].as_array().expect("items").iter().map(|j| &j["id"]).collect();
    assert_eq!(found, [&jobs[2], &jobs[0]]);
    assert_eq!(page["next"], Value::Null);
    for query in [format!("id={nobody}&limit=1"), format!("id={nobody}&").repeat(1001)] {
        let answer = world.client.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["field"], "id");
    }
    let first = world.client.get("/v1/jobs?limit=2").await.json();
    let next = first["next"].as_str().expect("a cursor").to_owned();
    let second = world.client.get(&format!("/v1/jobs?limit=2&after={next}")).await.json();
    assert_eq!((&second["items"][0]["id"], &second["next"]), (&json!(jobs[0]), &Value::Null));
    let answer = world.client.get(&format!("/v1/jobs?after={nobody}")).await;
    assert_eq!(answer.problem(422, "invalid-field")["errors"][0]["field"], "after");
}

#[tokio::test]
async fn values_that_are_not_json_are_frames_and_base64_in_outcomes() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = json!({"runtime": "python", "function": "lambda x: x",
        "elements": {"a": "AAE=", "b": ""}, "options": {"encoding": "bytes", "on_error": "collect"}});
    let job = world.client.submit(&job).await;
    for _ in 0..2 {
        let lease = agent.lease().await;
        let is_first = lease.first == 0;
        let value = if is_first { "\u{1}\n" } else { "{\"type\":\"E\",\"message\":\"no\"}" };
        let mut piece = Piece::values(&lease, lease.first, &[value]);
        piece.header["errors"] = if is_first { json!([]) } else { json!([0]) };
        agent.report(&[piece]).await;
    }
    let answer = world.client.outcome(&job).await;
    assert_eq!(answer.header("content-type"), "application/vnd.farrow.frames");
    let wanted =
        b"\x01\0\0\0ka\x02\0\0\0v\x01\n\x01\0\0\0kb\x1b\0\0\0e{\"type\":\"E\",\"message\":\"no\"}";
    assert_eq!(answer.body, wanted, "{}", answer.text());
    let lines = lines(&world, &format!("/v1/jobs/{job}/outcomes")).await;
    assert_eq!((&lines[0]["value"], &lines[1]["error"]["type"]), (&json!("AQo="), &json!("E")));
}

#[tokio::test]
async fn the_value_of_a_call_is_bare() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    let job = json!({"runtime": "python", "function": "6 * 7"});
    let job = world.client.submit(&job).await;
    let lease = agent.lease().await;
    assert_eq!((lease.first, lease.n), (0, 1));
    agent.report(&[Piece::values(&lease, 0, &["42"])]).await;
    assert_eq!(world.client.value(&job).await, json!(42));
}

#[tokio::test]
async fn the_last_words_of_a_job_are_there_when_its_value_is() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    // The first lines begin the pause between two sendings of the log, in which the last ones fall.
    let source = "import time\ndef f(x):\n    print('first', x)\n    time.sleep(0.12)\n    \
                  print('last', x)\n    if x == 3: raise ValueError('no')\n    return x";
    for elements in [json!([1]), json!([3])] {
        let job = json!({"runtime": "python", "function": source, "elements": elements});
        let id = world.client.submit(&job).await;
        world.client.outcome(&id).await;
        let said = world.client.get(&format!("/v1/jobs/{id}/logs")).await.text();
        assert!(said.contains(&format!("last {}", elements[0])), "{said}");
    }
}

#[tokio::test]
async fn who_waits_for_a_job_of_which_nothing_runs_is_told_of_agents() {
    let world = World::start().await;
    let mut job = squares(1);
    job["options"]["labels"] = json!({"zone": "a"});
    let job = world.client.submit(&job).await;
    let mut live = world.client.open(&format!("/v1/jobs/{job}/events"), &[]).await;
    let (_, _, status) = next_event(&mut live).await.expect("a status");
    assert!(status["waiting_for"].as_str().unwrap().contains("no agent is connected"));
    let _agent = Agent::register(&world).await;
    let (_, _, status) = next_event(&mut live).await.expect("another status");
    assert!(status["waiting_for"].as_str().unwrap().contains("labels zone=a"), "{status:#}");
}

#[tokio::test]
async fn outcomes_break_off_when_their_job_is_deleted_while_they_are_read() {
    let world = World::start().await;
    let agent = Agent::register(&world).await;
    // More than the connection holds by itself, so that the reader decides how far the server comes.
    const N: usize = 60;
    let mut job = squares(N);
    job["options"] = json!({"chunk_size": N});
    let id = world.client.submit(&job).await;
    let lease = agent.lease().await;
    for first in 0..N as u64 {
        let value = format!("\"{}\"", format!("{first}-").repeat(400_000));
        agent.report(&[Piece::values(&lease, first, &[&value])]).await;
    }
    let outcomes = format!("/v1/jobs/{id}/outcomes");
    assert!(world.client.open(&outcomes, &[]).await.ends_whole().await);
    let mut reading = world.client.open(&outcomes, &[]).await;
    next_line(&mut reading).await;
    let deleted = world.client.send("DELETE", &format!("/v1/jobs/{id}"), &[], Vec::new()).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert!(!reading.ends_whole().await, "lines are missing, and nobody is told");
}
