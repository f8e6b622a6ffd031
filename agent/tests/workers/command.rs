//! What is the worker of commands' own.

use std::process::Command;

use agent::frame::kind;
use agent::runtimes::{self, Answer, ConstantValue, Element, Input, Key, WorkerJob};
use protocol::job::{
    ElementError, Encoding, Function, Options, Output, Runtime, Seed, ValueType, Variant,
};
use serde_json::json;

use crate::harness::{Run, Worker, constants, encode, job};

fn command(words: &[&str]) -> WorkerJob {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    WorkerJob { function: Function::Command(words), ..job("") }
}

fn sh(script: &str) -> WorkerJob {
    command(&["sh", "-c", script])
}

fn with(options: Options, job: WorkerJob) -> WorkerJob {
    WorkerJob { options, ..job }
}

fn worker(job: &WorkerJob) -> Worker {
    let mut worker = Worker::start(Runtime::Command);
    worker.prepare(job);
    worker
}

fn run(job: &WorkerJob, elements: &[&str]) -> Run {
    worker(job).run(elements)
}

/// What became of one element, its value as bytes.
fn outcome(job: &WorkerJob, element: Element<'_>) -> Result<Vec<u8>, ElementError> {
    let mut worker = worker(job);
    let body = runtimes::encode_elements(Runtime::Command, &job.options, &[element]).unwrap();
    worker.send(kind::ELEMENTS, &body);
    let Some(Answer::Outcomes { mut outcomes, .. }) = worker.answer() else { panic!("no outcome") };
    outcomes.remove(0).map(Vec::from)
}

fn refusal(job: &WorkerJob) -> ElementError {
    Worker::start(Runtime::Command).refusal(job)
}

#[tokio::test]
async fn it_is_always_there() {
    let version =
        runtimes::detect(Runtime::Command, |program| Ok(Command::new(program))).await.unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
}

#[test]
fn standard_output_is_the_value() {
    let run = run(&command(&["echo", "-n", "{}", "{#}"]), &["\"a b\"", "1.50", "[1, \"x\"]"]);
    assert_eq!(run.values(), ["a b 1", "1.50 2", r#"[1, "x"] 3"#]);
}

#[test]
fn no_shell_looks_at_an_element() {
    let hostile = "$(touch /tmp/x); `id` 'a' \"b\" \\ * ~ | & > < \n é {} {#}";
    let element = json!(hostile).to_string();
    let words = ["printf", "%s|", "{}", "a{}b", "{nothing}", "{print $1}"];
    let value = worker(&command(&words)).value(&element);
    assert_eq!(value, format!("{hostile}|a{hostile}b|{{nothing}}|{{print $1}}|"));
}

#[test]
fn standard_input_is_the_element_as_json() {
    let elements = [r#""é \n""#, r#"{"a": [1, null]}"#, "-0.0"];
    let run = run(&with(json_out(), command(&["cat"])), &elements);
    let texts: Vec<_> = run.outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(texts, elements);
}

fn json_out() -> Options {
    Options { output: Output::Json, ..Options::default() }
}

#[test]
fn ten_megabytes_go_through() {
    let element = format!("\"{}\"", "0123456789".repeat(1_000_000));
    let run = run(&with(json_out(), command(&["cat"])), &[&element]);
    assert!(run.outcomes[0].as_ref().unwrap() == &element);
}

#[test]
fn a_program_need_not_read_its_input() {
    let element = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(run(&command(&["echo", "done"]), &[&element, "1"]).values(), ["done", "done"]);
}

#[test]
fn a_failure_tells_its_status_and_the_end_of_standard_error() {
    let run = run(
        &sh("case $FARROW_INDEX in
               0) exit 7;;
               1) seq 100 >&2; echo 'it is over' >&2; exit 3;;
               2) kill -TERM $$;;
               *) echo fine;;
             esac"),
        &["0", "0", "0", "0"],
    );
    assert_eq!((run.error(0).kind.as_str(), run.error(0).fatal), ("CommandFailed", false));
    assert_eq!(run.error(0).message, "exit status 7");
    let message = &run.error(1).message;
    assert!(message.starts_with("exit status 3: 92\n93\n"), "{message}");
    assert!(message.ends_with("100\nit is over"), "{message}");
    assert_eq!(run.error(2).message, "killed by SIGTERM");
    assert_eq!(run.outcomes[3].as_deref(), Ok("\"fine\""));
}

