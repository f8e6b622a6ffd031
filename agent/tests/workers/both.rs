//! What workers of every runtime do alike. Each test names the two sources.

use std::process::Command;

use agent::frame::kind;
use agent::runtimes::{self, Answer, WorkerJob};
use protocol::job::{Options, Runtime};
use serde_json::json;

use crate::harness::{Run, Worker, constants, encode, job, worker};

/// Runs a test in R and in Python.
pub fn both(r: &str, python: &str, test: impl Fn(Runtime, &str)) {
    test(Runtime::R, r);
    test(Runtime::Python, python);
}

fn kinds(run: &Run) -> Vec<&str> {
    run.conditions.iter().map(|(_, condition)| condition.kind.as_str()).collect()
}

#[tokio::test]
async fn interpreters_are_detected() {
    for runtime in [Runtime::R, Runtime::Python] {
        let version = runtimes::detect(runtime, |program| Ok(Command::new(program))).await.unwrap();
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    }
}

#[test]
fn an_error_is_its_elements_own() {
    both(
        "function(x) { g <- function(y) stop('no ', y); if (x == 2) g(x) else x }",
        "def g(y):\n    raise ValueError(f'no {y}')\n\ndef f(x):\n    return g(x) if x == 2 else x",
        |runtime, function| {
            let run = worker(runtime, function).run(&["1", "2", "3"]);
            assert_eq!(run.outcomes[0].as_deref(), Ok("1"));
            assert_eq!(run.outcomes[2].as_deref(), Ok("3"));
            let error = run.error(1);
            assert_eq!(error.message, "no 2");
            assert!(!error.fatal);
            match runtime {
                Runtime::R => {
                    assert_eq!(error.kind, "simpleError");
                    assert_eq!(error.call.as_deref(), Some("g(x)"));
                    assert_eq!(error.traceback, ["f(element)", "g(x)", "stop(\"no \", y)"]);
                }
                _ => {
                    assert_eq!(error.kind, "ValueError");
                    let calls = [
                        "File \"<function>\", line 5, in f\n    return g(x) if x == 2 else x",
                        "File \"<function>\", line 2, in g\n    raise ValueError(f'no {y}')",
                    ];
                    // Python 3.11 and later mark the place in the line below it.
                    let is_call = |(call, start): (&String, &str)| call.starts_with(start);
                    assert!(error.traceback.iter().zip(calls).all(is_call), "{error:?}");
                    assert_eq!(error.traceback.len(), 2);
                }
            }
        },
    );
}

#[test]
fn endless_recursion_is_an_error() {
    both(
        "f <- function(x) if (x) f(x) else 0",
        "def f(x):\n    return f(x) if x else 0",
        |runtime, f| {
            let run = worker(runtime, f).run(&["true", "false"]);
            assert!(run.error(0).traceback.len() <= 51, "{:?}", run.error(0));
            assert!(run.outcomes[1].is_ok());
        },
    );
}

#[test]
fn a_syntax_error_has_line_and_column() {
    both("function(x) {\n  x +* 1\n}", "def f(x):\n    return x +* 1\n", |runtime, function| {
        let mut worker = Worker::start(runtime);
        let error = worker.refusal(&job(function));
        assert_eq!((error.kind.as_str(), error.fatal), ("SyntaxError", true));
        let column = if runtime == Runtime::R { 6 } else { 15 };
        let place = format!("line 2, column {column} of the function: ");
        assert!(error.message.starts_with(&place), "{}", error.message);
        let mut in_setup = job("1");
        in_setup.setup = ")".into();
        let error = worker.refusal(&in_setup);
        assert!(error.message.starts_with("line 1, column 1 of the setup: "), "{}", error.message);
    });
}

#[test]
fn what_is_no_function_is_refused() {
    both("1 + 1", "x = 1", |runtime, function| {
        let mut worker = Worker::start(runtime);
        let error = worker.refusal(&job(function));
        assert_eq!((error.kind.as_str(), error.fatal), ("NotAFunction", true));
        // The worker takes the next job as if nothing had been.
        worker.prepare(&job(if runtime == Runtime::R { "sqrt" } else { "abs" }));
        assert!(worker.value("4").as_f64().is_some());
    });
}

