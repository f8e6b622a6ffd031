//! A real PostgreSQL in a temporary folder, for as long as a test needs it.
//!
//! [`Postgres::shared`] is one cluster for all tests of a process: each takes a database of its own
//! from it. A test that kills, stops or restarts the database starts its own by [`Postgres::start`].
//!
//! Nothing here is asynchronous, and nothing needs more than PostgreSQL's own programs, so that
//! the tests of any crate can use it.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, Uid, User, chown};
use tempfile::TempDir;

use crate::procfs;

/// The role that everything is done as. It may do all.
const ROLE: &str = "farrow";

/// Far more than a start takes, recovery after a kill included.
const HANG: Duration = Duration::from_secs(60);

/// Between two looks at what cannot be waited for otherwise.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// How often another port is tried when somebody was quicker to take the one that was free.
const N_TRIES: u32 = 5;

/// A cluster: one PostgreSQL, with as many databases as are asked for.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Whether what is committed is flushed to the disk.
    is_durable: bool,
    running: Mutex<Option<Running>>,
    n_databases: AtomicU32,
    /// Removes the folder when this process has ended, however it did.
    janitor: Child,
    /// What the janitor reads until then.
    _lifeline: ChildStdin,
}

/// The postmaster, between its start and its end.
#[derive(Debug)]
struct Running {
    postmaster: Pid,
    ended: mpsc::Receiver<io::Result<ExitStatus>>,
}

