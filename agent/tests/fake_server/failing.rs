//! Elements that die, hang, or cannot be run.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use protocol::job::ElementError;

use crate::harness::{TestAgent, file, gone, integers, python};
use crate::record::Record;
use crate::server::FakeServer;

/// Runs elements 0 up to `end` of a job and returns the errors by index; all other values must be
/// their index.
async fn errors(
    function: &str,
    end: u64,
    change: impl FnOnce(&mut protocol::agent::JobSpec),
) -> BTreeMap<usize, ElementError> {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = python(function, agent.folder.path());
    change(&mut job);
    let lease = integers(&job, 0, end);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert!(server.record().reported_order(lease.id).is_sorted());
    agent.stop().await;
    let mut errors = BTreeMap::new();
    for (index, outcome) in outcomes.into_iter().enumerate() {
        match outcome.result {
            Ok(value) => assert_eq!(value, index),
            Err(error) => drop(errors.insert(index, error)),
        }
    }
    errors
}

#[tokio::test]
async fn an_agent_whose_scratch_folder_was_emptied_makes_it_anew() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let own_folder = || {
        let entries = std::fs::read_dir(agent.path("scratch")).unwrap().flatten();
        let mut agents =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"agent-"));
        agents.next().unwrap().path()
    };
    // A worker that is there is not used for another user's: each lease needs a new one.
    for (owner, part) in ["scripts/worker_io.py", "scripts", ""].into_iter().enumerate() {
        let mut job = python("lambda x: x", agent.folder.path());
        job.owner = owner.to_string();
        let lease = integers(&job, 0, 3);
        if owner == 0 {
            let registered = |record: &Record| (!record.registers.is_empty()).then_some(());
            server.until("the agent is there", registered).await;
        }
        let folder = own_folder().join(part);
        match folder.is_dir() {
            true => std::fs::remove_dir_all(folder).unwrap(),
            false => std::fs::remove_file(folder).unwrap(),
        }
        server.grant(lease.clone(), b"", &job);
        assert!(
            server.outcomes(lease.id).await.iter().all(|outcome| outcome.result.is_ok()),
            "{part}"
        );
        let held = std::fs::File::open(own_folder().join("lock")).unwrap();
        assert!(held.try_lock().is_err(), "{part}: nobody holds the lock");
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_element_that_crashes_its_worker_tells_its_story() {
    let source = "
import os, sys
def f(x):
    if x == 1:
        print('last words', file=sys.stderr)
        os.kill(os.getpid(), 11)
    return x
";
    let errors = errors(source, 3, |_| {}).await;
    let [(1, error)] = &errors.into_iter().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((error.kind.as_str(), error.fatal), ("WorkerDied", false));
    assert!(error.message.contains("twice (killed by SIGSEGV"), "{}", error.message);
    assert!(error.message.contains("standard error:\nlast words\n"), "{}", error.message);
}

#[tokio::test]
async fn an_element_that_quits_tells_its_story() {
    let source = "import os\ndef f(x):\n  if x == 0: os._exit(0)\n  return x";
    let errors = errors(source, 2, |job| job.options.retries = 0).await;
    assert_eq!(errors.keys().collect::<Vec<_>>(), [&0]);
    assert!(errors[&0].message.contains("once (exit status 0: it called quit()"), "{errors:?}");
}

#[tokio::test]
async fn an_element_that_closes_what_the_agent_speaks_through_costs_itself_only() {
    let source = "import os\ndef f(x):\n  if x == 1: os.closerange(3, 256)\n  return x";
    let errors = errors(source, 3, |job| job.options.retries = 0).await;
    assert_eq!(errors.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(errors[&1].kind, "WorkerDied");
}

#[tokio::test]
async fn a_frame_that_kills_its_worker_is_narrowed_down_to_the_one_element() {
    let source = "import os\ndef f(x):\n  if x == 777: os._exit(3)\n  return x";
    let errors = errors(source, 1000, |_| {}).await;
    assert_eq!(errors.keys().collect::<Vec<_>>(), [&777]);
    assert!(errors[&777].message.contains("exit status 3"), "{errors:?}");
}

#[tokio::test]
async fn an_element_that_dies_once_has_a_value_and_a_second_attempt() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os
def f(x):
    if not os.path.exists('@/tried'):
        open('@/tried', 'w').close()
        os.abort()
    return x
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(outcomes[0].result, Ok(0.into()));
    assert_eq!(outcomes[0].note.attempts, 2);
    agent.stop().await;
}

#[tokio::test]
async fn an_error_is_run_again_if_the_job_wants_it_and_only_the_last_run_is_told_of() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os
def f(x):
    with open(f'@/ran{x}', 'a') as ran: ran.write('.')
    runs = os.path.getsize(f'@/ran{x}')
    print('run', runs)
    if x == 5 or x == 3 and runs < 3: raise ValueError(runs)
    return x
";
    let mut job = python(source, agent.folder.path());
    job.options.retries = 2;
    for (retry_on_error, attempts) in [(true, [1, 3, 3]), (false, [1, 1, 1])] {
        job.id = protocol::JobId::new();
        job.options.retry_on_error = retry_on_error;
        let lease = integers(&job, 2, 7);
        server.grant(lease.clone(), b"", &job);
        let outcomes = server.outcomes(lease.id).await;
        let ran = [0, 1, 3].map(|at| outcomes[at].note.attempts.max(1));
        assert_eq!(ran, attempts, "{outcomes:?}");
        // The files count on: without a second run the next job's only one is the fourth.
        let last = if retry_on_error { 3 } else { 4 };
        let error = outcomes[3].result.clone().unwrap_err();
        assert_eq!((error.kind.as_str(), error.message), ("ValueError", last.to_string()));
        assert_eq!(outcomes[3].note.stdout, format!("run {last}\n"));
        assert!(outcomes[1].result.is_ok());
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_element_that_never_returns_is_killed_with_all_it_started() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os, subprocess, time
def f(x):
    if x != 1: return x
    stray = subprocess.Popen(['setsid', 'sleep', '1000'])
    forked = os.fork()
    if forked == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        with open('@/pids', 'a') as pids: pids.write(f'{os.getpid()}\\n')
        time.sleep(1000)
    os.waitpid(forked, 0)
    with open('@/pids', 'a') as pids: pids.write(f'{os.getpid()} {stray.pid}\\n')
    time.sleep(1000)
";
    let mut job = python(source, agent.folder.path());
    job.options.timeout = Some(1.5);
    job.options.retries = 0;
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    let error = outcomes[1].result.clone().unwrap_err();
    assert_eq!(error.kind, "Timeout");
    assert_eq!(error.message, "ran longer than timeout = 1.5 s, once");
    assert_eq!((&outcomes[0].result, &outcomes[2].result), (&Ok(0.into()), &Ok(2.into())));
    let pids = file(&agent.path("pids")).await;
    assert!(pids.split_whitespace().count() >= 3, "{pids}");
    gone(&pids).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_element_that_uses_too_much_memory_is_killed_and_tells_how_much() {
    let source = "
import subprocess, sys, time
def f(x):
    if x == 1:
        hoard = b'x' * (400 << 20)
        time.sleep(1000)
    if x == 2:
        code = 'import time; hoard = b\"x\" * (400 << 20); time.sleep(1000)'
        subprocess.run([sys.executable, '-c', code])
    return x
";
    let errors = errors(source, 4, |job| job.options.memory = Some(200 << 20)).await;
    assert_eq!(errors.keys().collect::<Vec<_>>(), [&1, &2]);
    for error in errors.values() {
        assert_eq!((error.kind.as_str(), error.fatal), ("WorkerDied", false));
        let story = "its worker died, twice (it used ";
        assert!(error.message.starts_with(story), "{}", error.message);
        // Where the kernel bounds it there is nothing beyond the bound to be measured.
        let bound = "more than the 200 MiB of options.memory)";
        assert!(error.message.contains(bound), "{}", error.message);
    }
}

#[tokio::test]
async fn memory_that_forked_processes_share_counts_once() {
    let source = "
import os, time
def f(x):
    hoard = b'x' * (100 << 20)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            # Not for luck: that the agent looks meanwhile is what is to happen here.
            time.sleep(1)
            os._exit(0)
        children.append(child)
    for child in children: os.waitpid(child, 0)
    return x
";
    let errors = errors(source, 1, |job| job.options.memory = Some(250 << 20)).await;
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
async fn what_an_element_leaves_running_is_swept_when_its_job_is_over() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os, subprocess, time
def f(x):
    child = subprocess.Popen(['sleep', '1000'], start_new_session=True)
    forked = os.fork()
    if forked == 0:
        os.setsid()
        daemon = os.fork()
        if daemon:
            with open('@/pids', 'w') as pids: pids.write(f'{child.pid} {daemon}\\n')
            os._exit(0)
        time.sleep(1000)
    os.waitpid(forked, 0)
    open('here', 'w').close()
    return os.getpid()
";
    let job = python(source, agent.folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let worker = server.outcomes(lease.id).await[0].result.clone().unwrap();
    gone(&file(&agent.path("pids")).await).await;
    // The same worker serves the next job, in an empty folder.
    let source = "import os\nlambda x: [os.getpid(), os.listdir('.')]";
    let next = python(source, agent.folder.path());
    let lease = integers(&next, 0, 1);
    server.grant(lease.clone(), b"", &next);
    let found = server.outcomes(lease.id).await[0].result.clone().unwrap();
    assert_eq!(found, serde_json::json!([worker, []]));
    agent.stop().await;
}

#[tokio::test]
async fn a_function_that_does_not_parse_fails_the_job_and_the_rest_is_given_back() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python("def f(x:\n  return x", agent.folder.path());
    let lease = integers(&job, 4, 9);
    server.grant(lease.clone(), b"", &job);
    let released =
        server.until("it is given back", |record| record.released.first().cloned()).await;
    assert_eq!(released.id, lease.id);
    let outcomes = server.record().outcomes.clone();
    let [((_, 4), outcome)] = &outcomes.into_iter().collect::<Vec<_>>()[..] else { panic!() };
    let error = outcome.result.clone().unwrap_err();
    assert!(error.fatal && error.kind == "SyntaxError", "{error:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_set_up_that_kills_its_worker_fails_the_job_after_its_retries() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = python("lambda x: x", agent.folder.path());
    job.setup = "import os; os._exit(9)".to_owned();
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let outcome = server
        .until("the job has failed", |record| record.outcomes_of(lease.id).first().cloned())
        .await;
    let error = outcome.result.unwrap_err();
    assert!(error.fatal && error.message.contains("set up the job"), "{error:?}");
    assert!(error.message.contains("twice (exit status 9)"), "{error:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_set_up_that_never_returns_is_killed_and_fails_the_job() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = python("lambda x: x", agent.folder.path());
    let pids = agent.path("pids");
    job.setup = format!(
        "import os, time\nopen({pids:?}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(1000)"
    );
    job.options.timeout = Some(1.5);
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let outcome = server
        .until("the job has failed", |record| record.outcomes_of(lease.id).first().cloned())
        .await;
    let error = outcome.result.unwrap_err();
    assert!(error.fatal && error.kind == "Timeout", "{error:?}");
    let story = "setting up the job (packages, globals, setup, function) \
        ran longer than timeout = 1.5 s, twice";
    assert_eq!(error.message, story);
    gone(&file(&pids).await).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_outcome_that_is_too_large_becomes_an_error_and_the_others_stay() {
    let server = FakeServer::start();
    server.change(|record| record.largest_report = Some(1000));
    let agent = TestAgent::start(&server, 1);
    let job = python("lambda x: 'y' * 2000 if x == 2 else x", agent.folder.path());
    let lease = integers(&job, 0, 500);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    let failed: Vec<usize> = (0..500).filter(|at| outcomes[*at].result.is_err()).collect();
    assert_eq!(failed, [2]);
    let error = outcomes[2].result.clone().unwrap_err();
    assert!(error.message.contains("larger than the server accepts"), "{error:?}");
    agent.stop().await;
}

#[tokio::test]
async fn what_a_job_has_done_to_its_worker_is_not_the_next_ones_fault() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let damaging = "import sys\ndef f(x):\n  sys.modules.clear()\n  return x";
    let mut last = String::new();
    for source in [damaging, "lambda x: x"] {
        let mut job = python(source, agent.folder.path());
        job.options.retries = 0;
        let lease = integers(&job, 0, 1);
        server.grant(lease.clone(), b"", &job);
        last = format!("{:?}", server.outcomes(lease.id).await[0].result);
    }
    assert_eq!(last, "Ok(Number(0))");
    agent.stop().await;
}

#[tokio::test]
async fn a_machine_that_starts_no_worker_gives_its_leases_back_and_fails_no_job() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "").unwrap();
    let supervisor = folder.path().join("supervisor");
    let real = env!("CARGO_BIN_EXE_farrow-supervise");
    let script = format!("#!/bin/sh\n[ -e {} ] || exec {real} \"$@\"\n", broken.display());
    std::fs::write(&supervisor, script).unwrap();
    std::fs::set_permissions(&supervisor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = TestAgent::start_with(&server, 2, |config| config.supervisor = supervisor);
    let mut job = python("lambda x: x", agent.folder.path());
    job.options.retries = 0;
    let mut lease = integers(&job, 0, 3);
    lease.deaths.insert(1, 1);
    server.grant(lease.clone(), b"", &job);
    let released =
        server.until("it is given back", |record| record.released.first().cloned()).await;
    assert_eq!((released.id, released.deaths), (lease.id, lease.deaths));
    assert!(server.record().reports.is_empty(), "nothing failed");
    // Whoever repairs the machine need not tell the agent.
    std::fs::remove_file(broken).unwrap();
    let again = integers(&job, 0, 3);
    server.grant(again.clone(), b"", &job);
    assert!(server.outcomes(again.id).await.iter().all(|outcome| outcome.result.is_ok()));
    agent.stop().await;
}