#[test]
fn constants_packages_and_setup_are_there() {
    let function_of = |runtime| match runtime {
        Runtime::R => "function(x, by) c(x * by + offset + from_setup, nchar(toTitleCase('a')))",
        _ => "def f(x, by):\n    return [x * by + offset + from_setup, len(string.digits)]",
    };
    for runtime in [Runtime::R, Runtime::Python] {
        let mut with_all = job(function_of(runtime));
        with_all.args = constants(&[("by", "10")]);
        with_all.globals = constants(&[("offset", "0.5")]);
        with_all.setup = "from_setup = offset".into();
        let package = if runtime == Runtime::R { "tools" } else { "string" };
        with_all.packages = vec![package.into()];
        let mut worker = Worker::start(runtime);
        worker.prepare(&with_all);
        let length = if runtime == Runtime::R { 1.0 } else { 10.0 };
        assert_eq!(worker.value("2")[0], json!(21.0));
        assert_eq!(worker.value("2")[1].as_f64(), Some(length));
    }
}

#[test]
fn a_missing_package_names_its_remedy() {
    for runtime in [Runtime::R, Runtime::Python] {
        let missing = WorkerJob { packages: vec!["nosuchpackage".into()], ..job("sqrt") };
        let error = Worker::start(runtime).refusal(&missing);
        assert!(error.fatal && error.message.contains("`nosuchpackage`"), "{error:?}");
        assert!(error.message.contains("install"), "{error:?}");
    }
}

#[test]
fn a_setup_that_fails_fails_the_job() {
    both("stop('not today')", "raise ValueError('not today')", |runtime, setup| {
        let failing = WorkerJob { setup: setup.into(), ..job("abs") };
        let error = Worker::start(runtime).refusal(&failing);
        assert_eq!((error.message.as_str(), error.fatal), ("not today", true));
    });
}

#[test]
fn conditions_are_sent_with_their_element() {
    both(
        "function(x) { warning('w', x); x }",
        "import warnings\ndef f(x):\n    warnings.warn(f'w{x}')\n    return x",
        |runtime, function| {
            let mut worker = worker(runtime, function);
            let run = worker.run(&["0", "1", "2"]);
            let got: Vec<_> =
                run.conditions.iter().map(|(at, found)| (*at, found.message.as_str())).collect();
            assert_eq!(got, [(0, "w0"), (1, "w1"), (2, "w2")]);
            let kind = if runtime == Runtime::R { "warning" } else { "UserWarning" };
            assert_eq!(kinds(&run), [kind; 3]);
            worker.prepare(&WorkerJob {
                options: Options { conditions: false, ..Options::default() },
                ..job(function)
            });
            assert!(worker.run(&["0"]).conditions.is_empty());
        },
    );
}

#[test]
fn conditions_beyond_a_hundred_are_counted() {
    both(
        "function(x) { for (i in seq_len(x)) warning('w'); x }",
        "import warnings\ndef f(x):\n    for i in range(x):\n        warnings.warn('w')\n    return x",
        |runtime, function| {
            let run = worker(runtime, function).run(&["150", "1"]);
            assert_eq!(run.conditions.len(), 102);
            let (position, note) = &run.conditions[100];
            assert_eq!((*position, note.kind.as_str()), (0, "note"));
            assert!(note.message.starts_with("50 more"), "{}", note.message);
            assert_eq!(run.conditions[101].0, 1);
        },
    );
}

#[test]
fn what_is_printed_is_there_before_the_outcome() {
    both(
        "function(x) { if (x > 0) cat('printed', x, '\\n'); x }",
        "def f(x):\n    if x > 0:\n        print('printed', x, '')\n    return x",
        |runtime, function| {
            let mut worker = worker(runtime, function);
            for element in ["1", "2", "3"] {
                assert_eq!(worker.run(&[element]).printed, [(0, format!("printed {element} \n"))]);
            }
            // In one frame: the element that printed is the last of its outcomes.
            let run = worker.run(&["0", "0", "7", "0", "0"]);
            assert_eq!(run.printed, [(2, "printed 7 \n".to_owned())]);
        },
    );
}

#[test]
fn of_quick_elements_each_that_prints_has_its_own_text() {
    both(
        "function(x) { if (x %% 7 < 2) cat('hi ', x, '\\n', sep = ''); if (x %% 10 == 0) stop('no'); x }",
        "def f(x):\n    if x % 7 < 2:\n        print('hi', x)\n    if x % 10 == 0:\n        raise ValueError('no')\n    return x",
        |runtime, function| {
            let elements: Vec<_> = (0..300).map(|x| x.to_string()).collect();
            let elements: Vec<_> = elements.iter().map(String::as_str).collect();
            let run = worker(runtime, function).run(&elements);
            let own = (0..300).filter(|x| x % 7 < 2).map(|x| (x, format!("hi {x}\n")));
            assert_eq!(run.printed, own.collect::<Vec<_>>());
            assert_eq!(run.outcomes.len(), 300);
        },
    );
}

