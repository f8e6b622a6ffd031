//! What failed is run again, what is not wanted any more is deleted.

use std::fs;

use serde_json::{Value, json};
use tests::{Audit, Gate, World};

/// Every three hundredth element fails until the file is there.
fn fails_until(file: &std::path::Path, audit: &Audit, elements: &Value) -> Value {
    let result = format!("x if os.path.exists({file:?}) else x // (1 if x % 300 else 0)");
    let mut job = audit.python(elements, &result);
    job["options"] = json!({"on_error": "collect"});
    job
}

#[tokio::test]
async fn a_retry_runs_only_what_failed() {
    let world = World::start().await;
    let (_one, _two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 2));
    let client = &world.client;
    let (audit, fixed) = (Audit::new(&world, "work"), world.path("fixed"));
    let job = fails_until(&fixed, &audit, &json!({"range": [1, 1000]}));
    let first = client.submit(&job).await;
    let value = client.value(&first).await;
    assert_eq!(value[299]["error"]["type"], "ZeroDivisionError");
    assert_eq!(client.status(&first).await["elements"]["failed"], 3);
    assert_eq!(audit.starts().len(), 999);

    fs::write(&fixed, "").unwrap();
    let path = format!("/v1/jobs/{first}/retry");
    let retried = client.send("POST", &path, &[], vec![]).await;
    assert_eq!(retried.status, 202, "{}", retried.text());
    let second = retried.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(retried.header("location"), format!("/v1/jobs/{second}"));
    assert_eq!(retried.json()["retry_of"], first);
    assert_eq!(client.status(&first).await["retried_as"], second);
    let again = client.send("POST", &path, &[], vec![]).await;
    assert_eq!((again.status, again.json()["id"].as_str()), (202, Some(second.as_str())));

    let expected: Value = (1..1000).collect();
    assert!(client.value(&second).await == expected);
    let repeated: Vec<String> = audit.repeated().into_iter().collect();
    assert_eq!(repeated, ["300", "600", "900"]);
    assert_eq!(
        audit.events().len(),
        999 + 3 + 3 + 996,
        "starts and ends, without those that failed"
    );
    let status = client.status(&second).await;
    assert_eq!(
        (&status["elements"]["done"], &status["elements"]["failed"]),
        (&json!(999), &json!(0))
    );

    let nothing = client.send("POST", &format!("/v1/jobs/{second}/retry"), &[], vec![]).await;
    let problem = nothing.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("nothing to retry"), "{problem:#}");
}

#[tokio::test]
async fn what_was_cancelled_goes_on_where_it_was() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let client = &world.client;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let mut job = gate.hold_from(10, audit.python(&json!({"range": [0, 20]}), "x * x"));
    job["options"] = json!({"chunk_size": 1});
    let first = client.submit(&job).await;
    audit.started(12).await;
    let running = client.send("POST", &format!("/v1/jobs/{first}/retry"), &[], vec![]).await;
    running.problem(409, "conflict");
    client.done(&first, 10).await;
    client.cancel(&first).await;
    gate.open();
    let retried = client.send("POST", &format!("/v1/jobs/{first}/retry"), &[], vec![]).await;
    assert_eq!(retried.json()["elements"]["done"], 10);
    let second = retried.json()["id"].as_str().unwrap().to_owned();
    let expected: Value = (0..20).map(|x| x * x).collect();
    assert_eq!(client.value(&second).await, expected);
    let starts = audit.starts();
    assert!((0..10).all(|x: i32| starts[&x.to_string()] == 1), "{starts:?}");
}

#[tokio::test]
async fn a_deleted_job_is_gone() {
    let mut world = World::start().await;
    let agent = world.python_agent("one", 1).await;
    let client = world.client.clone();
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = client.submit(&gate.hold(audit.python(&json!([1, 2]), "x"))).await;
    audit.started(1).await;
    let path = format!("/v1/jobs/{job}");
    let delete = async || client.send("DELETE", &path, &[], vec![]).await;
    let problem = delete().await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("cancel it"), "{problem:#}");
    gate.open();
    client.value(&job).await;
    for _ in 0..2 {
        assert_eq!(delete().await.status, 204);
    }
    for path in [path.clone(), format!("{path}/value"), format!("{path}/outcomes")] {
        client.get(&path).await.problem(404, "not-found");
    }
    client.send("POST", &format!("{path}/retry"), &[], vec![]).await.problem(404, "not-found");
    client.cancel(&job).await.problem(404, "not-found");
    assert_eq!(client.get("/v1/jobs").await.json()["items"], json!([]));
    let after = json!({"runtime": "python", "function": "1", "after": [job]});
    let problem = client.post("/v1/jobs", &after).await.problem(422, "invalid-field");
    assert_eq!(problem["errors"][0]["field"], "after[0]");
    assert!(problem["detail"].as_str().unwrap().contains("not deleted"), "{problem:#}");
    drop(agent);
    world.server().kill();
    world.restart().await;
    tests::Client::new(world.url()).get(&path).await.problem(404, "not-found");
}
