//! Jobs with `files` and `prepare`.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::agent::JobSpec;
use protocol::job::{ElementError, LogSource, LogStream, Runtime};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{TestAgent, command, file, gone, integers, python};
use crate::server::FakeServer;

/// Puts a tar.gz of these files on the server; its digest.
pub fn put_files(server: &FakeServer, files: &[(&str, &str)]) -> String {
    let mut packer = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        packer.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    put_archive(server, &packer.into_inner().unwrap().finish().unwrap())
}

fn put_archive(server: &FakeServer, archive: &[u8]) -> String {
    let hex: String = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    server.put_blob(&digest, archive);
    digest
}

/// Runs one element of a job; its value.
pub async fn value(server: &FakeServer, job: &JobSpec) -> Value {
    let lease = integers(job, 0, 1);
    server.grant(lease.clone(), b"", job);
    server.outcomes(lease.id).await[0].result.clone().unwrap()
}

/// Runs a job that cannot be prepared; its error.
pub async fn failure(server: &FakeServer, job: &JobSpec) -> ElementError {
    let lease = integers(job, 0, 2);
    server.grant(lease.clone(), b"", job);
    let outcome = server
        .until("the job has failed", |record| record.outcomes_of(lease.id).first().cloned())
        .await;
    outcome.result.unwrap_err()
}

/// A script that notes each of its runs in the file `runs`.
fn counted(folder: &Path, then: &str) -> String {
    format!("echo $$ >> {}/runs\n{then}", folder.display())
}

fn runs(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("runs")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_script_runs_once_for_many_leases_and_not_for_the_next_job_nor_the_next_agent() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        TestAgent::start_with(&server, 8, |config| {
            config.settings.cache = Some(folder.path().join("cache"));
        })
    };
    let agent = start();
    let source = "import os\nlambda x: [open('made').read(), os.environ['FARROW_PREPARED']]";
    let mut job = python(source, folder.path());
    job.prepare = counted(folder.path(), "sleep 0.2; echo here > made; echo preparing");
    let leases: [_; 8] = std::array::from_fn(|at| integers(&job, at as u64, at as u64 + 1));
    server.grant_together(leases.clone().map(|lease| (lease, &job)));
    for lease in &leases {
        let value = server.outcomes(lease.id).await[0].result.clone().unwrap();
        assert_eq!(value[0], "here\n");
    }
    assert_eq!(runs(folder.path()), 1);
    let first = job.id;
    job.id = protocol::JobId::new();
    let before = value(&server, &job).await;
    assert_eq!(runs(folder.path()), 1, "the next job finds it");
    agent.stop().await;
    let said = server.record().said(first, LogSource::Prepare, LogStream::Stdout);
    assert_eq!(said[&None], "preparing\n");
    let agent = start();
    assert_eq!(value(&server, &job).await, before);
    assert_eq!(runs(folder.path()), 1, "the next agent finds it");
    // Another owner, and another script, have environments of their own.
    for (owner, addition) in [("another", ""), ("owner", "\n")] {
        let mut job = job.clone();
        job.id = protocol::JobId::new();
        job.owner = owner.to_owned();
        job.prepare.push_str(addition);
        assert_ne!(value(&server, &job).await[1], before[1]);
    }
    assert_eq!(runs(folder.path()), 3);
    agent.stop().await;
}

