//! What is Python's own.

use agent::runtimes::WorkerJob;
use protocol::job::Runtime::Python;
use serde_json::json;

use crate::harness::{Worker, job, worker};

#[test]
fn the_function_is_the_last_expression_or_else_the_last_def() {
    let sources = [
        "lambda x: x + 1",
        "def add(x):\n    return x + 1\n",
        "def add(x):\n    return x + 1\n\ndef other(x):\n    pass\n\nadd",
        "def helper(x):\n    return 1\n\ndef add(x):\n    return x + helper(x)\n\nunused = 3",
        "import operator, functools\nfunctools.partial(operator.add, 1)",
        "class Adder:\n    def __call__(self, x):\n        return x + 1\n\nAdder()",
    ];
    let mut worker = Worker::start(Python);
    for source in sources {
        worker.prepare(&job(source));
        assert_eq!(worker.value("2"), json!(3), "{source}");
    }
}

#[test]
fn attempts_to_exit_are_errors() {
    let code = "import sys\ndef f(x):\n    if x == 1:\n        sys.exit('enough')\n    if x == 2:\n        raise KeyboardInterrupt\n    return x";
    let run = worker(Python, code).run(&["1", "2", "3"]);
    assert_eq!(
        (run.error(0).kind.as_str(), run.error(0).message.as_str()),
        ("SystemExit", "enough")
    );
    assert_eq!(run.error(1).kind, "KeyboardInterrupt");
    assert_eq!(run.outcomes[2].as_deref(), Ok("3"));
    let error = Worker::start(Python).refusal(&job("import sys\nsys.exit(3)\nlambda x: x"));
    assert_eq!((error.kind.as_str(), error.fatal), ("SystemExit", true));
}

/// A thread that an element has left behind warns when it likes, also while a value is written that is larger than the
/// pipe: then the writer waits in the middle of a frame.
#[test]
fn what_threads_warn_of_does_not_get_into_a_value() {
    let code = "
import threading, time, warnings
def chatter():
    while True: warnings.warn('chatter')
def f(x):
    if threading.active_count() == 1: threading.Thread(target=chatter, daemon=True).start()
    time.sleep(0.001)
    return 'v' * 3_000_000
";
    let mut worker = Worker::start_silent(Python);
    worker.prepare(&job(code));
    for _ in 0..20 {
        let values = worker.run(&["1", "2"]).values();
        assert!(values.iter().all(|value| value == &json!("v".repeat(3_000_000))));
    }
}

#[test]
fn an_async_function_is_run_to_its_end() {
    let code = "
import asyncio
async def f(x):
    await asyncio.sleep(0)
    return x + 1
";
    assert_eq!(worker(Python, code).value("2"), json!(3));
}

