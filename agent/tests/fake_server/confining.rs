//! What workers can see of the agent and do to the machine.
//!
//! What needs root, or control groups of a kernel that offers them, says so and is skipped elsewhere.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::WorkerSettings;
use clap::Parser;
use nix::unistd::{User, geteuid};
use protocol::job::Runtime;
use serde_json::{Value, json};

use crate::harness::{TestAgent, command, file, gone, integers, python};
use crate::preparing::value;
use crate::server::FakeServer;

/// How the agents of this module are set up: as by the command line.
#[derive(Parser)]
pub struct Flags {
    #[command(flatten)]
    pub workers: WorkerSettings,
}

/// The settings that these flags make.
pub fn workers(flags: &[&str]) -> WorkerSettings {
    Flags::parse_from(["agent"].iter().chain(flags)).workers
}

/// The user without rights, if this test may start processes as others.
pub fn nobody() -> Option<User> {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can start processes of another user");
        return None;
    }
    User::from_name("nobody").unwrap()
}

/// Lets other users go through a folder.
pub fn open(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
}

/// The folder of this process in the hierarchy of version 1 with this controller, if that is there and
/// may be changed.
fn group(controller: &str) -> Option<PathBuf> {
    let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = memberships.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        (list == controller).then_some(path)
    });
    let folder = path.map(|path| Path::new("/sys/fs/cgroup").join(controller).join(&path[1..]));
    let folder = folder.filter(|folder| folder.join("cgroup.procs").exists());
    let usable = folder.filter(|_| geteuid().is_root());
    if usable.is_none() {
        eprintln!("skipped: no control group of version 1, {controller}, that may be changed");
    }
    usable
}

/// The control groups of workers below a folder that this process's agents have made, or another's.
fn groups_of(folder: &Path, pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let is_meant = |name: &str| {
        let mut parts = name.strip_prefix("farrow-worker-").unwrap_or_default().split('-');
        parts.nth(1) == Some(pid.to_string().as_str())
    };
    let meant = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_meant));
    meant.map(|entry| entry.path()).collect()
}

/// An agent of one slot in a process of its own, with further variables; as another user if one is
/// given. Killed when dropped.
struct AgentProcess(Child);

impl AgentProcess {
    fn start(
        server: &FakeServer,
        scratch: &Path,
        variables: &[(&str, &str)],
        user: Option<&User>,
    ) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "ending::agent_process", "--ignored"])
            .env("FARROW_TEST_SERVER", server.url())
            .env("FARROW_TEST_FOLDER", scratch)
            .envs(variables.iter().copied())
            .stdout(Stdio::null());
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", "/nonexistent");
        }
        Self(command.spawn().unwrap())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn with(settings: &WorkerSettings) -> impl FnOnce(&mut agent::Config) {
    let settings = settings.clone();
    |config| config.settings.workers = settings
}

#[tokio::test]
async fn workers_see_nothing_of_what_the_agents_environment_keeps_secret() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("FARROW_TOKEN", "the-agents-key"),
        ("FARROW_TOKEN_FILE", "/etc/the-agents-key"),
        ("FARROW_GRACE", "7"),
        ("AWS_SECRET_ACCESS_KEY", "the-servers-key"),
        ("AWS_REGION", "eu-north-1"),
        ("PGPASSWORD", "the-databases-key"),
        ("AWS_SESSION_TOKEN", "for-jobs"),
        ("FARROW_PASS_ENV", "AWS_SESSION_TOKEN"),
    ];
    let _agent = AgentProcess::start(&server, &folder.path().join("scratch"), &variables, None);
    let source = "
import os
def f(x):
    parent = f'/proc/{os.getppid()}/environ'
    return [dict(os.environ), open(parent).read() if os.access(parent, os.R_OK) else '']
";
    let mut job = python(source, folder.path());
    let [seen, supervisors] = serde_json::from_value(value(&server, &job).await).unwrap();
    let check = |seen: &Value| {
        let names = seen.as_object().unwrap();
        assert_eq!(
            (&seen["AWS_REGION"], &seen["AWS_SESSION_TOKEN"]),
            (&json!("eu-north-1"), &json!("for-jobs"))
        );
        assert!(!names.contains_key("AWS_SECRET_ACCESS_KEY") && !names.contains_key("PGPASSWORD"));
        let own: Vec<_> = names.keys().filter(|name| name.starts_with("FARROW_")).collect();
        let told = ["FARROW_PREPARED", "FARROW_SCRATCH"];
        assert!(own.iter().all(|name| told.contains(&name.as_str())), "{own:?}");
        assert!(!seen.to_string().contains("-key"), "{seen}");
    };
    check(&seen);
    let supervisors: String = serde_json::from_value(supervisors).unwrap();
    assert!(!supervisors.contains("-key"), "{supervisors}");
    // Nor do the scripts that prepare.
    job.id = protocol::JobId::new();
    job.prepare = "python3 -c 'import json, os; print(json.dumps(dict(os.environ)))' > seen".into();
    job.function = python("lambda x: open('seen').read()", folder.path()).function;
    let seen: String = serde_json::from_value(value(&server, &job).await).unwrap();
    check(&serde_json::from_str(&seen).unwrap());
}

