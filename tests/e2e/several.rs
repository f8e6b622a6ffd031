//! Commands and agents that know several addresses of one database.

use std::net::TcpListener;

use serde_json::json;
use tests::{Audit, Gate, World, audit};

/// An address of this machine where nobody listens now.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it listens").to_string()
}

#[tokio::test]
async fn an_address_where_nobody_answers_costs_nothing_but_a_moment() {
    let world = World::start().await;
    let both = format!("http://{},{}", free_address(), world.url());
    // Whichever a command begins with.
    for _ in 0..4 {
        let jobs = world.farrow(&["jobs", "--json", "--url", &both]).await;
        assert_eq!((jobs.code, jobs.stderr.as_str()), (Some(0), ""), "{jobs:?}");
    }
    let [one, two] = [0, 1].map(|_| format!("http://{}", free_address()));
    let jobs = world.farrow(&["jobs", "--url", &one, "--url", &two]).await;
    assert_eq!(jobs.code, Some(3), "{jobs:?}");
    assert!(jobs.stderr.contains(&one) && jobs.stderr.contains(&two), "{}", jobs.stderr);
}

#[tokio::test]
async fn a_map_goes_on_with_the_server_at_the_other_address() {
    let mut world = World::start().await;
    let (first, second) = (world.url().to_owned(), free_address());
    let both = format!("{first},http://{second}");
    let (audit, gate) = (Audit::new(&world, "audit"), Gate::new(&world, "gate"));
    let elements = json!([0, 1, 2, 3]);
    let job = gate.hold(audit.python(&elements, "x * 2"));
    let words = ["agent", "--server", &both, "--runtime", "python", "--slots", "2"];
    let _agent = world.spawn("agent", &mut world.command(&words));
    let words = audit::as_command(&job, 4);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut map = world.spawn("map", world.command(&words).env("FARROW_URL", &both));
    audit.started(2).await;
    world.server().kill();
    world.move_to(&second).await;
    gate.open();
    let mapped = map.finished().await;
    assert_eq!((mapped.code, mapped.stdout.as_str()), (Some(0), "0\n2\n4\n6\n"), "{mapped:?}");
    assert!(audit.repeated().is_empty(), "{:?}", audit.starts());
}
