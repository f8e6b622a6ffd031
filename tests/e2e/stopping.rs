//! Whoever is asked to stop ends every wait, and itself, whatever holds it up.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::wait::until;
use tests::world::Database;
use tests::{Process, World};

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

/// `farrow up 2>&1 | head` has closed what it logs to.
#[tokio::test]
async fn up_works_and_drains_also_when_nobody_reads_its_log_any_more() {
    let world = World::start().await;
    let data = world.path("up");
    let arguments = ["up", "--json", "--listen", "127.0.0.1:0", "--slots", "1", "--data"];
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = world.command(&arguments);
    command.arg(&data).env_remove("FARROW_TOKEN");
    let mut up = Process::start_on("up", &world.path(""), &mut command, writer.into());
    let place: Value = serde_json::from_str(&up.first_line().await).unwrap();
    let mut command = world.command(&["call", "--runtime", "python", "lambda: 4"]);
    command.env("FARROW_URL", place["url"].as_str().unwrap()).env_remove("FARROW_TOKEN");
    command.env("FARROW_TOKEN_FILE", place["token_file"].as_str().unwrap());
    let called = world.spawn("call", &mut command).finished().await;
    assert_eq!((called.code, called.stdout.as_str()), (Some(0), "4\n"), "{called:?}");
    up.signal(Signal::SIGTERM);
    assert_eq!(up.ended().await.code(), Some(0));
}

/// As of a pager that was left alone: whoever writes one line more waits for ever.
fn fill(pipe: &mut io::PipeWriter) {
    let flags =
        OFlag::from_bits_retain(fcntl(&*pipe, FcntlArg::F_GETFL).expect("a pipe has flags"));
    fcntl(&*pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).expect("they can be set");
    while pipe.write(&[b'.'; 512]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    fcntl(&*pipe, FcntlArg::F_SETFL(flags)).expect("they can be set");
}

#[tokio::test]
async fn up_ends_when_it_is_asked_twice_also_when_its_log_takes_no_more() {
    let world = World::start().await;
    let (_reader, mut writer) = io::pipe().unwrap();
    let mut command = world.command(&["up", "--listen", "127.0.0.1:0", "--slots", "1", "--json"]);
    command.arg("--data").arg(world.path("up")).env_remove("FARROW_TOKEN");
    let log = writer.try_clone().unwrap();
    let mut up = Process::start_on("up", &world.path(""), &mut command, log.into());
    up.first_line().await;
    fill(&mut writer);
    // Signals that come together count as one.
    let code = until("it ends", async || {
        if up.has_ended() {
            return Some(up.ended().await.code());
        }
        up.signal(Signal::SIGTERM);
        None
    })
    .await;
    assert!([Some(0), Some(130)].contains(&code), "{code:?}");
}

/// A server whose database accepts connections, as the system does for it, and says nothing.
fn server_of_a_silent_database(world: &World) -> (TcpListener, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has an address");
    let mut command = world.command(&["server", "--listen", "127.0.0.1:0"]);
    command.arg("--data").arg(world.path("other")).arg("--blobs").arg(world.path("blobs"));
    command.env("FARROW_DATABASE_URL", format!("postgres://farrow@{address}/farrow"));
    (listener, world.spawn("other", &mut command))
}

#[tokio::test]
async fn a_server_that_waits_for_its_database_ends_when_it_is_asked() {
    let world = World::start().await;
    let (listener, mut server) = server_of_a_silent_database(&world);
    let _connection = tokio::task::spawn_blocking(move || listener.accept()).await.unwrap();
    server.signal(Signal::SIGTERM);
    let ended = server.finished().await;
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(ended.stderr.contains("stopped before the server had started"), "{ended:?}");
}

#[tokio::test]
async fn a_server_does_not_wait_for_ever_for_a_database_that_says_nothing() {
    let world = World::start().await;
    let (_listener, mut server) = server_of_a_silent_database(&world);
    let ended = server.finished().await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot be used: "), "{ended:?}");
    assert!(ended.stderr.contains("timed out; is it running"), "{ended:?}");
}
