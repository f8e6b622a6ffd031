//! What one client may take: each limit is refused clearly, and the service goes on.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tests::{Client, World};

fn squares(n: u64) -> Value {
    json!({"runtime": "python", "function": "lambda x: x * x", "elements": {"range": [0, n]}})
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

async fn submit_gzip(client: &Client, body: Vec<u8>) -> tests::Answer {
    client.send("POST", "/v1/jobs", &[("content-encoding", "gzip")], body).await
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_ask_again_and_commands_do() {
    let world = World::start_with(&["--max-requests", "100"]).await;
    let _agent = world.python_agent("one", 1).await;
    let mut refused = None;
    for _ in 0..10_000 {
        let answer = world.client.get("/v1/jobs").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("ten thousand requests were let in");
    assert_eq!(refused.header("retry-after"), "1");
    let problem = refused.problem(429, "rate-limited");
    assert!(problem["detail"].as_str().unwrap().contains("--max-requests"), "{problem}");
    assert_eq!(world.client.get("/healthz").await.status, 200);
    let map = world.farrow(&["map", "--runtime", "python", "lambda x: x * 2", "a", "b"]).await;
    assert_eq!((map.code, map.stdout.as_str()), (Some(0), "\"aa\"\n\"bb\"\n"), "{}", map.stderr);
}

#[tokio::test]
async fn submissions_are_bounded_in_number_and_size() {
    let flags = ["--max-submissions", "1", "--max-elements", "100", "--min-free", "0"];
    let world = World::start_with(&flags).await;
    let too_large = world.client.post("/v1/jobs", &squares(101)).await.problem(413, "too-large");
    assert!(too_large["detail"].as_str().unwrap().contains("--max-elements"), "{too_large}");
    let batch: Vec<Value> = (0..11).map(|_| squares(1)).collect();
    let batch = json!({"jobs": batch});
    let at_once = world.client.post("/v1/jobs:batch", &batch).await.problem(413, "too-large");
    assert!(at_once["detail"].as_str().unwrap().contains("11 jobs at once"), "{at_once}");
    let mut n_accepted = 0;
    let refused = loop {
        let answer = world.client.post("/v1/jobs", &squares(100)).await;
        if answer.status != 202 {
            break answer;
        }
        n_accepted += 1;
        assert!(n_accepted < 100, "nothing is refused");
    };
    assert!(n_accepted >= 10);
    assert!(!refused.header("retry-after").is_empty());
    refused.problem(429, "rate-limited");
}

#[tokio::test]
async fn a_compressed_submission_is_taken_unless_it_inflates_without_end() {
    let world = World::start_with(&["--max-inflated-body", "512KiB"]).await;
    let _agent = world.python_agent("one", 1).await;
    let answer = submit_gzip(&world.client, gzip(squares(3).to_string().as_bytes())).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(world.client.value(&id).await, json!([0, 1, 4]));
    let bomb = gzip(&vec![b' '; 50_000_000]);
    assert!(bomb.len() < 1_000_000);
    let refused = submit_gzip(&world.client, bomb).await.problem(413, "too-large");
    assert!(refused["detail"].as_str().unwrap().contains("--max-inflated-body"), "{refused}");
    submit_gzip(&world.client, b"{}".to_vec()).await.problem(400, "bad-request");
}

#[tokio::test]
async fn no_more_wait_than_may_and_those_who_may_are_answered() {
    let world = World::start_with(&["--max-waiting", "1"]).await;
    let job = world.client.submit(&squares(3)).await;
    let path = format!("/v1/jobs/{job}/value?wait=60");
    let waiting = world.client.open(&format!("/v1/jobs/{job}/events"), &[]).await;
    let refused = world.client.get(&path).await;
    assert_eq!(refused.header("retry-after"), "5");
    let problem = refused.problem(429, "rate-limited");
    assert!(problem["detail"].as_str().unwrap().contains("--max-waiting"), "{problem}");
    drop(waiting);
    let _agent = world.python_agent("one", 1).await;
    assert_eq!(world.client.value(&job).await, json!([0, 1, 4]));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_an_error_of_its_element() {
    let world = World::start_with(&["--max-outcome", "1000"]).await;
    let _agent = world.python_agent("one", 1).await;
    let job = json!({
        "runtime": "python", "function": "lambda n: 'x' * n", "elements": [10, 5000, 20],
        "options": {"on_error": "collect"}
    });
    let value = world.client.run(&job).await;
    assert_eq!((&value[0], &value[2]), (&json!("x".repeat(10)), &json!("x".repeat(20))));
    let message = value[1]["error"]["message"].as_str().unwrap();
    assert!(message.contains("--max-outcome"), "{message}");
}

#[tokio::test]
async fn of_what_an_element_prints_as_much_is_kept_as_the_agent_was_told() {
    let world = World::start().await;
    let flags = ["--runtime", "python", "--max-output", "20"];
    let _agent = world.agent_with("one", 1, &flags).await;
    let job = json!({
        "runtime": "python", "function": "lambda n: print('<' + 'x' * n + '>')", "elements": [10, 100],
    });
    let id = world.client.submit(&job).await;
    world.client.value(&id).await;
    let outcomes = world.client.get(&format!("/v1/jobs/{id}/outcomes")).await.text();
    let printed: Vec<Value> = outcomes
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["stdout"].clone())
        .collect();
    assert_eq!(printed[0], "<xxxxxxxxxx>\n");
    assert_eq!(printed[1], "<xxxxxxxxx\n[… 83 bytes are not kept …]\nxxxxxxxx>\n");
}

#[tokio::test]
async fn a_disk_below_its_floor_takes_results_but_no_submissions() {
    let floor = u64::MAX.to_string();
    let world = World::start_with(&["--min-free", &floor]).await;
    let refused = world.client.post("/v1/jobs", &squares(3)).await;
    assert_eq!(refused.header("retry-after"), "10");
    refused.problem(507, "insufficient-storage");
    let digest = "0".repeat(64);
    let path = format!("/v1/blobs/sha256:{digest}");
    let upload = world.client.send("PUT", &path, &[], Vec::new()).await;
    upload.problem(507, "insufficient-storage");
    let map = world.farrow(&["map", "--runtime", "python", "lambda x: x", "1"]).await;
    assert_ne!(map.code, Some(0));
    assert!(map.stderr.contains("disk"), "{}", map.stderr);
}
