//! Submissions: sent twice, many at once, one after the other, with blobs.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::wait::until;
use tests::{Answer, Client, World};
use tokio::time::timeout;

const KEY: &str = "idempotency-key";

/// A call that needs no elements.
fn call(function: &str) -> Value {
    json!({"runtime": "python", "function": function})
}

async fn submit_with(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send("POST", path, &[(KEY, key)], body.to_string().into_bytes()).await
}

/// Uploads a blob under the digest that the server says it has.
async fn upload(client: &Client, bytes: &[u8]) -> String {
    let wrong = format!("/v1/blobs/{}", "0".repeat(64));
    let problem =
        client.send("PUT", &wrong, &[], bytes.to_vec()).await.problem(422, "invalid-field");
    let detail = problem["detail"].as_str().expect("a detail");
    let digest = detail.split_whitespace().find(|word| word.starts_with("sha256:"));
    let digest = digest.expect("the digest that the body has");
    let digest = digest.trim_end_matches(':').to_owned();
    let stored = client.send("PUT", &format!("/v1/blobs/{digest}"), &[], bytes.to_vec()).await;
    assert_eq!(stored.status, 201, "{}", stored.text());
    assert_eq!(stored.json(), json!({"digest": digest, "size": bytes.len()}));
    digest
}

#[tokio::test]
async fn a_submission_that_is_sent_again_is_the_same_job() {
    let mut world = World::start().await;
    let client = world.client.clone();
    let job = call("21 * 2");
    let (one, two) = tokio::join!(
        submit_with(&client, "/v1/jobs", "order-66", &job),
        submit_with(&client, "/v1/jobs", "order-66", &job)
    );
    assert_eq!((one.status, one.header("location")), (202, two.header("location")));
    world.server().kill();
    world.restart().await;
    let client = Client::new(world.url());
    let again = submit_with(&client, "/v1/jobs", "order-66", &job).await;
    assert_eq!((again.status, again.json()["id"].clone()), (202, one.json()["id"].clone()));
    assert_eq!(client.get("/v1/jobs").await.json()["items"].as_array().unwrap().len(), 1);

    let other = submit_with(&client, "/v1/jobs", "order-66", &call("1")).await;
    let problem = other.problem(422, "idempotency-key-reused");
    assert!(problem["detail"].as_str().unwrap().contains("order-66"), "{problem:#}");
    let too_long = "k".repeat(256);
    for key in ["two words", too_long.as_str()] {
        let refused = submit_with(&client, "/v1/jobs", key, &job).await;
        assert_eq!(refused.problem(422, "invalid-field")["errors"][0]["field"], "Idempotency-Key");
    }

    // The key holds for its route too.
    let batch = json!({"jobs": [call("1"), call("2")]});
    let path = "/v1/jobs:batch";
    let accepted = submit_with(&client, path, "order-67", &batch).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    submit_with(&client, "/v1/jobs", "order-67", &batch)
        .await
        .problem(422, "idempotency-key-reused");
    let gone = accepted.json()["items"][0]["id"].as_str().unwrap().to_owned();
    client.cancel(&gone).await;
    assert_eq!(client.send("DELETE", &format!("/v1/jobs/{gone}"), &[], vec![]).await.status, 204);
    let again = submit_with(&client, path, "order-67", &batch).await.problem(409, "conflict");
    assert!(again["detail"].as_str().unwrap().contains("of the 2 jobs"), "{again:#}");

    // With its job the key is gone.
    let id = one.json()["id"].as_str().unwrap().to_owned();
    client.cancel(&id).await;
    assert_eq!(client.send("DELETE", &format!("/v1/jobs/{id}"), &[], vec![]).await.status, 204);
    let new = submit_with(&client, "/v1/jobs", "order-66", &call("1")).await;
    assert_eq!(new.status, 202);
    assert_ne!(new.json()["id"], id);
}

