//! The commands, as a shell runs them: what they print where, and how they exit.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::audit::as_command;
use tests::process::program;
use tests::wait::until;
use tests::{Audit, Finished, Gate, Process, World};

const SQUARE: &str = "lambda x: int(x) ** 2";

/// What `seq 1 last` prints.
fn seq(last: u32) -> String {
    (1..=last).map(|i| format!("{i}\n")).collect()
}

fn squares(last: u32) -> String {
    (1..=last).map(|i| format!("{}\n", i * i)).collect()
}

fn assert_exit(finished: &Finished, code: i32, stdout: &str, says: &[&str]) {
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (Some(code), stdout),
        "{}",
        finished.stderr
    );
    for part in says {
        assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
    }
    assert_eq!(says.is_empty(), finished.stderr.is_empty(), "{}", finished.stderr);
}

fn document(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[tokio::test]
async fn a_map_reads_lines_and_prints_lines() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let map = ["map", "--runtime", "python", SQUARE];
    let mapped = world.farrow_with_input(&map, &seq(100)).await;
    assert_exit(&mapped, 0, &squares(100), &["job "]);
    let mapped = world.farrow(&["map", "--runtime", "r", "~ nchar(.x)", "one", "three"]).await;
    assert_exit(&mapped, 0, "3\n5\n", &["job "]);
    let mapped = world.farrow(&["map", "--json", "--runtime", "python", SQUARE, "2", "3"]).await;
    assert_eq!(document(&mapped), json!([4, 9]));
    let mapped = world.farrow_with_input(&map, "").await;
    assert_exit(&mapped, 0, "", &["job "]);
}

#[tokio::test]
async fn a_map_takes_its_parts_from_flags_and_files() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let (source, elements) = (world.path("f.py"), world.path("elements.jsonl"));
    fs::write(&source, "def f(x, by):\n    return [x * by + offset + math.floor(late)]\n").unwrap();
    fs::write(&elements, "1\n\n2.5\n").unwrap();
    let mapped = world
        .farrow(&[
            "map",
            "--runtime",
            "python",
            "--json-lines",
            "--file",
            elements.to_str().unwrap(),
            "--arg",
            "by=10",
            "--global",
            "offset=100",
            "--package",
            "math",
            "--setup",
            "late = 7.9",
            "--plan",
            "cluster=1",
            "--priority",
            "-3",
            "--chunk-size",
            "1",
            "--name",
            "of flags",
            &format!("@{}", source.display()),
        ])
        .await;
    assert_exit(&mapped, 0, "[117]\n[132.0]\n", &["job "]);
    let job = world.client.get("/v1/jobs").await.json()["items"][0].clone();
    assert_eq!((&job["name"], &job["options"]["priority"]), (&json!("of flags"), &json!(-3)));
    assert_eq!(job["plan"], json!([{"strategy": "cluster", "workers": 1}]));
    let nested = [
        "map",
        "--runtime",
        "python",
        "--json-lines",
        "--plan",
        "cluster,multisession",
        "lambda x: -x",
        "[1,2]",
        "[]",
        "[3]",
    ];
    assert_exit(&world.farrow(&nested).await, 0, "[-1,-2]\n[]\n[-3]\n", &["job "]);
}

#[tokio::test]
async fn a_detached_map_is_asked_about_and_fetched_later() {
    let world = World::start().await;
    let detach = ["map", "--detach", "--runtime", "python", SQUARE];
    let detached = world.farrow_with_input(&detach, &seq(100)).await;
    let id = detached.stdout.trim_end().to_owned();
    assert_exit(&detached, 0, &format!("{id}\n"), &[]);

    let early = world.farrow(&["value", "--no-wait", &id]).await;
    assert_exit(&early, 5, "", &["queued: 0 of 100", "no agent is connected"]);
    let status = world.farrow(&["status", &id]).await;
    for part in [&id, "queued", "0 of 100 done", "no agent is connected", "python"] {
        assert!(status.stdout.contains(part), "no {part:?} in {}", status.stdout);
    }

    let _agent = world.python_agent("one", 2).await;
    assert_exit(&world.farrow(&["value", &id]).await, 0, &squares(100), &[]);
    let value = document(&world.farrow(&["value", "--json", &id]).await);
    assert_eq!(value, (1..=100).map(|i| i * i).collect::<Value>());
    let status = document(&world.farrow(&["status", "--json", &id]).await);
    assert_eq!((&status["state"], &status["elements"]["done"]), (&json!("resolved"), &json!(100)));
    let watched = world.farrow(&["status", "--watch", &id]).await;
    assert!(watched.stdout.contains("100 of 100 done"), "{watched:?}");
    let status =
        document(&world.farrow(&["map", "--detach", "--json", "--runtime", "r", "abs", "1"]).await);
    assert_eq!(status["state"], "queued");
}