impl Postgres {
    /// The cluster of all tests of this process that do no harm to it. It is started when it is
    /// first asked for, ends with the process, and does not wait for the disk.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_with(false))
    }

    /// Starts a cluster of one's own, which ends when it is dropped. It flushes what is committed.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine, or it does not start.
    pub fn start() -> Self {
        Self::start_with(true)
    }

    fn start_with(is_durable: bool) -> Self {
        let programs = programs();
        let (folder, janitor, lifeline) = folder();
        let data = folder.join("data");
        let mut initdb = unprivileged(&programs.join("initdb"));
        initdb.args(["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8"]);
        initdb.args(["--locale=C", "--username", ROLE, "--pgdata"]).arg(&data);
        output(&mut initdb);
        let mut postgres = Self {
            programs,
            folder,
            port: 0,
            is_durable,
            running: Mutex::new(None),
            n_databases: AtomicU32::new(0),
            janitor,
            _lifeline: lifeline,
        };
        let start = |_| {
            postgres.port = free_port();
            postgres.try_restart()
        };
        let failure = (0..N_TRIES).map(start).take_while(Result::is_err).last();
        if postgres.is_running() {
            return postgres;
        }
        panic!("PostgreSQL does not start: {}", failure.and_then(Result::err).unwrap_or_default());
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Panics
    /// When PostgreSQL refuses.
    pub fn create_database(&self) -> String {
        let name = format!("test_{}", self.n_databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("create database {name}"));
        self.url(&name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on the loopback interface, the same after every start.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.folder
    }

    /// Lets `psql` do a statement in a database, and gives what it prints: fields parted by `|`.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn psql(&self, database: &str, statement: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args(["--set=ON_ERROR_STOP=1", "--command", statement, &self.url(database)]);
        output(&mut psql)
    }

    /// Kills all of PostgreSQL with SIGKILL, and returns once nothing of it is left.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&self) {
        let mut slot = self.running();
        let running = slot.take().expect("PostgreSQL is running");
        // What is stopped starts no further processes, so that none is overlooked.
        send(running.postmaster, Signal::SIGSTOP);
        let children = procfs::descendants(running.postmaster);
        for pid in [&[running.postmaster], children.as_slice()].concat() {
            send(pid, Signal::SIGKILL);
        }
        running.ended.recv_timeout(HANG).expect("a killed postmaster ends").ok();
        let is_over = || !children.iter().any(|pid| procfs::is_alive(*pid));
        assert!(comes_true(is_over), "the processes of a killed PostgreSQL do not end");
    }

    /// Ends it as an administrator does who wants it quickly: clients are cut off, nothing is lost.
    ///
    /// # Panics
    /// When it is not running.
    pub fn stop(&self) {
        let running = self.running().take().expect("PostgreSQL is running");
        send(running.postmaster, Signal::SIGINT);
        running.ended.recv_timeout(HANG).expect("PostgreSQL ends when it is asked to").ok();
    }

    /// Starts it again on its data and its port, and returns once it answers.
    ///
    /// # Panics
    /// When it runs already, or does not start.
    pub fn restart(&self) {
        if let Err(log) = self.try_restart() {
            panic!("PostgreSQL does not start again: {log}");
        }
    }

    /// Stops all of it with SIGSTOP: connections stay, and nobody answers.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Panics
    /// When it is not running.
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let slot = self.running();
        let running = slot.as_ref().expect("PostgreSQL is running");
        send(running.postmaster, signal);
        procfs::descendants(running.postmaster).into_iter().for_each(|pid| send(pid, signal));
    }

    fn try_restart(&self) -> Result<(), String> {
        let mut slot = self.running();
        assert!(slot.is_none(), "PostgreSQL is running already");
        let log_file = self.folder.join("log");
        let before = fs::read(&log_file).map_or(0, |log| log.len());
        let mut command = self.postgres(&log_file);
        let (started, start) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        // The kernel ends PostgreSQL when the thread that started it is gone: so the thread stays,
        // and it takes the dead process away at once, for the next start looks whether it is there.
        let keep = move || {
            let child = command.spawn();
            let pid = child.as_ref().map(|child| Pid::from_raw(child.id().cast_signed()));
            started.send(pid.map_err(|error| format!("{command:?}: {error}"))).ok();
            if let Ok(mut child) = child {
                end.send(child.wait()).ok();
            }
        };
        thread::Builder::new().name("postgres".into()).spawn(keep).expect("a thread can start");
        let postmaster = start.recv().expect("the thread says how the start went")?;
        let mut outcome = None;
        comes_true(|| {
            outcome = match ended.try_recv() {
                Ok(_) => Some(false),
                Err(_) => self.is_ready(postmaster).then_some(true),
            };
            outcome.is_some()
        });
        *slot = (outcome != Some(false)).then_some(Running { postmaster, ended });
        if outcome == Some(true) {
            return Ok(());
        }
        let log = fs::read(&log_file).unwrap_or_default();
        Err(String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned())
    }

    fn postgres(&self, log: &Path) -> Command {
        let log = File::options().append(true).create(true).open(log).expect("a log is writable");
        let mut command = unprivileged(&self.programs.join("postgres"));
        command.arg("-D").arg(self.folder.join("data"));
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("listen_addresses", "127.0.0.1");
        set("port", &self.port.to_string());
        set("unix_socket_directories", &self.folder.display().to_string());
        set("max_connections", "300");
        set("shared_buffers", "32MB");
        set("fsync", if self.is_durable { "on" } else { "off" });
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Ctrl-C in a terminal is for the test, which ends PostgreSQL by its own end.
        command.process_group(0);
        command
    }

    /// Whether the postmaster says of itself that it answers.
    fn is_ready(&self, postmaster: Pid) -> bool {
        let text = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&postmaster.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    fn is_running(&self) -> bool {
        self.running().is_some()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read(self.folder.join("log")).unwrap_or_default();
            eprintln!("---- PostgreSQL ----\n{}", String::from_utf8_lossy(&log));
        }
        if self.is_running() {
            self.kill();
        }
        fs::remove_dir_all(&self.folder).ok();
        // It has nothing left to do.
        self.janitor.kill().ok();
        self.janitor.wait().ok();
    }
}

