//! Leases that go well.

use std::collections::BTreeMap;

use protocol::Range;
use protocol::agent::{BlockSlice, Constant, Input, JobSpec, Lease, Note, Outer};
use protocol::job::{Encoding, Runtime, Variant};
use serde_json::json;

use crate::harness::{TestAgent, file, integers, python};
use crate::record::Outcome;
use crate::server::{FakeServer, digest_of as digest};

fn values(outcomes: &[Outcome]) -> Vec<serde_json::Value> {
    outcomes.iter().map(|outcome| outcome.result.clone().unwrap()).collect()
}

#[tokio::test]
async fn a_lease_comes_back_as_values_in_order() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python("lambda x: x * x", agent.folder.path());
    let lease = integers(&job, 0, 3000);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(values(&outcomes), (0..3000).map(|x| json!(x * x)).collect::<Vec<_>>());
    assert!(server.record().reported_order(lease.id).is_sorted());
    server
        .until("the lease is held no more", |record| {
            record.heartbeats.last()?.held.is_empty().then_some(())
        })
        .await;
    let register = server.record().registers[0].clone();
    assert_eq!((register.name.as_str(), register.slots), ("tested", 1));
    agent.stop().await;
    assert!(server.record().left);
    assert!(server.record().released.is_empty());
}

#[tokio::test]
async fn inputs_and_constants_come_inline_or_as_blobs_that_are_fetched_once() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let mut job = python("lambda x, by: x + by + str(len(table))", agent.folder.path());
    let (inputs, table) = (b"_\"aa\"\"b\"".as_slice(), br#"[1,2,3]"#.as_slice());
    let (inputs_digest, table_digest) = (digest(inputs), digest(table));
    server.put_blob(&inputs_digest, inputs);
    server.put_blob(&table_digest, table);
    let by = serde_json::from_str(r#""!""#).unwrap();
    job.args = BTreeMap::from([("by".to_owned(), Constant::Json(by))]);
    job.globals = BTreeMap::from([(
        "table".to_owned(),
        Constant::Blob { digest: table_digest, encoding: Encoding::Json },
    )]);

    let mut inline = integers(&job, 0, 2);
    inline.input = Input::Inline { lengths: vec![3, 2] };
    let mut block = integers(&job, 5, 7);
    let slice = BlockSlice { digest: inputs_digest, offset: 1, lengths: vec![4, 3] };
    block.input = Input::Blocks { blocks: vec![slice] };
    server.grant(inline.clone(), br#""x""""#, &job);
    server.grant(block.clone(), b"", &job);
    assert_eq!(values(&server.outcomes(inline.id).await), ["x!3", "!3"]);
    assert_eq!(values(&server.outcomes(block.id).await), ["aa!3", "b!3"]);
    assert_eq!(server.record().blob_fetches, 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_wide_lease_runs_its_elements_side_by_side() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    // Each element waits until the other runs as well.
    let source = "
import os, time
def both(x):
    open(f'@/at-{x}', 'w').close()
    while not os.path.exists(f'@/at-{1 - x}'):
        time.sleep(0.005)
    return os.environ['OMP_NUM_THREADS']
";
    let job = python(source, agent.folder.path());
    let mut lease = integers(&job, 0, 2);
    (lease.slots, lease.width) = (2, 2);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(values(&outcomes), ["1", "1"]);
    assert_ne!(outcomes[0].slot, outcomes[1].slot);
    agent.stop().await;
}

#[tokio::test]
async fn elements_behind_a_slow_one_in_its_frame_are_run_by_whoever_is_free() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 3);
    // After thousands of quick ones, most are in one frame. Behind the slow one none ends before three have begun.
    let source = "
import os, time
def both(x):
    if x == 3990:
        time.sleep(0.05)
    elif x > 3990:
        open(f'@/at-{x}', 'w').close()
        while sum(name.startswith('at-') for name in os.listdir('@')) < 3:
            time.sleep(0.005)
    return x
";
    let job = python(source, agent.folder.path());
    let mut lease = integers(&job, 0, 4000);
    (lease.slots, lease.width) = (3, 3);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert!(values(&outcomes).into_iter().eq(0..4000));
    agent.stop().await;
}

#[tokio::test]
async fn a_job_is_sent_once_and_its_worker_is_used_again() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python("import os\nlambda x: os.getpid()", agent.folder.path());
    let mut pids = Vec::new();
    for index in 0..3 {
        let lease = integers(&job, index, index + 1);
        server.grant(lease.clone(), b"", &job);
        pids.extend(values(&server.outcomes(lease.id).await));
    }
    assert!(pids[0] == pids[1] && pids[1] == pids[2], "{pids:?}");
    let known = server.record().lease_requests.last().unwrap().known_jobs.clone();
    assert_eq!(known, [job.id]);
    agent.stop().await;
}

