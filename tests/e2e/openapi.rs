//! The description of the API that is kept beside the code.

use std::fs;
use std::path::Path;

use tests::World;

#[tokio::test]
async fn the_description_is_that_of_the_code() {
    let world = World::start().await;
    let printed = world.farrow(&["openapi"]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let served = world.client.send("GET", "/openapi.json", &[("authorization", "")], Vec::new());
    assert_eq!(served.await.text(), printed.stdout);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == printed.stdout, "openapi/openapi.json is stale: run `make openapi`");
}

/// Without a token, without another host: every address in the page is one of this server.
#[tokio::test]
async fn the_page_of_the_description_is_public_and_needs_no_other_host() {
    let world = World::start().await;
    let open = [("authorization", "")];
    let page = world.client.send("GET", "/docs", &open, Vec::new()).await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (200, "text/html; charset=utf-8".into())
    );
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http"), "{policy}");
    let text = page.text();
    assert!(!text.contains("//"), "an address of another host: {text}");
    let scripts: Vec<&str> =
        text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(scripts.len(), 2);
    for script in scripts {
        let part = world.client.send("GET", &format!("/{script}"), &open, Vec::new()).await;
        assert_eq!(part.status, 200, "{script}");
        assert!(part.header("content-type").starts_with("text/javascript"), "{script}");
    }
    world.client.send("GET", "/docs/other", &open, Vec::new()).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn metrics_count_what_happens_and_need_a_token() {
    let world = World::start().await;
    let none = [("authorization", "")];
    world.client.send("GET", "/metrics", &none, Vec::new()).await.problem(401, "unauthorized");
    let _agent = world.python_agent("counted", 3).await;
    let job =
        serde_json::json!({"runtime": "python", "function": "lambda x: x", "elements": [1, 2]});
    world.client.run(&job).await;
    let text = world.client.get("/metrics").await.text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    };
    for (name, wanted) in [
        ("farrow_agents{state=\"live\"}", 1.0),
        ("farrow_slots", 3.0),
        ("farrow_slots_busy", 0.0),
        ("farrow_jobs_submitted_total", 1.0),
        ("farrow_jobs_ended_total", 1.0),
        ("farrow_elements_accepted_total", 2.0),
        ("farrow_requests_total{status=\"4xx\"}", 1.0),
        ("farrow_requests_total{status=\"5xx\"}", 0.0),
        ("farrow_database_failures_total", 0.0),
    ] {
        assert!((value(name) - wanted).abs() < 0.5, "{name} is {}, not {wanted}", value(name));
    }
    for name in ["farrow_database_commits_total", "process_resident_memory_bytes"] {
        assert!(value(name) > 0.0, "{name}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
    }
}