#[tokio::test]
async fn two_agents_with_one_cache_run_a_script_once() {
    let server = FakeServer::start();
    let other = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let cache = |config: &mut agent::Config| {
        config.settings.cache = Some(folder.path().join("cache"));
    };
    let agents = [&server, &other].map(|server| TestAgent::start_with(server, 1, cache));
    let mut job = python("lambda x: open('made').read()", folder.path());
    job.prepare = counted(folder.path(), "sleep 0.3; echo here > made");
    let values = tokio::join!(value(&server, &job), value(&other, &job));
    assert_eq!(values, (json!("here\n"), json!("here\n")));
    assert_eq!(runs(folder.path()), 1);
    for agent in agents {
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_script_that_fails_fails_the_job_with_its_last_words_and_runs_again_for_the_next() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut job = python("lambda x: x", agent.folder.path());
    job.prepare = counted(agent.folder.path(), "echo so far; echo 'no such package' >&2; exit 3");
    for run in 1..3 {
        job.id = protocol::JobId::new();
        let error = failure(&server, &job).await;
        assert_eq!((error.kind.as_str(), error.fatal), ("PrepareFailed", true));
        let story = "the prepare script failed: exit status 3; the last it wrote:\nno such package";
        assert_eq!(error.message, story);
        assert_eq!(runs(agent.folder.path()), run);
    }
    job.prepare = "#!/nowhere/interpreter\n".to_owned();
    job.id = protocol::JobId::new();
    let error = failure(&server, &job).await;
    assert!(error.message.contains("/nowhere/interpreter"), "{error:?}");
    agent.stop().await;
}

/// A script that says who it is, and that it has a child, and never ends.
const ENDLESS: &str = "setsid sleep 1000 &\necho $! >> pids; echo $$ >> pids\n\
    cp pids $DONE/pids\necho running\nwait; sleep 1000\n";

#[tokio::test]
async fn a_script_is_killed_when_nobody_waits_for_it_any_more() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 2);
    let mut job = python("lambda x: x", agent.folder.path());
    job.prepare = ENDLESS.replace("$DONE", agent.folder.path().to_str().unwrap());
    let leases = [integers(&job, 0, 1), integers(&job, 1, 2)];
    server.grant_together([(leases[0].clone(), &job), (leases[1].clone(), &job)]);
    server
        .until("it is heard while it runs", |record| {
            let said = record.said(job.id, LogSource::Prepare, LogStream::Stdout);
            (said.get(&None)? == "running\n").then_some(())
        })
        .await;
    let pids = file(&agent.path("pids")).await;
    assert_eq!(pids.lines().count(), 2);
    server.change(|record| record.revoke(leases[0].id));
    server
        .until("it is dropped", |r| {
            (!r.heartbeats.last()?.held.contains(&leases[0].id)).then_some(())
        })
        .await;
    assert!(pids.lines().all(crate::harness::lives), "one waits still");
    server.change(|record| record.revoke(leases[1].id));
    gone(&pids).await;
    // The slots serve the next job.
    assert_eq!(value(&server, &python("lambda x: 7", "".as_ref())).await, 7);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_drains_kills_the_script_and_gives_the_lease_back() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let folder = tempfile::tempdir().unwrap();
    let mut job = python("lambda x: x", folder.path());
    job.prepare = ENDLESS.replace("$DONE", folder.path().to_str().unwrap());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let pids = file(&folder.path().join("pids")).await;
    agent.stop().await;
    gone(&pids).await;
    assert_eq!(server.record().released[0].id, lease.id);
}

#[tokio::test]
async fn files_are_the_working_directory_and_stay_for_the_next_job() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::Python, Runtime::R];
    });
    let files = [("data/x.txt", "42\n"), ("helper.py", "X = 'helps'\n"), ("h.R", "y <- 'helps'")];
    let files = Some(put_files(&server, &files));
    let source = "import helper\nlambda x: [open('data/x.txt').read(), helper.X]";
    for _ in 0..2 {
        let job = JobSpec { files: files.clone(), ..python(source, "".as_ref()) };
        assert_eq!(value(&server, &job).await, json!(["42\n", "helps"]));
    }
    let source = "function(x) { source('h.R', local = TRUE); list(readLines('data/x.txt'), y) }";
    let job = JobSpec { files: files.clone(), runtime: Runtime::R, ..python(source, "".as_ref()) };
    assert_eq!(value(&server, &job).await, json!(["42", "helps"]));
    // A job without files does not see them.
    let job = python("import os\nlambda x: os.listdir('.')", "".as_ref());
    assert_eq!(value(&server, &job).await, json!([]));
    // A script sees them, and workers what it makes of them.
    let mut job = JobSpec { files, ..python("lambda x: open('y').read()", "".as_ref()) };
    job.prepare =
        "#!/usr/bin/env -S python3 -u\nopen('y', 'w').write(open('helper.py').read())".into();
    assert_eq!(value(&server, &job).await, json!("X = 'helps'\n"));
    agent.stop().await;
}