#[test]
fn a_worker_waits_after_an_element_that_printed_unless_it_was_the_last() {
    both(
        "function(x) { if (x > 0) cat('out'); x }",
        "def f(x):\n    if x > 0:\n        print('out', end='')\n    return x",
        |runtime, function| {
            let mut worker = worker(runtime, function);
            let body = encode(runtime, &["1", "0", "2"]).unwrap();
            worker.send(kind::ELEMENTS, &body);
            let (mut done, mut printed_at) = (0, Vec::new());
            while done < 3 {
                let answer = worker.answer();
                let Some(Answer::Outcomes { outcomes, printed, waits }) = answer else {
                    panic!("not an outcome: {answer:?}")
                };
                done += outcomes.len();
                printed_at.extend(printed.then_some(done));
                if waits && done < 3 {
                    worker.send(kind::GO_ON, &[]);
                }
            }
            assert_eq!(printed_at, [1, 3]);
            assert!(worker.reset());
            // One that was told something else ends: it has lost its agent's thread.
            worker.prepare(&job(function));
            worker.send(kind::ELEMENTS, &body);
            worker.answer();
            worker.send(kind::ELEMENTS, &body);
            assert_eq!(worker.answer(), None);
        },
    );
}

#[test]
fn ten_megabytes_printed_break_nothing() {
    both(
        "function(x) { line <- strrep('x', 999); for (i in 1:10000) cat(line, '\\n', sep = ''); x }",
        "def f(x):\n    for i in range(10000):\n        print('x' * 999)\n    return x",
        |runtime, function| {
            let mut worker = worker(runtime, function);
            let run = worker.run(&["1"]);
            assert_eq!(run.printed[0].1.len(), 10_000_000);
            assert_eq!(run.values(), [json!(1)]);
        },
    );
}

#[test]
fn a_worker_whose_code_ends_it_is_gone() {
    both(
        "function(x) if (x) quit() else x",
        "import os\nlambda x: os._exit(0) if x else x",
        |runtime, f| {
            let mut worker = worker(runtime, f);
            assert_eq!(worker.run(&["false"]).outcomes.len(), 1);
            assert!(worker.run(&["true"]).outcomes.is_empty());
            worker.join();
        },
    );
}

#[test]
fn an_agent_that_is_gone_ends_the_worker() {
    both("sqrt", "abs", |runtime, function| {
        let mut worker = worker(runtime, function);
        worker.hang_up();
        assert_eq!(worker.answer(), None);
        worker.join();
    });
}

#[test]
fn of_a_few_elements_each_outcome_is_sent_at_once() {
    // The third element waits for a file that is made once the first two outcomes are here.
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let gate = gate.to_str().unwrap();
    both(
        &format!("function(x) {{ while (x == 3 && !file.exists('{gate}')) Sys.sleep(0.01); x }}"),
        &format!(
            "import os, time\ndef f(x):\n    while x == 3 and not os.path.exists('{gate}'):\n        time.sleep(0.01)\n    return x"
        ),
        |runtime, function| {
            let mut worker = worker(runtime, function);
            worker.send(kind::ELEMENTS, &encode(runtime, &["1", "2", "3", "4"]).unwrap());
            for value in ["1", "2", "3", "4"] {
                if value == "3" {
                    std::fs::write(gate, "").unwrap();
                }
                let answer = worker.answer();
                let Some(Answer::Outcomes { outcomes, printed: false, waits }) = answer else {
                    panic!("not an outcome: {answer:?}")
                };
                assert_eq!(outcomes, [Ok(value.into())]);
                if waits {
                    worker.send(kind::GO_ON, &[]);
                }
            }
            std::fs::remove_file(gate).unwrap();
        },
    );
}

