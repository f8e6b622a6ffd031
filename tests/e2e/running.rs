//! How elements run: how often, in which chunks, in which order, in which processes.

use std::collections::BTreeSet;

use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::procfs::is_alive;
use tests::wait::until;
use tests::{Audit, Gate, World};

#[tokio::test]
async fn the_first_error_kills_what_runs() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let result = "fail(audit) if x == 0 else x";
    let mut job = gate.hold_from(1, audit.python(&json!({"range": [0, 20]}), result));
    // Element 0 fails as soon as element 1 stands at the gate.
    job["setup"] = json!(
        "import time\ndef fail(audit):\n    while '1 start' not in open(audit).read(): time.sleep(0.01)\n    1 / 0"
    );
    job["options"] = json!({"chunk_size": 1});
    let problem = world.client.failure(&job).await;
    assert_eq!(problem["element"]["type"], "ZeroDivisionError", "{problem:#}");
    // The gate stays closed, so that nothing but a kill ends what stands there.
    until("what ran is killed", async || {
        let events = audit.events();
        let mut others = events.iter().filter(|event| event.element != "0");
        (!others.any(|event| is_alive(event.pid))).then_some(())
    })
    .await;
    let sound = json!({"runtime": "python", "function": "abs", "elements": [-1, -2, -3, -4]});
    assert_eq!(world.client.run(&sound).await, json!([1, 2, 3, 4]));
}

#[tokio::test]
async fn an_element_runs_again_as_often_as_retries_say_and_errors_do_not() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for (name, runtime, result, retries, timeout, kind, n_runs) in [
        ("no-retry", "python", "os._exit(1)", json!(0), None, "WorkerDied", 1),
        ("deaths", "python", "os._exit(1)", json!(3), None, "WorkerDied", 4),
        ("timeouts", "python", "time.sleep(1000)", json!(1), Some(0.3), "Timeout", 2),
        ("errors", "python", "1 / 0", json!(3), None, "ZeroDivisionError", 1),
        ("r-deaths", "r", "quit()", json!(1), None, "WorkerDied", 2),
        ("r-timeouts", "r", "Sys.sleep(1000)", json!(1), Some(0.5), "Timeout", 2),
        ("r-errors", "r", "stop('no')", json!(3), None, "simpleError", 1),
    ] {
        let audit = Audit::new(&world, name);
        let mut job = audit.of(runtime, &json!([7]), result);
        job["options"] = json!({"retries": retries, "timeout": timeout});
        let problem = world.client.failure(&job).await;
        assert_eq!(problem["element"]["type"], kind, "{name}: {problem:#}");
        assert_eq!(audit.starts().into_values().collect::<Vec<_>>(), [n_runs], "{name}");
    }
}

#[tokio::test]
async fn an_element_that_dies_once_has_its_value_in_the_end() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let audit = Audit::new(&world, "work");
    let result = "os._exit(1) if x == 3 and open(audit).read().count('3 start') < 3 else x";
    let job = audit.python(&json!({"range": [0, 8]}), result);
    assert_eq!(world.client.run(&job).await, json!([0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(audit.starts()["3"], 3);
}

#[tokio::test]
async fn a_fixed_chunk_is_never_split() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 4).await;
    for (options, size) in [
        (json!({"chunk_size": 5}), 5),
        (json!({"chunk_size": 1}), 1),
        (json!({"chunk_size": 100}), 20),
        (json!({"scheduling": 1.0}), 5),
        (json!({"scheduling": 2.0}), 3),
        (json!({"scheduling": 1.0, "chunk_size": 4}), 4),
    ] {
        let job = json!({
            "runtime": "python", "elements": {"range": [0, 20]}, "options": options,
            "function": "import os, time\ndef f(x):\n    time.sleep(0.01)\n    return os.getpid()"
        });
        let value = world.client.run(&job).await;
        let pids = value.as_array().unwrap();
        assert_eq!(pids.len(), 20);
        for chunk in pids.chunks(size) {
            assert!(chunk.iter().all(|pid| *pid == chunk[0]), "{options}: {value}");
        }
    }
}