#[tokio::test]
async fn who_waits_gets_the_value_with_the_answer_to_the_submission() {
    let mut world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let client = world.client.clone();
    let job_of = |answer: &Answer| {
        let location = answer.header("location");
        location.strip_prefix("/v1/jobs/").expect("the job's path").to_owned()
    };
    let waiting = [("idempotency-key", "order-68"), ("prefer", "wait=60")];
    let body = call("6 * 7").to_string().into_bytes();
    let answer = client.send("POST", "/v1/jobs", &waiting, body.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, json!(42)));
    assert_eq!(answer.header("preference-applied"), "wait=60");
    assert_eq!(client.value(&job_of(&answer)).await, json!(42));
    let again = client.send("POST", "/v1/jobs", &waiting, body).await;
    assert_eq!((again.status, job_of(&again)), (200, job_of(&answer)), "it is the same job");

    let failing = json!({"runtime": "python", "function": "lambda x: 1 / x", "elements": [0]});
    let failed = client.post("/v1/jobs?wait=60", &failing).await;
    assert_eq!(failed.problem(409, "job-failed")["element"]["index"], 0);
    assert_eq!(client.status(&job_of(&failed)).await["state"], "failed");
    let refused = client.post("/v1/jobs?wait=61", &call("1")).await;
    assert_eq!(refused.problem(422, "invalid-field")["errors"][0]["field"], "wait");
    assert_eq!(client.get("/v1/jobs").await.json()["items"].as_array().unwrap().len(), 2);

    // What ends as it is accepted is not waited for.
    for submission in [
        json!({"runtime": "python", "function": "abs", "elements": []}),
        json!({"runtime": "python", "function": "abs", "elements": [1], "after": [job_of(&failed)]}),
    ] {
        let answered =
            timeout(Duration::from_secs(30), client.post("/v1/jobs?wait=60", &submission));
        let answer = answered.await.expect("an answer before the wait is over");
        assert_ne!(answer.status, 202, "{}", answer.text());
    }

    // Not there in time; and when the server stops, nobody waits.
    let mut lonely = call("1");
    lonely["options"] = json!({"labels": {"gpu": "yes"}});
    let late = client.post("/v1/jobs?wait=0.1", &lonely).await;
    assert_eq!((late.status, late.header("retry-after").as_str()), (202, "1"), "{}", late.text());
    assert_eq!(late.json()["id"], job_of(&late));
    let patient = {
        let client = client.clone();
        tokio::spawn(async move { client.post("/v1/jobs?wait=60", &lonely).await })
    };
    until("the submission waits", async || {
        (client.metric("farrow_requests_waiting").await == 1).then_some(())
    })
    .await;
    world.server().signal(Signal::SIGTERM);
    let answer = patient.await.unwrap();
    assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("queued")));
    assert!(world.server().ended().await.success());
}

#[tokio::test]
async fn a_value_comes_with_its_length_however_it_is_read() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let client = &world.client;
    // Of the third the last bracket is beyond what is read at once.
    for lengths in [vec![], vec![3, 5], vec![64 << 10], vec![50_000; 9]] {
        let function = "lambda n: 'x' * n";
        let job = json!({"runtime": "python", "function": function, "elements": lengths});
        let id = client.submit(&job).await;
        let expected: Vec<String> = lengths.iter().map(|n| "x".repeat(*n)).collect();
        assert_eq!(client.value(&id).await, json!(expected));
        let answer = client.get(&format!("/v1/jobs/{id}/value")).await;
        let length = answer.body.len().to_string();
        assert_eq!((answer.json(), answer.header("content-length")), (json!(expected), length));
    }
}

