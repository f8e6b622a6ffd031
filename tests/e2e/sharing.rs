//! Who goes first when several want the same slots.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tests::{Audit, Client, Gate, World, token};

/// Adds a second owner's token to the database of a world, as the server would.
fn second_owner(world: &World) -> &'static str {
    const OTHER: &str = "the-token-of-another-owner-of-jobs";
    let script = "
import hashlib, sqlite3, sys
database, token = sys.argv[1:]
with sqlite3.connect(database, timeout=60) as connection:
    connection.execute(
        'insert into tokens (id, hash, role, name, created_at) values (?, ?, ?, ?, 0)',
        ('other', hashlib.sha256(token.encode()).hexdigest(), 'admin', 'other'))
";
    let files: Vec<_> = fs::read_dir(world.data()).expect("a data folder").flatten().collect();
    let database = files.iter().map(fs::DirEntry::path).find(|path| {
        path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite")
    });
    let database = database.expect("a database in the data folder");
    let status = Command::new("python3").args(["-c", script]).arg(database).arg(OTHER).status();
    assert!(status.expect("python3 runs").success());
    OTHER
}

async fn submit_as(client: &Client, token: &str, job: &Value) -> String {
    let headers = [("authorization", &*format!("Bearer {token}"))];
    let answer = client.send("POST", "/v1/jobs", &headers, job.to_string().into_bytes()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn two_owners_with_ten_thousand_elements_each_share_the_slots() {
    let world = World::start().await;
    let other = second_owner(&world);
    let job = json!({
        "runtime": "python", "function": "import time\nlambda x: time.sleep(0.001)",
        "elements": {"range": [0, 10_000]}
    });
    // Both wait before the first slot is there, so that neither has a start.
    let first = submit_as(&world.client, token(), &job).await;
    let second = submit_as(&world.client, other, &job).await;
    let _agent = world.python_agent("one", 4).await;
    let mut shares = Vec::new();
    for at in [4_000, 6_000, 8_000] {
        let done = |status: &Value| status["elements"]["done"].as_u64().unwrap_or_default();
        let reached = world.client.status_when(&first, |status| done(status) >= at).await;
        shares.push((done(&reached), done(&world.client.status(&second).await)));
    }
    for (mine, theirs) in shares {
        // A chunk is up to a second on each of four slots, and what is on its way is not counted.
        let apart = mine.abs_diff(theirs);
        assert!(apart <= 3_500, "{mine} and {theirs} elements done");
    }
    for (job, token) in [(&first, token()), (&second, other)] {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let path = format!("/v1/jobs/{job}?wait=20");
        while world.client.send("GET", &path, &headers, Vec::new()).await.json()["state"]
            != "resolved"
        {}
    }
}

#[tokio::test]
async fn a_higher_priority_goes_first_though_it_came_last() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let (audit, gate) = (Audit::new(&world, "order"), Gate::new(&world, "order"));
    let with = |elements: Value, priority: i32| {
        let mut job = audit.python(&elements, "x");
        job["options"] = json!({"priority": priority});
        job
    };
    let held = world.client.submit(&gate.hold(audit.python(&json!(["held"]), "x"))).await;
    audit.started(1).await;
    let mut jobs = vec![held];
    for (name, priority) in [("low", -5), ("plain", 0), ("high", 5)] {
        jobs.push(world.client.submit(&with(json!([name]), priority)).await);
    }
    gate.open();
    for job in &jobs {
        world.client.value(job).await;
    }
    let started: Vec<String> = audit
        .events()
        .into_iter()
        .filter(|event| !event.is_end)
        .map(|event| event.element)
        .collect();
    assert_eq!(started, ["held", "high", "plain", "low"]);
}

#[tokio::test]
async fn what_stands_behind_a_slow_element_among_many_quick_ones_is_run_elsewhere() {
    let world = World::start().await;
    let _agents = [world.python_agent("one", 1).await, world.python_agent("two", 1).await];
    let folder = tempfile::tempdir().expect("a folder");
    // By what was measured until then, the last ten elements take no time. None of them ends before two have begun.
    let function = format!(
        "import os\nimport time\ndef f(x):\n    if x == 6000:\n        time.sleep(0.05)\n    elif x > 6000:\n        \
         open(f'{at}/{{x}}', 'w').close()\n        while len(os.listdir('{at}')) < 2:\n            time.sleep(0.01)\n    return x",
        at = folder.path().display()
    );
    let job = json!({"runtime": "python", "function": function, "elements": {"range": [0, 6011]}});
    let id = world.client.submit(&job).await;
    assert_eq!(world.client.value(&id).await, (0..6011).collect::<Value>());
}
