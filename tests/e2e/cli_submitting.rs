//! What `farrow map` and `farrow call` make of their command line: elements from many places,
//! functions of three runtimes, values in files.

use std::fs;

use serde_json::{Value, json};
use tests::{Finished, World};

use crate::proxy;

const ECHO: &str = "lambda x: x";

/// What a command that succeeds prints.
fn printed(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    &finished.stdout
}

fn assert_refused(finished: &Finished, code: i32, says: &[&str]) {
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(code), ""), "{finished:?}");
    for part in says {
        assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
    }
}

#[tokio::test]
async fn elements_come_from_tables_patterns_ranges_and_pipes() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let map = async |flags: &[&str], function: &str, input: &str| {
        let mut words = vec!["map", "--runtime", "python"];
        words.extend(flags);
        words.push(function);
        printed(&world.farrow_with_input(&words, input).await).to_owned()
    };
    let table = "id,n,zip\na,1.5,007\nb,,12\n";
    assert_eq!(
        map(&["--csv", "-"], ECHO, table).await,
        "{\"id\":\"a\",\"n\":1.5,\"zip\":\"007\"}\n{\"id\":\"b\",\"n\":null,\"zip\":\"12\"}\n"
    );
    assert_eq!(
        map(&["--csv", "-", "--csv-text", "--named"], "lambda row: row['n']", table).await,
        "a\t\"1.5\"\nb\tnull\n"
    );
    assert_eq!(map(&["--range", "-1..=1"], "lambda x: x + 10", "").await, "9\n10\n11\n");
    assert_eq!(map(&["-0"], "lambda x: len(x)", "a\nb\0c\0").await, "3\n1\n");
    for name in ["b.txt", "a.txt", "c.csv"] {
        fs::write(world.path(name), name).unwrap();
    }
    let pattern = world.path("*.txt").display().to_string();
    assert_eq!(
        map(&["--glob", &pattern], "import os\nlambda p: os.path.basename(p)", "").await,
        "\"a.txt\"\n\"b.txt\"\n"
    );
    let pmap = ["--json-lines", "--variant", "pmap", "--arg", "by=10"];
    assert_eq!(
        map(&pmap, "lambda a, b, by: (a + b) * by", "[1, 2]\n{\"b\": 3, \"a\": 4}\n").await,
        "30\n70\n"
    );
    assert_eq!(map(&["--variant", "walk"], "lambda x: print(x)", "a\nb\n").await, "");
}

#[tokio::test]
async fn many_elements_travel_as_a_blob() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let line = "x".repeat(1 << 20);
    let input: String = (0..6).map(|i| format!("{line}{i}\n")).collect();
    let map = ["map", "--runtime", "python", "lambda x: [len(x), x[-1]]"];
    let mapped = world.farrow_with_input(&map, &input).await;
    let expected: String = (0..6).map(|i| format!("[1048577,\"{i}\"]\n")).collect();
    assert_eq!(printed(&mapped), expected);
    // The same elements, uploaded by hand.
    let ndjson: String = input.lines().map(|line| format!("\"{line}\"\n")).collect();
    let file = world.path("elements.ndjson");
    fs::write(&file, ndjson).unwrap();
    let put = world.farrow(&["blobs", "put", "--json", file.to_str().unwrap()]).await;
    let put: Value = serde_json::from_str(printed(&put)).unwrap();
    assert_eq!(put[0]["new"], false, "the map has uploaded other bytes");
    let digest = put[0]["digest"].as_str().unwrap();
    let mapped = world
        .farrow(&["map", "--runtime", "python", "--blob", digest, "lambda x: [len(x), x[-1]]"])
        .await;
    assert_eq!(printed(&mapped), expected);
}

