//! User code at its worst breaks nothing but its own element, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::wait::until_within;
use tests::world::Agent;
use tests::{World, procfs};

/// How long what an element left running may outlive its job: workers keep a job for some seconds,
/// because its next element often comes.
const LEFTOVERS: Duration = Duration::from_secs(15);

/// Slots of the agent that has to bear it.
const SLOTS: u32 = 2;

/// What element 3 of 6 does, as the definition of `nasty(mark)`, and what becomes of it. `mark` is
/// the argument by which processes that it starts are known.
struct Case {
    name: &'static str,
    code: &'static str,
    becomes: Becomes,
}

enum Becomes {
    /// This value.
    Value(Value),
    /// A string of so many bytes.
    Text(usize),
    /// An error of this type.
    Error(&'static str),
}

use Becomes::{Error, Text};

fn case(name: &'static str, code: &'static str, becomes: Becomes) -> Case {
    Case { name, code, becomes }
}

fn fine(name: &'static str, code: &'static str) -> Case {
    case(name, code, Becomes::Value(json!("fine")))
}

fn python() -> Vec<Case> {
    vec![
        case("raises", "def nasty(mark): raise KeyError(mark)", Error("KeyError")),
        case("exits", "import os\ndef nasty(mark): os._exit(3)", Error("WorkerDied")),
        case("sys.exit", "import sys\ndef nasty(mark): sys.exit(3)", Error("SystemExit")),
        case("interrupts", "def nasty(mark): raise KeyboardInterrupt", Error("KeyboardInterrupt")),
        case(
            "kills itself",
            "import os\ndef nasty(mark): os.kill(os.getpid(), 9)",
            Error("WorkerDied"),
        ),
        case("kills its group", "import os\ndef nasty(mark): os.killpg(0, 9)", Error("WorkerDied")),
        case(
            "kills its parent",
            "import os, time\ndef nasty(mark):\n  os.kill(os.getppid(), 9)\n  time.sleep(1000)",
            Error("WorkerDied"),
        ),
        case(
            "segfaults",
            "import ctypes\ndef nasty(mark): ctypes.string_at(0)",
            Error("WorkerDied"),
        ),
        case(
            "never returns",
            "import signal, time\ndef nasty(mark):\n  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n  while True: time.sleep(1)",
            Error("Timeout"),
        ),
        fine(
            "prints 100 MB",
            "def nasty(mark):\n  for _ in range(100): print('x' * 2**20)\n  return 'fine'",
        ),
        fine(
            "leaves children",
            "import subprocess\ndef nasty(mark):\n  for _ in range(3): subprocess.Popen(['sleep', mark])\n  return 'fine'",
        ),
        fine(
            "forks",
            "import os, time\ndef nasty(mark):\n  if os.fork() == 0:\n    time.sleep(1000)\n  return 'fine'",
        ),
        fine("a child comes back", "import os\ndef nasty(mark):\n  os.fork()\n  return 'fine'"),
        fine(
            "daemonises",
            "import os\ndef nasty(mark):\n  if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n      os.execvp('sleep', ['sleep', mark])\n    os._exit(0)\n  return 'fine'",
        ),
        case(
            "leaves children and dies",
            "import os, subprocess\ndef nasty(mark):\n  subprocess.Popen(['sleep', mark], start_new_session=True)\n  os._exit(1)",
            Error("WorkerDied"),
        ),
        fine(
            "a thread stays",
            "import threading, time\ndef nasty(mark):\n  threading.Thread(target=time.sleep, args=(1000,)).start()\n  return 'fine'",
        ),
        fine(
            "closes its output",
            "import os, sys\ndef nasty(mark):\n  sys.stdout.close(); os.close(2)\n  return 'fine'",
        ),
        fine(
            "puts another in its place",
            "import io, sys\ndef nasty(mark):\n  sys.stdout = io.StringIO(); sys.stderr = None\n  return 'fine'",
        ),
        case(
            "writes to our frames",
            "import os, time\ndef nasty(mark):\n  os.write(4, b'\\xff' * 99)\n  time.sleep(1000)",
            Error("WorkerDied"),
        ),
        case(
            "closes our frames",
            "import os\ndef nasty(mark):\n  os.close(4)\n  return 'fine'",
            Error("WorkerDied"),
        ),
        case(
            "a value of NaN",
            "def nasty(mark): return [1, {'a': float('nan')}]",
            Error("Untranslatable"),
        ),
        case("a value of no JSON", "def nasty(mark): return object()", Error("Untranslatable")),
        case(
            "a value within itself",
            "def nasty(mark):\n  a = []; a.append(a)\n  return a",
            Error("Untranslatable"),
        ),
        case("recurses", "def nasty(mark): return nasty(mark)", Error("RecursionError")),
        case("a value of 20 MB", "def nasty(mark): return 'x' * 20_000_000", Text(20_000_000)),
        fine(
            "changes all there is",
            "import os\ndef nasty(mark):\n  os.chdir('/'); os.environ.clear(); os.umask(0o777)\n  return 'fine'",
        ),
    ]
}

fn r() -> Vec<Case> {
    vec![
        case("stops", "nasty <- function(mark) stop('boom ', mark)", Error("simpleError")),
        case("quits", "nasty <- function(mark) quit(status = 3)", Error("WorkerDied")),
        case(
            "kills itself",
            "nasty <- function(mark) tools::pskill(Sys.getpid(), 9)",
            Error("WorkerDied"),
        ),
        case(
            "segfaults",
            "nasty <- function(mark) tools::pskill(Sys.getpid(), 11)",
            Error("WorkerDied"),
        ),
        case("never returns", "nasty <- function(mark) repeat Sys.sleep(1)", Error("Timeout")),
        fine(
            "prints 100 MB",
            "nasty <- function(mark) { for (i in 1:100) cat(strrep('x', 2^20), '\\n'); 'fine' }",
        ),
        fine(
            "leaves children",
            "nasty <- function(mark) { system(paste('sleep', mark), wait = FALSE); 'fine' }",
        ),
        fine("forks", "nasty <- function(mark) { parallel::mcparallel(Sys.sleep(1000)); 'fine' }"),
        fine(
            "daemonises",
            "nasty <- function(mark) { system(sprintf('(setsid sleep %s >/dev/null 2>&1 &)', mark)); 'fine' }",
        ),
        case(
            "leaves children and dies",
            "nasty <- function(mark) { system(paste('setsid sleep', mark), wait = FALSE); quit(status = 1) }",
            Error("WorkerDied"),
        ),
        fine(
            "diverts its output",
            "nasty <- function(mark) { sink(tempfile()); print(1); 'fine' }",
        ),
        fine("closes all connections", "nasty <- function(mark) { closeAllConnections(); 'fine' }"),
        case(
            "writes to our frames",
            "nasty <- function(mark) { f <- file('/proc/self/fd/4', 'wb'); writeBin(as.raw(rep(255, 99)), f); close(f); Sys.sleep(1000) }",
            Error("WorkerDied"),
        ),
        case(
            "a value of NaN",
            "nasty <- function(mark) list(a = c(1, NaN))",
            Error("Untranslatable"),
        ),
        case("a value of no JSON", "nasty <- function(mark) globalenv()", Error("Untranslatable")),
        case("recurses", "nasty <- function(mark) nasty(mark)", Error("CStackOverflowError")),
        case("a value of 20 MB", "nasty <- function(mark) strrep('x', 2e7)", Text(20_000_000)),
        case(
            "an error that would quit",
            "nasty <- function(mark) { options(error = quote(quit())); stop('boom') }",
            Error("simpleError"),
        ),
        fine(
            "removes everything",
            "nasty <- function(mark) { rm(list = ls(globalenv(), all.names = TRUE), envir = globalenv()); setwd('/'); 'fine' }",
        ),
    ]
}

fn job(runtime: &str, case: &Case, mark: &str, on_error: &str) -> Value {
    let code = case.code;
    let function = match runtime {
        "r" => format!("{{ {code}\n function(x, mark) if (x == 3) nasty(mark) else x * 10L }}"),
        _ => format!("{code}\ndef element(x, mark): return nasty(mark) if x == 3 else x * 10"),
    };
    let timeout = matches!(case.becomes, Error("Timeout")).then_some(1.0);
    json!({
        "runtime": runtime, "name": case.name, "function": function,
        "elements": {"range": [0, 6]}, "args": {"mark": mark},
        "options": {"on_error": on_error, "retries": 0, "timeout": timeout}
    })
}

/// The same, with an element 6 that waits until the file `gate` is there: what the job's elements leave
/// behind stays until the job has ended.
fn held(runtime: &str, case: &Case, mark: &str, gate: &Path) -> Value {
    let (code, gate) = (case.code, gate.display());
    let mut job = job(runtime, case, mark, "collect");
    job["elements"] = json!({"range": [0, 7]});
    job["function"] = json!(match runtime {
        "r" => format!(
            "{{ {code}\n function(x, mark) {{
                if (x == 3) return(nasty(mark))
                while (x == 6 && !file.exists('{gate}')) Sys.sleep(0.01)
                x }} }}"
        ),
        _ => format!(
            "import os, time\n{code}\ndef element(x, mark):
                if x == 3: return nasty(mark)
                while x == 6 and not os.path.exists('{gate}'): time.sleep(0.01)
                return x"
        ),
    });
    job
}

