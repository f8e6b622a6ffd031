//! Jobs that spoil, or would spoil, what others find prepared.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::JobId;
use protocol::agent::JobSpec;
use serde_json::json;

use crate::ending::start_agent_process;
use crate::harness::{TestAgent, file, gone, integers, python};
use crate::preparing::{failure, put_files, value};
use crate::server::FakeServer;

#[tokio::test]
async fn what_a_worker_writes_is_seen_by_no_other_worker_and_no_later_job() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    // Element 0 spoils everything, and ends when element 1, in another worker, has looked.
    let source = "
import os, time
look = lambda: [open('in/x').read(), sorted(os.listdir('.')), open('made').read()]
def f(x):
    if x == 1:
        while not os.path.exists('@/spoilt'): time.sleep(0.005)
        seen = look()
        open('@/seen', 'w').write('\\n')
        return seen
    open('in/x', 'w').write('spoilt')
    open('new', 'w').write('new')
    os.remove('made')
    open('@/spoilt', 'w').write('\\n')
    while not os.path.exists('@/seen'): time.sleep(0.005)
";
    let mut job = python(source, agent.folder.path());
    job.files = Some(put_files(&server, &[("in/x", "input")]));
    job.prepare = "echo here > made; chmod 500 in".to_owned();
    let leases = [integers(&job, 0, 1), integers(&job, 1, 2)];
    server.grant_together([(leases[0].clone(), &job), (leases[1].clone(), &job)]);
    let pristine = json!(["input", ["in", "made"], "here\n"]);
    server.outcomes(leases[0].id).await;
    assert_eq!(server.outcomes(leases[1].id).await[0].result, Ok(pristine.clone()));
    let source = source.replace("if x == 1:", "if True:");
    let next = JobSpec { id: JobId::new(), ..python(&source, agent.folder.path()) };
    let next = JobSpec { files: job.files, prepare: job.prepare, ..next };
    let leases = [integers(&next, 0, 1), integers(&next, 1, 2)];
    server.grant_together([(leases[0].clone(), &next), (leases[1].clone(), &next)]);
    for lease in &leases {
        assert_eq!(server.outcomes(lease.id).await[0].result, Ok(pristine.clone()));
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_job_with_which_no_worker_starts_fails_and_the_agent_works_on() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = python("lambda x: x", "".as_ref());
    job.prepare = "python=$FARROW_PREPARED/bin/python3\n\
        printf '#!/bin/sh\\necho broken >&2; exit 3\\n' > \"$python\"; chmod +x \"$python\""
        .to_owned();
    let error = failure(&server, &job).await;
    assert_eq!((error.kind.as_str(), error.fatal), ("PrepareFailed", true));
    for part in ["`python3`", "exit status 3", "broken"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(value(&server, &python("lambda x: x", "".as_ref())).await, 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_job_in_whose_workdir_no_worker_starts_fails_and_the_agent_works_on() {
    let server = FakeServer::start();
    let workdir = tempfile::tempdir().unwrap();
    std::fs::write(workdir.path().join("no-worker"), "").unwrap();
    let supervisor = workdir.path().join("supervisor");
    let real = env!("CARGO_BIN_EXE_farrow-supervise");
    let script = format!("#!/bin/sh\n[ -e no-worker ] || exec {real} \"$@\"\n");
    std::fs::write(&supervisor, script).unwrap();
    std::fs::set_permissions(&supervisor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let agent = TestAgent::start_with(&server, 1, |config| config.supervisor = supervisor);
    let mut job = python("lambda x: x", "".as_ref());
    job.workdir = Some(workdir.path().to_str().unwrap().to_owned());
    let error = failure(&server, &job).await;
    assert_eq!((error.kind.as_str(), error.fatal), ("PrepareFailed", true));
    assert!(error.message.contains(workdir.path().to_str().unwrap()), "{}", error.message);
    assert_eq!(value(&server, &python("lambda x: x", "".as_ref())).await, 0);
    agent.stop().await;
}

#[tokio::test]
async fn what_a_job_removes_of_its_environment_is_made_anew_for_the_next() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        TestAgent::start_with(&server, 1, |config| {
            config.settings.cache = Some(folder.path().join("cache"));
        })
    };
    let files = Some(put_files(&server, &[("x", "here")]));
    let source = "
import glob, os, shutil
def f(x):
    seen = open('x').read()
    [shutil.rmtree(folder) for folder in glob.glob('@/cache/*/files')]
    shutil.rmtree(os.getcwd())
    return seen
";
    for _ in 0..2 {
        let agent = start();
        let job = JobSpec { files: files.clone(), ..python(source, folder.path()) };
        assert_eq!(value(&server, &job).await, "here");
        agent.stop().await;
    }
}

#[tokio::test]
async fn when_a_preparing_agent_is_killed_the_next_waits_until_its_script_is_gone() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let mut killed = start_agent_process(&server, folder.path());
    let mut job = python("lambda x: x", "".as_ref());
    job.prepare = "[ -e @/again ] && { ! kill -0 $(cat @/script); exit; }\n\
        echo $PPID > @/supervisor; echo $$ > @/script; while :; do echo > $((i += 1)); done"
        .replace('@', folder.path().to_str().unwrap());
    server.grant(integers(&job, 0, 1), b"", &job);
    let script = file(&folder.path().join("script")).await;
    let supervisor = file(&folder.path().join("supervisor")).await;
    let supervisor = Pid::from_raw(supervisor.trim().parse().unwrap());
    std::fs::write(folder.path().join("again"), "").unwrap();
    // It takes as long as it likes to notice.
    kill(supervisor, Signal::SIGSTOP).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let cache = folder.path().join("prepared/tested");
    let files = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let lock =
        files.filter(|path| path.extension().is_some()).map(|path| File::open(path).unwrap());
    let is_held = lock.map(|lock| lock.try_lock()).all(|locked| locked.is_err());
    let other = FakeServer::start();
    let agent = TestAgent::start_with(&other, 1, |config| config.settings.cache = Some(cache));
    kill(supervisor, Signal::SIGCONT).unwrap();
    assert!(is_held, "by the supervisor");
    assert_eq!(value(&other, &job).await, 0);
    gone(&script).await;
    agent.stop().await;
}
