//! Command lines that cannot be: how they exit, and what they say. The exit code is 2 when nothing
//! was asked of the server, 3 when the server refused.

use std::fs;

use serde_json::json;
use tests::World;

const UNKNOWN: &str = "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42";
const NO_BLOB: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A command line, its exit code, and what standard error has to say.
type Refusal = (&'static [&'static str], i32, &'static [&'static str]);

const MAPS: &[Refusal] = &[
    (&["map", "--runtime", "python"], 2, &["<FUNCTION>"]),
    (&["map", "f", "1"], 2, &["--runtime"]),
    (&["map", "--runtime", "perl", "f", "1"], 2, &["perl", "python", "command"]),
    (&["map", "--runtime", "command"], 2, &["no command behind `--`"]),
    (&["map", "--runtime", "r", "--variant", "modify", "f", "1"], 2, &["--variant", "imap"]),
    (&["map", "--runtime", "r", "--type", "double", "f", "1"], 2, &["--type", "dbl"]),
    (&["map", "--runtime", "r", "--encoding", "xml", "f", "1"], 2, &["--encoding", "rds"]),
    (&["map", "--runtime", "r", "--output", "yaml", "f", "1"], 2, &["--output", "json"]),
    (&["map", "--runtime", "r", "--on-error", "ignore", "f", "1"], 2, &["--on-error", "collect"]),
    (&["map", "--runtime", "r", "--seed", "soon", "f", "1"], 2, &["--seed", "true"]),
    (&["map", "--runtime", "r", "--memory", "much", "f", "1"], 2, &["--memory"]),
    (&["map", "--runtime", "r", "--slots", "0", "f", "1"], 2, &["--slots", "from 1"]),
    (&["map", "--runtime", "r", "--slots", "some", "f", "1"], 2, &["--slots", "all"]),
    (&["map", "--runtime", "r", "--timeout", "long", "f", "1"], 2, &["--timeout"]),
    (&["map", "--runtime", "r", "--retries", "-1", "f", "1"], 2, &["-1"]),
    (&["map", "--runtime", "r", "--after", "17", "f", "1"], 2, &["--after", "17"]),
    (&["map", "--runtime", "r", "--label", "zone", "f", "1"], 2, &["NAME=VALUE"]),
    (&["map", "--runtime", "r", "--plan", "multicore", "f", "1"], 2, &["--plan", "cluster"]),
    (&["map", "--runtime", "r", "--plan", "cluster=0", "f", "1"], 2, &["from 1"]),
    (&["map", "--runtime", "r", "--arg", "by", "f", "1"], 2, &["NAME=JSON"]),
    (&["map", "--runtime", "r", "--arg", "by=text", "f", "1"], 2, &["needs quotes"]),
    (&["map", "--runtime", "r", "--arg", "by=@/no/such.rds", "f", "1"], 2, &["/no/such.rds"]),
    (&["map", "--runtime", "r", "@/no/such/file", "1"], 2, &["/no/such/file"]),
    (&["map", "--runtime", "r", "--setup", "@/no/such/file", "f", "1"], 2, &["/no/such/file"]),
    (&["map", "--runtime", "r", "--files", "/no/such/folder", "f", "1"], 2, &["/no/such/folder"]),
    (&["map", "--runtime", "r", "--file", "/no/such/file", "f"], 2, &["/no/such/file"]),
    (&["map", "--runtime", "r", "--csv", "/no/such.csv", "f"], 2, &["/no/such.csv"]),
    (&["map", "--runtime", "r", "--glob", "/no/such/*.csv", "f"], 2, &["/no/such/*.csv"]),
    (&["map", "--runtime", "r", "--range", "one..two", "f"], 2, &["--range"]),
    (&["map", "--runtime", "r", "--range", "5..1", "f"], 2, &["ends before it begins"]),
    (&["map", "--runtime", "r", "--range", "0..5", "f", "1"], 2, &["give them in one place"]),
    (&["map", "--runtime", "r", "--json-lines", "f", "{"], 2, &["is not JSON"]),
    (&["map", "--runtime", "r", " ", "1"], 3, &["function: is empty"]),
    (&["map", "--runtime", "r", "--timeout", "0", "f", "1"], 2, &["--timeout", "above 0"]),
    (&["map", "--runtime", "r", "--priority", "1000", "f", "1"], 3, &["options.priority"]),
    (&["map", "--runtime", "r", "--encoding", "pickle", "f", "Z3Q="], 2, &["pickle", "--file"]),
    (&["map", "--runtime", "r", "--output", "json", "f", "1"], 3, &["options.output"]),
    (&["map", "--runtime", "r", "--after", UNKNOWN, "f", "1"], 3, &["after[0]", "no job"]),
    (&["call", "--runtime", "r"], 2, &["FUNCTION"]),
    (&["call", "--runtime", "r", "--plan", "cluster", "1"], 2, &["--plan"]),
    (&["call", "--runtime", "r", " "], 3, &["function: is empty"]),
];