async fn others_are_whole(world: &World, runtime: &str, cases: &[Case], mark: &str) {
    for case in cases {
        let name = case.name;
        let mut value = world.client.run(&job(runtime, case, mark, "collect")).await;
        let nasty = value[3].take();
        assert_eq!(value, json!([0, 10, 20, null, 40, 50]), "{runtime}: {name}");
        match &case.becomes {
            Becomes::Value(expected) => assert_eq!(nasty, *expected, "{runtime}: {name}"),
            Text(length) => assert_eq!(nasty.as_str().map(str::len), Some(*length), "{name}"),
            Error(kind) => assert_eq!(nasty["error"]["type"], *kind, "{runtime}: {name}: {nasty}"),
        }
    }
}

async fn stop_names_the_element(world: &World, runtime: &str, cases: &[Case], mark: &str) {
    for case in cases {
        let Error(kind) = case.becomes else { continue };
        let problem = world.client.failure(&job(runtime, case, mark, "stop")).await;
        let element = &problem["element"];
        assert_eq!((&element["index"], &element["type"]), (&json!(3), &json!(kind)), "{problem:#}");
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.contains("element 3")),
            "{problem:#}"
        );
    }
}

/// Nothing is left but an agent's idle workers, each with its supervisor.
async fn nothing_is_left(agent: &Agent, mark: &str) {
    until_within(LEFTOVERS, "what elements left behind is gone", async || {
        let marked = procfs::with_argument(mark);
        let family = procfs::descendants(agent.process.pid());
        (marked.is_empty() && family.len() <= 2 * SLOTS as usize).then_some(())
    })
    .await;
}

