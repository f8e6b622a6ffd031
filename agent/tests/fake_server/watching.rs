//! What jobs say, heard while they run.

use protocol::job::{LogSource, LogStream, Runtime};

use crate::harness::{TestAgent, command, integers, python};
use crate::server::FakeServer;

#[tokio::test]
async fn what_an_element_says_is_heard_while_it_runs() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os, sys, time, warnings
def f(x):
    print(f'out {x}', flush=True)
    print(f'err {x}', file=sys.stderr, flush=True)
    warnings.warn(f'warn {x}')
    while x == 4 and not os.path.exists('@/go'): time.sleep(0.005)
    return x
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 2, 6);
    server.grant(lease.clone(), b"", &job);
    for (stream, text) in [
        (LogStream::Stdout, "out 4\n"),
        (LogStream::Stderr, "err 4\n"),
        (LogStream::Warning, "warn 4"),
    ] {
        server
            .until("element 4 is heard", |record| {
                let said = record.said(job.id, LogSource::Element, stream);
                said.get(&Some(4)).filter(|said| *said == text).map(drop)
            })
            .await;
    }
    assert!(!server.record().outcomes.contains_key(&(lease.id, 4)), "it still runs");
    std::fs::write(agent.path("go"), "").unwrap();
    let outcomes = server.outcomes(lease.id).await;
    agent.stop().await;
    let record = server.record();
    let said = record.said(job.id, LogSource::Element, LogStream::Stdout);
    let expected = (2..6).map(|x| (Some(x), format!("out {x}\n"))).collect();
    assert_eq!(said, expected, "all of it has come before the agent left");
    assert_eq!(outcomes[2].note.stdout, "out 4\n", "the outcome has it as well");
    let batches: Vec<u64> = record.logs.iter().map(|logs| logs.batch).collect();
    assert_eq!(batches, (1..=batches.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn r_is_heard_as_well_and_its_messages() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::R];
    });
    let mut job =
        python("function(x) { cat('out', x, '\n'); message('note ', x); x }", "".as_ref());
    job.runtime = Runtime::R;
    job.setup = "cat('set up\n')".to_owned();
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    server.outcomes(lease.id).await;
    agent.stop().await;
    let record = server.record();
    let said = record.said(job.id, LogSource::Element, LogStream::Stdout);
    assert_eq!(said, (0..3).map(|x| (Some(x), format!("out {x} \n"))).collect());
    let said = record.said(job.id, LogSource::Element, LogStream::Message);
    assert_eq!(said.keys().copied().collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert!(said[&Some(1)].contains("note 1"), "{said:?}");
    let said = record.said(job.id, LogSource::Setup, LogStream::Stdout);
    assert_eq!(said[&None], "set up\n");
}

#[tokio::test]
async fn a_condition_comes_behind_what_was_printed_before_it() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::R];
    });
    let mut job = python("function(x) { cat('out', x, '\n'); message('note ', x) }", "".as_ref());
    job.runtime = Runtime::R;
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    server.outcomes(lease.id).await;
    agent.stop().await;
    let record = server.record();
    let texts: Vec<&str> =
        record.logs.iter().flat_map(|logs| &logs.entries).map(|entry| entry.text.trim()).collect();
    assert_eq!(texts, ["out 0", "note 0", "out 1", "note 1", "out 2", "note 2"]);
}

#[tokio::test]
async fn a_command_is_heard_while_it_runs() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::Command];
    });
    let go = agent.path("go");
    let script = "echo working on $0 >&2; while [ ! -e $1 ]; do sleep 0.01; done; echo done";
    let job = command(&["sh", "-c", script, "{}", go.to_str().unwrap()]);
    let lease = integers(&job, 3, 4);
    server.grant(lease.clone(), b"", &job);
    server
        .until("it is heard", |record| {
            let said = record.said(job.id, LogSource::Element, LogStream::Stderr);
            (said.get(&Some(3))? == "working on 3\n").then_some(())
        })
        .await;
    std::fs::write(go, "").unwrap();
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(outcomes[0].result, Ok("done".into()));
    assert_eq!(outcomes[0].note.stderr, "working on 3\n");
    agent.stop().await;
    let said = server.record().said(job.id, LogSource::Element, LogStream::Stdout);
    assert!(said.is_empty(), "its standard output is its value: {said:?}");
}

#[tokio::test]
async fn what_a_job_does_not_want_kept_is_not_heard_but_its_set_up_is() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "import warnings\ndef f(x):\n  print(x); warnings.warn('w')\n  return x";
    let mut job = python(source, agent.folder.path());
    job.setup = "print('set up')".to_owned();
    job.options.stdout = false;
    job.options.conditions = false;
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    server.outcomes(lease.id).await;
    agent.stop().await;
    let record = server.record();
    let texts: Vec<&str> =
        record.logs.iter().flat_map(|logs| &logs.entries).map(|entry| &*entry.text).collect();
    assert_eq!(texts, ["set up\n"]);
}

#[tokio::test]
async fn what_a_killed_element_said_last_is_heard() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "import os\ndef f(x):\n  os.write(1, b'last words'); os._exit(1)";
    let mut job = python(source, agent.folder.path());
    job.options.retries = 0;
    let lease = integers(&job, 7, 8);
    server.grant(lease.clone(), b"", &job);
    server.outcomes(lease.id).await;
    agent.stop().await;
    let said = server.record().said(job.id, LogSource::Element, LogStream::Stdout);
    assert_eq!(said[&Some(7)], "last words");
}

#[tokio::test]
async fn a_log_whose_answer_is_lost_is_sent_again_unchanged() {
    let server = FakeServer::start();
    server.change(|record| record.loses_next_logs_answer = true);
    let agent = TestAgent::start(&server, 1);
    let job = python("def f(x):\n  print(x)\n  return x", agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    server.until("it is sent again", |record| (record.logs.len() == 2).then_some(())).await;
    agent.stop().await;
    let record = server.record();
    assert_eq!((record.logs[0].batch, record.logs[1].batch), (1, 1));
    assert_eq!(record.logs[0].entries, record.logs[1].entries);
}

#[tokio::test]
async fn a_log_that_is_too_large_for_one_request_goes_in_several() {
    let server = FakeServer::start();
    server.change(|record| record.most_log_entries = Some(1));
    let agent = TestAgent::start(&server, 1);
    let job = python("def f(x):\n  print(x)\n  return x", agent.folder.path());
    let lease = integers(&job, 0, 50);
    server.grant(lease.clone(), b"", &job);
    server.outcomes(lease.id).await;
    agent.stop().await;
    let record = server.record();
    assert!(record.refused_logs > 0);
    let said = record.said(job.id, LogSource::Element, LogStream::Stdout);
    let numbers: Vec<_> = (0..50).map(|n| (Some(n), format!("{n}\n"))).collect();
    assert_eq!(said.into_iter().collect::<Vec<_>>(), numbers);
}