#[test]
fn after_a_slow_program_the_worker_asks_whether_to_go_on() {
    let mut worker = worker(&sh("test $FARROW_INDEX != 1 || sleep 0.05; echo $FARROW_INDEX"));
    worker.send(kind::ELEMENTS, &encode(Runtime::Command, &["0", "0", "0"]).unwrap());
    loop {
        match worker.answer() {
            Some(Answer::Outcomes { outcomes, printed: false, waits }) => {
                if outcomes == [Ok("\"1\"".into())] {
                    assert!(waits);
                    break;
                }
                // This machine may have had other things to do.
                if waits {
                    worker.send(kind::GO_ON, &[]);
                }
            }
            other => panic!("not an outcome: {other:?}"),
        }
    }
    worker.send(kind::STOP, &[]);
    assert!(worker.reset(), "the third is not run");
}

#[test]
fn what_a_program_that_fails_wrote_is_printed() {
    let script = "echo a value?; test $FARROW_INDEX != 1";
    let run = run(&sh(script), &["0", "0", "0"]);
    assert_eq!(run.printed, [(1, "a value?\n".to_owned())]);
    assert_eq!(run.error(1).message, "exit status 1");
    assert_eq!(run.outcomes[2].as_deref(), Ok("\"a value?\""));
}

#[test]
fn a_program_that_cannot_be_started_is_the_jobs_fault_and_has_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let table = [
        ("no-such-program".to_owned(), "not found on this agent's PATH"),
        ("./no-such-program".to_owned(), "send it along in `files`"),
        (file("plain", "echo", 0o644), "chmod +x"),
        (file("no-interpreter", "#!/no/such/thing\n", 0o755), "its first line names"),
        (file("no-line", "echo", 0o755), "`#!`"),
    ];
    for (program, remedy) in table {
        let run = run(&command(&[&program, "{}"]), &["1"]);
        let error = run.error(0);
        assert_eq!((error.kind.as_str(), error.fatal), ("CommandNotStarted", true));
        assert!(error.message.contains(remedy) && error.message.contains(&program), "{error:?}");
    }
}

#[test]
fn a_program_that_is_the_elements_choice_is_the_elements_fault() {
    let run = run(&command(&["{}", "x"]), &["\"no-such-program\"", "\"echo\""]);
    assert!(!run.error(0).fatal);
    assert_eq!(run.outcomes[1].as_deref(), Ok("\"x\""));
}

#[test]
fn an_argument_that_cannot_be_is_the_elements_fault() {
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let run = run(&command(&["echo", "{}"]), &[&long, "\"a\\u0000b\"", "\"\\ud800\"", "1"]);
    for (position, said) in [(0, "standard input"), (1, "NUL"), (2, "no text")] {
        let error = run.error(position);
        assert!(error.message.contains(said) && !error.fatal, "{error:?}");
    }
    assert_eq!(run.outcomes[3].as_deref(), Ok("\"1\""));
}

#[test]
fn output_that_is_no_text_suggests_bytes() {
    let error = run(&command(&["printf", r"a\377"]), &["1"]).error(0).clone();
    assert_eq!(error.kind, "Untranslatable");
    assert!(error.message.contains("options.encoding bytes"), "{}", error.message);
}

#[test]
fn bytes_go_in_and_out_as_they_are() {
    let options = Options { encoding: Encoding::Bytes, ..Options::default() };
    let element = |bytes| Element { index: 0, input: Input::Encoded(bytes), key: None };
    let bytes = b"\0\xff\n\n";
    let cat = with(options.clone(), command(&["cat"]));
    assert_eq!(outcome(&cat, element(bytes)), Ok(bytes.to_vec()));
    assert_eq!(outcome(&cat, element(b"")), Ok(Vec::new()));
    let echo = with(options, command(&["printf", "%s", "{.}"]));
    assert_eq!(outcome(&echo, element(b"\xffa.txt")), Ok(b"\xffa".to_vec()));
}