#[tokio::test]
async fn a_batch_is_accepted_whole_or_not_at_all() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let client = &world.client;
    let mut broken = call("1");
    broken["options"] = json!({"timeout": 0});
    let path = "/v1/jobs:batch";
    let refused = client.post(path, &json!({"jobs": [call("1"), broken]})).await;
    assert_eq!(
        refused.problem(422, "invalid-field")["errors"][0]["field"],
        "jobs[1].options.timeout"
    );
    let refused = client.post(path, &json!({"jobs": [call("1"), {"runtime": "julia"}]})).await;
    assert_eq!(refused.problem(422, "invalid-field")["errors"][0]["field"], "jobs[1].runtime");
    client.post(path, &json!({"jobs": []})).await.problem(422, "invalid-field");
    let nobody = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";
    let mut late = call("1");
    late["after"] = json!([nobody]);
    let refused = client.post(path, &json!({"jobs": [call("1"), late]})).await;
    assert_eq!(refused.problem(422, "invalid-field")["errors"][0]["field"], "jobs[1].after[0]");
    assert_eq!(client.get("/v1/jobs").await.json()["items"], json!([]));

    let jobs: Vec<Value> = (0..100).map(|i| call(&format!("{i} * 10"))).collect();
    let batch = json!({"jobs": jobs});
    let accepted = submit_with(client, path, "hundred", &batch).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let ids_of = |answer: &Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let ids = ids_of(&accepted);
    assert_eq!(ids_of(&submit_with(client, path, "hundred", &batch).await), ids);
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(client.value(id).await, i * 10, "the value of a call is bare");
        assert_eq!(client.status(id).await["kind"], "call");
    }
    assert_eq!(client.get("/v1/jobs").await.json()["items"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn jobs_run_one_after_the_other() {
    let world = World::start().await;
    let client = &world.client;
    let file = world.path("order");
    let step = |name: &str, after: &[&str]| {
        let function = format!("lambda x: open({file:?}, 'a').write('{name} ')");
        json!({"runtime": "python", "function": function, "elements": [1], "after": after})
    };
    let first = client.submit(&step("first", &[])).await;
    let second = client.submit(&step("second", &[&first])).await;
    let third = client.submit(&step("third", &[&first, &second])).await;
    let status = client.status(&third).await;
    assert_eq!(status["after"], json!([first, second]));
    let waits = format!("jobs {first}, {second} to be resolved");
    assert_eq!(status["waiting_for"], waits);

    let _agent = world.python_agent("one", 2).await;
    client.value(&third).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first second third ");
    assert_eq!(client.status(&third).await.get("after"), None);
}

#[tokio::test]
async fn a_job_that_fails_fails_those_that_wait_for_it_and_wakes_who_waits() {
    let world = World::start().await;
    let client = &world.client;
    let mut job = json!({"runtime": "python", "function": "lambda x: 1 / x", "elements": [0]});
    let first = client.submit(&job).await;
    job["after"] = json!([first]);
    let second = client.submit(&job).await;
    job["after"] = json!([second]);
    let third = client.submit(&job).await;
    let (problem, _agent) = tokio::join!(client.outcome(&third), world.python_agent("one", 1));
    let problem = problem.problem(409, "dependency-failed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("job {second}, which this one comes after")), "{detail}");
    let status = client.status(&second).await;
    assert_eq!((&status["state"], &status["started_at"]), (&json!("failed"), &Value::Null));
}

#[tokio::test]
async fn what_no_agent_has_memory_for_says_so() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let mut job = call("1");
    job["options"] = json!({"memory": 1_u64 << 60});
    let id = world.client.submit(&job).await;
    let expected = "no agent has 1152921504606846976 bytes of memory, which one element may use";
    assert_eq!(world.client.status(&id).await["waiting_for"], expected);
}

#[tokio::test]
async fn blobs_are_put_once_read_back_and_used() {
    let world = World::start_with(&["--max-blob", "3000000"]).await;
    let _agent = world.python_agent("one", 2).await;
    let client = &world.client;
    let lines: String = (0..300_000).map(|i| format!("{i}\n")).collect();
    let elements = upload(client, lines.as_bytes()).await;
    let path = format!("/v1/blobs/{elements}");
    let again = client.send("PUT", &path, &[], lines.clone().into_bytes()).await;
    assert_eq!((again.status, again.json()["size"].as_u64()), (200, Some(lines.len() as u64)));
    let bare = path.replace("sha256:", "");
    for path in [&path, &bare] {
        let read = client.get(path).await;
        assert!(read.status == 200 && read.body == lines.as_bytes());
        let head = client.send("HEAD", path, &[], vec![]).await;
        assert_eq!((head.status, head.header("content-length")), (200, lines.len().to_string()));
    }
    let large = client.send("PUT", &path, &[], vec![b'x'; 3_000_001]).await;
    large.problem(413, "too-large");
    let missing = format!("/v1/blobs/{}", "1".repeat(64));
    client.get(&missing).await.problem(404, "not-found");
    assert_eq!(client.send("HEAD", &missing, &[], vec![]).await.status, 404);
    client.get("/v1/blobs/abc").await.problem(422, "invalid-field");

    let factor = upload(client, b"{\"by\": 3}").await;
    let job = json!({
        "runtime": "python", "function": "lambda x, factor: x * factor['by']",
        "elements": {"blob": elements}, "args": {"factor": {"blob": factor}},
    });
    let value = client.run(&job).await;
    let expected: Vec<u64> = (0..300_000).map(|i| i * 3).collect();
    assert!(value == json!(expected));
}
