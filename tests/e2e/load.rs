//! Many agents and many waiting clients at once on one server, and its end under them.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::clock::Stopwatch;
use tests::load::{self, Measured, Shape};
use tests::wait::until;
use tests::{Client, World};
use tokio::task::JoinSet;

/// For `make test`: whether it works at all.
const SHORT: Shape = Shape {
    n_agents: 40,
    n_clients: 100,
    element: Duration::from_millis(300),
    lasting: Duration::from_secs(3),
};
/// For `make load`.
const LONG: Shape = Shape {
    n_agents: 200,
    n_clients: 500,
    element: Duration::from_secs(2),
    lasting: Duration::from_secs(60),
};
/// Within which a server ends that many wait at.
const ENDS_WITHIN: f64 = 5.0;

/// Agents and clients work for a while; then all clients wait in vain, and the server is asked to
/// end. Gives what was measured, and the seconds of that end.
async fn under_load(shape: Shape) -> (Measured, f64) {
    load::allow_many_connections();
    let mut world = World::start_with(&["--lease", "30"]).await;
    let client = world.client.clone();
    let server = world.server().pid();
    let (measured, _agents) = load::run(&client, server, shape).await;
    assert_eq!(measured.errors, [""; 0]);
    assert!(measured.n_jobs >= shape.n_clients, "{}", measured.n_jobs);
    let _waiting = wait_in_vain(&client, shape.n_clients).await;
    let stopwatch = Stopwatch::start();
    world.server().signal(Signal::SIGTERM);
    let ended = world.server().ended().await;
    assert_eq!(ended.code(), Some(0), "{}", world.server().stderr());
    (measured, stopwatch.elapsed().as_secs_f64())
}

/// Clients that wait for a job that nobody runs.
async fn wait_in_vain(client: &Client, n_clients: usize) -> JoinSet<()> {
    let job = json!({"runtime": "r", "function": "function(x) x", "elements": [1]});
    let id = client.submit(&job).await;
    let mut waiting = JoinSet::new();
    for _ in 0..n_clients {
        let (client, path) = (client.clone(), format!("/v1/jobs/{id}/value?wait=60"));
        // Whatever they are told, or that they are told nothing, is the server's end.
        waiting.spawn(async move { drop(client.try_send("GET", &path, &[], Vec::new()).await) });
    }
    until("all clients wait", async || {
        let text = client.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix("farrow_requests_waiting "));
        let n_waiting: usize = line?.parse().ok()?;
        (n_waiting >= n_clients).then_some(())
    })
    .await;
    waiting
}

#[tokio::test]
async fn many_agents_and_many_waiting_clients_meet_no_error_and_do_not_keep_a_server_from_ending() {
    under_load(SHORT).await;
}

#[tokio::test]
#[ignore = "takes a minute, and an idle machine: make load"]
async fn a_minute_of_load() {
    let (measured, ended_within) = under_load(LONG).await;
    let Measured { n_jobs, submit, lease, value, .. } = &measured;
    let (early, late) = measured.early_and_late_memory();
    println!(
        "{} agents, {} waiting clients, {} s: {n_jobs} jobs, no error",
        LONG.n_agents,
        LONG.n_clients,
        LONG.lasting.as_secs()
    );
    for (name, times) in [("submit", submit), ("lease", lease), ("value", value)] {
        let [p50, p99] = [0.5, 0.99].map(|share| times.quantile(share));
        println!("{name:<8} p50 {p50:>8.1} ms   p99 {p99:>8.1} ms");
    }
    println!("memory   {early} MiB in the second quarter, {late} MiB in the last");
    println!("SIGTERM  ended the server in {ended_within:.1} s");
    let figures = |times: &load::Times| [0.5, 0.99].map(|share| times.quantile(share));
    let line = json!({
        "agents": LONG.n_agents, "clients": LONG.n_clients, "jobs": n_jobs,
        "submit": figures(submit), "lease": figures(lease), "value": figures(value),
        "memory": [early, late], "end": ended_within,
    });
    println!("{line}");
    assert!(late <= early + early / 4 + 8, "memory grows: {early} MiB, then {late} MiB");
    assert!(ended_within < ENDS_WITHIN, "{ended_within:.1} s");
}
