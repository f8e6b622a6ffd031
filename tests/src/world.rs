//! A folder with a deployment: a database and its servers, agents, and commands run beside them.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::postgres::Postgres;
use crate::process::{self, Finished, Process};
use crate::wait::until;

/// Seconds for which an agent's leases are good: short, because tests wait for them to lapse.
pub const LEASE_SECONDS: f64 = 3.0;

/// The variable by which logs and data of tests that pass are kept as well.
const KEEP_LOGS: &str = "FARROW_KEEP_LOGS";

/// What a deployment keeps its jobs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// A file, with one server.
    Sqlite,
    /// PostgreSQL, with two servers.
    Postgres,
}

impl Database {
    /// Those on which everything must hold.
    pub const ALL: &[Self] = &[Self::Sqlite, Self::Postgres];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    fn n_servers(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 2,
        }
    }
}

/// A deployment and what is beside it. Whatever is left of it when it is dropped is killed.
#[derive(Debug)]
pub struct World {
    /// Talks to the first server with the administrator's token.
    pub client: Client,
    servers: Vec<Server>,
    /// Flags of the servers beyond those that every server gets.
    flags: Vec<String>,
    /// Variables of all processes beyond those that every process gets.
    variables: Vec<(&'static str, String)>,
    /// Variables of the servers beyond these.
    server_variables: Vec<(String, String)>,
    n_processes: AtomicU32,
    folder: Arc<Folder>,
    /// Ended after the servers.
    postgres: Option<Arc<Postgres>>,
}

/// A server, and where it listens, now and after each start.
#[derive(Debug)]
struct Server {
    process: Process,
    url: String,
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

/// A temporary folder that is kept when its test fails, or when the variable `FARROW_KEEP_LOGS` is
/// set.
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
        if (thread::panicking() || env::var_os(KEEP_LOGS).is_some())
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
        let mut world = Self::prepare(Database::Sqlite, flags).await;
        world.variables = variables;
        world.start_servers(Database::Sqlite).await;
        world
    }

    /// Starts a deployment on a database, its servers with further flags and variables.
    pub async fn start_on(database: Database, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut world = Self::prepare(database, flags).await;
        let variables = variables.iter().map(|(name, value)| [*name, *value].map(str::to_owned));
        world.server_variables = variables.map(Into::into).collect();
        world.start_servers(database).await;
        world
    }

    /// A world without servers yet.
    async fn prepare(database: Database, flags: &[&str]) -> Self {
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let folder = Arc::new(Folder::new());
        let postgres = match database {
            Database::Sqlite => None,
            Database::Postgres => {
                let starting = tokio::task::spawn_blocking(|| {
                    let postgres = Postgres::start();
                    let url = postgres.create_database();
                    (postgres, url)
                });
                let (postgres, url) = starting.await.expect("PostgreSQL starts");
                flags.extend(["--database-url".to_owned(), url]);
                if !flags.iter().any(|flag| flag == "--blobs") {
                    let blobs = folder.path().join("blobs").display().to_string();
                    flags.extend(["--blobs".to_owned(), blobs]);
                }
                Some(Arc::new(postgres))
            }
        };
        Self {
            client: Client::new(""),
            servers: Vec::new(),
            flags,
            variables: Vec::new(),
            server_variables: Vec::new(),
            n_processes: AtomicU32::new(0),
            folder,
            postgres,
        }
    }

    async fn start_servers(&mut self, database: Database) {
        for _ in 0..database.n_servers() {
            let server = self.serve("127.0.0.1:0").await;
            self.servers.push(server);
        }
        self.client = Client::new(self.url());
    }

    /// Where the first server listens.
    pub fn url(&self) -> &str {
        &self.servers[0].url
    }

