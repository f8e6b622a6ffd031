//! One process of the program, killed at the latest when its test ends, its log printed if that
//! test fails.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait::until;

/// A process that was started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a command ended and what it printed.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The program under test: `FARROW_BIN`, else `farrow` in the folder that cargo built this test into.
pub fn program() -> PathBuf {
    if let Some(program) = env::var_os("FARROW_BIN") {
        return program.into();
    }
    let test = env::current_exe().expect("a test knows its own executable");
    // .../target/PROFILE/deps/e2e-HASH
    let profile = test.ancestors().nth(2).expect("a test stands in target/PROFILE/deps");
    let program = profile.join("farrow");
    assert!(program.exists(), "there is no {}: run `cargo build` first", program.display());
    program
}

impl Process {
    /// Starts `command`, named `name` in the folder of its logs.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        let stderr = logs.join(format!("{name}.log"));
        let log = File::create(&stderr).expect("a log can be written");
        Self::start_on(name, logs, command, log.into())
    }

    /// Starts `command` with another standard error than a log: a terminal.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_on(name: &str, logs: &Path, command: &mut Command, terminal: Stdio) -> Self {
        let [stdout, stderr] = ["out", "log"].map(|stream| logs.join(format!("{name}.{stream}")));
        let output = File::create(&stdout).expect("a log can be written");
        let child = command.stdout(output).stderr(terminal).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// Its id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{} cannot get {signal}: {error}", self.name));
    }

    /// Kills it with SIGKILL, and returns once it is dead.
    ///
    /// # Panics
    /// When it has ended before.
    pub fn kill(&mut self) {
        let before = self.child.try_wait().expect("a child can be waited for");
        assert!(before.is_none(), "{} had ended by itself: {before:?}", self.name);
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(&what, async || self.child.try_wait().expect("a child can be waited for")).await
    }

    /// Waits until it has ended, and gives what it printed.
    pub async fn finished(&mut self) -> Finished {
        let code = self.ended().await.code();
        Finished { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// The first line that it writes to standard output.
    pub async fn first_line(&mut self) -> String {
        let what = format!("the first line of {}", self.name);
        until(&what, async || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{} has ended: {}", self.name, self.stderr());
            self.stdout().split_once('\n').map(|(line, _)| line.to_owned())
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that it has ended, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("---- {} ----\n{}{}", self.name, self.stdout(), self.stderr());
        }
    }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The program with `arguments`, in a world of its own: of this test's environment it sees only
/// where programs are.
pub fn command(arguments: impl IntoIterator<Item = impl Into<OsString>>, home: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.into_iter().map(Into::into)).stdin(Stdio::null()).env_clear();
    for variable in ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "R_LIBS", "R_LIBS_USER"] {
        if let Some(value) = env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command.env("HOME", home).env("FARROW_TOKEN", crate::token());
    command
}
