//! What agents rely on, said to the server as an agent says it.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Answer, World};
use tokio::time::timeout;

/// Far below the time for which the heartbeat is held, far above what a busy machine needs.
const SOON: Duration = Duration::from_secs(30);

const AGENT: &str = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";

async fn register(world: &World) {
    let agent = json!({
        "id": AGENT, "name": "by hand", "protocol": 2, "version": "0", "slots": 1,
        "physical_cores": 1, "logical_cores": 1, "memory": 1, "runtimes": {"python": "3"},
        "labels": {}
    });
    assert_eq!(world.client.post("/v1/agents", &agent).await.status, 200);
}

async fn lease(world: &World) -> String {
    let request = json!({"free": 1, "held": [], "known_jobs": [], "wait": 30});
    let answer = world.client.post(&format!("/v1/agents/{AGENT}/lease"), &request).await;
    let length = u32::from_le_bytes(answer.body[..4].try_into().expect("an envelope")) as usize;
    let header: Value = serde_json::from_slice(&answer.body[4..4 + length]).expect("its header");
    header["leases"][0]["id"].as_str().expect("a lease").to_owned()
}

async fn heartbeat(world: &World, held: &[&str]) -> Answer {
    let heartbeat = json!({"held": held, "draining": false, "wait": 60});
    world.client.post(&format!("/v1/agents/{AGENT}/heartbeat"), &heartbeat).await
}

/// A heartbeat that is being held lists what the agent held when it was sent. What was granted
/// since must be stopped as soon.
#[tokio::test]
async fn a_held_heartbeat_is_answered_when_a_lease_that_it_does_not_list_is_cancelled() {
    let world = World::start_with(&["--lease", "60"]).await;
    register(&world).await;
    let beat = heartbeat(&world, &[]);
    let work = async {
        let job = json!({"runtime": "python", "function": "lambda x: x", "elements": [1]});
        let id = world.client.submit(&job).await;
        let lease = lease(&world).await;
        assert_eq!(world.client.cancel(&id).await.status, 200);
        lease
    };
    let both = async { tokio::join!(beat, work) };
    let (answer, lease) = timeout(SOON, both).await.expect("the heartbeat is answered at once");
    assert_eq!(answer.status, 200);
    let next = timeout(SOON, heartbeat(&world, &[&lease])).await.expect("there are orders");
    assert_eq!(next.json(), json!({"revoked": [lease], "drain": false}));
}

#[tokio::test]
async fn a_drain_reaches_a_held_heartbeat() {
    let world = World::start_with(&["--lease", "60"]).await;
    register(&world).await;
    let drain = async {
        // Held or not yet there: either way the heartbeat must learn of it.
        let answer =
            world.client.send("POST", &format!("/v1/agents/{AGENT}/drain"), &[], Vec::new()).await;
        assert_eq!(answer.status, 202);
    };
    let both = async { tokio::join!(heartbeat(&world, &[]), drain) };
    let (answer, ()) = timeout(SOON, both).await.expect("the heartbeat is answered at once");
    assert_eq!(answer.json(), json!({"revoked": [], "drain": true}));
}
