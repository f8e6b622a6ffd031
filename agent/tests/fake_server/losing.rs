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
async fn what_ignores_signals_or_sits_in_compiled_code_is_stopped_as_any_other() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let says = "with open('@/at', 'w') as at: at.write(f'{os.getpid()}\\n')";
    for (sits, timeout) in [
        ("for s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)", None),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())", None),
        // With the lock that every thread of Python needs.
        ("ctypes.PyDLL(None).sleep(1000)", None),
        ("ctypes.PyDLL(None).sleep(1000)", Some(0.5)),
    ] {
        let source = format!(
            "import ctypes, os, signal, time\ndef f(x):\n  {says}\n  {sits}\n  \
             while True: time.sleep(1)"
        );
        let mut job = python(&source, agent.folder.path());
        (job.options.timeout, job.options.retries) = (timeout, 0);
        let lease = integers(&job, 0, 1);
        server.grant(lease.clone(), b"", &job);
        let worker = file(&agent.path("at")).await;
        if timeout.is_none() {
            server.change(|record| record.revoke(lease.id));
        } else {
            let error = server.outcomes(lease.id).await[0].result.clone().unwrap_err();
            assert_eq!(error.kind, "Timeout");
        }
        gone(&worker).await;
        std::fs::remove_file(agent.path("at")).unwrap();
    }
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
async fn a_lease_that_is_answered_twice_is_run_once() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant_together([(lease.clone(), &job), (lease.clone(), &job)]);
    let worker = file(&agent.path("at")).await;
    server.grant(lease.clone(), b"", &job);
    let asked = server.record().lease_requests.len();
    server
        .until("it has been answered again", |record| {
            (record.lease_requests.len() > asked).then_some(())
        })
        .await;
    std::fs::write(agent.path("go"), "").unwrap();
    assert!(server.outcomes(lease.id).await[0].result.is_ok());
    assert_eq!(file(&agent.path("at")).await, worker, "it ran once");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_whose_heartbeats_fail_goes_on_and_keeps_sending_them() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python(WAITS, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let worker = file(&agent.path("at")).await;
    let heard = server.change(|record| {
        record.fails_heartbeats = 5;
        record.heartbeats.len()
    });
    let answered = |record: &crate::record::Record| {
        (record.fails_heartbeats == 0 && record.heartbeats.len() > heard + 6).then_some(())
    };
    server.until("they are answered again", answered).await;
    assert_eq!(server.record().registers.len(), 1, "a failure is no loss of the agent");
    std::fs::write(agent.path("go"), "").unwrap();
    assert!(server.outcomes(lease.id).await[0].result.is_ok());
    assert_eq!(file(&agent.path("at")).await, worker, "it ran once");
    agent.stop().await;
}

#[tokio::test]
async fn of_the_leases_that_an_agent_comes_back_with_those_that_are_lost_are_stopped() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let source = WAITS.replace("@/at", "@/at{x}").replace("open('", "open(f'");
    let job = python(&source, agent.folder.path());
    let (lost, kept) = (integers(&job, 0, 1), integers(&job, 1, 2));
    server.grant_together([(lost.clone(), &job), (kept.clone(), &job)]);
    let workers = [file(&agent.path("at0")).await, file(&agent.path("at1")).await];
    server.change(|record| {
        record.lost_meanwhile = vec![lost.id];
        record.lease_seconds = 6.0;
        record.knows_the_agent = false;
    });
    gone(&workers[0]).await;
    let again = server.until("it registers again", |record| record.registers.get(1).cloned()).await;
    assert_eq!(again.leases.len(), 2);
    // The server has another lease time now.
    let wait = |record: &crate::record::Record| {
        let last = record.heartbeats.last()?;
        ((last.wait - 1.0).abs() < 1e-9).then(|| last.held.clone())
    };
    assert_eq!(server.until("heartbeats are as far apart as that allows", wait).await, [kept.id]);
    std::fs::write(agent.path("go"), "").unwrap();
    assert!(server.outcomes(kept.id).await[0].result.is_ok());
    assert_eq!(file(&agent.path("at1")).await, workers[1], "it ran once");
    assert!(server.record().outcomes_of(lost.id).is_empty());
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