#[tokio::test]
async fn commands_are_written_as_for_gnu_parallel() {
    let world = World::start().await;
    let _agent = world.agent_with("one", 2, &["--runtime", "command"]).await;
    let map = async |flags: &[&str], behind: &[&str], input: &str| {
        let mut words = vec!["map", "--runtime", "command"];
        words.extend(flags);
        words.push("--");
        words.extend(behind);
        world.farrow_with_input(&words, input).await
    };
    let echo = ["echo", "{#}", "{.}", "{/}", "-n", ":::", "a.txt", "dir/b c.tar"];
    assert_eq!(printed(&map(&[], &echo, "").await), "1 a a.txt -n\n2 dir/b c b c.tar -n\n");
    // Without a placeholder the element is on standard input; silence has no line.
    assert_eq!(printed(&map(&[], &["cat"], "one\ntwo\n").await), "\"one\"\n\"two\"\n");
    assert_eq!(printed(&map(&["--json"], &["true"], "one\n").await), "[\"\"]\n");
    assert_eq!(printed(&map(&[], &["true"], "one\n").await), "");
    let table = "rate,n\n0.5,3\n";
    let by_name = map(&["--csv", "-", "--variant", "pmap"], &["echo", "{n}@{rate}"], table).await;
    assert_eq!(printed(&by_name), "3@0.5\n");
    let parsed = map(&["--output", "json"], &["echo", "[{}, 2]", ":::", "1"], "").await;
    assert_eq!(printed(&parsed), "[1,2]\n");
    let bytes = map(&["--encoding", "bytes"], &["tr", "a-z", "A-Z"], "ab\n").await;
    assert_eq!(printed(&bytes), "\u{2}\0\0\0vAB");
    let called = world.farrow(&["call", "--runtime", "command", "--", "echo", "a b"]).await;
    assert_eq!(printed(&called), "a b\n");
    let failed = map(&[], &["sh", "-c", "echo oh >&2; exit 3", ":::", "x"], "").await;
    assert_refused(&failed, 1, &["element 0", "exit status 3", "oh", "CommandFailed"]);
}

#[tokio::test]
async fn a_call_prints_its_bare_value() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let call = async |words: &[&str]| {
        let words = [&["call", "--runtime"], words].concat();
        world.farrow(&words).await
    };
    assert_eq!(printed(&call(&["python", "[6 * 7, 'é']"]).await), "[42,\"é\"]\n");
    assert_eq!(printed(&call(&["r", "--arg", "n=3", "function(n) seq_len(n)"]).await), "[1,2,3]\n");
    let drawn = ["python", "--seed", "7", "import random\nrandom.random()"];
    assert_eq!(printed(&call(&drawn).await), printed(&call(&drawn).await));
    assert_refused(&call(&["python", "f", "1"]).await, 2, &["a call has no elements", "--arg"]);

    let file = world.path("value.rds");
    let called =
        call(&["r", "--encoding", "rds", "--out", file.to_str().unwrap(), "list(a = 1:3)"]).await;
    assert_eq!(printed(&called), "");
    // The value of one job is an argument of the next.
    let given = format!("x=@{}", file.display());
    assert_eq!(printed(&call(&["r", "--arg", &given, "function(x) sum(x$a)"]).await), "6\n");
}

#[tokio::test]
async fn values_that_are_not_json_are_the_elements_of_a_next_map() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let file = world.path("pairs.frames");
    let file = file.to_str().unwrap();
    let pickled = ["map", "--runtime", "python", "--encoding", "pickle"];
    let pairs = ["--range", "0..3", "--out", file, "lambda x: (x, {x * x})"];
    assert_eq!(printed(&world.farrow(&[&pickled[..], &pairs].concat()).await), "");
    let sums = ["--file", file, "--detach", "lambda pair: pair[0] + sum(pair[1])"];
    let detached = world.farrow(&[&pickled[..], &sums].concat()).await;
    let id = printed(&detached).trim_end();
    let value = world.farrow(&["value", id]).await;
    assert_eq!(printed(&value).matches('v').count(), 3, "{value:?}");
    assert_refused(&world.farrow(&["value", "--json", id]).await, 2, &["pickle", "--json"]);
    let refused = world.farrow(&[&pickled[..], &["lambda x: x", "a"]].concat()).await;
    assert_refused(&refused, 2, &["arguments cannot hold elements of encoding pickle", "--file"]);
}

