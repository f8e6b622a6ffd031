//! An auditor that believes no table: each element writes a line when it starts and one when it
//! ends, and says which process it ran in.
//!
//! Elements are held at a [`Gate`] where a test has to know what runs when it strikes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::wait::until;
use crate::world::World;

/// Python functions for the start of a job's source. `work` is one element's whole life.
const PYTHON: &str = r#"
import os, time

def parent(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("PPid:"))

AGENT = parent(parent(os.getpid()))
RUN = None

def agent():
    return AGENT

def run():
    return RUN

def note(audit, x, what):
    at = time.time_ns() // 1_000_000
    file = os.open(audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{x} {what} {os.getpid()} {AGENT} {at} {RUN}\n".encode())
    os.close(file)

def work(x, audit, gate, seconds, result):
    global RUN
    RUN = f"{os.getpid()}-{time.time_ns()}"
    note(audit, x, "start")
    time.sleep(seconds)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    value = result()
    note(audit, x, "end")
    return value
"#;

/// The same for R.
const R: &str = r#"
parent <- function(pid) {
  status <- readLines(sprintf("/proc/%d/status", pid))
  as.integer(sub("^PPid:", "", grep("^PPid:", status, value = TRUE)))
}
this <- new.env()
this$agent <- parent(parent(Sys.getpid()))
agent <- function() this$agent
run <- function() this$run
note <- function(audit, x, what) {
  name <- if (is.list(x)) paste(unlist(x), collapse = "/") else format(x)
  at <- as.numeric(Sys.time()) * 1000
  line <- sprintf("%s %s %d %d %.0f %s\n", name, what, Sys.getpid(), this$agent, at, this$run)
  cat(line, file = audit, append = TRUE)
}
work <- function(x, audit, gate, seconds, result) {
  this$run <- sprintf("%d-%.0f", Sys.getpid(), as.numeric(Sys.time()) * 1e6)
  note(audit, x, "start")
  Sys.sleep(seconds)
  while (!is.null(gate) && !file.exists(gate)) Sys.sleep(0.02)
  value <- result
  note(audit, x, "end")
  value
}
"#;

/// A file that elements write to.
#[derive(Clone, Debug)]
pub struct Audit {
    file: PathBuf,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The element, as it calls itself.
    pub element: String,
    /// Whether it ended; else it started.
    pub is_end: bool,
    /// The worker's process.
    pub pid: Pid,
    /// The agent's process.
    pub agent: Pid,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Names the execution: no two have the same name.
    pub run: String,
}

impl Audit {
    /// A new file in the folder of `world`.
    pub fn new(world: &World, name: &str) -> Self {
        Self { file: world.path(&format!("{name}.audit")) }
    }

    /// A Python job whose elements are audited and give the value of the expression `result`, in
    /// which `x` is the element, `agent()` the agent's process and `run()` the execution's name.
    pub fn python(&self, elements: &Value, result: &str) -> Value {
        let function = format!(
            "{PYTHON}\ndef element(x, audit, gate, free, seconds):\n    \
             held = gate if type(x) is not int or x >= free else None\n    \
             return work(x, audit, held, seconds, lambda: {result})\n"
        );
        self.job("python", &function, elements)
    }

    /// The same in R.
    pub fn r(&self, elements: &Value, result: &str) -> Value {
        let function = format!(
            "{{\n{R}\nfunction(x, audit, gate, free, seconds) {{\n  \
             held <- if (!is.numeric(x) || x >= free) gate\n  \
             work(x, audit, held, seconds, {result})\n}}\n}}"
        );
        self.job("r", &function, elements)
    }

    /// The same in the runtime of this name.
    pub fn of(&self, runtime: &str, elements: &Value, result: &str) -> Value {
        if runtime == "r" { self.r(elements, result) } else { self.python(elements, result) }
    }

    fn job(&self, runtime: &str, function: &str, elements: &Value) -> Value {
        let args = json!({"audit": self.file, "gate": null, "free": 0, "seconds": 0});
        json!({"runtime": runtime, "function": function, "elements": elements, "args": args})
    }

    /// What was written, in order.
    ///
    /// # Panics
    /// When a line is none of ours.
    pub fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let whole_lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole_lines.map(event).collect()
    }

    /// How often each element was started.
    pub fn starts(&self) -> BTreeMap<String, u32> {
        let mut starts = BTreeMap::new();
        for event in self.events().into_iter().filter(|event| !event.is_end) {
            *starts.entry(event.element).or_default() += 1;
        }
        starts
    }

    /// The elements that were started more than once.
    pub fn repeated(&self) -> BTreeSet<String> {
        let starts = self.starts().into_iter();
        starts.filter(|(_, n)| *n > 1).map(|(element, _)| element).collect()
    }

    /// The processes that ran elements.
    pub fn pids(&self) -> BTreeSet<Pid> {
        self.events().into_iter().map(|event| event.pid).collect()
    }

    /// How many elements ran at once at the most.
    pub fn most_at_once(&self) -> usize {
        let (mut now, mut most) = (0_usize, 0);
        for event in self.events() {
            now = if event.is_end { now.saturating_sub(1) } else { now + 1 };
            most = most.max(now);
        }
        most
    }

    /// How many agents ran elements at once at the most.
    pub fn most_agents_at_once(&self) -> usize {
        let (mut running, mut most) = (BTreeMap::<Pid, usize>::new(), 0);
        for event in self.events() {
            let of_agent = running.entry(event.agent).or_default();
            *of_agent = if event.is_end { of_agent.saturating_sub(1) } else { *of_agent + 1 };
            most = most.max(running.values().filter(|n| **n > 0).count());
        }
        most
    }

    /// Waits until elements have been started so often, in all.
    pub async fn started(&self, n_starts: usize) {
        self.when(&format!("{n_starts} starts"), |events| {
            events.iter().filter(|event| !event.is_end).count() >= n_starts
        })
        .await;
    }

    /// Waits until elements have ended so often, in all.
    pub async fn ended(&self, n_ends: usize) {
        self.when(&format!("{n_ends} ends"), |events| {
            events.iter().filter(|event| event.is_end).count() >= n_ends
        })
        .await;
    }

    async fn when(&self, what: &str, wanted: impl Fn(&[Event]) -> bool) {
        until(&format!("{what} in {}", self.file.display()), async || {
            wanted(&self.events()).then_some(())
        })
        .await;
    }
}