#[test]
fn what_a_job_has_set_in_its_process_is_not_the_next_ones() {
    let code = "
import faulthandler, logging, multiprocessing, os, resource, signal, time
multiprocessing.set_start_method('spawn')
def f(x):
    os.environ['TZ'] = 'Asia/Tokyo'
    time.tzset()
    signal.setitimer(signal.ITIMER_PROF, 1000)
    faulthandler.dump_traceback_later(1000, exit=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    log = logging.getLogger('work')
    log.addHandler(logging.StreamHandler())
    return len(log.handlers)
";
    let look = "
import multiprocessing, os, resource, signal, time
lambda x: [time.tzname[0], signal.getitimer(signal.ITIMER_PROF)[0], len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    len(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_NOFILE)[0], multiprocessing.get_start_method(allow_none=True)]
";
    let mut worker = worker(Python, look);
    let before = worker.value("0");
    for _ in 0..2 {
        worker.prepare(&job(code));
        assert_eq!(worker.value("0"), json!(1));
    }
    worker.prepare(&job(look));
    assert_eq!(worker.value("0"), before);
}

/// So Python reads the name of a file that is not UTF-8.
#[test]
fn what_cannot_be_said_in_utf_8_costs_no_worker() {
    let code = "import warnings\ndef f(x):\n    if x == 1: raise ValueError('no \\udce9')\n    warnings.warn('odd \\udce9')\n    return x";
    let run = worker(Python, code).run(&["1", "2"]);
    assert_eq!(run.error(0).message, "no ?");
    assert_eq!(run.outcomes[1].as_deref(), Ok("2"));
    assert_eq!((run.conditions[0].0, run.conditions[0].1.message.as_str()), (1, "odd ?"));
    let error = Worker::start(Python).refusal(&job("raise ValueError('no \\udce9')"));
    assert_eq!(error.message, "no ?");
}

#[test]
fn closed_streams_are_opened_again() {
    let ways = [
        "sys.stdout.close()",
        "os.close(1)",
        "sys.stdout = io.StringIO()",
        "sys.stdout = None",
        "os.dup2(os.open('/dev/null', os.O_WRONLY), 1)",
    ];
    for way in ways {
        let code = format!(
            "import io, os, sys\ndef f(x):\n    if x == 1:\n        {way}\n    else:\n        print('out', x)\n    return x"
        );
        let mut worker = worker(Python, &code);
        assert_eq!(worker.run(&["1"]).values(), [json!(1)], "{way}");
        worker.prepare(&job(&code));
        let run = worker.run(&["2"]);
        assert_eq!(run.printed, [(0, "out 2\n".to_owned())], "{way}");
        assert_eq!(run.values(), [json!(2)], "{way}");
    }
}

#[test]
fn what_an_element_does_to_its_streams_ends_with_it() {
    let ways = [
        "os.close(1)",
        "os.close(1); os.close(2)",
        "print('first', end=''); os.close(1)",
        "print(end=''); os.dup2(null, 1)",
        "sys.stderr.write(''); sys.stdout = sys.stderr = None",
        "sys.stderr = io.StringIO()",
        "sys.stdout.close()",
        "sys.stderr.buffer.close()",
        "f.kept = sys.stdout.detach()",
    ];
    for way in ways {
        let code = format!(
            "import io, os, sys\nnull = os.open('/dev/null', os.O_WRONLY)\ndef f(x):\n    if x == 1:\n        {way}\n    else:\n        \
             sys.stderr.write('')\n        os.fstat(sys.stderr.fileno())\n        print('out', x)\n    return x"
        );
        let mut worker = worker(Python, &code);
        let run = worker.run(&["0", "1", "2", "3"]);
        let (last, text) = &run.printed[run.printed.len() - 2];
        assert_eq!((*last, text.as_str()), (2, "out 2\n"), "{way}");
        assert_eq!(run.values(), [json!(0), json!(1), json!(2), json!(3)], "{way}");
    }
    // Another file in the place of a descriptor is noticed at the next frame.
    let code = "import os\ndef f(x):\n    if x == 1:\n        os.dup2(os.open('/dev/null', os.O_WRONLY), 1)\n    else:\n        \
                print('out', x)\n    return x";
    let mut worker = worker(Python, code);
    worker.run(&["1"]);
    assert_eq!(worker.run(&["2"]).printed, [(0, "out 2\n".to_owned())]);
}

#[test]
fn an_element_may_redirect_its_own_output() {
    let code = "import os\ndef f(x):\n    kept = os.dup(1)\n    os.dup2(os.open('/dev/null', os.O_WRONLY), 1)\n    \
                print('hidden')\n    os.dup2(kept, 1)\n    print('shown')\n    return x";
    let run = worker(Python, code).run(&["1", "2"]);
    assert_eq!(run.printed, [(0, "shown\n".to_owned()), (1, "shown\n".to_owned())]);
}

#[test]
fn closing_what_is_spare_ends_nothing() {
    let code = "import os\ndef f(x):\n    os.closerange(5, 256)\n    files = [os.open('/dev/null', os.O_WRONLY) for _ in range(9)]\n    \
                print('out', x)\n    return x";
    let mut worker = worker(Python, code);
    for element in ["1", "2"] {
        assert_eq!(worker.run(&[element]).printed, [(0, format!("out {element}\n"))]);
    }
}

#[test]
fn what_is_printed_never_lands_in_a_file_of_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let code = format!(
        "import os\ndef f(x):\n    if x == 1:\n        os.closerange(5, 256)\n        f.files = [os.open('{}', os.O_CREAT | os.O_WRONLY) for _ in range(9)]\n        \
         os.close(1)\n    else:\n        print('out', x)\n    return x",
        path.display()
    );
    worker(Python, &code).run(&["1", "2"]);
    assert_eq!(std::fs::read_to_string(path).unwrap(), "");
}

#[test]
fn every_way_to_print_is_noticed() {
    let ways = [
        "print('a', end='')",
        "sys.stdout.buffer.write(b'a')",
        "sys.stdout.write('a')",
        "sys.__stdout__.write('a')",
        "print('a', end='', file=sys.stdout)",
    ];
    for way in ways {
        let code = format!("import sys\ndef f(x):\n    if x:\n        {way}\n    return x");
        let run = worker(Python, &code).run(&["false", "true", "false"]);
        assert_eq!(run.printed, [(1, "a".to_owned())], "{way}");
    }
}