#[tokio::test]
async fn a_folder_is_packed_and_uploaded_before_its_job() {
    let world = World::start().await;
    let folder = world.path("project");
    fs::create_dir_all(folder.join(".git")).unwrap();
    fs::write(folder.join("a.txt"), "a").unwrap();
    fs::write(folder.join(".git/large"), "x".repeat(1 << 20)).unwrap();
    let submit = async |files: &str| {
        let words = ["map", "--detach", "--runtime", "python", "--files", files, ECHO, "a"];
        let submitted = world.farrow(&words).await;
        assert_eq!(submitted.code, Some(0), "{submitted:?}");
        submitted.stderr
    };
    let told = submit(folder.to_str().unwrap()).await;
    assert!(told.contains("1 B in 1 file, packed to"), "{told}");
    let packed = world.path("project.tar.gz");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-czf").arg(&packed).arg("-C").arg(&folder).arg("a.txt");
    assert!(tar.status().unwrap().success());
    let packed = packed.to_str().unwrap();
    submit(packed).await;
    let put = world.farrow(&["blobs", "put", "--json", packed]).await;
    let put: Value = serde_json::from_str(printed(&put)).unwrap();
    assert_eq!(put[0]["new"], false, "it was not uploaded before");
}

#[tokio::test]
async fn a_function_works_in_its_folder_once_that_is_prepared() {
    let world = World::start().await;
    let _agent = world.python_agent("box", 1).await;
    let folder = world.path("project");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.txt"), "from the folder").unwrap();
    let folder = folder.to_str().unwrap();
    let map = async |prepare: &str| {
        let function = "lambda x: open(x).read()";
        let words = ["map", "--runtime", "python", "--files", folder, "--prepare", prepare];
        world.farrow(&[&words[..], &[function, "a.txt"]].concat()).await
    };
    let mapped = map("echo made ready; ls").await;
    assert_eq!(printed(&mapped), "\"from the folder\"\n");
    for line in ["[prepare box] made ready\n", "[prepare box] a.txt\n"] {
        assert!(mapped.stderr.contains(line), "no {line:?} in {}", mapped.stderr);
    }
    assert_refused(&map("exit 3").await, 1, &["prepare", "exit status 3", "--source prepare"]);
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_one_job() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let address = proxy::losing_the_first_answer(&world).await;
    let mut command = world.command(&["map", "--runtime", "python", ECHO, "a"]);
    command.env("FARROW_URL", address);
    let mapped = world.spawn("map", &mut command).finished().await;
    assert_eq!(printed(&mapped), "\"a\"\n");
    assert!(mapped.stderr.contains("trying again"), "{}", mapped.stderr);
    let jobs = world.client.get("/v1/jobs").await.json();
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(1), "{jobs:#}");
}

#[tokio::test]
async fn words_that_cannot_be_are_refused_with_a_remedy() {
    let world = World::start().await;
    let folder = world.path("no-such-folder/value");
    for (words, says) in [
        (&["map", "--runtime", "command", "wc", "a"][..], &["before `--`", "-- wc -l {}"][..]),
        (&["map", "--runtime", "command", "--", "wc -l", ":::", "a"], &["no shell", "sh -c"]),
        (&["map", "--runtime", "python", "--range", "3..1", "f"], &["--range", "before it begins"]),
        (
            &["map", "--runtime", "python", "--range", "0..3", "f", "a"],
            &["arguments and by --range"],
        ),
        (
            &["map", "--runtime", "python", "--glob", "/no/such/*", "f"],
            &["--glob", "matches no path"],
        ),
        (&["map", "--runtime", "python", "--named", "f", "a", "a"], &["element 1", "twice"]),
        (&["map", "--runtime", "python", "--seed", "x", "f", "a"], &["--seed", "whole number"]),
        (&["map", "--runtime", "python", "--memory", "2XB", "f", "a"], &["--memory", "GiB"]),
        (
            &["map", "--runtime", "python", "--files", "/no/such", "f", "a"],
            &["--files", "/no/such"],
        ),
        (&["map", "--runtime", "python", "--arg", "x=@/no/such", "f", "a"], &["--arg", "/no/such"]),
        (&["map", "--runtime", "python", "--variant", "fold", "f", "a"], &["--variant", "imap"]),
        (&["map", "--runtime", "python", "--out", folder.to_str().unwrap(), "f", "a"], &["--out"]),
        (&["call", "--runtime", "r", "--encoding", "rds", "--json", "1"], &["rds", "leave --json"]),
    ] {
        assert_refused(&world.farrow(words).await, 2, says);
    }
    let jobs = world.client.get("/v1/jobs").await.json();
    assert_eq!(jobs["items"], json!([]), "nothing was submitted");
}
