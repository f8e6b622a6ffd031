//! A server that is to stop ends every wait, and itself.

use std::io::Write;
use std::net::TcpStream;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::World;
use tests::wait::until;
use tests::world::Database;

use crate::by_hand::Agent;

/// Waits of each kind.
const EACH: usize = 40;

#[tokio::test]
async fn hundreds_of_waits_do_not_keep_a_server_from_ending() {
    let mut world = World::start_with(&["--lease", "60"]).await;
    let job = json!({"runtime": "r", "function": "function(x) x", "elements": [1]});
    let id = world.client.submit(&job).await;
    let agent = Agent::register(&world).await;
    let of_job = |rest: &str| format!("/v1/jobs/{id}{rest}");
    let ways = [
        of_job("?wait=60"),
        of_job("/value?wait=60"),
        of_job("/outcomes?wait=60&order=completion"),
        of_job("/logs?wait=60"),
        of_job("/events"),
    ];
    let client = world.client.clone();
    let mut waiting = Vec::new();
    for way in ways.iter().flat_map(|way| std::iter::repeat_n(way.clone(), EACH)) {
        let client = world.client.clone();
        waiting.push(tokio::spawn(async move { client.get(&way).await.status }));
    }
    // An agent waits once for work, and as often as it likes for orders.
    for rest in std::iter::once("lease").chain(std::iter::repeat_n("heartbeat", EACH)) {
        let path = format!("/v1/agents/{}/{rest}", agent.id);
        let nothing = [""; 0];
        let body = match rest {
            "lease" => json!({"free": 1, "held": nothing, "known_jobs": [], "wait": 30}),
            _ => json!({"held": nothing, "draining": false, "wait": 10}),
        };
        let before = client.metric("farrow_database_operations_total").await;
        let sender = client.clone();
        waiting.push(tokio::spawn(async move { sender.post(&path, &body).await.status }));
        if rest == "heartbeat" {
            // One by one, for those that come together are written in one operation.
            until("the heartbeat is held, for it is written down", async || {
                let written = client.metric("farrow_database_operations_total").await;
                (written > before).then_some(())
            })
            .await;
        }
    }
    let port: u16 = world.port().parse().unwrap();
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _silent: Vec<TcpStream> = (0..EACH).map(|_| connect()).collect();
    let mut half = connect();
    half.write_all(b"GET /healthz HTTP/1.1\r\nhost: local").unwrap();

    until("all clients wait", async || {
        (client.metric("farrow_requests_waiting").await >= ways.len() * EACH).then_some(())
    })
    .await;
    until("the agent waits", async || {
        (client.metric("farrow_agents_waiting").await == 1).then_some(())
    })
    .await;
    world.server().signal(Signal::SIGTERM);
    let ended = world.server().finished().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("cut off"), "somebody held it up: {}", ended.stderr);
    for answer in waiting {
        // `get` and `post` have read the whole answer.
        let status = answer.await.unwrap();
        assert!([200, 202, 503].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_does_not_keep_a_server_from_ending() {
    let mut world = World::start_on(Database::Postgres, &[], &[]).await;
    // The last use of a token is written down at the end.
    assert_eq!(world.client.get("/v1/jobs").await.status, 200);
    let postgres = world.postgres().expect("it has one");
    postgres.pause();
    world.server().signal(Signal::SIGTERM);
    let ended = world.server().finished().await;
    postgres.resume();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // It did not wait for an answer that would have come, or for the limit of the database.
    assert!(ended.stderr.contains("the database does not answer"), "{}", ended.stderr);
}