const OTHERS: &[Refusal] = &[
    (&["status"], 2, &["<ID>"]),
    (&["status", "17"], 2, &["17"]),
    (&["status", UNKNOWN], 3, &["there is no job", UNKNOWN]),
    (&["value", "17"], 2, &["17"]),
    (&["value", UNKNOWN], 3, &["there is no job"]),
    (&["value", "--no-wait", UNKNOWN], 3, &["there is no job"]),
    (&["logs", UNKNOWN], 3, &["there is no job"]),
    (&["outcomes", UNKNOWN], 3, &["there is no job"]),
    (&["outcomes", "--order", "random", UNKNOWN], 2, &["--order", "completion"]),
    (&["cancel", UNKNOWN], 3, &["there is no job"]),
    (&["retry", UNKNOWN], 3, &["there is no job"]),
    (&["delete", "17"], 2, &["17"]),
    (&["jobs", "--state", "done"], 2, &["--state", "resolved"]),
    (&["jobs", "--limit", "many"], 2, &["--limit"]),
    (&["agents", "--dead"], 2, &["--dead"]),
    (&["blobs"], 2, &["Usage"]),
    (&["blobs", "put", "/no/such/file"], 2, &["/no/such/file"]),
    (&["blobs", "get", "sha256:17"], 2, &["64 hex"]),
    (&["blobs", "get", NO_BLOB], 5, &["no blob"]),
    (&["jobs", "--url", "localhost:3277"], 2, &["--url", "http://"]),
    (&["jobs", "--token-file", "/no/such/token"], 2, &["/no/such/token", "FARROW_TOKEN"]),
    (&["frobnicate"], 2, &["frobnicate"]),
];

#[tokio::test]
async fn a_command_that_cannot_be_says_why_and_by_its_exit_code_whose_fault_it_is() {
    let mut world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let mut complaints = Vec::new();
    for (arguments, code, says) in MAPS.iter().chain(OTHERS) {
        let refused = world.farrow(arguments).await;
        let missing: Vec<_> = says.iter().filter(|part| !refused.stderr.contains(**part)).collect();
        let is_well_said = missing.is_empty() && !refused.stderr.contains("panicked");
        if refused.code != Some(*code) || !refused.stdout.is_empty() || !is_well_said {
            complaints.push(format!("{arguments:?}: not {code} or no {missing:?}: {refused:?}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));

    let jobs = world.client.get("/v1/jobs").await.json();
    assert_eq!(jobs["items"], json!([]), "a job was made");
    let sound = world.farrow(&["map", "--quiet", "--runtime", "python", "len", "four"]).await;
    assert_eq!((sound.code, sound.stdout.as_str()), (Some(0), "4\n"), "{sound:?}");
    let log = world.server().stderr();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_value_that_cannot_be_written_is_told_and_can_be_fetched_again() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let below_a_file = world.path("file").join("value.json");
    fs::write(world.path("file"), "").unwrap();
    let out = below_a_file.to_str().unwrap();
    let refused = world.farrow(&["map", "--runtime", "python", "--out", out, "len", "four"]).await;
    assert!(matches!(refused.code, Some(1 | 2)), "{refused:?}");
    assert!(refused.stderr.contains(out), "{refused:?}");
    let jobs = world.client.get("/v1/jobs").await.json();
    if let Some(id) = jobs["items"][0]["id"].as_str() {
        assert_eq!(world.client.value(id).await, json!([4]));
    }
}