/// A folder that PostgreSQL may write to, and who removes it when this process has ended.
fn folder() -> (PathBuf, Child, ChildStdin) {
    let folder = TempDir::with_prefix("farrow-pg-").expect("a temporary folder can be made").keep();
    if Uid::effective().is_root() {
        let (user, group) = nobody();
        chown(&folder, Some(user), Some(group)).expect("root can give a folder away");
    }
    // It reads until the end of this process, waits for PostgreSQL to be gone, and clears away.
    let script = "trap '' INT TERM HUP; read -r _; i=0; \
        while [ -e \"$1\" ] && [ $i -lt 100 ]; do \
        pid=$(head -n 1 \"$1/data/postmaster.pid\" 2>/dev/null); \
        if [ -z \"$pid\" ] || ! kill -QUIT \"$pid\" 2>/dev/null; then rm -rf \"$1\"; fi; \
        i=$((i + 1)); sleep 0.1; done";
    let mut janitor = Command::new("sh");
    janitor.args(["-c", script, "janitor"]).arg(&folder).stdin(Stdio::piped());
    janitor.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut janitor = janitor.spawn().expect("sh can be started");
    let lifeline = janitor.stdin.take().expect("its input is a pipe");
    (folder, janitor, lifeline)
}

/// A program as somebody who is not root, as whom PostgreSQL refuses to run. It ends with the
/// thread that starts it.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if Uid::effective().is_root() {
        let (user, group) = nobody();
        command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
        command.arg("--clear-groups");
    }
    command.arg(program).env("LC_ALL", "C").current_dir("/");
    command
}

fn nobody() -> (Uid, Gid) {
    let user = User::from_name("nobody").ok().flatten().expect("there is a user nobody");
    let group = Group::from_name("nogroup").ok().flatten();
    (user.uid, group.map_or(user.gid, |group| group.gid))
}

/// The folder of PostgreSQL's programs. Debian keeps the server's out of the `PATH`.
fn programs() -> PathBuf {
    let has_server = |folder: &PathBuf| folder.join("initdb").exists();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path()).collect();
    // The newest first.
    versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
    let by_config = Command::new("pg_config").arg("--bindir").output();
    let by_config = by_config
        .ok()
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = versions.into_iter().map(|version| version.join("bin"));
    let found = folders.find(has_server).or_else(|| by_config.filter(has_server));
    found.or_else(|| env::split_paths(&path).find(has_server)).unwrap_or_else(|| {
        panic!("PostgreSQL's initdb is not on this machine: `make setup` installs it")
    })
}

fn number(version: &Path) -> u32 {
    version.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("a listener has an address").port()
}

fn send(pid: Pid, signal: Signal) {
    // An error says that it is gone already.
    kill(pid, signal).ok();
}

fn comes_true(mut look: impl FnMut() -> bool) -> bool {
    #[expect(clippy::disallowed_methods, reason = "only ends what hangs")]
    let started_at = Instant::now();
    while !look() {
        if started_at.elapsed() > HANG {
            return false;
        }
        sleep(BETWEEN_LOOKS);
    }
    true
}

/// Runs a command to its end and gives what it prints.
fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_database_of_the_shared_cluster() {
        let (one, two) =
            (Postgres::shared().create_database(), Postgres::shared().create_database());
        assert_ne!(one, two);
        let name = one.rsplit_once('/').expect("a URL names its database").1;
        assert_eq!(Postgres::shared().psql(name, "select current_database()"), name);
    }

    #[test]
    fn what_was_committed_is_there_after_a_kill_and_after_a_stop() {
        let postgres = Postgres::start();
        postgres.psql("postgres", "create table kept as select 42 as answer");
        let port = postgres.port();
        postgres.kill();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        postgres.restart();
        assert_eq!(postgres.psql("postgres", "select answer from kept"), "42");
        postgres.stop();
        postgres.restart();
        assert_eq!(postgres.psql("postgres", "select answer from kept"), "42");
        postgres.pause();
        postgres.resume();
        assert_eq!(postgres.psql("postgres", "select answer from kept"), "42");
        let folder = postgres.socket().to_owned();
        drop(postgres);
        assert!(!folder.exists());
    }
}
