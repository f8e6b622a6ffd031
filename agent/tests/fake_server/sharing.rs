//! Agents that are given work ahead, and that give others what they have not begun.

use protocol::agent::{JobSpec, Orders};
use protocol::{LeaseId, Range};

use crate::harness::{TestAgent, file, integers, python};
use crate::server::FakeServer;

/// Says in the file `at` that it runs, and waits for the file `go`.
const WAITS: &str = "
import os, time
def f(x):
    with open('@/at', 'a') as at: at.write(f'{x}\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return x
";

fn want(server: &FakeServer, leases: &[LeaseId]) {
    let orders = Orders { wanted: leases.to_vec(), ..Orders::default() };
    server.change(|record| record.orders = orders);
}

fn job(agent: &TestAgent) -> JobSpec {
    python(WAITS, agent.folder.path())
}

#[tokio::test]
async fn half_of_what_has_not_begun_is_given_to_whoever_wants_it() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = job(&agent);
    let lease = integers(&job, 0, 9);
    server.grant(lease.clone(), b"", &job);
    file(&agent.path("at")).await;
    want(&server, &[lease.id]);
    let released = server.until("half is given", |record| record.released.first().cloned()).await;
    assert_eq!((released.id, released.part.unwrap().ranges()), (lease.id, &[Range(5, 9)][..]));
    want(&server, &[lease.id]);
    let again =
        server.until("and half of the rest", |record| record.released.get(1).cloned()).await;
    assert_eq!(again.part.unwrap().ranges(), [Range(3, 5)]);
    std::fs::write(agent.path("go"), "").unwrap();
    assert_eq!(server.outcomes(lease.id).await.len(), 3, "it runs what it has kept");
    let is_over = |heartbeats: &[LeaseId]| !heartbeats.contains(&lease.id);
    let over =
        |record: &crate::record::Record| is_over(&record.lease_requests.last()?.held).then_some(());
    server.until("it holds the lease no more", over).await;
    assert_eq!(server.record().released.len(), 2);
}

#[tokio::test]
async fn a_lease_that_is_wanted_while_all_of_it_is_with_a_worker_gives_what_comes_back() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    // After thousands of quick elements the rest is in one frame, whose first slow one waits for the file `go`.
    let source = "
import os, time
def f(x):
    if x >= 3990:
        with open('@/at', 'a') as at: at.write(f'{x}\\n')
        while not os.path.exists('@/go'): time.sleep(0.02)
    return x
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 4000);
    server.grant(lease.clone(), b"", &job);
    file(&agent.path("at")).await;
    want(&server, &[lease.id]);
    server.until("it has been told", |record| record.orders.wanted.is_empty().then_some(())).await;
    std::fs::write(agent.path("go"), "").unwrap();
    let released = server.until("half is given", |record| record.released.first().cloned()).await;
    let given = released.part.unwrap();
    let [Range(first, 4000)] = *given.ranges() else { panic!("the end of it: {given:?}") };
    assert!(released.id == lease.id && first > 3990);
    assert_eq!(server.outcomes(lease.id).await.len() as u64, first, "it runs what it has kept");
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_waits_for_a_slot_is_given_whole_to_whoever_wants_it() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = job(&agent);
    job.options.chunk_size = Some(3);
    let (begun, waiting) = (integers(&job, 0, 3), integers(&job, 3, 6));
    server.grant_together([(begun.clone(), &job), (waiting.clone(), &job)]);
    file(&agent.path("at")).await;
    want(&server, &[begun.id, waiting.id]);
    let released = server.until("one is given", |record| record.released.first().cloned()).await;
    assert_eq!((released.id, released.part), (waiting.id, None));
    std::fs::write(agent.path("go"), "").unwrap();
    assert_eq!(server.outcomes(begun.id).await.len(), 3, "a chunk of a fixed size stays whole");
    assert_eq!(server.record().released.len(), 1);
}

