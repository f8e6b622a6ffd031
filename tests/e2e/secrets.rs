//! No secret and no payload in a log, in a program's arguments, or in a worker's environment.

use std::fs;

use serde_json::{Value, json};
use tests::procfs::{descendants, start_of};
use tests::{Audit, Gate, World};

/// Stands in everything that is the user's: elements, function, constants, prints, errors, values.
const MARK: &str = "xylophone";

/// The texts under the world's folder that are logs, by the names of their processes.
fn logs(world: &World) -> Vec<(String, String)> {
    let entries = fs::read_dir(world.path("")).expect("the folder can be listed").flatten();
    let log = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let is_log = name.ends_with(".log") || name.ends_with(".out");
        let text = is_log.then(|| fs::read(entry.path()).ok()).flatten()?;
        Some((name, String::from_utf8_lossy(&text).into_owned()))
    };
    entries.filter_map(log).collect()
}

async fn token(world: &World, role: &str) -> String {
    let body = json!({"name": role, "role": role});
    let made = world.client.post("/v1/tokens", &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["token"].as_str().expect("a token").to_owned()
}

fn job(audit: &Audit, gate: &Gate, blob: &str) -> Value {
    let mut job = gate.hold_from(1, audit.python(&json!([0, 1]), "print(mark, big) or mark"));
    let function = job["function"].as_str().expect("a function").to_owned();
    job["function"] = json!(format!("{function}\n# {MARK}"));
    job["name"] = json!("plain");
    job["globals"] = json!({"mark": format!("{MARK} in a global"), "big": {"blob": blob}});
    job["setup"] = json!(format!("import sys; print('{MARK} in setup', file=sys.stderr)"));
    job["prepare"] = json!(format!("echo '{MARK} in prepare'"));
    job
}

#[tokio::test]
async fn neither_tokens_nor_payloads_are_in_logs_arguments_or_workers_environments() {
    let world = World::start_as(&[], vec![("FARROW_LOG", "debug".to_owned())]).await;
    let (submit, agents) = (token(&world, "submit").await, token(&world, "agent").await);
    let agent =
        world.agent_by(&agents, "one", 1, &["--runtime", "python", "--runtime", "command"]).await;
    let authorization = format!("Bearer {submit}");
    let by = [("authorization", authorization.as_str())];
    fs::write(world.path("blob.json"), format!("\"{MARK} in a blob\"")).expect("it is written");
    let file = world.path("blob.json").display().to_string();
    let put = &mut world.command(&["blobs", "put", &file]);
    let put = world.spawn("blobs", put.env("FARROW_TOKEN", &submit)).finished().await;
    let blob = put.stdout.split(' ').next().expect("a digest").to_owned();

    let (audit, gate) = (Audit::new(&world, "map"), Gate::new(&world, "map"));
    let map = job(&audit, &gate, &blob).to_string().into_bytes();
    let submitted = world.client.send("POST", "/v1/jobs", &by, map).await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let id = submitted.json()["id"].as_str().expect("an id").to_owned();
    audit.started(2).await;

    // While the second element runs: what every process of the agent was started with.
    let secrets = [tests::token(), &submit, &agents, MARK];
    let workers = descendants(agent.process.pid());
    assert!(audit.pids().iter().all(|pid| workers.contains(pid)), "{workers:?}");
    for pid in [&workers[..], &[agent.process.pid()]].concat() {
        let (words, variables) = start_of(pid);
        for secret in secrets {
            assert!(!words.contains(secret), "{secret} in the arguments of {pid}: {words}");
            let is_worker = pid != agent.process.pid();
            assert!(
                !(is_worker && variables.contains(secret)),
                "{secret} in the environment of {pid}"
            );
        }
        assert!(!words.is_empty(), "the arguments of {pid} cannot be read");
    }
    gate.open();
    let value = world.client.value(&id).await;
    assert_eq!(value, json!([format!("{MARK} in a global"), format!("{MARK} in a global")]));

    // What goes wrong is told to the user, not to the logs.
    let failing = json!({
        "runtime": "python", "elements": [MARK, format!("{{{MARK}")], "options": {"on_error": "collect"},
        "function": format!("def f(x):\n    raise ValueError('{MARK} in an error' + x)")
    });
    let unreadable = [format!("{{\"function\": \"{MARK}\""), json!({"runtime": MARK}).to_string()];
    world.client.run(&failing).await;
    for body in unreadable {
        let refused = world.client.send("POST", "/v1/jobs", &by, body.into_bytes()).await;
        assert!(matches!(refused.status, 400 | 422), "{}", refused.text());
    }
    let dying = json!({"runtime": "python", "elements": [MARK], "options": {"retries": 0},
        "function": "import os\nlambda x: print(x) or os._exit(3)"});
    world.client.failure(&dying).await;
    let syntax =
        json!({"runtime": "python", "function": format!("lambda x: ({MARK}"), "elements": [1]});
    world.client.failure(&syntax).await;
    let command = json!({"runtime": "command", "function": ["echo", "{}"], "elements": [MARK]});
    world.client.run(&command).await;

    // As one who guesses tokens and asks for much.
    for wrong in [format!("Bearer {submit}x"), format!("Basic {submit}")] {
        let refused =
            world.client.send("GET", "/v1/jobs", &[("authorization", &wrong)], Vec::new()).await;
        refused.problem(401, "unauthorized");
    }
    let logs = logs(&world);
    let has = |name: &str, text: &str| {
        logs.iter().any(|(of, log)| of.starts_with(name) && log.contains(text))
    };
    assert!(has("server", "DEBUG") && has("one", "DEBUG"), "both logs say all they can");
    for (name, log) in &logs {
        for secret in secrets {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} in {name}: {line:?}");
        }
    }
}
