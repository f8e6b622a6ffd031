//! Workers of another user than the agent's. What needs root says so and is skipped elsewhere.

use std::os::unix::fs::PermissionsExt;

use protocol::agent::JobSpec;
use protocol::job::Runtime;
use serde_json::{Value, json};

use crate::confining::{SPIES, nobody, open, workers};
use crate::constants::with_data;
use crate::harness::{TestAgent, command, file, gone, integers, python};
use crate::preparing::{put_files, value};
use crate::server::FakeServer;

/// An agent whose workers are `nobody`, in a folder that they can reach.
fn agent_of_nobody(server: &FakeServer, runtimes: &[Runtime]) -> TestAgent {
    let agent = TestAgent::start_with(server, 1, |config| {
        open(config.settings.scratch.as_ref().unwrap().parent().unwrap());
        config.settings.runtimes = runtimes.to_vec();
        config.settings.workers = workers(&["--worker-user", "nobody"]);
    });
    std::fs::create_dir(agent.path("out")).unwrap();
    let anybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(agent.path("out"), anybody).unwrap();
    agent
}

#[tokio::test]
async fn another_users_workers_have_their_folders_and_nothing_of_the_agents() {
    let Some(nobody) = nobody() else { return };
    let server = FakeServer::start();
    let agent = agent_of_nobody(&server, &[Runtime::Python, Runtime::Command]);
    let spies = SPIES.replace("def f(x):", "def spy(x):");
    let source = format!("{spies}
import tempfile
def f(x):
    scripts = os.path.dirname(__import__('sys').argv[0]) or '@/scratch'
    open('mine', 'w').write('x')
    tempfile.NamedTemporaryFile().close()
    return {{
        'user': [os.getresuid(), os.getresgid(), os.getgroups()],
        'home': [os.environ[name] for name in ['HOME', 'USER', 'LOGNAME']],
        'spies': spy(x),
        'list': attempt(os.listdir, '@/scratch'),
        'write': [attempt(open, path, 'w') for path in ['../x', '../../x', scripts + '/worker.py', '@/x']],
        'move': attempt(os.rename, '../work', '../elsewhere'),
        'kill': [attempt(os.kill, pid, 9) for pid in [os.getppid(), parent(os.getppid())]],
    }}
");
    let seen = value(&server, &python(&source, agent.folder.path())).await;
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    assert_eq!(seen["user"], json!([[uid, uid, uid], [gid, gid, gid], [gid]]));
    assert_eq!(seen["home"], json!([nobody.dir, "nobody", "nobody"]));
    for what in ["list", "move"] {
        assert_eq!(seen[what], "PermissionError", "{seen}");
    }
    for came_to in seen["write"].as_array().unwrap().iter().chain(seen["kill"].as_array().unwrap())
    {
        assert_eq!(came_to, "PermissionError", "{seen}");
    }
    for (what, came_to) in seen["spies"].as_object().unwrap() {
        let expected = if what.starts_with("own") { "done" } else { "PermissionError" };
        assert_eq!(came_to, expected, "{what} in {seen}");
    }
    // What is printed goes through pipes, which may be opened by name as well.
    let mut job = command(&["sh", "-c", "echo x > here && echo x > /dev/stderr && id -un"]);
    job.options.output = protocol::job::Output::Text;
    assert_eq!(value(&server, &job).await, "nobody");
    agent.stop().await;
}

/// A worker that puts a link where the agent reads, to what the agent may read and it may not, over and
/// over, gets nothing of it.
#[tokio::test]
async fn another_users_artifacts_are_what_it_may_read_itself() {
    if nobody().is_none() {
        return;
    }
    let server = FakeServer::start();
    let agent = agent_of_nobody(&server, &[Runtime::Python]);
    std::fs::write(agent.path("secret"), "the agent's").unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(agent.path("secret"), mode).unwrap();
    let source = "
import os
def f(x):
    folder = os.environ['FARROW_ARTIFACTS']
    os.mkdir(folder + '/own')
    for name in ['a', 'own/b']:
        with open(folder + '/' + name, 'w') as file:
            file.write('mine')
            os.fchmod(file.fileno(), 0o600)
    os.symlink('@/secret', folder + '/secret')
    os.symlink('@', folder + '/all')
    os.symlink('/proc/self', folder + '/agent')
    return [os.stat(folder).st_uid == os.getuid(), os.listdir(os.environ['FARROW_SCRATCH'])]
";
    let mut job = python(source, agent.folder.path());
    job.options.artifacts = true;
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    for outcome in server.outcomes(lease.id).await {
        assert_eq!(outcome.result, Ok(json!([true, []])));
        let names: Vec<_> = outcome.note.artifacts.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "own/b"]);
        assert!(outcome.note.artifacts.iter().all(|one| one.bytes == 4));
    }
    assert_eq!(server.record().blobs.len(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn another_users_workers_are_killed_with_all_that_came_of_them() {
    if nobody().is_none() {
        return;
    }
    let server = FakeServer::start();
    let agent = agent_of_nobody(&server, &[Runtime::Python]);
    let source = "
import os, subprocess, time
def f(x):
    if x == 1:
        child = subprocess.Popen(['setsid', 'sleep', '1000'])
        with open('@/out/pids', 'w') as pids: pids.write(f'{os.getpid()} {child.pid}\\n')
        time.sleep(1000)
    return x
";
    let mut job = python(source, agent.folder.path());
    job.options.timeout = Some(1.5);
    job.options.retries = 0;
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    assert_eq!(outcomes[1].result.clone().unwrap_err().kind, "Timeout");
    assert_eq!(outcomes[2].result, Ok(2.into()));
    gone(&file(&agent.path("out/pids")).await).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_another_user_prepares_is_only_read_by_its_workers() {
    if nobody().is_none() {
        return;
    }
    let server = FakeServer::start();
    let agent = agent_of_nobody(&server, &[Runtime::Python]);
    let source = "
import os
def attempt(do, *args):
    try:
        do(*args)
        return 'done'
    except OSError as error:
        return type(error).__name__
def f(x):
    place = os.environ['FARROW_PREPARED']
    tool = place + '/bin/tool'
    return {
        'made': open('made').read(),
        'packed': open('packed').read(),
        'tool': os.popen('tool').read(),
        'own': [attempt(open, name, 'w') for name in ['made', 'packed', 'new']],
        'prepared': [attempt(open, path, 'w') for path in
            [tool, place + '/files/made', place + '/files/new', place + '/new', place + '/ready']]
            + [attempt(os.chmod, tool, 0o777), attempt(os.remove, tool)],
    }
";
    let mut job = python(source, agent.folder.path());
    job.files = Some(put_files(&server, &[("packed", "packed")]));
    job.prepare = "set -e; umask 077; echo x > /dev/stderr; id -un > made; cat packed > /dev/null
        printf '#!/bin/sh\\necho tool' > $FARROW_PREPARED/bin/tool; chmod 700 $FARROW_PREPARED/bin/tool"
        .to_owned();
    let check = |seen: &Value| {
        assert_eq!(
            [&seen["made"], &seen["packed"], &seen["tool"]],
            ["nobody\n", "packed", "tool\n"]
        );
        assert_eq!(seen["own"], json!(["done", "done", "done"]));
        let attempts = seen["prepared"].as_array().unwrap();
        assert!(attempts.iter().all(|came_to| came_to == "PermissionError"), "{seen}");
    };
    check(&value(&server, &job).await);
    // The next job finds all as it was.
    let next = JobSpec { id: protocol::JobId::new(), ..job };
    check(&value(&server, &next).await);
    agent.stop().await;
}

#[tokio::test]
async fn a_folder_that_workers_cannot_reach_is_named() {
    if nobody().is_none() {
        return;
    }
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        let folder = config.settings.scratch.as_ref().unwrap().parent().unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        config.settings.workers = workers(&["--worker-user", "nobody"]);
    });
    let error = agent.ended().await.unwrap_err().to_string();
    assert!(
        error.contains("user nobody cannot come there") && error.contains("--scratch"),
        "{error}"
    );
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.workers = workers(&["--worker-user", "no-such-user-here"]);
    });
    let error = agent.ended().await.unwrap_err().to_string();
    assert!(error.contains("no user of that name"), "{error}");
}

#[tokio::test]
async fn another_users_workers_read_constants_and_neither_list_nor_change_them() {
    let Some(_nobody) = nobody() else { return };
    let server = FakeServer::start();
    let agent = agent_of_nobody(&server, &[Runtime::Python]);
    let source = format!("{SPIES}
import hashlib
def g(x, data):
    blobs = '@/scratch/blobs'
    file = blobs + '/' + hashlib.sha256(data).hexdigest()
    refused = [attempt(os.listdir, blobs), attempt(os.remove, file), attempt(open, file, 'ab'), attempt(open, blobs + '/x', 'w')]
    return [data.decode(), attempt(open, file), *refused]
");
    let job = with_data(&server, python(&source, agent.folder.path()), b"large");
    let seen = value(&server, &job).await;
    let refused = "PermissionError";
    assert_eq!(seen, json!(["large", "done", refused, refused, refused, refused]));
    agent.stop().await;
}