#[test]
fn spawned_processes_find_the_functions() {
    let code = "import multiprocessing\n\nclass Pair:\n    def __init__(self, a):\n        self.a = a\n\n\
                def twice(pair):\n    return Pair(pair.a * 2)\n\n\
                def f(x):\n    context = multiprocessing.get_context('spawn')\n    \
                with context.Pool(1) as pool:\n        return [pair.a for pair in pool.map(twice, [Pair(1), Pair(x)])]\n";
    assert_eq!(worker(Python, code).value("5"), json!([2, 10]));
}

#[test]
fn warnings_of_every_element_are_told() {
    let code = "import warnings\ndef f(x):\n    warnings.warn('old', DeprecationWarning)\n    with warnings.catch_warnings():\n        warnings.simplefilter('ignore')\n        warnings.warn('hidden')\n    return x";
    let run = worker(Python, code).run(&["1", "2"]);
    let got: Vec<_> = run.conditions.iter().map(|(at, found)| (*at, found.kind.as_str())).collect();
    assert_eq!(got, [(0, "DeprecationWarning"), (1, "DeprecationWarning")]);
}

#[test]
fn values_are_what_json_makes_of_them() {
    let rows = [
        ("(1, 2)", json!([1, 2])),
        ("{1: 'a', None: 2.5, True: 3}", json!({"1": "a", "null": 2.5, "true": 3})),
        ("'\\u00e9\\U0001f600'", json!("é😀")),
        ("2 ** 60", json!(1_152_921_504_606_846_976_u64)),
        ("type('F', (float,), {})(1.5)", json!(1.5)),
    ];
    for (expression, expected) in rows {
        // A dictionary whose keys 1 and True are equal has two entries.
        let expected =
            if expression.starts_with('{') { json!({"1": 3, "null": 2.5}) } else { expected };
        assert_eq!(
            worker(Python, &format!("lambda x: {expression}")).value("0"),
            expected,
            "{expression}"
        );
    }
}

#[test]
fn what_json_cannot_say_is_named() {
    let rows = [
        ("{'a': {1, 2}}", "`['a']`", "`set`"),
        ("[1, object()]", "`[1]`", "`object`"),
        ("{(1, 2): 3}", "", "its key (1, 2) is of class `tuple`"),
        ("[0.5, float('-inf')]", "`[1]`", "-inf"),
        ("['\\ud800']", "`[0]`", "Unicode"),
        ("__import__('decimal').Decimal(1)", "", "`decimal.Decimal`"),
    ];
    for (expression, place, what) in rows {
        let run = worker(Python, &format!("lambda x: {expression}")).run(&["0"]);
        let error = run.error(0);
        assert_eq!(error.kind, "Untranslatable", "{expression}");
        assert!(error.message.contains(place) && error.message.contains(what), "{}", error.message);
    }
    let run = worker(Python, "def f(x):\n    a = []\n    a.append(a)\n    return a").run(&["0"]);
    assert!(run.error(0).message.contains("contains itself"), "{}", run.error(0).message);
}

#[test]
fn arrays_of_numpy_are_lists() {
    // A stand-in, so that the test needs no package: what counts is the module's name.
    let setup =
        "class Array:\n    def tolist(self):\n        return [1, 2]\nArray.__module__ = 'numpy'";
    let mut worker = Worker::start(Python);
    worker.prepare(&WorkerJob { setup: setup.into(), ..job("lambda x: {'a': Array()}") });
    assert_eq!(worker.value("0"), json!({"a": [1, 2]}));
}

#[test]
fn a_reset_leaves_nothing() {
    let state = "import logging, os, random, signal, sys, warnings\n\
        def f(x):\n    return [sorted(n for n in globals() if not n.startswith('__')), os.getcwd(), dict(os.environ), sys.path, \
        len(warnings.filters), len(logging.root.handlers), sys.getrecursionlimit(), signal.getsignal(signal.SIGALRM) == signal.SIG_DFL, sys.argv]";
    let disturb = "import logging, os, random, signal, sys, warnings\n\
        def f(x):\n    global mine\n    mine = 1\n    os.chdir('/')\n    os.environ['MINE'] = 'x'\n    del os.environ['HOME']\n    \
        os.environ['PATH'] = os.environ['OMP_NUM_THREADS'] = '99'\n    \
        sys.path.append('/nowhere')\n    sys.argv.append('x')\n    warnings.simplefilter('error')\n    logging.basicConfig()\n    \
        sys.setrecursionlimit(500)\n    signal.signal(signal.SIGALRM, print)\n    random.seed(1)\n    return random.random()";
    let mut worker = worker(Python, state);
    let before = worker.value("1");
    worker.prepare(&job(disturb));
    let seeded = worker.value("1");
    worker.prepare(&job(state));
    assert_eq!(worker.value("1"), before);
    worker.prepare(&job("import random\nlambda x: random.random()"));
    assert_ne!(worker.value("1"), seeded);
    assert!(worker.reset());
}