#[test]
fn after_a_slow_element_among_many_a_worker_asks_whether_to_go_on() {
    both(
        "function(x) { if (x == 12) Sys.sleep(0.05); x }",
        "import time\ndef f(x):\n    if x == 12:\n        time.sleep(0.05)\n    return x",
        |runtime, function| {
            let elements: Vec<_> = (0..20).map(|x| x.to_string()).collect();
            let elements: Vec<_> = elements.iter().map(String::as_str).collect();
            let mut worker = worker(runtime, function);
            worker.send(kind::ELEMENTS, &encode(runtime, &elements).unwrap());
            let mut values = Vec::new();
            while values.len() < 13 {
                let answer = worker.answer();
                let Some(Answer::Outcomes { outcomes, waits, .. }) = answer else {
                    panic!("not an outcome: {answer:?}")
                };
                values.extend(outcomes.into_iter().map(Result::unwrap));
                match values.len() {
                    13 => assert!(waits, "{runtime:?}"),
                    // This machine may have had other things to do.
                    _ if waits => worker.send(kind::GO_ON, &[]),
                    _ => {}
                }
            }
            worker.send(kind::STOP, &[]);
            // The others are not run: what comes next is the answer to the next frame.
            assert_eq!(worker.run(&["7"]).values(), [json!(7)]);
            assert!(worker.reset());
        },
    );
}

#[test]
fn children_that_come_back_say_nothing() {
    both(
        "function(x) { if (x == 2) parallel:::mcfork(); x }",
        "import os\ndef f(x):\n    if x == 2:\n        os.fork()\n    return x",
        |runtime, function| {
            let run = worker(runtime, function).run(&["1", "2", "3", "4"]);
            assert_eq!(run.values(), [json!(1), json!(2), json!(3), json!(4)]);
        },
    );
}

#[test]
fn children_that_come_back_run_nothing_more() {
    const FRAMES: usize = 8;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("elements");
    let shown = path.display();
    both(
        &format!(
            "loadNamespace('parallel')\nfunction(x) {{\n  if (x == 2) parallel:::mcfork()\n  \
             cat(paste0(x, ' '), file = '{shown}', append = TRUE)\n  x\n}}"
        ),
        &format!(
            "import os\ndef f(x):\n    if x == 2:\n        os.fork()\n    \
             with open('{shown}', 'a') as file:\n        file.write(f'{{x}} ')\n    return x"
        ),
        |runtime, function| {
            // So many that outcomes are not sent one by one, which would end the child too; and more than once,
            // for in R the first fork takes so long that outcomes are due behind it.
            let elements: Vec<String> = (1..=30).map(|x| x.to_string()).collect();
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            let mut worker = worker(runtime, function);
            for _ in 0..FRAMES {
                assert_eq!(worker.run(&elements).values().len(), 30);
            }
            // Its children are gone once it is reset.
            assert!(worker.reset());
            let ran = std::fs::read_to_string(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            // The child runs the rest of the element that it was forked in, if it is let.
            let mut ran: Vec<u32> = ran.split_whitespace().map(|x| x.parse().unwrap()).collect();
            ran.sort_unstable();
            let others = ran.iter().copied().filter(|x| *x != 2);
            let once = (1..=30).filter(|x| *x != 2);
            let expected = once.flat_map(|x| std::iter::repeat_n(x, FRAMES));
            assert!(others.eq(expected), "{runtime:?}: {ran:?}");
        },
    );
}

#[test]
fn code_may_use_processes_of_its_own() {
    both(
        "function(x) unlist(parallel::mclapply(1:4, function(i) { message('child'); i * x }, mc.cores = 2))",
        "from concurrent.futures import ProcessPoolExecutor\n\
         def twice(i):\n    return i * 2\n\
         def f(x):\n    with ProcessPoolExecutor(2) as pool:\n        return list(pool.map(twice, range(1, 5)))",
        |runtime, function| {
            let mut worker = worker(runtime, function);
            assert_eq!(
                worker.run(&["2", "2"]).values(),
                [json!([2, 4, 6, 8]), json!([2, 4, 6, 8])]
            );
        },
    );
}

#[test]
fn a_job_says_how_many_cores_there_are() {
    both(
        "function(x) c(getOption('mc.cores'), as.integer(Sys.getenv(c('MC_CORES', 'OMP_NUM_THREADS'))))",
        "import os\nlambda x: [int(os.environ[n]) for n in ('MC_CORES', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')]",
        |runtime, function| {
            let mut worker = Worker::start(runtime);
            for cores in [3, 2] {
                worker.prepare(&WorkerJob { cores, ..job(function) });
                assert_eq!(worker.value("0"), json!([cores, cores, cores]));
            }
        },
    );
}
