//! Files that elements leave behind.

use protocol::agent::JobSpec;
use protocol::artifact::{Artifact, MOST_ARTIFACTS};
use protocol::job::Runtime;
use serde_json::json;

use crate::harness::{TestAgent, command, file, integers, python};
use crate::record::Outcome;
use crate::server::{FakeServer, digest_of};

/// A Python job whose elements leave files behind. Its source finds `leave(name, text)`.
fn leaving(source: &str, agent: &TestAgent) -> JobSpec {
    let leave = "
import os
def leave(name, text, folder='FARROW_ARTIFACTS'):
    path = os.path.join(os.environ[folder], name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
";
    let mut job = python(&format!("{leave}{source}"), agent.folder.path());
    job.options.artifacts = true;
    job
}

async fn run(server: &FakeServer, job: &JobSpec, n: u64) -> Vec<Outcome> {
    let lease = integers(job, 0, n);
    server.grant(lease.clone(), b"", job);
    server.outcomes(lease.id).await
}

fn artifact(name: &str, bytes: &str) -> Artifact {
    let digest = digest_of(bytes.as_bytes());
    Artifact { name: name.to_owned(), digest, bytes: bytes.len() as u64 }
}

/// The error of an outcome: its kind and its message.
fn error(outcome: &Outcome) -> (&str, &str) {
    let error = outcome.result.as_ref().unwrap_err();
    (&error.kind, &error.message)
}

#[tokio::test]
async fn files_are_blobs_before_the_outcome_that_lists_them() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    // Small and quick, so that a frame would hold many of them.
    let source = "
def f(x):
    found = [os.listdir(os.environ[name]) for name in ['FARROW_ARTIFACTS', 'FARROW_SCRATCH']]
    leave('half', 'thrown away', 'FARROW_SCRATCH')
    leave('same', 'same')
    if x % 2:
        leave(f'plots/é {x}.txt', str(x))
    return found
";
    let outcomes = run(&server, &leaving(source, &agent), 40).await;
    for (x, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.result, Ok(json!([[], []])), "the folders are emptied for each");
        let mut expected = vec![artifact("same", "same")];
        if x % 2 == 1 {
            expected.insert(0, artifact(&format!("plots/é {x}.txt"), &x.to_string()));
        }
        assert_eq!(outcome.note.artifacts, expected);
        assert_eq!(outcome.note.conditions, []);
    }
    assert_eq!(server.record().blobs_put.len(), 21, "what is there is not sent again");
    assert_eq!(server.record().blobs[&digest_of(b"7")], b"7");
    agent.stop().await;
}

#[tokio::test]
async fn an_error_keeps_its_artifacts_and_so_does_a_death() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
def f(x):
    leave('log', str(x))
    if x == 0:
        raise ValueError('no')
    if x == 1:
        os.abort()
    return x
";
    let mut job = leaving(source, &agent);
    job.options.retries = 0;
    job.options.on_error = protocol::job::OnError::Collect;
    let outcomes = run(&server, &job, 3).await;
    assert_eq!(error(&outcomes[0]), ("ValueError", "no"));
    assert_eq!(error(&outcomes[1]).0, "WorkerDied");
    assert_eq!(outcomes[2].result, Ok(json!(2)));
    for (x, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.note.artifacts, [artifact("log", &x.to_string())]);
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_is_no_file_is_left_out_and_told() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    std::fs::write(agent.path("secret"), "secret").unwrap();
    let source = "
def f(x):
    folder = os.environ['FARROW_ARTIFACTS']
    if x == 1:
        os.rmdir(folder)
        os.symlink('@', folder)
        return x
    leave('file', 'text')
    os.symlink('@/secret', folder + '/link')
    os.symlink('@', folder + '/folder')
    os.mkfifo(folder + '/pipe')
    open(os.fsencode(folder) + b'/\\xff', 'w').close()
    return x
";
    let mut job = leaving(source, &agent);
    job.options.conditions = false;
    let outcomes = run(&server, &job, 3).await;
    for x in [0, 2] {
        let note = &outcomes[x].note;
        assert_eq!(note.artifacts, [artifact("file", "text")]);
        let [told] = &note.conditions[..] else { panic!("{note:?}") };
        assert_eq!(told.kind, "ArtifactsLeftOut");
        for part in
            ["`link` (a symbolic link)", "`folder` (a sym", "`pipe` (no regular file)", "not UTF-8"]
        {
            assert!(told.message.contains(part), "{told:?}");
        }
    }
    assert_eq!(outcomes[1].note.artifacts, []);
    assert!(outcomes[1].note.conditions[0].message.contains("it is a folder no more"));
    assert_eq!(server.record().blobs.len(), 1);
    assert!(agent.path("secret").exists(), "what a link leads to stays");
    agent.stop().await;
}