#[tokio::test]
async fn work_is_asked_for_ahead_while_elements_are_quick() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let job = python("lambda x: x", agent.folder.path());
    server.grant(integers(&job, 0, 1), b"", &job);
    let asks = |free, ahead| {
        move |record: &crate::record::Record| {
            let asked = record.lease_requests.iter().map(|one| (one.free, one.ahead));
            asked.rev().find(|&asked| asked == (free, ahead))
        }
    };
    server.until("it is known to be quick", asks(2, 1)).await;
    assert_eq!(server.record().lease_requests[0].ahead, 0, "nothing is known at first");
    let waits = python(WAITS, agent.folder.path());
    let leases = [0, 1].map(|i| (integers(&waits, i, i + 1), &waits));
    server.grant_together(leases);
    server.until("no slot is free, and one is known to be quick", asks(0, 1)).await;
    let ahead = integers(&waits, 2, 3);
    server.grant(ahead.clone(), b"", &waits);
    std::fs::write(agent.path("go"), "").unwrap();
    assert_eq!(server.outcomes(ahead.id).await.len(), 1);
}

#[tokio::test]
async fn nothing_is_asked_for_ahead_when_nothing_is_left() {
    let server = FakeServer::start();
    server.change(|record| record.has_more = false);
    let agent = TestAgent::start(&server, 1);
    let job = python("lambda x: x", agent.folder.path());
    let first = integers(&job, 0, 1);
    server.grant(first.clone(), b"", &job);
    server.outcomes(first.id).await;
    let waits = python(WAITS, agent.folder.path());
    let second = integers(&waits, 0, 1);
    server.grant(second.clone(), b"", &waits);
    file(&agent.path("at")).await;
    std::fs::write(agent.path("go"), "").unwrap();
    server.outcomes(second.id).await;
    let is_for_a_free_slot = |record: &crate::record::Record| {
        record.lease_requests.iter().all(|request| request.free == 1)
    };
    assert!(is_for_a_free_slot(&server.record()), "its slot was busy and nothing was left");
}

#[tokio::test]
async fn a_request_that_is_superseded_ends_with_its_answer_and_not_with_its_connection() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let job = python(WAITS, agent.folder.path());
    server.grant(integers(&job, 0, 1), b"", &job);
    file(&agent.path("at")).await;
    let asks_for = |free| {
        move |record: &crate::record::Record| {
            record.lease_requests.last().filter(|one| one.free == free).map(drop)
        }
    };
    server.until("it asks for the other slot", asks_for(1)).await;
    std::fs::write(agent.path("go"), "").unwrap();
    server.until("it asks for both", asks_for(2)).await;
    server
        .until("the first is answered", |record| (record.answered_leases == 2).then_some(()))
        .await;
}

#[tokio::test]
async fn an_answer_that_a_later_one_has_overtaken_runs_nothing_again() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let job = python(WAITS, agent.folder.path());
    let [first, second, third] = [0, 1, 2].map(|i| integers(&job, i, i + 1));
    server.grant(first.clone(), b"", &job);
    file(&agent.path("at")).await;
    let asks_for = |free, at_least: usize| {
        move |record: &crate::record::Record| {
            let asked = record.lease_requests.last().is_some_and(|one| one.free == free);
            (asked && record.lease_requests.len() >= at_least).then_some(())
        }
    };
    server.until("it asks for the other slot", asks_for(1, 2)).await;
    server.change(|record| record.late_answer = Some((2, false)));
    std::fs::write(agent.path("go"), "").unwrap();
    server.until("it asks for both", asks_for(2, 3)).await;
    server.grant(second.clone(), b"", &job);
    server.outcomes(second.id).await;
    let is_over = |record: &crate::record::Record| {
        let last = record.lease_requests.last()?;
        (last.free == 2 && !last.held.contains(&second.id)).then_some(())
    };
    server.until("it holds nothing", is_over).await;
    let n_answered = server.change(|record| {
        record.late_answer = Some((2, true));
        record.answered_leases
    });
    server.until("it is answered", |r| (r.answered_leases > n_answered).then_some(())).await;
    server.grant(third.clone(), b"", &job);
    server.outcomes(third.id).await;
    let ran = std::fs::read_to_string(agent.path("at")).unwrap();
    assert_eq!(ran.lines().count(), 3, "each ran once: {ran}");
}
