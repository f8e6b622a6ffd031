//! Answers, servers and registrations that get lost.

use agent::AgentError;

use crate::harness::{TestAgent, file, gone, integers, python};
use crate::server::FakeServer;

/// Waits for the file `go`, and says in the file `at` that it does.
const WAITS: &str = "
import os, time
def f(x):
    with open('@/at', 'a') as at: at.write(f'{os.getpid()}\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return x
";

#[tokio::test]
async fn a_report_whose_answer_is_lost_is_sent_again_unchanged() {
    let server = FakeServer::start();
    server.change(|record| record.loses_next_report_answer = true);
    let agent = TestAgent::start(&server, 1);
    let job = python("lambda x: x", agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let reports = server
        .until("it is reported twice", |record| {
            (record.reports.len() == 2).then(|| record.reports.clone())
        })
        .await;
    assert_eq!(reports[0].0.pieces, reports[1].0.pieces);
    assert_eq!(reports[0].1, reports[1].1);
    server
        .until("the lease is held no more", |record| {
            record.heartbeats.last()?.held.is_empty().then_some(())
        })
        .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_whose_answer_is_lost_is_given_again_and_run_once() {
    let server = FakeServer::start();
    server.change(|record| record.loses_next_lease = true);
    let agent = TestAgent::start(&server, 2);
    let source = "def f(x):\n  open('@/ran', 'a').write(f'{x}\\n')\n  return x";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    assert_eq!(server.outcomes(lease.id).await.len(), 3);
    assert_eq!(file(&agent.path("ran")).await, "0\n1\n2\n");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_goes_on_while_the_server_is_away_and_reports_when_it_is_back() {
    let mut server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(
        &format!("{WAITS}\n    open('@/over', 'w').write('\\n')").replace("    return x\n", ""),
        agent.folder.path(),
    );
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let worker = file(&agent.path("at")).await;
    server.stop();
    std::fs::write(agent.path("go"), "").unwrap();
    file(&agent.path("over")).await;
    server.start_again();
    assert!(server.outcomes(lease.id).await[0].result.is_ok());
    assert_eq!(file(&agent.path("at")).await, worker, "it ran once");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_starts_before_its_server_waits_for_it() {
    let mut server = FakeServer::start();
    server.stop();
    let agent = TestAgent::start(&server, 1);
    server.start_again();
    server.until("the agent registers", |record| record.registers.first().map(drop)).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_not_known_registers_again_with_its_leases() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    file(&agent.path("at")).await;
    server.forget_the_agent();
    let again = server.until("it registers again", |record| record.registers.get(1).cloned()).await;
    assert_eq!(again.leases, [lease.id]);
    assert_eq!(again.id, server.record().registers[0].id);
    std::fs::write(agent.path("go"), "").unwrap();
    assert!(server.outcomes(lease.id).await[0].result.is_ok());
    agent.stop().await;
}

#[tokio::test]
async fn a_revoked_lease_is_killed_and_its_slot_serves_the_next() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let worker = file(&agent.path("at")).await;
    server.change(|record| record.revoke(lease.id));
    gone(&worker).await;
    let next = python("lambda x: x", agent.folder.path());
    let after = integers(&next, 0, 1);
    server.grant(after.clone(), b"", &next);
    assert!(server.outcomes(after.id).await[0].result.is_ok());
    assert!(server.record().outcomes_of(lease.id).is_empty());
    assert!(server.record().released.is_empty(), "what is revoked is nobody's to give back");
    agent.stop().await;
}

#[tokio::test]
async fn a_revoked_lease_that_is_given_again_is_held_until_it_has_ended_again() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let first = file(&agent.path("at")).await;
    let heard = server.change(|record| {
        record.revoke(lease.id);
        record.heartbeats.len()
    });
    server
        .until("the agent has obeyed", |record| (record.heartbeats.len() > heard).then_some(()))
        .await;
    server.grant(lease.clone(), b"", &job);
    gone(&first).await;
    let heard = server.record().heartbeats.len();
    // One that was sent after the first run had ended, and another to be sure.
    server
        .until("the lease is held", |record| {
            (record.heartbeats.len() > heard + 2).then(|| record.heartbeats.last().cloned())
        })
        .await
        .map(|heartbeat| assert_eq!(heartbeat.held, [lease.id]))
        .unwrap();
    std::fs::write(agent.path("go"), "").unwrap();
    assert!(server.outcomes(lease.id).await[0].result.is_ok());
    assert_eq!(file(&agent.path("at")).await.lines().count(), 2, "each holding ran it once");
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_whose_report_is_stale_is_dropped() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = WAITS.replace("    while", "    if x > 0:\n     while");
    let job = python(&source, agent.folder.path());
    let mut lease = integers(&job, 0, 2);
    let given = lease.clone();
    // What the server remembers of the lease is not what the agent is given.
    lease.ranges = protocol::RangeSet::from_range(protocol::Range(1, 2));
    server.change(|record| {
        record.grant(given, b"", &job);
        record.expect_only(&lease);
    });
    let workers = file(&agent.path("at")).await;
    gone(workers.lines().next().unwrap()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_let_the_agent_in_ends_it_with_a_reason() {
    let server = FakeServer::start();
    server.change(|record| record.refuses_registration = Some(401));
    let refusal = TestAgent::start(&server, 1).ended().await.unwrap_err();
    assert!(matches!(refusal, AgentError::Refused { .. }));
    let message = refusal.to_string();
    assert!(message.contains(&server.url()) && message.contains("FARROW_TOKEN"), "{message}");
}