#[tokio::test]
async fn named_values_are_printed_with_their_names() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let job =
        r#"{"runtime": "python", "function": "lambda x: x * 2", "elements": {"b": 1, "a c": 2}}"#;
    let id = world.client.submit_text(job.to_owned()).await;
    assert_exit(&world.farrow(&["value", &id]).await, 0, "b\t2\na c\t4\n", &[]);
}

#[tokio::test]
async fn a_failing_map_says_which_element_and_why() {
    let world = World::start().await;
    let _agent = world.agent("one", 1).await;
    let failing = "def f(x):\n    return check(int(x))\ndef check(n):\n    if n == 3: raise ValueError('three is not allowed')\n    return n\nf";
    let map = ["map", "--runtime", "python", failing];
    let failed = world.farrow_with_input(&map, &seq(5)).await;
    let says = ["element 2", "ValueError", "three is not allowed", "traceback", "line 4, in check"];
    assert_exit(&failed, 1, "", &says);
    let id = world.client.get("/v1/jobs").await.json()["items"][0]["id"].clone();
    assert_exit(&world.farrow(&["value", id.as_str().unwrap()]).await, 1, "", &says);

    let collect = ["map", "--runtime", "python", "--on-error", "collect", failing];
    let collected = world.farrow_with_input(&collect, &seq(3)).await;
    assert_eq!(collected.code, Some(0));
    assert!(collected.stdout.starts_with("1\n2\n{\"error\":{"), "{collected:?}");
    assert!(collected.stderr.contains("1 of 3 elements failed"), "{collected:?}");

    let failed =
        world.farrow(&["map", "--runtime", "r", "function(x) stop('not ', x)", "today"]).await;
    assert_exit(&failed, 1, "", &["element 0", "not today"]);
    let failed = world.farrow(&["map", "--runtime", "python", "lambda x: (", "1"]).await;
    assert_exit(&failed, 1, "", &["line 1, column 11", "was never closed"]);

    // Who types numbers is told that they arrive as strings, and how they do not.
    let remedy = "the elements are strings";
    let add = ["map", "--runtime", "python", "lambda x: x + 1"];
    let typed = |words: &[&'static str]| [&add, words].concat();
    let failed = world.farrow(&typed(&["1", "2"])).await;
    assert_exit(&failed, 1, "", &["can only concatenate str", remedy, "--json-lines"]);
    let failed = world.farrow(&typed(&["one", "two"])).await;
    assert!(!failed.stderr.contains(remedy), "{failed:?}");
    let numbers = world.farrow(&typed(&["--json-lines", "1", "2"])).await;
    assert_exit(&numbers, 0, "2\n3\n", &["job "]);
}

#[tokio::test]
async fn what_cannot_be_done_is_told_by_exit_codes() {
    let mut world = World::start().await;
    let unknown = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";
    for (arguments, code, says) in [
        (&["map", "--runtime", "python"][..], 2, "<FUNCTION>"),
        (&["map", "f", "1"], 2, "--runtime"),
        (&["map", "--runtime", "perl", "f", "1"], 2, "possible values: r, python, command"),
        (&["map", "--runtime", "python", "@/no/such/file", "1"], 2, "/no/such/file"),
        (&["map", "--runtime", "python", "--json-lines", "f", "{"], 2, "is not JSON"),
        (&["map", "--runtime", "python", "--arg", "by", "f", "1"], 2, "NAME=JSON"),
        (&["map", "--runtime", "python", " ", "1"], 3, "function: is empty"),
        (&["map", "--runtime", "python", "--timeout", "0", "f", "1"], 2, "above 0"),
        (&["status", "17"], 2, "17"),
        (&["status", unknown], 3, "there is no job"),
        (&["value", unknown], 3, "there is no job"),
        (&["cancel", unknown], 3, "there is no job"),
    ] {
        let refused = world.farrow(arguments).await;
        assert_exit(&refused, code, "", &[says]);
    }
    let mut command = world.command(&["jobs"]);
    let command = command.env("FARROW_TOKEN", "this-is-not-the-token-of-this-server");
    assert_exit(&world.spawn("jobs", command).finished().await, 3, "", &["token"]);
    world.server().kill();
    let url = world.url().to_owned();
    assert_exit(&world.farrow(&["jobs"]).await, 3, "", &[&url]);
    let map = world.farrow(&["map", "--runtime", "python", SQUARE, "1"]).await;
    assert_exit(&map, 3, "", &[&url]);
}

#[tokio::test]
async fn jobs_are_cancelled_and_listed() {
    let world = World::start().await;
    assert!(world.farrow(&["jobs"]).await.stdout.contains("no jobs yet"));
    assert!(world.farrow(&["agents"]).await.stdout.contains("no agents"));
    let _agent = world.agent_with("box", 2, &["--runtime", "python", "--label", "zone=a"]).await;
    let done = world.farrow(&["map", "--detach", "--runtime", "python", SQUARE, "3"]).await;
    let done = done.stdout.trim_end();
    world.client.value(done).await;
    let endless = "import time\nlambda x: time.sleep(1000)";
    let running = world.farrow(&["map", "--detach", "--runtime", "python", endless, "1"]).await;
    let running = running.stdout.trim_end();

    let cancelled = world.farrow(&["cancel", running, done]).await;
    let lines = format!("{running}  cancelled\n{done}  resolved: had ended before\n");
    assert_exit(&cancelled, 0, &lines, &[]);
    assert_exit(&world.farrow(&["value", running]).await, 4, "", &["was cancelled"]);
    let again = world.farrow(&["cancel", running]).await;
    assert_exit(&again, 0, &format!("{running}  cancelled\n"), &[]);

    let jobs = world.farrow(&["jobs"]).await.stdout;
    let lines: Vec<&str> = jobs.lines().collect();
    assert_eq!(lines.len(), 3, "{jobs}");
    assert!(lines[1].contains(running) && lines[1].contains("cancelled"), "{jobs}");
    assert!(lines[2].contains(done) && lines[2].contains("1/1"), "{jobs}");
    let listed = document(&world.farrow(&["jobs", "--json", "--state", "resolved"]).await);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["id"]), (Some(1), &json!(done)));
    let agents = world.farrow(&["agents"]).await.stdout;
    assert!(
        ["box", "live", "zone=a", "python 3"].iter().all(|part| agents.contains(part)),
        "{agents}"
    );
    assert_eq!(document(&world.farrow(&["agents", "--json"]).await)[0]["slots"], 2);
}