/// An argument of `sleep` that no other process on this machine has.
fn mark(n: u32) -> String {
    format!("98765.{}{n}", Pid::this())
}

async fn bear(runtime: &str, cases: &[Case], mark: &str) {
    let world = World::start().await;
    let agent = world.agent("one", SLOTS).await;
    others_are_whole(&world, runtime, cases, mark).await;
    stop_names_the_element(&world, runtime, cases, mark).await;
    nothing_is_left(&agent, mark).await;
    let job = json!({"runtime": runtime, "function": "abs", "elements": [-1, 2, -3]});
    assert_eq!(world.client.run(&job).await, json!([1, 2, 3]));
}

#[tokio::test]
async fn python_at_its_worst() {
    bear("python", &python(), &mark(1)).await;
}

#[tokio::test]
async fn r_at_its_worst() {
    bear("r", &r(), &mark(2)).await;
}

#[tokio::test]
async fn nothing_outlives_an_agent_that_ends_or_is_killed() {
    let ways = [(3, "python", true), (4, "python", false), (5, "r", true), (6, "r", false)];
    for (n, runtime, kill) in ways {
        let (world, mark) = (World::start().await, mark(n));
        let mut agent = world.agent("one", SLOTS).await;
        let (gate, cases) = (world.path("gate"), if runtime == "r" { r() } else { python() });
        let named = |name| cases.iter().find(|case| case.name == name).expect("a case");
        world.client.run(&job(runtime, named("leaves children"), &mark, "collect")).await;
        world.client.submit(&held(runtime, named("daemonises"), &mark, &gate)).await;
        until_within(LEFTOVERS, "an element has left something behind", async || {
            (!procfs::with_argument(&mark).is_empty()).then_some(())
        })
        .await;
        let family = procfs::descendants(agent.process.pid());
        if kill {
            agent.process.kill();
        } else {
            agent.process.signal(nix::sys::signal::Signal::SIGTERM);
            std::fs::write(&gate, "").expect("a gate can be opened");
            assert!(agent.process.ended().await.success());
        }
        until_within(LEFTOVERS, "what elements left behind is gone", async || {
            let is_gone = procfs::with_argument(&mark).is_empty();
            (is_gone && !family.iter().any(|pid| procfs::is_alive(*pid))).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn strings_of_any_kind_come_back_as_they_were() {
    let world = World::start().await;
    let _agent = world.agent("one", SLOTS).await;
    let strings = [
        "",
        " ",
        "ß 💥 é e\u{301} \u{feff}",
        "\u{2028}\u{7f}\u{85}",
        "\u{1}\u{1b}\t\r\n",
        "a\\b\"c'd",
        "NA",
        "null",
    ];
    // An element must not be joined with its neighbours, whatever it holds.
    let mut elements: Vec<String> = strings.iter().map(|text| json!([text]).to_string()).collect();
    elements.push(r#"["a\u0000b"]"#.to_owned());
    elements.push(r#"["\ud83d"]"#.to_owned());
    for (runtime, function) in [("python", "lambda x: x[0]"), ("r", "function(x) x[[1]]")] {
        let job = format!(
            r#"{{"runtime": "{runtime}", "function": "{function}",
                "elements": [{}], "options": {{"on_error": "collect"}}}}"#,
            elements.join(",")
        );
        let id = world.client.submit_text(job).await;
        let value = world.client.value(&id).await;
        let values = value.as_array().unwrap();
        assert_eq!(values[..strings.len()], strings.map(Value::from), "{runtime}");
        let nul = &values[strings.len()];
        match runtime {
            "r" => assert_eq!(nul["error"]["type"], "Untranslatable", "{nul}"),
            _ => assert_eq!(nul, "a\0b"),
        }
        let half = &values[strings.len() + 1];
        assert_eq!(half["error"]["type"], "Untranslatable", "{runtime}: {half}");
    }
}