/// What a worker can read of its supervisor and its agent: what each attempt came to.
pub const SPIES: &str = "
import os
def parent(pid):
    return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
def attempt(do, *args):
    try:
        do(*args)
        return 'done'
    except OSError as error:
        return type(error).__name__
def f(x):
    supervisor = os.getppid()
    return {f'{who} {what}': attempt(do, f'/proc/{pid}/{what}')
        for who, pid in [('own', os.getpid()), ('supervisor', supervisor), ('agent', parent(supervisor))]
        for what, do in [('environ', open), ('mem', open), ('maps', open), ('fd', os.listdir), ('cwd', os.listdir)]}
";

#[tokio::test]
async fn a_worker_of_the_agents_own_user_can_read_neither_its_memory_nor_its_environment() {
    let Some(nobody) = nobody() else { return };
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(nobody.uid.as_raw()), None).unwrap();
    let scratch = folder.path().join("scratch");
    let variables = [("FARROW_TOKEN", "the-agents-key")];
    let _agent = AgentProcess::start(&server, &scratch, &variables, Some(&nobody));
    let seen = value(&server, &python(SPIES, folder.path())).await;
    for (what, came_to) in seen.as_object().unwrap() {
        let expected = if what.starts_with("own") { "done" } else { "PermissionError" };
        assert_eq!(came_to, expected, "{what} in {seen}");
    }
}

#[tokio::test]
async fn workers_inherit_no_descriptor_of_the_agent() {
    // As a shell may leave to what it starts.
    let inherited = nix::unistd::pipe().unwrap();
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.runtimes = vec![Runtime::Python, Runtime::Command];
    });
    let source = "
import os
def f(x):
    links = {}
    for number in os.listdir('/proc/self/fd'):
        try: links[int(number)] = os.readlink(f'/proc/self/fd/{number}')
        except OSError: pass
    # Its own copies of those aside.
    return sorted(number for number, link in links.items()
        if number <= 4 or link not in [links[own] for own in range(5)])
";
    let seen = value(&server, &python(source, agent.folder.path())).await;
    assert_eq!(seen, json!([0, 1, 2, 3, 4]));
    // Without what the shell itself opens to look.
    let look =
        "for open in /proc/$$/fd/*; do if [ -e $open ]; then printf '%s ' ${open##*/}; fi; done";
    let mut job = command(&["sh", "-c", look]);
    job.options.output = protocol::job::Output::Text;
    assert_eq!(value(&server, &job).await, "0 1 2 ");
    drop(inherited);
    agent.stop().await;
}

/// What a worker is held to, as it sees it.
const LIMITS: &str = "
import os, resource
def f(x):
    status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
    return {
        'core': resource.getrlimit(resource.RLIMIT_CORE)[1],
        'no_new_privs': int(status['NoNewPrivs']),
        'oom': int(open('/proc/self/oom_score_adj').read()),
        'data': resource.getrlimit(resource.RLIMIT_DATA)[1],
        'processes': resource.getrlimit(resource.RLIMIT_NPROC)[1],
        'groups': open('/proc/self/cgroup').read(),
    }
";

#[tokio::test]
async fn workers_leave_no_cores_gain_no_rights_and_go_first_when_memory_is_short() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let seen = value(&server, &python(LIMITS, agent.folder.path())).await;
    assert_eq!([&seen["core"], &seen["no_new_privs"], &seen["oom"]], [0, 1, 500], "{seen}");
    agent.stop().await;
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, with(&workers(&["--allow-setuid"])));
    let seen = value(&server, &python(LIMITS, agent.folder.path())).await;
    assert_eq!([&seen["core"], &seen["no_new_privs"]], [0, 0], "{seen}");
    agent.stop().await;
}

#[tokio::test]
async fn without_control_groups_each_process_has_limits() {
    let Some(nobody) = nobody() else { return };
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(nobody.uid.as_raw()), None).unwrap();
    let scratch = folder.path().join("scratch");
    let variables = [("FARROW_WORKER_PROCESSES", "1000")];
    let _agent = AgentProcess::start(&server, &scratch, &variables, Some(&nobody));
    let mut job = python(LIMITS, folder.path());
    job.options.memory = Some(100 << 20);
    let seen = value(&server, &job).await;
    assert_eq!([&seen["data"], &seen["processes"]], [(200 << 20) + (1 << 30), 1000], "{seen}");
    // The watch is there all the same.
    let mut job = python(
        "hoard = []\ndef f(x):\n  while True: hoard.append(b'x' * (1 << 20))",
        folder.path(),
    );
    job.options.memory = Some(100 << 20);
    job.options.retries = 0;
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let error = server.outcomes(lease.id).await[0].result.clone().unwrap_err();
    assert!(["WorkerDied", "MemoryError"].contains(&error.kind.as_str()), "{error:?}");
}

