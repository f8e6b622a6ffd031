//! What a page of another site has its reader's browser send changes nothing, and tells it nothing.

use serde_json::json;
use tests::World;

#[tokio::test]
async fn a_page_that_has_given_its_name_to_this_machine_is_refused_everywhere() {
    let world = World::start().await;
    let job = json!({"runtime": "python", "function": "abs", "elements": [1]}).to_string();
    for (method, path) in [
        ("GET", "/docs"),
        ("GET", "/healthz"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/jobs"),
        ("GET", "/nothing"),
        ("POST", "/v1/jobs"),
    ] {
        let host = [("host", "evil.example:3277")];
        let answer = world.client.send(method, path, &host, job.clone().into_bytes()).await;
        let problem = answer.problem(403, "forbidden-host");
        assert!(problem["detail"].as_str().unwrap().contains("evil.example"), "{problem}");
    }
    assert_eq!(world.client.get("/v1/jobs").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_page_of_another_site_submits_nothing() {
    let world = World::start().await;
    let job = json!({"runtime": "python", "function": "abs", "elements": [1]}).to_string();
    // What a form sends, and what a script sends.
    for headers in [
        [("origin", "https://evil.example"), ("content-type", "text/plain")],
        [("origin", "null"), ("content-type", "text/plain")],
        [("origin", "http://localhost:1"), ("content-type", "application/json")],
        [("sec-fetch-site", "cross-site"), ("content-type", "text/plain")],
    ] {
        let answer = world.client.send("POST", "/v1/jobs", &headers, job.clone().into()).await;
        answer.problem(403, "forbidden-origin");
    }
    assert_eq!(world.client.get("/v1/jobs").await.json()["items"], json!([]));
    // The page that the server itself shows may.
    let own = [("origin", world.url()), ("sec-fetch-site", "same-origin")];
    let answer = world.client.send("POST", "/v1/jobs", &own, job.into_bytes()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

#[tokio::test]
async fn a_name_is_the_servers_if_it_is_given() {
    let world =
        World::start_with(&["--behind-proxy", "--host", "farrow.example.org,other.example.org"])
            .await;
    for host in ["farrow.example.org", "Other.Example.org:443", "localhost"] {
        let answer = world.client.send("GET", "/v1/jobs", &[("host", host)], Vec::new()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = world.client.send("GET", "/docs", &[("host", "example.org")], Vec::new()).await;
    answer.problem(403, "forbidden-host");
}