#[tokio::test]
async fn too_much_is_an_error_of_the_element() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.workers.max_artifacts = 10;
    });
    let source = "
def f(x):
    if x == 0:
        leave('a', '12345')
        leave('b', '123456')
    elif x == 1:
        [leave(str(n), '') for n in range(1001)]
    elif x == 2:
        leave('a', '12345678901')
        raise ValueError('mine')
    else:
        leave('a', '1234567890')
    return x
";
    let mut job = leaving(source, &agent);
    job.options.on_error = protocol::job::OnError::Collect;
    let outcomes = run(&server, &job, 4).await;
    for (outcome, part) in [(&outcomes[0], "10 B"), (&outcomes[1], &*MOST_ARTIFACTS.to_string())] {
        let (kind, message) = error(outcome);
        assert_eq!(kind, "ArtifactsTooLarge");
        assert!(message.contains(part), "{message}");
        assert_eq!(outcome.note.artifacts, []);
    }
    assert_eq!(error(&outcomes[2]), ("ValueError", "mine"), "an error stays what it is");
    assert!(outcomes[2].note.conditions[0].message.contains("10 B"));
    assert_eq!(outcomes[3].note.artifacts, [artifact("a", "1234567890")]);
    agent.stop().await;
}

#[tokio::test]
async fn what_the_server_refuses_is_an_error_of_the_element() {
    for (status, kind) in [(413, "ArtifactsTooLarge"), (403, "ArtifactsNotKept")] {
        let server = FakeServer::start();
        let agent = TestAgent::start(&server, 1);
        server.change(|record| record.refuses_blobs = Some(status));
        let job = leaving("def f(x):\n    leave('a', '1')\n    return x", &agent);
        let outcomes = run(&server, &job, 1).await;
        let (found, message) = error(&outcomes[0]);
        assert_eq!(found, kind);
        assert!(message.contains("`a`") && message.contains("as the test wants"), "{message}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_changes_all_the_time_is_left_out() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    // As if: the server finds another digest each time.
    server.change(|record| record.refuses_blobs = Some(422));
    let job = leaving("def f(x):\n    leave('a', '1')\n    return x", &agent);
    let outcomes = run(&server, &job, 1).await;
    assert_eq!(outcomes[0].result, Ok(json!(0)));
    let told = &outcomes[0].note.conditions[0].message;
    assert_eq!(told, "no artifacts: `a` (it changes while it is read)");
    assert_eq!(server.record().blobs_put.len(), 3);
    agent.stop().await;
}

#[tokio::test]
async fn commands_leave_files_and_who_does_not_ask_has_no_folder_for_them() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::Python, Runtime::Command];
    });
    let script = "ls $FARROW_SCRATCH; echo {} > $FARROW_SCRATCH/x; gzip -cn $FARROW_SCRATCH/x \
                  > $FARROW_ARTIFACTS/x.gz; echo ${FARROW_ARTIFACTS:+set}";
    let mut job = command(&["sh", "-c", script]);
    job.options.artifacts = true;
    for outcome in run(&server, &job, 2).await {
        assert_eq!(outcome.result, Ok(json!("set")));
        assert_eq!(outcome.note.artifacts[0].name, "x.gz");
    }
    job = command(&["sh", "-c", "test -d $FARROW_SCRATCH && echo ${FARROW_ARTIFACTS-none}"]);
    assert_eq!(run(&server, &job, 1).await[0].result, Ok(json!("none")));
    let source = "import os\nlambda x: [os.path.isdir(os.environ['FARROW_SCRATCH']), os.environ.get('FARROW_ARTIFACTS')]";
    let job = python(source, agent.folder.path());
    assert_eq!(run(&server, &job, 1).await[0].result, Ok(json!([true, null])));
    agent.stop().await;
}

#[tokio::test]
async fn files_wait_for_a_server_that_is_away() {
    let mut server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import time
def f(x):
    while not os.path.exists('@/go'):
        time.sleep(0.005)
    leave('empty', '')
    leave('file', 'text' * 100_000)
    with open('@/done', 'w') as file:
        file.write('done\\n')
    return x
";
    let job = leaving(source, &agent);
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    server
        .until("the lease is held", |record| {
            record.heartbeats.last()?.held.contains(&lease.id).then_some(())
        })
        .await;
    server.stop();
    std::fs::write(agent.path("go"), "").unwrap();
    file(&agent.path("done")).await;
    server.start_again();
    let outcomes = server.outcomes(lease.id).await;
    let expected = [artifact("empty", ""), artifact("file", &"text".repeat(100_000))];
    assert_eq!(outcomes[0].note.artifacts, expected);
    agent.stop().await;
}