#[tokio::test]
async fn another_owner_never_gets_the_same_worker() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "import os\nlambda x: os.getpid()";
    let mut pids = Vec::new();
    for owner in ["one", "two"] {
        let mut job = python(source, agent.folder.path());
        job.owner = owner.to_owned();
        let lease = integers(&job, 0, 1);
        server.grant(lease.clone(), b"", &job);
        pids.extend(values(&server.outcomes(lease.id).await));
    }
    assert_ne!(pids[0], pids[1]);
    agent.stop().await;
}

#[tokio::test]
async fn what_an_element_prints_is_its_own_and_bounded() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os, subprocess, warnings
def f(x):
    if x == 1: print('one')
    if x == 3: os.write(2, b'three\\n')
    if x == 5: print('y' * 100_000_000)
    if x == 7: warnings.warn('seven')
    return x
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 40);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(outcomes[1].note.stdout, "one\n");
    assert_eq!(outcomes[5].note.dropped, 100_000_001 - 65_536);
    assert!(outcomes[5].note.stdout.len() < 70_000);
    assert_eq!(outcomes[7].note.conditions[0].message, "seven");
    let said: Vec<usize> = (0..40).filter(|at| !outcomes[*at].note.stdout.is_empty()).collect();
    assert_eq!(said, [1, 5]);
    assert_eq!(outcomes.iter().filter(|o| o.note.stderr == "three\n").count(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn of_many_elements_that_print_each_has_its_own_line() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python("import os\ndef f(x): os.write(1, b'%d\\n' % x)", agent.folder.path());
    let first = integers(&job, 0, 1);
    server.grant(first.clone(), b"", &job);
    server.outcomes(first.id).await;
    let lease = integers(&job, 0, 500);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    // The worker notices nothing of this; the first element's frame, which is its own, taught the
    // agent to send one by one.
    let lines = outcomes.iter().map(|outcome| &outcome.note.stdout[..]);
    assert_eq!(lines.collect::<Vec<_>>(), (0..500).map(|x| format!("{x}\n")).collect::<Vec<_>>());
    agent.stop().await;
}

#[tokio::test]
async fn elements_whose_printing_only_the_agent_sees_go_alone_once_it_did() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "import os\ndef f(x):\n    if x > 4: os.write(1, b'%d\\n' % x)";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 500);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    let lines: Vec<_> = outcomes.iter().map(|outcome| &outcome.note.stdout[..]).collect();
    // The first frame in which something was printed may have held several elements.
    let end = 1 + lines.iter().position(|line| !line.is_empty()).unwrap();
    assert_eq!(lines[end - 1], (5..end).map(|x| format!("{x}\n")).collect::<String>());
    assert!(lines.iter().zip(0..).skip(end).all(|(line, x)| *line == format!("{x}\n")));
    agent.stop().await;
}

/// Runs 300 elements, of which two in seven are to print, right after one that printed, one that was
/// quick, or one so slow that its outcome was sent at once: what is to say of each.
async fn print_now_and_then(runtime: Runtime, function: &str) -> Vec<Note> {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![runtime];
    });
    let job = JobSpec { runtime, ..python(function, agent.folder.path()) };
    let lease = integers(&job, 0, 300);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(outcomes.len(), 300);
    agent.stop().await;
    outcomes.into_iter().map(|outcome| outcome.note).collect()
}

#[tokio::test]
async fn of_quick_elements_in_python_each_that_prints_has_its_own_text() {
    let source = "
import sys, time
def f(x):
    if x % 14 == 13: time.sleep(0.006)
    if x % 7 < 2:
        print('hi', x)
        print('oh', x, file=sys.stderr)
    return x
";
    for (x, note) in (0..).zip(print_now_and_then(Runtime::Python, source).await) {
        let of_it = |word: &str| if x % 7 < 2 { format!("{word} {x}\n") } else { String::new() };
        assert_eq!((note.stdout, note.stderr), (of_it("hi"), of_it("oh")), "element {x}");
    }
}