#[tokio::test]
async fn an_interrupted_map_goes_on_and_says_how_to_come_back() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let gate = world.path("gate");
    let wait = format!(
        "import os, time\ndef f(x):\n    while not os.path.exists({gate:?}): time.sleep(0.01)\n    return x"
    );
    let mut map =
        world.spawn("map", &mut world.command(&["map", "--runtime", "python", &wait, "a"]));
    let id = submitted(&world).await;
    map.signal(Signal::SIGINT);
    let interrupted = map.finished().await;
    assert_exit(&interrupted, 130, "", &["interrupted", &format!("farrow value {id}")]);
    fs::write(gate, "").unwrap();
    assert_exit(&world.farrow(&["value", &id]).await, 0, "\"a\"\n", &[]);
}

/// The id of the one job that there is, once it is running.
async fn submitted(world: &World) -> String {
    until("a job runs", async || {
        let job = world.client.get("/v1/jobs?state=running").await.json()["items"][0].clone();
        job["id"].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_map_outlives_its_server() {
    let mut world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let gate = world.path("gate");
    let wait = format!(
        "import os, time\ndef f(x):\n    while not os.path.exists({gate:?}): time.sleep(0.01)\n    return x"
    );
    let mut map = world
        .spawn("map", &mut world.command(&["map", "--runtime", "python", &wait, "a", "b", "c"]));
    submitted(&world).await;
    world.server().kill();
    until("the map misses its server", async || {
        map.stderr().contains("trying again").then_some(())
    })
    .await;
    fs::write(gate, "").unwrap();
    world.restart().await;
    let finished = map.finished().await;
    assert_exit(&finished, 0, "\"a\"\n\"b\"\n\"c\"\n", &["trying again", "answers again"]);
}

#[tokio::test]
async fn on_a_terminal_a_bar_shows_how_far_a_map_is() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = gate.hold_from(5, audit.python(&json!([]), "x"));
    let arguments = as_command(&job, 8);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    let size = nix::pty::Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(Some(&size), None).unwrap();
    let mut command = world.command(&arguments);
    command.env("TERM", "xterm");
    let mut map = Process::start_on("map", &world.path(""), &mut command, terminal.slave.into());
    // The bar holds the terminal open as long as the command is there.
    drop(command);
    let mut screen = File::from(terminal.master);
    let shown = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // A terminal that nobody holds any more ends in an error.
        io::Read::read_to_end(&mut screen, &mut shown).ok();
        String::from_utf8_lossy(&shown).into_owned()
    });
    audit.started(7).await;
    gate.open();
    let finished = map.finished().await;
    let shown = shown.await.unwrap();
    assert_eq!((finished.code, finished.stdout.lines().count()), (Some(0), 8), "{shown}");
    assert!(shown.contains("/8") && shown.contains('\r'), "{shown:?}");
}