#[tokio::test]
async fn a_program_that_a_script_provides_is_run_by_commands() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::Command];
    });
    let mut job = command(&["provided", "{}"]);
    job.files =
        Some(put_files(&server, &[("provided", "#!/bin/sh\necho provided $1 $(cat text)")]));
    job.prepare =
        "chmod +x provided; mv provided \"$FARROW_PREPARED/bin/\"; echo here > text".to_owned();
    assert_eq!(value(&server, &job).await, "provided 0 here");
    agent.stop().await;
}

#[tokio::test]
async fn files_that_are_none_or_would_leave_their_folder_fail_the_job() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let mut packer = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..5].copy_from_slice(b"../up");
    header.set_size(0);
    header.set_cksum();
    packer.append(&header, &b""[..]).unwrap();
    let leaving = packer.into_inner().unwrap().finish().unwrap();
    for (archive, story) in
        [(&leaving[..], "the archive holds the path `../up`"), (b"text", "read as a tar.gz")]
    {
        let mut job = python("lambda x: x", "".as_ref());
        job.files = Some(put_archive(&server, archive));
        let error = failure(&server, &job).await;
        assert_eq!((error.kind.as_str(), error.fatal), ("PrepareFailed", true));
        assert!(error.message.contains(story), "{}", error.message);
    }
    let mut job = python("lambda x: x", "".as_ref());
    job.files = Some(format!("sha256:{}", "0".repeat(64)));
    assert!(failure(&server, &job).await.message.starts_with("files: the server does not give"));
    agent.stop().await;
}

#[tokio::test]
async fn an_r_package_that_a_script_installs_is_found_by_the_workers() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::R];
    });
    let description = "Package: tinyfarrow\nVersion: 1.0\nTitle: Tiny\nDescription: Tiny.\n\
        Author: A\nMaintainer: A <a@example.org>\nLicense: MIT\n";
    let files = [
        ("tinyfarrow/DESCRIPTION", description),
        ("tinyfarrow/NAMESPACE", "export(f)\n"),
        ("tinyfarrow/R/f.R", "f <- function() 'installed'\n"),
    ];
    let files = Some(put_files(&server, &files));
    let source = "function(x) tinyfarrow::f()";
    for install in [
        "R CMD INSTALL tinyfarrow",
        "Rscript -e 'install.packages(\"tinyfarrow\", repos = NULL, type = \"source\")'",
    ] {
        let mut job = python(source, "".as_ref());
        job.runtime = Runtime::R;
        job.packages = vec!["tinyfarrow".to_owned()];
        job.files = files.clone();
        job.prepare = install.to_owned();
        assert_eq!(value(&server, &job).await, "installed");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_python_package_that_pip_installs_is_found_by_the_workers() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    // A backend of its own, so that the test needs neither setuptools nor a network.
    let backend = "
import os, zipfile
def build_wheel(folder, *_, **__):
    name = 'tinyfarrow-1.0-py3-none-any.whl'
    info = 'tinyfarrow-1.0.dist-info/'
    with zipfile.ZipFile(os.path.join(folder, name), 'w') as wheel:
        wheel.writestr('tinyfarrow.py', 'def f(): return \"installed\"\\n')
        wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tinyfarrow\\nVersion: 1.0\\n')
        wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\ntinyfarrow = tinyfarrow:f\\n')
        wheel.writestr(info + 'RECORD', '')
    return name
";
    let project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n\
        [project]\nname = 'tinyfarrow'\nversion = '1.0'\n";
    let files = [("package/pyproject.toml", project), ("package/backend.py", backend)];
    let source = "
import shutil
def f(x):
    import tinyfarrow
    return [tinyfarrow.f(), shutil.which('tinyfarrow') is not None]
";
    let mut job = python(source, "".as_ref());
    job.files = Some(put_files(&server, &files));
    // With isolation, which is pip's default and what a target folder would break.
    job.prepare = "python3 -m pip install --no-index ./package".to_owned();
    assert_eq!(value(&server, &job).await, json!(["installed", true]));
    agent.stop().await;
}