#[tokio::test]
async fn a_chunk_size_of_one_uses_every_slot() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 4).await;
    for (name, options) in [("one", json!({"chunk_size": 1})), ("learnt", json!({}))] {
        let (audit, gate) = (Audit::new(&world, name), Gate::new(&world, name));
        let mut job = gate.hold(audit.python(&json!({"range": [0, 4]}), "x"));
        job["options"] = options;
        let id = world.client.submit(&job).await;
        audit.started(4).await;
        gate.open();
        world.client.value(&id).await;
    }
}

#[tokio::test]
async fn higher_priority_goes_first_and_the_first_come_within_one() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let submit = async |name: &str, priority: i32| {
        let mut job = gate.hold(audit.python(&json!([name]), "x"));
        job["options"] = json!({"priority": priority});
        world.client.submit(&job).await
    };
    let mut jobs = vec![submit("running", 0).await];
    audit.started(1).await;
    for (name, priority) in [("low", -5), ("first", 0), ("second", 0), ("high", 7)] {
        jobs.push(submit(name, priority).await);
    }
    gate.open();
    for job in &jobs {
        world.client.value(job).await;
    }
    let events = audit.events().into_iter().filter(|event| !event.is_end);
    let order: Vec<String> = events.map(|event| event.element).collect();
    assert_eq!(order, ["running", "high", "first", "second", "low"]);
}

#[tokio::test]
async fn workers_persist_and_nothing_leaks_from_one_job_to_the_next() {
    let world = World::start().await;
    let _agent = world.agent("one", 1).await;
    let python = "import builtins, os, random, sys, warnings\ndef f(x, dirty):\n    \
        if dirty:\n        globals()['left'] = 1; builtins.left = 1\n        os.environ['LEFT'] = '1'; os.chdir('/')\n        \
        open('/dev/null'); random.seed(1); sys.path.append('/left'); sys.setrecursionlimit(99999)\n        os.umask(0o777)\n        \
        warnings.simplefilter('error')\n    \
        seen = ['left' in globals(), 'LEFT' in os.environ, '/left' in sys.path, sys.getrecursionlimit() == 99999]\n    \
        return [seen, os.getcwd(), os.getpid(), random.random(), os.umask(0o22)]";
    let r = "function(x, dirty) {
        if (dirty) {
            assign('left', 1, globalenv()); Sys.setenv(LEFT = '1'); setwd('/'); options(left = 1, digits = 3)
            set.seed(1); suppressWarnings(Sys.setlocale('LC_COLLATE', 'C')); attach(list(left2 = 1)); Sys.umask('777')
        }
        seen <- c(exists('left', globalenv()), nzchar(Sys.getenv('LEFT')), !is.null(getOption('left')), exists('left2'))
        list(seen, getwd(), Sys.getpid(), runif(1), as.integer(Sys.umask('22')))
    }";
    for (runtime, function) in [("python", python), ("r", r)] {
        let job = |dirty: bool| json!({"runtime": runtime, "function": function, "elements": [1], "args": {"dirty": dirty}});
        let runs = [
            world.client.run(&job(true)).await,
            world.client.run(&job(false)).await,
            world.client.run(&job(false)).await,
        ];
        let [dirty, clean, again] = runs.each_ref().map(|value| &value[0]);
        assert_eq!(dirty[0], json!([true, true, true, true]), "{runtime}");
        assert_eq!(clean[0], json!([false, false, false, false]), "{runtime}");
        assert_eq!((dirty[1] == "/", clean[1] == "/"), (true, false), "{runtime}");
        assert_eq!(
            (&dirty[2], &clean[2]),
            (&clean[2], &again[2]),
            "{runtime}: the worker was replaced"
        );
        assert_ne!(
            clean[3], again[3],
            "{runtime}: the stream of random numbers was left as it was"
        );
        assert_ne!(clean[3], dirty[3], "{runtime}");
        assert_eq!(clean[4], 0o22, "{runtime}: the umask");
    }
}

#[tokio::test]
async fn many_elements_run_in_as_many_processes_as_there_are_slots() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for runtime in ["python", "r"] {
        let audit = Audit::new(&world, runtime);
        let elements = json!({"range": [0, 300]});
        let job = audit.of(runtime, &elements, "x");
        assert_eq!(world.client.run(&job).await, (0..300).collect::<Value>());
        let pids: BTreeSet<Pid> = audit.pids();
        assert!((1..=2).contains(&pids.len()), "{runtime}: {pids:?}");
        assert_eq!((audit.starts().len(), audit.repeated()), (300, [].into()), "{runtime}");
    }
}
