//! Load: many simulated agents, which speak as agents do but run nothing, and many clients, each of
//! which submits a job, waits for its value, and submits the next.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, Client};
use crate::clock::Stopwatch;

/// Elements that a simulated agent runs at once.
const SLOTS: usize = 4;

/// Between two looks at the server's memory.
const SAMPLE: Duration = Duration::from_millis(500);

/// How much load, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Simulated agents.
    pub n_agents: usize,
    /// Clients, each with a job of its own.
    pub n_clients: usize,
    /// For how long an element is said to run.
    pub element: Duration,
    /// For how long clients go on.
    pub lasting: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Jobs whose value a client got.
    pub n_jobs: usize,
    /// What failed, in words.
    pub errors: Vec<String>,
    /// From a submission to its answer.
    pub submit: Times,
    /// From a submission to an agent's having it.
    pub lease: Times,
    /// From a report to the waiting client's having the value.
    pub value: Times,
    /// Bytes of the server's memory, from beginning to end.
    pub memory: Vec<u64>,
}

/// Times, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// The time within which such a share of them stayed.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a length is an index"
        )]
        let idx = (share * sorted.len() as f64) as usize;
        sorted.get(idx.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Measured {
    /// The server's memory in the second and in the last quarter, in MiB.
    pub fn early_and_late_memory(&self) -> (u64, u64) {
        let quarter = self.memory.len() / 4;
        let middle = |samples: &[u64]| {
            let mut samples = samples.to_vec();
            samples.sort_unstable();
            samples.get(samples.len() / 2).map_or(0, |bytes| bytes >> 20)
        };
        (middle(&self.memory[quarter..quarter * 2]), middle(&self.memory[quarter * 3..]))
    }
}

/// What all share.
#[derive(Debug)]
struct Scene {
    client: Client,
    shape: Shape,
    is_over: AtomicBool,
    next_element: AtomicU64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// When the job of an element was submitted, and when its report was sent.
    open: HashMap<u64, (Stopwatch, Option<Stopwatch>)>,
    n_jobs: usize,
    errors: Vec<String>,
    submit: Times,
    lease: Times,
    value: Times,
}

impl Scene {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that must be answered with one of these statuses, or it is an error.
    async fn ask(&self, method: &str, path: &str, body: Vec<u8>, good: &[u16]) -> Option<Answer> {
        let headers: &[(&str, &str)] = match path.ends_with("/report") {
            true => &[("content-type", "application/vnd.farrow.envelope")],
            false => &[("content-type", "application/json")],
        };
        match self.client.try_send(method, path, headers, body).await {
            Ok(answer) if good.contains(&answer.status) => return Some(answer),
            Ok(answer) => self.error(&format!("{path}: {} {}", answer.status, answer.text())),
            Err(error) => self.error(&format!("{path}: {error:?}")),
        }
        None
    }

    fn error(&self, error: &str) {
        // When it is over the server may go.
        if !self.is_over.load(Ordering::Relaxed) {
            self.books().errors.push(error.to_owned());
        }
    }
}

/// Lets agents and clients work on the server of a process for a while. When this returns the
/// clients have what they waited for, and the agents go on: they end with the set.
///
/// # Panics
/// When an answer is none of the protocol's.
pub async fn run(client: &Client, server: Pid, shape: Shape) -> (Measured, JoinSet<()>) {
    let scene = Arc::new(Scene {
        client: client.clone(),
        shape,
        is_over: AtomicBool::new(false),
        next_element: AtomicU64::new(0),
        books: Mutex::default(),
    });
    let mut agents = JoinSet::new();
    for idx in 0..shape.n_agents {
        SimulatedAgent::start(&scene, idx, &mut agents).await;
    }
    let stopwatch = Stopwatch::start();
    let mut clients = JoinSet::new();
    for _ in 0..shape.n_clients {
        let scene = Arc::clone(&scene);
        clients.spawn(async move {
            while stopwatch.elapsed() < scene.shape.lasting && one_job(&scene).await.is_some() {}
        });
    }
    let mut memory = Vec::new();
    while !clients.is_empty() {
        memory.push(resident(server));
        let done = tokio::time::timeout(SAMPLE, clients.join_next()).await;
        if let Ok(Some(Err(error))) = done {
            std::panic::resume_unwind(error.into_panic());
        }
        if done.is_ok() {
            while clients.try_join_next().is_some() {}
        }
    }
    scene.is_over.store(true, Ordering::Relaxed);
    let Books { n_jobs, errors, submit, lease, value, .. } = std::mem::take(&mut *scene.books());
    (Measured { n_jobs, errors, submit, lease, value, memory }, agents)
}

/// Submits a job of one element and waits for its value.
async fn one_job(scene: &Scene) -> Option<()> {
    let element = scene.next_element.fetch_add(1, Ordering::Relaxed);
    let job = json!({
        "runtime": "python", "function": "lambda x: x", "elements": {"range": [element, element + 1]},
    });
    let stopwatch = Stopwatch::start();
    scene.books().open.insert(element, (stopwatch, None));
    let answer = scene.ask("POST", "/v1/jobs", job.to_string().into_bytes(), &[202]).await?;
    let submitted = millis(stopwatch);
    scene.books().submit.0.push(submitted);
    let id = answer.json()["id"].as_str()?.to_owned();
    let path = format!("/v1/jobs/{id}/value?wait=30");
    loop {
        let answer = scene.ask("GET", &path, Vec::new(), &[200, 202]).await?;
        if answer.status != 200 {
            continue;
        }
        if answer.json() != json!([element]) {
            scene.error(&format!("{id}: {}, not [{element}]", answer.text()));
        }
        let mut books = scene.books();
        books.n_jobs += 1;
        let reported = books.open.remove(&element).and_then(|(_, reported)| reported);
        books.value.0.extend(reported.map(millis));
        return Some(());
    }
}

/// Speaks as an agent does (`protocol/src/agent.rs`).
#[derive(Debug)]
struct SimulatedAgent {
    scene: Arc<Scene>,
    id: String,
    held: Mutex<Vec<String>>,
    /// A slot has become free.
    freed: Notify,
}

impl SimulatedAgent {
    async fn start(scene: &Arc<Scene>, idx: usize, agents: &mut JoinSet<()>) {
        let agent = Arc::new(Self {
            scene: Arc::clone(scene),
            id: format!("019aab1e-7c3f-7a51-9d7e-{idx:012x}"),
            held: Mutex::default(),
            freed: Notify::new(),
        });
        let register = json!({
            "id": agent.id, "name": format!("simulated-{idx}"), "protocol": 2, "version": "0",
            "slots": SLOTS, "physical_cores": SLOTS, "logical_cores": SLOTS, "memory": 1 << 30,
            "runtimes": {"python": "3"}, "labels": {}
        });
        scene.ask("POST", "/v1/agents", register.to_string().into_bytes(), &[200]).await;
        let (beats, works) = (Arc::clone(&agent), agent);
        agents.spawn(async move { beats.beat().await });
        agents.spawn(async move { works.work().await });
    }

    fn held(&self) -> MutexGuard<'_, Vec<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post(&self, what: &str, body: Vec<u8>) -> Option<Answer> {
        self.scene.ask("POST", &format!("/v1/agents/{}/{what}", self.id), body, &[200]).await
    }

    async fn beat(&self) {
        loop {
            let beat = json!({"held": *self.held(), "draining": false, "wait": 10});
            if self.post("heartbeat", beat.to_string().into_bytes()).await.is_none() {
                sleep(SAMPLE).await;
            }
        }
    }

    async fn work(self: Arc<Self>) {
        loop {
            let held = self.held().clone();
            if held.len() == SLOTS {
                self.freed.notified().await;
                continue;
            }
            let request = json!({
                "free": SLOTS - held.len(), "held": held, "known_jobs": [], "wait": 30,
            });
            // One that has become free while the request is held is asked for with the next.
            let Some(answer) = self.post("lease", request.to_string().into_bytes()).await else {
                sleep(SAMPLE).await;
                continue;
            };
            for lease in header(&answer.body)["leases"].as_array().expect("leases") {
                let (agent, lease) = (Arc::clone(&self), lease.clone());
                self.held().push(lease["id"].as_str().expect("an id").to_owned());
                tokio::spawn(async move { agent.run(&lease).await });
            }
        }
    }

    async fn run(&self, lease: &Value) {
        let first = lease["ranges"][0][0].as_u64().expect("a range");
        let element = lease["input"]["from"].as_u64().expect("a range of integers") + first;
        {
            let mut books = self.scene.books();
            let leased = books.open.get(&element).map(|(submitted, _)| millis(*submitted));
            books.lease.0.extend(leased);
        }
        sleep(self.scene.shape.element).await;
        let value = element.to_string();
        let piece = json!({
            "lease": lease["id"], "job": lease["job"], "first": first, "lengths": [value.len()],
            "slot": 0, "pid": 1, "started_at": 1_700_000_000_000_u64,
            "seconds": self.scene.shape.element.as_secs_f64(),
        });
        if let Some((_, reported)) = self.scene.books().open.get_mut(&element) {
            *reported = Some(Stopwatch::start());
        }
        let answer = self.post("report", sealed(&json!({"pieces": [piece]}), &value)).await;
        if let Some(answer) = answer
            && answer.json()["verdicts"] != json!(["accepted"])
        {
            self.scene.error(&format!("element {element}: {}", answer.text()));
        }
        self.held().retain(|id| lease["id"] != **id);
        self.freed.notify_one();
    }
}

/// Lets this process, and those that it starts, hold as many connections as the system lets it.
///
/// # Panics
/// When it refuses.
pub fn allow_many_connections() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit can be raised to its bound");
}

/// The header of an envelope.
fn header(envelope: &[u8]) -> Value {
    let (length, rest) = envelope.split_first_chunk::<4>().expect("an envelope");
    let length = u32::from_le_bytes(*length) as usize;
    serde_json::from_slice(&rest[..length]).expect("its header")
}

fn sealed(header: &Value, payload: &str) -> Vec<u8> {
    let header = header.to_string();
    let length = u32::try_from(header.len()).expect("a short header");
    [&length.to_le_bytes(), header.as_bytes(), payload.as_bytes()].concat()
}

fn millis(stopwatch: Stopwatch) -> f64 {
    stopwatch.elapsed().as_secs_f64() * 1e3
}

/// Bytes of memory that a process has.
fn resident(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}