#[tokio::test]
async fn of_quick_elements_in_r_each_that_prints_has_its_own_text() {
    let source = "
function(x) {
    if (x %% 14 == 13) Sys.sleep(0.006)
    if (x %% 7 < 2) cat('hi ', x, '\n', sep = '')
    x
}";
    for (x, note) in (0..).zip(print_now_and_then(Runtime::R, source).await) {
        let own = if x % 7 < 2 { format!("hi {x}\n") } else { String::new() };
        assert_eq!((note.stdout, note.stderr), (own, String::new()), "element {x}");
    }
}

#[tokio::test]
async fn an_element_that_closes_its_output_costs_the_next_one_nothing() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os
def f(x):
    if x == 0:
        os.closerange(0, 3)
        os.closerange(5, 256)
    if x == 1: print('heard')
    return x
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(values(&outcomes), [0, 1]);
    assert_eq!(outcomes[1].note.stdout, "heard\n");
    agent.stop().await;
}

#[tokio::test]
async fn r_runs_as_well() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::R];
    });
    let source = "function(x) { if (x == 2) quit(); if (x == 3) message('three'); x + 0.5 }";
    let mut job = python(source, agent.folder.path());
    job.runtime = Runtime::R;
    let lease = integers(&job, 0, 5);
    server.grant(lease.clone(), b"", &job);
    let mut outcomes = server.outcomes(lease.id).await;
    let error = outcomes.remove(2).result.unwrap_err();
    assert!(error.message.contains("exit status 0: it called quit()"), "{error:?}");
    assert_eq!(values(&outcomes), [0.5, 1.5, 3.5, 4.5]);
    assert_eq!(outcomes[2].note.conditions[0].message, "three");
    agent.stop().await;
}

#[tokio::test]
async fn slots_that_become_free_are_asked_for_while_a_request_waits() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let source = "
import os, time
def f(x):
    while not os.path.exists('@/go'): time.sleep(0.005)
    open('@/done', 'w').write('\\n')
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    server
        .until("one slot is asked for", |r| (r.lease_requests.last()?.free == 1).then_some(()))
        .await;
    std::fs::write(agent.path("go"), "").unwrap();
    file(&agent.path("done")).await;
    server.until("both are", |r| (r.lease_requests.last()?.free == 2).then_some(())).await;
    agent.stop().await;
}

#[tokio::test]
async fn keys_calls_and_encoded_elements_reach_the_worker() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    // Names, of a lease with a gap.
    let mut job = python("lambda x, key: [x, key]", "".as_ref());
    job.options.variant = Variant::Imap;
    let mut lease = integers(&job, 4, 7);
    lease.ranges.remove(Range(5, 6));
    lease.names = vec!["four".to_owned(), "six".to_owned()];
    server.grant(lease.clone(), b"", &job);
    let values = server.outcomes(lease.id).await;
    let values: Vec<_> = values.into_iter().map(|outcome| outcome.result.unwrap()).collect();
    assert_eq!(values, [json!([4, "four"]), json!([6, "six"])]);
    // Inner and outer elements.
    let mut job = python("lambda x, inner, outer: [x, inner, outer]", "".as_ref());
    job.options.variant = Variant::Imap;
    let mut lease = integers(&job, 4, 5);
    lease.outer = Some(Outer { index: 2, first: 3, name: None });
    server.grant(lease.clone(), b"", &job);
    assert_eq!(server.outcomes(lease.id).await[0].result, Ok(json!([4, 1, 2])));
    // A call.
    let mut job = python("6 * 7", "".as_ref());
    job.is_call = true;
    let lease = Lease { input: Input::Nothing, ..integers(&job, 0, 1) };
    server.grant(lease.clone(), b"", &job);
    assert_eq!(server.outcomes(lease.id).await[0].result, Ok(json!(42)));
    // Bytes, which stay bytes; the value happens to be JSON, for this server's sake.
    let mut job = python("lambda x: bytes(reversed(x))", "".as_ref());
    job.options.encoding = Encoding::Bytes;
    let lease = Lease { input: Input::Inline { lengths: vec![3] }, ..integers(&job, 0, 1) };
    server.grant(lease.clone(), b"321", &job);
    assert_eq!(server.outcomes(lease.id).await[0].result, Ok(json!(123)));
    agent.stop().await;
}
