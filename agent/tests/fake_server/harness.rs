//! An agent under test, jobs and leases for it, and ways to watch processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::{AgentError, Config, Settings};
use protocol::agent::{Input, JobSpec, Lease};
use protocol::job::{Function, Options, Runtime};
use protocol::{JobId, LeaseId, Range, RangeSet};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::server::{FakeServer, HANG};

/// An agent in this process, with real workers.
pub struct TestAgent {
    pub folder: tempfile::TempDir,
    pub shutdown: CancellationToken,
    running: JoinHandle<Result<(), AgentError>>,
}

impl TestAgent {
    pub fn start(server: &FakeServer, slots: u32) -> Self {
        Self::start_with(server, slots, |_| {})
    }

    pub fn start_with(server: &FakeServer, slots: u32, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let mut config = config(&server.url(), slots, &folder.path().join("scratch"));
        change(&mut config);
        let running = tokio::spawn(agent::run(config, shutdown.clone()));
        Self { folder, shutdown, running }
    }

    /// Waits until the agent has ended.
    pub async fn ended(self) -> Result<(), AgentError> {
        timeout(HANG, self.running).await.expect("the agent does not end").unwrap()
    }

    /// Asks the agent to end and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await.unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub fn config(server: &str, slots: u32, scratch: &Path) -> Config {
    rustls::crypto::ring::default_provider().install_default().ok();
    let settings = Settings {
        slots: agent::Slots::Count(slots),
        name: Some("tested".to_owned()),
        labels: Vec::new(),
        runtimes: vec![Runtime::Python],
        scratch: Some(scratch.to_owned()),
        cache: None,
        blob_cache: 1 << 30,
        spool: None,
        grace: agent::Seconds(Duration::from_secs(60)),
        workers: agent::WorkerSettings::default(),
    };
    let mut config = Config::new(vec![server.to_owned()], "secret".to_owned(), settings);
    config.supervisor = env!("CARGO_BIN_EXE_farrow-supervise").into();
    config
}

/// A Python job. `@` in the source stands for the path of a folder.
pub fn python(function: &str, folder: &Path) -> JobSpec {
    JobSpec {
        id: JobId::new(),
        owner: "owner".to_owned(),
        runtime: Runtime::Python,
        is_call: false,
        function: Function::Source(function.replace('@', folder.to_str().unwrap())),
        prepare: String::new(),
        args: BTreeMap::new(),
        globals: BTreeMap::new(),
        packages: Vec::new(),
        setup: String::new(),
        files: None,
        workdir: None,
        options: Options { retries: 1, ..Options::default() },
    }
}

/// A job that runs a program.
pub fn command(words: &[&str]) -> JobSpec {
    let function = Function::Command(words.iter().map(|word| (*word).to_owned()).collect());
    JobSpec { runtime: Runtime::Command, function, ..python("", Path::new("")) }
}

/// A lease of the integers from `first` up to, not including, `end`.
pub fn integers(job: &JobSpec, first: u64, end: u64) -> Lease {
    Lease {
        id: LeaseId::new(),
        job: job.id,
        ranges: RangeSet::from_range(Range(first, end)),
        attempt: 1,
        slots: 1,
        width: 1,
        deaths: BTreeMap::new(),
        input: Input::Range { from: 0 },
        names: Vec::new(),
        outer: None,
    }
}

/// Waits until a file holds a whole line, and returns what it holds. A worker is no task of ours:
/// there is no other event to wait for than its file.
pub async fn file(path: &Path) -> String {
    let written = async {
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let waited = timeout(HANG, written).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {}", path.display()))
}

/// Waits until these processes, one id a line, are gone.
pub async fn gone(pids: &str) {
    for pid in pids.split_whitespace() {
        let end = async {
            while lives(pid) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HANG, end).await.unwrap_or_else(|_| panic!("process {pid} lives on"));
    }
}

/// Whether a process runs. One that is dead and has not been waited for does not.
pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