#[tokio::test]
async fn the_kernel_bounds_a_workers_memory_and_its_groups_go_with_it() {
    let Some(memory) = group("memory") else { return };
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os, subprocess, sys, time
def f(x):
    if x == 1:
        # Faster than anybody could look: the kernel must be the one that stops it.
        while True: bytearray(b'x' * (100 << 20)) + bytearray(b'x' * (300 << 20))
    if x == 2:
        # What is killed is a child; that the worker lives on must not hide it.
        code = 'hoard = b\"x\" * (400 << 20)'
        return subprocess.run([sys.executable, '-c', code]).returncode
    if x == 3:
        open('@/at', 'w').write(open('/proc/self/cgroup').read() + '\\n')
    return x
";
    let mut job = python(source, agent.folder.path());
    job.options.memory = Some(200 << 20);
    job.options.retries = 0;
    let lease = integers(&job, 0, 4);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    for index in [1, 2] {
        let error = outcomes[index].result.clone().unwrap_err();
        assert_eq!((error.kind.as_str(), error.fatal), ("WorkerDied", false));
        let story = "its worker died, once (it used more than the 200 MiB of options.memory)";
        assert_eq!(error.message, story);
    }
    assert_eq!((&outcomes[0].result, &outcomes[3].result), (&Ok(0.into()), &Ok(3.into())));
    let memberships = file(&agent.path("at")).await;
    let line = memberships.lines().find(|line| line.contains(":memory:")).unwrap();
    let (_, name) = line.rsplit_once('/').unwrap();
    assert!(name.starts_with("farrow-worker-") && memory.join(name).is_dir(), "{memberships}");
    let bound = std::fs::read_to_string(memory.join(name).join("memory.limit_in_bytes")).unwrap();
    assert_eq!(bound.trim(), (200 << 20).to_string());
    agent.stop().await;
    assert!(!memory.join(name).exists());
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_bound_and_all_of_it_is_killed() {
    if group("pids").is_none() {
        return;
    }
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, with(&workers(&["--worker-processes", "50"])));
    let source = "
import os, time
def f(x):
    if x == 0:
        started = 0
        try:
            while True:
                if os.fork() == 0: time.sleep(1000)
                started += 1
        except BlockingIOError:
            return started
    with open('@/group', 'w') as group: group.write(open('/proc/self/cgroup').read() + '\\n')
    while True:
        # Everyone of them, in sessions of their own, as fast as they can.
        try:
            if os.fork() == 0: os.setsid()
        except OSError: pass
";
    let mut job = python(source, agent.folder.path());
    job.options.timeout = Some(2.0);
    job.options.retries = 0;
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    let started = outcomes[0].result.clone().unwrap().as_u64().unwrap();
    assert!((20..50).contains(&started), "{started}");
    assert_eq!(outcomes[1].result.clone().unwrap_err().kind, "Timeout");
    let memberships = file(&agent.path("group")).await;
    let line = memberships.lines().find(|line| line.contains(":pids:")).unwrap();
    let (_, name) = line.rsplit_once('/').unwrap();
    agent.stop().await;
    // Gone, and so nobody can be in it.
    assert!(!Path::new("/sys/fs/cgroup/pids").join(name).exists());
}

#[tokio::test]
async fn groups_of_a_killed_agent_are_removed_by_the_next_one() {
    let Some(memory) = group("memory") else { return };
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let mut agent = AgentProcess::start(&server, &scratch, &[], None);
    let source = "
import os, time
def f(x):
    with open('@/at', 'w') as at: at.write(f'{os.getpid()} {os.getppid()}\\n')
    time.sleep(1000)
";
    let job = python(source, folder.path());
    server.grant(integers(&job, 0, 1), b"", &job);
    let pids = file(&folder.path().join("at")).await;
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    gone(&pids).await;
    assert_eq!(groups_of(&memory, agent.0.id()).len(), 1);
    let server = FakeServer::start();
    let next = TestAgent::start(&server, 1);
    // It has registered, so it has looked.
    value(&server, &python("lambda x: x", next.folder.path())).await;
    assert_eq!(groups_of(&memory, agent.0.id()), [] as [PathBuf; 0]);
    next.stop().await;
}
