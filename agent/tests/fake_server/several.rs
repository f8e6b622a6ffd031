//! Two servers of one database: what one does not do the other does.

use std::path::Path;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::harness::{TestAgent, file, integers, python};
use crate::server::FakeServer;

/// Far less than what an agent waits for an answer to a request that is held, far more than a third
/// of these servers' leases.
const SOON: Duration = Duration::from_secs(20);

/// Waits for the file `go`, and says in the file `at` that it does.
const WAITS: &str = "
import os, time
def f(x):
    with open('@/at', 'a') as at: at.write(f'{x}\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return x
";

/// An agent of two servers, the one that it asks, and the other.
async fn agent_of_two() -> (TestAgent, FakeServer, FakeServer) {
    let one = FakeServer::start();
    let two = one.another();
    let agent = TestAgent::start_with(&one, 2, |config| config.servers.push(two.url()));
    one.until("it is registered and waits", |record| record.heartbeats.first().map(drop)).await;
    one.until("it asks for work", |record| record.lease_requests.first().map(drop)).await;
    let (asked, other) = if one.asked() > 0 { (one, two) } else { (two, one) };
    assert_eq!(other.asked(), 0, "it asks one as long as that answers");
    (agent, asked, other)
}

/// Waits until a file has so many lines.
async fn lines(path: &Path, n_lines: usize) {
    while file(path).await.lines().count() < n_lines {
        sleep(Duration::from_millis(5)).await;
    }
}

/// What one server knows when it is lost by `loss`, the other goes on with: work in flight is
/// reported to it, run once, and it gives more.
async fn goes_on_after(loss: impl FnOnce(&mut FakeServer)) {
    let (agent, mut asked, other) = agent_of_two().await;
    let job = python(WAITS, agent.folder.path());
    let (first, second) = (integers(&job, 0, 1), integers(&job, 1, 2));
    asked.grant(first.clone(), b"", &job);
    file(&agent.path("at")).await;
    loss(&mut asked);
    let heard = other.record().heartbeats.len();
    let going_on = async {
        other
            .until("the lease is kept alive", |record| {
                let last = record.heartbeats.last()?;
                (record.heartbeats.len() > heard + 1 && last.held == [first.id]).then_some(())
            })
            .await;
        // A slot is free, for which work was asked of the one that is lost.
        other.grant(second.clone(), b"", &job);
        lines(&agent.path("at"), 2).await;
        std::fs::write(agent.path("go"), "").unwrap();
        assert!(other.outcomes(first.id).await[0].result.is_ok());
        assert!(other.outcomes(second.id).await[0].result.is_ok());
    };
    timeout(SOON, going_on).await.expect("a lost server costs too much");
    assert_eq!(file(&agent.path("at")).await, "0\n1\n", "each ran once");
    assert_eq!(other.record().registers.len(), 1, "who goes on with another server is known there");
    agent.stop().await;
    assert!(other.record().left);
}

#[tokio::test]
async fn one_that_is_killed() {
    goes_on_after(FakeServer::stop).await;
}

#[tokio::test]
async fn one_that_is_there_and_answers_nothing() {
    goes_on_after(|server| server.freeze()).await;
}

/// Large enough that it does not fit into what the kernel holds of a connection.
const LARGE: &str = "
import os, time
def f(x):
    with open('@/at', 'w') as at: at.write('started\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return 'x' * (24 << 20)
";

#[tokio::test]
async fn one_that_takes_nothing_more_of_a_large_report() {
    let (agent, asked, other) = agent_of_two().await;
    let job = python(LARGE, agent.folder.path());
    let lease = integers(&job, 0, 1);
    asked.grant(lease.clone(), b"", &job);
    file(&agent.path("at")).await;
    asked.freeze_at_the_next_report();
    std::fs::write(agent.path("go"), "").unwrap();
    let outcomes = timeout(SOON, other.outcomes(lease.id));
    assert!(outcomes.await.expect("the report stays with a lost server")[0].result.is_ok());
    agent.stop().await;
}

#[tokio::test]
async fn one_that_is_stopping() {
    goes_on_after(|server| server.begin_to_stop()).await;
}

#[tokio::test]
async fn one_that_was_never_there() {
    let (mut gone, server) = (FakeServer::start(), FakeServer::start());
    gone.stop();
    // Whichever an agent begins with.
    for _ in 0..4 {
        let agent = TestAgent::start_with(&gone, 1, |config| config.servers.push(server.url()));
        let job = python("lambda x: x", agent.folder.path());
        let lease = integers(&job, 0, 1);
        server.grant(lease.clone(), b"", &job);
        let outcomes = timeout(SOON, server.outcomes(lease.id));
        assert!(outcomes.await.expect("it is found soon")[0].result.is_ok());
        agent.stop().await;
    }
}

#[tokio::test]
async fn both_are_away_and_one_comes_back() {
    let (agent, mut asked, mut other) = agent_of_two().await;
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 1);
    asked.grant(lease.clone(), b"", &job);
    file(&agent.path("at")).await;
    asked.stop();
    other.stop();
    std::fs::write(agent.path("go"), "").unwrap();
    asked.start_again();
    assert!(asked.outcomes(lease.id).await[0].result.is_ok());
    agent.stop().await;
}