    /// Where each server listens.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.url.clone()).collect()
    }

    /// Talks to the first of the servers that answer.
    pub async fn answering(&self) -> Client {
        until("a server answers", async || {
            for url in self.urls() {
                let client = Client::new(&url);
                if client.answers().await {
                    return Some(client);
                }
            }
            None
        })
        .await
    }

    /// The port on which the first server listens.
    pub fn port(&self) -> &str {
        port(self.url())
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data folder of the first server.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// How many servers there are.
    pub fn n_servers(&self) -> usize {
        self.servers.len()
    }

    /// The process of the first server.
    pub fn server(&mut self) -> &mut Process {
        self.server_at(0)
    }

    /// The process of a server, counted from 0.
    pub fn server_at(&mut self, server_idx: usize) -> &mut Process {
        &mut self.servers[server_idx].process
    }

    /// The database's process, if it has one.
    pub fn postgres(&self) -> Option<Arc<Postgres>> {
        self.postgres.clone()
    }

    /// How often each agent was given up, by its name, as the servers' logs tell.
    pub fn given_up(&self) -> BTreeMap<String, usize> {
        let logs = fs::read_dir(self.folder.path()).expect("the folder is there").flatten();
        let is_server = |name: &str| name.starts_with("server-") && name.ends_with(".log");
        let logs = logs.filter(|log| log.file_name().to_str().is_some_and(is_server));
        let text: String = logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect();
        let mut given_up = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains("was not heard of for a lease")) {
            let id = line.rsplit_once("agent=").map_or("", |(_, id)| id.trim());
            let registered = text.lines().find(|line| {
                line.contains("an agent has registered") && line.contains(&format!("agent={id}"))
            });
            let name = registered.and_then(|line| line.split("name=\"").nth(1)?.split('"').next());
            *given_up.entry(name.unwrap_or(id).to_owned()).or_default() += 1;
        }
        given_up
    }

    /// Gives the servers further flags and variables when they are started again.
    pub fn add_flags(&mut self, flags: &[&str], variables: &[(&'static str, String)]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.server_variables.extend(variables);
    }

    /// Starts the first server again, on the same data and the same port, after it has ended.
    pub async fn restart(&mut self) {
        self.restart_at(0).await;
    }

    /// Starts a server again, on the same data and the same port, after it has ended.
    pub async fn restart_at(&mut self, server_idx: usize) {
        let listen = format!("127.0.0.1:{}", port(&self.servers[server_idx].url));
        self.servers[server_idx] = self.serve(&listen).await;
    }

    /// Starts the first server on the same data at another address, after it has ended.
    pub async fn move_to(&mut self, address: &str) {
        self.servers[0] = self.serve(address).await;
        self.client = Client::new(self.url());
    }

    async fn serve(&self, listen: &str) -> Server {
        let name = self.process_name("server");
        let mut command = self.command(&["server", "--json", "--listen", listen]);
        if !self.flags.iter().any(|flag| flag == "--lease") {
            command.args(["--lease", &LEASE_SECONDS.to_string()]);
        }
        if self.postgres.is_none() && !self.flags.iter().any(|flag| flag == "--data") {
            command.arg("--data").arg(self.data());
        }
        command.args(&self.flags);
        command.envs(self.server_variables.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(&name, self.folder.path(), &mut command);
        let place: Value = serde_json::from_str(&process.first_line().await)
            .expect("a server says in JSON where it listens");
        let url = place["url"].as_str().expect("a server says its address").to_owned();
        Server { process, url }
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
        let mut command = self.agent_command(&self.urls(), name, slots, flags);
        self.agent_by_command(name, &mut command).await
    }

    /// Starts an agent with a token of its own, and waits until the server knows it.
    pub async fn agent_by(&self, token: &str, name: &str, slots: u32, flags: &[&str]) -> Agent {
        let mut command = self.agent_command(&self.urls(), name, slots, flags);
        self.agent_by_command(name, command.env("FARROW_TOKEN", token)).await
    }

    /// Starts an agent by a command, which [`agent_command`](Self::agent_command) made, and waits
    /// until the server knows it.
    pub async fn agent_by_command(&self, name: &str, command: &mut Command) -> Agent {
        let process = self.spawn(name, command);
        let agent = Agent { process, name: name.to_owned(), _folder: Arc::clone(&self.folder) };
        self.agent_is(&agent, "live").await;
        agent
    }

    /// The command that starts an agent, which finds servers at these addresses.
    pub fn agent_command(
        &self,
        servers: &[String],
        name: &str,
        slots: u32,
        flags: &[&str],
    ) -> Command {
        let slots = slots.to_string();
        let mut arguments = vec!["agent", "--name", name, "--slots", &slots];
        arguments.extend(servers.iter().flat_map(|url| ["--server", url]));
        arguments.extend(flags);
        self.command(&arguments)
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
            command.env("FARROW_URL", self.urls().join(","));
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

fn port(url: &str) -> &str {
    url.rsplit_once(':').expect("the address has a port").1
}
