//! Agents that end: by a drain, or by a kill.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use protocol::agent::Orders;
use tokio_util::sync::CancellationToken;

use crate::harness::{TestAgent, config, file, gone, integers, lives, python};
use crate::server::FakeServer;

/// Waits for the file `go`, and says in the file `at` that it does.
const WAITS: &str = "
import os, time
def f(x):
    with open('@/at', 'a') as at: at.write(f'{os.getpid()}\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return x
";

/// Drains an agent of one slot that runs the first of two elements of a lease and holds another.
async fn drain(ask: impl FnOnce(&FakeServer, &TestAgent)) {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(WAITS, agent.folder.path());
    let (begun, waiting) = (integers(&job, 0, 2), integers(&job, 2, 4));
    server.grant(begun.clone(), b"", &job);
    let worker = file(&agent.path("at")).await;
    server.grant(waiting.clone(), b"", &job);
    ask(&server, &agent);
    server.until("the agent says so", |r| r.heartbeats.last()?.draining.then_some(())).await;
    assert!(lives(worker.trim()), "what is in flight goes on");
    std::fs::write(agent.path("go"), "").unwrap();
    agent.ended().await.unwrap();
    let record = server.record();
    let outcomes = record.outcomes_of(begun.id);
    assert_eq!(outcomes.len(), 1, "one finished, one was not begun");
    assert!(outcomes[0].result.is_ok());
    assert_eq!(record.released.iter().filter(|released| released.id == begun.id).count(), 1);
    assert!(record.outcomes_of(waiting.id).is_empty());
    assert!(record.left);
    assert!(!lives(worker.trim()), "an agent that has ended leaves nothing behind");
}

#[tokio::test]
async fn when_the_grace_is_over_what_runs_is_killed_and_given_back() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.grace = agent::Seconds(Duration::from_millis(50));
    });
    let job = python(WAITS, agent.folder.path());
    let mut lease = integers(&job, 0, 2);
    lease.deaths.insert(1, 1);
    server.grant(lease.clone(), b"", &job);
    let worker = file(&agent.path("at")).await;
    agent.shutdown.cancel();
    agent.ended().await.unwrap();
    assert!(!lives(worker.trim()));
    let record = server.record();
    let [released] = &record.released[..] else { panic!("{:?}", record.released) };
    assert_eq!((released.id, &released.deaths), (lease.id, &lease.deaths), "a kill is no death");
    assert!(record.outcomes.is_empty() && record.left);
}

#[tokio::test]
async fn a_drained_agent_finishes_what_is_in_flight_and_gives_back_the_rest() {
    drain(|_, agent| agent.shutdown.cancel()).await;
}

#[tokio::test]
async fn the_server_can_ask_an_agent_to_drain() {
    drain(|server, _| {
        server.change(|record| record.orders = Orders { drain: true, ..Orders::default() });
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_waits_for_slots_is_given_back_at_once() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(WAITS, agent.folder.path());
    let (begun, waiting) = (integers(&job, 0, 1), integers(&job, 1, 2));
    server.grant_together([(begun.clone(), &job), (waiting.clone(), &job)]);
    file(&agent.path("at")).await;
    agent.shutdown.cancel();
    let released =
        server.until("it is given back", |record| record.released.first().cloned()).await;
    assert!([begun.id, waiting.id].contains(&released.id));
    assert!(server.record().outcomes.is_empty(), "while the other is still in flight");
    std::fs::write(agent.path("go"), "").unwrap();
    agent.ended().await.unwrap();
    let record = server.record();
    assert_eq!((record.released.len(), record.outcomes.len()), (1, 1));
}

/// Not a test of its own: the agent that [`start_agent_process`] starts.
#[tokio::test]
#[ignore = "started by another test"]
async fn agent_process() {
    let Ok(server) = std::env::var("FARROW_TEST_SERVER") else { return };
    let folder = std::env::var("FARROW_TEST_FOLDER").unwrap();
    let mut config = config(&server, 1, folder.as_ref());
    // Of variables, as the program takes its settings.
    config.settings.workers = crate::confining::Flags::parse_from(["agent"]).workers;
    agent::run(config, CancellationToken::new()).await.unwrap();
}

/// Starts an agent of one slot in a process of its own, to be killed.
pub fn start_agent_process(server: &FakeServer, scratch: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ending::agent_process", "--ignored"])
        .env("FARROW_TEST_SERVER", server.url())
        .env("FARROW_TEST_FOLDER", scratch)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_agent_leaves_no_process_behind() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let mut agent = start_agent_process(&server, &folder.path().join("scratch"));
    let source = "
import os, subprocess, time
def f(x):
    stray = subprocess.Popen(['setsid', 'sleep', '1000'])
    with open('@/pids', 'w') as pids: pids.write(f'{os.getpid()} {os.getppid()} {stray.pid}\\n')
    time.sleep(1000)
";
    let job = python(source, folder.path());
    server.grant(integers(&job, 0, 1), b"", &job);
    let pids = file(&folder.path().join("pids")).await;
    assert!(pids.split_whitespace().all(lives), "worker, supervisor and stray run: {pids}");
    agent.kill().unwrap();
    assert_eq!(agent.wait().unwrap().signal(), Some(9));
    gone(&pids).await;
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_worker_along_and_the_element_is_run_again() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = WAITS.replace("{os.getpid()}", "{os.getpid()} {os.getppid()}");
    let job = python(&source, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let pids = file(&agent.path("at")).await;
    let (worker, supervisor) = pids.trim().split_once(' ').unwrap();
    let supervisor = nix::unistd::Pid::from_raw(supervisor.parse().unwrap());
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
    gone(worker).await;
    std::fs::write(agent.path("go"), "").unwrap();
    let outcomes = server.outcomes(lease.id).await;
    assert!(outcomes[0].result.is_ok());
    assert_eq!(outcomes[0].note.attempts, 2);
    agent.stop().await;
}