#[tokio::test]
async fn an_agent_that_is_drained_finishes_what_it_runs_and_leaves() {
    let world = World::start().await;
    let unknown = world.farrow(&["drain", "one"]).await;
    assert_exit(&unknown, 3, "", &["no agent called \"one\"", "farrow agents"]);
    let mut agent = world.python_agent("one", 1).await;
    let (audit, gate) = (Audit::new(&world, "work"), Gate::new(&world, "work"));
    let job = world.client.submit(&gate.hold(audit.python(&json!([4]), "x"))).await;
    audit.started(1).await;
    let drained = world.farrow(&["drain", "--json", "one"]).await;
    assert_eq!(document(&drained)[0]["draining"], true);
    world.agent_is(&agent, "draining").await;
    gate.open();
    assert_eq!(world.client.value(&job).await, json!([4]));
    assert!(agent.process.ended().await.success());
    assert!(audit.repeated().is_empty());
}

#[tokio::test]
async fn up_is_a_server_and_an_agent_with_a_token_of_their_own() {
    let world = World::start().await;
    let data = world.path("up");
    let arguments = [
        "up",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--slots",
        "2",
        "--data",
        data.to_str().unwrap(),
    ];
    let mut up = world.spawn("up", world.command(&arguments).env_remove("FARROW_TOKEN"));
    let place: Value = serde_json::from_str(&up.first_line().await).unwrap();
    let (url, file) = (place["url"].as_str().unwrap(), place["token_file"].as_str().unwrap());
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(file).unwrap();
    for (runtime, function) in [("python", "lambda x: len(x)"), ("r", "~ nchar(.x)")] {
        let mut command = world.command(&["map", "--runtime", runtime, function, "four", "seven"]);
        command.env("FARROW_URL", url).env_remove("FARROW_TOKEN").env("FARROW_TOKEN_FILE", file);
        let mapped = world.spawn("map", &mut command).finished().await;
        assert_eq!((mapped.code, mapped.stdout.as_str()), (Some(0), "4\n5\n"), "{mapped:?}");
    }
    up.signal(Signal::SIGTERM);
    let ended = up.finished().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains(token.trim()), "the token is in the log");
}

#[tokio::test]
async fn what_up_says_of_its_token_lets_other_commands_in() {
    let world = World::start().await;
    let secret = "of-this-server-alone-and-long-enough";
    let file = world.path("a token's file");
    fs::write(&file, secret).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let by_file = ["--token-file", file.to_str().unwrap()];
    let ways: [(&[&str], Option<&str>, &str); 2] = [
        (&by_file, None, &file.display().to_string()),
        (&[], Some(secret), "as FARROW_TOKEN says"),
    ];
    for (idx, (flags, variable, told)) in ways.into_iter().enumerate() {
        let data = world.path(&format!("up {idx}"));
        let mut command = world.command(&["up", "--listen", "127.0.0.1:0", "--slots", "1"]);
        command.args(flags).arg("--data").arg(data).env_remove("FARROW_TOKEN");
        command.envs(variable.map(|token| ("FARROW_TOKEN", token)));
        let mut up = world.spawn("up", &mut command);
        let (said, typed) = until("it says where it is", async || {
            let said = up.stderr();
            let typed = said.split_once("for other commands: ")?.1.split_once('\n')?.0;
            Some((said.clone(), typed.to_owned()))
        })
        .await;
        assert!(said.contains(told) && !said.contains(secret), "{said}");

        // As it is typed: in a shell of its own, without what the tests set.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{}; exec \"$0\" jobs --json", typed)).arg(program());
        for variable in ["FARROW_TOKEN", "FARROW_URL", "FARROW_TOKEN_FILE"] {
            shell.env_remove(variable);
        }
        shell.env("HOME", world.path("home"));
        shell.envs(variable.map(|token| ("FARROW_TOKEN", token)));
        let listed = world.spawn("jobs", &mut shell).finished().await;
        assert_eq!(listed.code, Some(0), "{listed:?}");
        up.signal(Signal::SIGTERM);
        assert_eq!(up.ended().await.code(), Some(0));
    }
}