fn event(line: &str) -> Event {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [element, what @ ("start" | "end"), pid, agent, at, run] => Event {
            element: element.to_owned(),
            is_end: what == "end",
            pid: process(pid),
            agent: process(agent),
            at: at.parse().expect("a time"),
            run: run.to_owned(),
        },
        _ => panic!("not a line of the audit: {line:?}"),
    }
}

fn process(id: &str) -> Pid {
    Pid::from_raw(id.parse().expect("a process id"))
}

/// An audited job whose elements take so long, beside what they wait for.
pub fn taking(seconds: f64, mut job: Value) -> Value {
    job["args"]["seconds"] = json!(seconds);
    job
}

/// The words by which `farrow map` submits an audited Python job over the elements `0..n`.
///
/// # Panics
/// When the job is not an audited one.
pub fn as_command(job: &Value, n: u32) -> Vec<String> {
    let mut words = vec!["map".to_owned(), "--runtime=python".into(), "--json-lines".into()];
    let args = job["args"].as_object().expect("an audited job has arguments");
    words.extend(args.iter().map(|(name, value)| format!("--arg={name}={value}")));
    words.push(job["function"].as_str().expect("a job has a function").to_owned());
    words.extend((0..n).map(|element| element.to_string()));
    words
}

/// A file for which elements wait.
#[derive(Clone, Debug)]
pub struct Gate {
    file: PathBuf,
}

impl Gate {
    /// A closed gate in the folder of `world`.
    pub fn new(world: &World, name: &str) -> Self {
        Self { file: world.path(&format!("{name}.gate")) }
    }

    /// An audited job whose elements all wait here.
    pub fn hold(&self, job: Value) -> Value {
        self.hold_from(0, job)
    }

    /// An audited job of numbers: those from `first` on wait here.
    pub fn hold_from(&self, first: i64, mut job: Value) -> Value {
        job["args"]["gate"] = json!(self.file);
        job["args"]["free"] = json!(first);
        job
    }

    /// Lets everybody through, from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn open(&self) {
        fs::write(&self.file, "").expect("a gate can be opened");
    }
}