#[test]
fn a_reset_makes_the_streams_what_they_were() {
    let state = "import sys\nlambda x: [sys.stdout.encoding, sys.stdout.errors, hasattr(sys.stderr, 'mine'), \
        sys.__stdout__ is sys.stdout, sys.stderr.closed]";
    let mut worker = worker(Python, state);
    let before = worker.value("1");
    assert_eq!(before, json!(["utf-8", "backslashreplace", false, true, false]));
    for disturb in [
        "sys.stdout.reconfigure(encoding='ascii', errors='strict')",
        "setattr(sys.stderr, 'mine', 1)",
        "setattr(sys, '__stdout__', None)",
        "sys.stderr.close()",
        "sys.stdout.detach()",
        "sys.stdout.buffer.detach()",
    ] {
        worker.prepare(&job(&format!("import sys\nlambda x: ({disturb}, None)[1]")));
        worker.value("1");
        assert!(worker.reset());
        worker.prepare(&job(state));
        assert_eq!(worker.value("1"), before, "{disturb}");
    }
}

/// A module `mine` with this function in the working directory, and a job that calls it.
fn job_with_module(function: &str) -> WorkerJob {
    let setup = format!("open('mine.py', 'w').write('def f(x): {function}')");
    let import = "import sys\nsys.dont_write_bytecode = True\nimport decimal, mine";
    job(&format!("{setup}\n{import}\nlambda x: [mine.f(x), id(decimal)]"))
}

#[test]
fn modules_of_a_job_are_read_anew_by_the_next() {
    let mut worker = Worker::start(Python);
    let mut decimals = Vec::new();
    for (function, result) in [("return x + 1", 2), ("return x + 10", 11), ("return x + 2", 3)] {
        worker.prepare(&job_with_module(function));
        let value = worker.value("1");
        assert_eq!(value[0], json!(result), "{function}");
        decimals.push(value[1].clone());
    }
    assert!(decimals.iter().all(|id| *id == decimals[0]), "what is installed stays imported");
}

#[test]
fn a_worker_with_a_compiled_module_of_the_job_ends_with_it() {
    let code = "import glob, importlib, os, shutil, sys, sysconfig\n\
        def f(x):\n    for file in sorted(glob.glob(sysconfig.get_config_var('DESTSHARED') + '/*.so')):\n        \
        name = os.path.basename(file).partition('.')[0]\n        \
        if name not in sys.modules:\n            shutil.copy(file, '.')\n            importlib.invalidate_caches()\n            \
        return os.path.dirname(importlib.import_module(name).__file__) == os.getcwd()";
    let mut worker = worker(Python, code);
    assert_eq!(worker.value("1"), json!(true));
    assert!(!worker.reset());
    worker.join();
}

#[test]
fn a_worker_that_cannot_be_clean_ends() {
    let code = "import threading, time\ndef f(x):\n    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n    return x";
    let mut worker = worker(Python, code);
    worker.value("1");
    assert!(!worker.reset());
    worker.join();
}

#[test]
fn scripts_beside_the_worker_are_not_imported() {
    let error =
        Worker::start(Python).refusal(&WorkerJob { packages: vec!["worker".into()], ..job("abs") });
    assert_eq!(error.kind, "ModuleNotFoundError");
}

#[test]
fn a_traceback_marks_the_place_itself() {
    let mut worker = worker(Python, "lambda x: 1 / x");
    let run = worker.run(&["0"]);
    let frame = run.error(0).traceback.last().unwrap().clone();
    let [_, source, rest @ ..] = &frame.lines().collect::<Vec<_>>()[..] else { panic!("{frame}") };
    // Python 3.11 and later mark the place in the line below it.
    if let [marks] = rest {
        assert_eq!(marks.find('~'), source.find("1 / x"), "{frame}");
    }
}