#[test]
fn output_that_is_asked_to_be_json_is_checked() {
    let job = with(json_out(), sh("cat >/dev/null; printf '%s' '{}'"));
    let run = run(&job, &[r#""[1,""#, r#""{\"a\": 1.0}""#, r#""""#]);
    assert!(run.error(0).message.contains("is not one JSON value"), "{:?}", run.error(0));
    assert_eq!(run.outcomes[1].as_deref(), Ok(r#"{"a": 1.0}"#));
    assert!(run.error(2).message.contains("wrote nothing"), "{:?}", run.error(2));
}

#[test]
fn types_are_checked() {
    let options = Options { value_type: ValueType::Dbl, ..json_out() };
    let run = run(&with(options, command(&["cat"])), &["1.5", "\"a\"", "2", "[1, 2]"]);
    assert_eq!(run.outcomes[0].as_deref(), Ok("1.5"));
    assert_eq!(run.error(1).kind, "TypeMismatch");
    assert_eq!(run.error(1).message, "element 1: the value must be one dbl, is a string");
    assert_eq!(run.outcomes[2].as_deref(), Ok("2"));
    assert!(run.error(3).message.starts_with("element 3: "), "{}", run.error(3).message);
}

#[test]
fn a_walk_drops_values_and_keeps_what_was_printed() {
    let options = Options { variant: Variant::Walk, ..Options::default() };
    let job = with(options, sh("echo hi {}; test {} != 2"));
    let run = run(&job, &["1", "2", "3"]);
    assert_eq!(run.outcomes[0].as_deref(), Ok("null"));
    assert_eq!(run.error(1).message, "exit status 1");
    assert_eq!(run.outcomes[2].as_deref(), Ok("null"));
    let own = (0..3).map(|at| (at, format!("hi {}\n", at + 1)));
    assert_eq!(run.printed, own.collect::<Vec<_>>());
}

#[test]
fn items_are_arguments_in_pmap() {
    let options = Options { variant: Variant::Pmap, ..Options::default() };
    let job = with(options, command(&["echo", "{1}/{2}", "{name}", "{a.b c}"]));
    let run = run(&job, &[r#"["x y", 2]"#, r#"{"name": "n", "a.b c": [1, {"d": 2}]}"#, "7", "[]"]);
    assert_eq!(run.outcomes[0].as_deref(), Ok(r#""x y/2 {name} {a.b c}""#));
    assert_eq!(run.outcomes[1].as_deref(), Ok(r#""{1}/{2} n [1, {\"d\": 2}]""#));
    assert_eq!(run.error(2).kind, "TypeMismatch");
    assert!(run.error(2).message.contains("it is the number 7"), "{}", run.error(2).message);
    assert_eq!(run.outcomes[3].as_deref(), Ok(r#""{1}/{2} {name} {a.b c}""#));
}

#[test]
fn keys_are_told_in_imap() {
    let options = Options { variant: Variant::Imap, ..Options::default() };
    let job = with(options, command(&["echo", "{}", "{key}", "{outer}"]));
    let told = |key| outcome(&job, Element { index: 9, input: Input::Json(b"1"), key: Some(key) });
    let key = Key { index: 4, name: None, outer: None };
    assert_eq!(told(key), Ok(br#""1 4 {outer}""#.to_vec()));
    assert_eq!(told(Key { name: Some("n"), ..key }), Ok(br#""1 n {outer}""#.to_vec()));
    assert_eq!(told(Key { outer: Some((2, None)), ..key }), Ok(br#""1 4 2""#.to_vec()));
    assert_eq!(told(Key { outer: Some((2, Some("o"))), ..key }), Ok(br#""1 4 o""#.to_vec()));
}

#[test]
fn a_call_runs_once_without_an_element() {
    let call = WorkerJob {
        is_call: true,
        args: constants(&[("by", "\"x y\"")]),
        ..sh("printf '%s,' \"$(cat)\" '{by}' '{}' '{#}'")
    };
    let element = Element { index: 0, input: Input::Nothing, key: None };
    assert_eq!(outcome(&call, element), Ok(br#"",x y,{},{#},""#.to_vec()));
}

#[test]
fn args_fill_words_and_globals_are_variables() {
    let mut job = sh("echo '{by}' '{list}' \"$threshold\" \"$table\" \"$raw\"");
    job.args = constants(&[("by", "\"50%\""), ("list", "[1, 2]")]);
    job.globals = constants(&[("threshold", "\"a  b\""), ("table", r#"{"k": 1.50}"#)]);
    let raw = ConstantValue { encoding: Encoding::Bytes, content: b"raw"[..].into() };
    job.globals.insert("raw".into(), raw);
    assert_eq!(worker(&job).value("0"), r#"50% [1, 2] a  b {"k": 1.50} raw"#);
}

#[test]
fn constants_that_no_program_can_be_told_are_refused() {
    let refused = |job: &WorkerJob| runtimes::encode_job(Runtime::Command, job).unwrap_err();
    let of =
        |globals: &[(&str, &str)]| WorkerJob { globals: constants(globals), ..command(&["true"]) };
    for (globals, named) in [
        (&[("a", r#""x\u0000y""#)], "globals.a: it holds a NUL"),
        (&[("a=b", "1")], "`a=b` cannot be the name"),
        (&[("", "1")], "`` cannot be the name"),
    ] {
        let error = refused(&of(globals));
        assert!(error.fatal && error.message.contains(named), "{error:?}");
    }
    let mut pickled = command(&["true"]);
    let value = ConstantValue { encoding: Encoding::Pickle, content: b"x"[..].into() };
    pickled.args.insert("p".into(), value);
    assert!(refused(&pickled).message.contains("args.p"));
    assert!(refused(&job("echo")).message.contains("array"));
    let seed = Some(Seed::State(vec![10407, 1, 2, 3, 4, 5, 6]));
    let of_r = with(Options { seed, ..Options::default() }, command(&["true"]));
    assert!(refused(&of_r).message.contains("seed"));
}

#[test]
fn programs_know_their_job_their_index_and_their_seed() {
    let script = "echo $FARROW_JOB $FARROW_INDEX ${FARROW_SEED-none}";
    let job = sh(script);
    let id = job.id;
    assert_eq!(run(&job, &["7", "7"]).values(), [format!("{id} 0 none"), format!("{id} 1 none")]);
    let seeded = |seed| Options { seed: Some(Seed::Number(seed)), ..Options::default() };
    let seeds = |seed| run(&with(seeded(seed), sh("echo $FARROW_SEED")), &["7", "7"]).values();
    let first = seeds(42);
    assert_eq!(first, seeds(42));
    assert!(first[0] != first[1] && first[0] != seeds(43)[0], "{first:?}");
    assert!(first.iter().all(|seed| seed.as_str().unwrap().parse::<i64>().is_ok()), "{first:?}");
}

#[test]
fn the_setup_runs_once_a_worker_and_before_the_first_element() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made");
    let file = file.to_str().unwrap();
    let job = WorkerJob {
        setup: format!("echo \"$from set up $FARROW_JOB\" >> {file}"),
        globals: constants(&[("from", "\"here\"")]),
        ..command(&["cat", file])
    };
    let expected = format!("here set up {}", job.id);
    assert_eq!(run(&job, &["1", "2"]).values(), [expected.as_str(), expected.as_str()]);
}

#[test]
fn a_setup_that_fails_fails_the_job() {
    let failing = |setup: &str| refusal(&WorkerJob { setup: setup.into(), ..command(&["true"]) });
    let error = failing("echo 'not today' >&2; exit 4");
    assert_eq!((error.kind.as_str(), error.fatal), ("CommandFailed", true));
    assert_eq!(error.message, "setup: exit status 4: not today");
    assert!(failing("if").fatal);
    assert!(failing("kill -9 $$").message.starts_with("setup: killed by SIGKILL"));
}

#[test]
fn what_a_setup_leaves_behind_lives_on_and_may_print() {
    let folder = tempfile::tempdir().unwrap();
    let at = |script: &str| script.replace('@', folder.path().to_str().unwrap());
    let setup =
        "(until test -e @/asked; do sleep 0.01; done; echo one; echo two >&2; echo > @/heard)&";
    let element = "echo > @/asked; until test -e @/heard; do sleep 0.01; done; echo ok";
    let job = WorkerJob { setup: at(setup), ..sh(&at(element)) };
    assert_eq!(worker(&job).value("1"), "ok");
}

#[test]
fn what_an_element_leaves_behind_holds_nobody_up() {
    let mut worker = worker(&sh("sleep 1000 & echo $!"));
    let values = worker.run(&["1", "2"]).values();
    for pid in values {
        let pid = pid.as_str().unwrap().parse().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

#[test]
fn programs_do_not_have_the_frames() {
    // What the test itself was started with is inherited as well.
    let open = worker(&command(&["ls", "-l", "/proc/self/fd"])).value("1");
    let open = open.as_str().unwrap();
    assert!(open.contains("pipe:"), "{open}");
    assert!(!open.lines().any(|line| line.ends_with("/in") || line.ends_with("/out")), "{open}");
}

#[test]
fn a_job_is_forgotten_and_another_is_taken() {
    let mut worker = worker(&sh("echo $a"));
    assert_eq!(worker.value("1"), "");
    assert!(worker.reset());
    worker.prepare(&WorkerJob { globals: constants(&[("a", "1")]), ..sh("echo $a") });
    assert_eq!(worker.value("1"), "1");
    worker.prepare(&sh("echo $a"));
    assert_eq!(worker.value("1"), "");
}

#[test]
fn one_that_is_told_something_out_of_turn_ends() {
    let body = encode(Runtime::Command, &["1", "2"]).unwrap();
    let mut early = Worker::start(Runtime::Command);
    early.send(kind::ELEMENTS, &body);
    assert_eq!(early.answer(), None);
    let mut waits = worker(&sh("exit 1"));
    waits.prepare(&sh("echo; exit 1"));
    waits.send(kind::ELEMENTS, &body);
    assert!(matches!(waits.answer(), Some(Answer::Outcomes { printed: true, .. })));
    waits.send(kind::ELEMENTS, &body);
    assert_eq!(waits.answer(), None);
    let mut hung_up = worker(&sh("true"));
    hung_up.hang_up();
    assert_eq!(hung_up.answer(), None);
    hung_up.join();
}
