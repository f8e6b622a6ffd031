//! A folder with a server, its agents, and commands run beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::TOKEN;
use crate::client::Client;
use crate::process::{self, Finished, Process};
use crate::wait::until;

/// Seconds for which an agent's leases are good: short, because tests wait for them to lapse.
const LEASE: &str = "3";

/// A server and what is beside it. Whatever is left of it when it is dropped is killed.
#[derive(Debug)]
pub struct World {
    /// Talks to the server with the administrator's token.
    pub client: Client,
    server: Process,
    url: String,
    /// Flags of the server beyond those that every server gets.
    flags: Vec<String>,
    /// Variables of all processes beyond those that every process gets.
    variables: Vec<(&'static str, String)>,
    n_processes: AtomicU32,
    folder: Arc<Folder>,
}

/// An agent. Its folder outlives it.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// Its name.
    pub name: String,
    _folder: Arc<Folder>,
}

/// A temporary folder that is kept when its test fails.
#[derive(Debug)]
struct Folder(Option<TempDir>);

impl Folder {
    fn new() -> Self {
        Self(Some(TempDir::with_prefix("farrow-e2e-").expect("a temporary folder can be made")))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().expect("the folder is there until it is dropped").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.0.take()
        {
            eprintln!("logs and data are kept in {}", folder.keep().display());
        }
    }
}

impl World {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        Self::start_as(flags, Vec::new()).await
    }

    /// Starts a server with further flags; it, its agents and commands have further variables.
    pub async fn start_as(flags: &[&str], variables: Vec<(&'static str, String)>) -> Self {
        let folder = Arc::new(Folder::new());
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (server, url) = serve(&folder, "server-0", "127.0.0.1:0", &flags, &variables).await;
        let client = Client::new(&url);
        Self { client, server, url, flags, variables, n_processes: AtomicU32::new(1), folder }
    }

    /// Where the server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port on which the server listens.
    pub fn port(&self) -> &str {
        self.url.rsplit_once(':').expect("the address has a port").1
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's data folder.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The server's process.
    pub fn server(&mut self) -> &mut Process {
        &mut self.server
    }

    /// Starts a server again, on the same data and the same port, after it was killed.
    pub async fn restart(&mut self) {
        let address = format!("127.0.0.1:{}", self.port());
        let name = self.process_name("server");
        (self.server, _) = serve(&self.folder, &name, &address, &self.flags, &self.variables).await;
    }

    /// Starts a server on the same data at another address, after the one before has ended.
    pub async fn move_to(&mut self, address: &str) {
        let name = self.process_name("server");
        (self.server, self.url) =
            serve(&self.folder, &name, address, &self.flags, &self.variables).await;
        self.client = Client::new(&self.url);
    }

    /// Starts an agent that has every runtime, and waits until the server knows it.
    pub async fn agent(&self, name: &str, slots: u32) -> Agent {
        self.agent_with(name, slots, &[]).await
    }

    /// Starts an agent that has Python only, and waits until the server knows it. It starts
    /// quicker than one that asks R for its version.
    pub async fn python_agent(&self, name: &str, slots: u32) -> Agent {
        self.agent_with(name, slots, &["--runtime", "python"]).await
    }

    /// Starts an agent with further flags, and waits until the server knows it.
    pub async fn agent_with(&self, name: &str, slots: u32, flags: &[&str]) -> Agent {
        self.agent_by(TOKEN, name, slots, flags).await
    }

    /// Starts an agent with a token of its own, and waits until the server knows it.
    pub async fn agent_by(&self, token: &str, name: &str, slots: u32, flags: &[&str]) -> Agent {
        let slots = slots.to_string();
        let mut arguments = vec!["agent", "--server", &self.url, "--name", name, "--slots", &slots];
        arguments.extend(flags);
        let process = self.spawn(name, self.command(&arguments).env("FARROW_TOKEN", token));
        let agent = Agent { process, name: name.to_owned(), _folder: Arc::clone(&self.folder) };
        self.agent_is(&agent, "live").await;
        agent
    }

    /// Waits until the server says that an agent is in this state.
    pub async fn agent_is(&self, agent: &Agent, state: &str) {
        let what = format!("agent {} is {state}", agent.name);
        until(&what, async || {
            let agents = self.client.get("/v1/agents?gone=true").await.json();
            let agents = agents["items"].as_array().expect("agents are listed").clone();
            let is_there = |item: &Value| item["name"] == *agent.name && item["state"] == *state;
            agents.iter().any(is_there).then_some(())
        })
        .await;
    }

    /// The program with `arguments`, in this world's home and with its token. Commands that ask
    /// for no server by a flag of their own find this world's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(arguments, self.folder.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if !matches!(arguments.first(), Some(&("server" | "agent" | "up"))) {
            command.env("FARROW_URL", &self.url);
        }
        command
    }

    /// Starts a command.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Process {
        Process::start(&self.process_name(name), self.folder.path(), command)
    }

    /// Runs the program with `arguments` until it ends.
    pub async fn farrow(&self, arguments: &[&str]) -> Finished {
        self.spawn(arguments[0], &mut self.command(arguments)).finished().await
    }

    /// Runs the program with `arguments` until it ends, with `input` as standard input.
    pub async fn farrow_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        let name = self.process_name("input");
        fs::write(self.path(&name), input).expect("a file can be written");
        let input = fs::File::open(self.path(&name)).expect("the file is there");
        self.spawn(arguments[0], self.command(arguments).stdin(input)).finished().await
    }

    fn process_name(&self, name: &str) -> String {
        format!("{name}-{}", self.n_processes.fetch_add(1, Ordering::Relaxed))
    }
}

impl Agent {
    /// Its process id.
    pub fn pid(&self) -> i64 {
        self.process.pid().as_raw().into()
    }
}

async fn serve(
    folder: &Folder,
    name: &str,
    listen: &str,
    flags: &[String],
    variables: &[(&'static str, String)],
) -> (Process, String) {
    let data = folder.path().join("data");
    let mut command = process::command(["server", "--json", "--listen", listen], folder.path());
    if !flags.iter().any(|flag| flag == "--lease") {
        command.args(["--lease", LEASE]);
    }
    command.arg("--data").arg(data).args(flags);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut server = Process::start(name, folder.path(), &mut command);
    let place: Value = serde_json::from_str(&server.first_line().await)
        .expect("a server says in JSON where it listens");
    let url = place["url"].as_str().expect("a server says its address").to_owned();
    (server, url)
}
