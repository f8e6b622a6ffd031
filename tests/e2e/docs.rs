//! The documents' examples are run as they stand, and print what the documents say.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::document::{self, Example, Language};
use tests::procfs::is_alive;
use tests::wait::until_within;
use tests::{World, matching, process};

/// One example may run a script that installs something; no example takes so long.
const HANG: Duration = Duration::from_secs(300);

/// A file or folder of the repository.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(document: &str) -> String {
    let path = place(document);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is left of an example in this file when it was run.
fn file(folder: &Path, example: usize, kind: &str) -> PathBuf {
    folder.join(format!("example-{example}.{kind}"))
}

/// The shell in which a reader types: a script that runs each example, with its output and the code
/// of the last command that failed in files of its own.
fn session(examples: &[Example], folder: &Path) -> String {
    let mut session = String::from("set -E -o pipefail\ntrap 'failed=$?' ERR\n");
    for (i, example) in examples.iter().enumerate().filter(|(_, e)| e.not_run.is_none()) {
        fs::write(file(folder, i, "sh"), format!("{}\n", example.script))
            .expect("a file can be written");
        let [script, out, err, code] =
            ["sh", "out", "err", "code"].map(|kind| file(folder, i, kind).display().to_string());
        session += &format!("failed=0; . {script} >{out} 2>{err}; echo $failed >{code}\n");
    }
    session
}

/// What is wrong with the run of an example, if something is.
fn complaint(example: &Example, folder: &Path, i: usize) -> Option<String> {
    let read = |kind| fs::read_to_string(file(folder, i, kind)).unwrap_or_default();
    let [out, err, code] = ["out", "err", "code"].map(read);
    let same = match &example.output {
        None => Ok(()),
        Some((Language::Text, expected)) => matching::text(expected, &out),
        Some((Language::Json, expected)) => matching::json(expected, &out),
    };
    let ended = match code.trim() {
        "" => Err("does not end".to_owned()),
        code if code == example.exit_code.to_string() => Ok(()),
        code => Err(format!("ends with {code}")),
    };
    let wrong = ended.and(same).err()?;
    Some(format!("line {}: {wrong}\n{}\nprints\n{out}\n{err}\n", example.line, example.script))
}

/// Runs the examples of a document on two agents of two slots, and compares what they print.
async fn run(document: &str) {
    let world = World::start().await;
    let _agents = [world.agent("one", 2).await, world.agent("two", 2).await];
    let examples = document::examples(&read(document));
    assert!(!examples.is_empty(), "{document} has no examples");
    let (logs, work) = (world.path("examples"), world.path("work"));
    fs::create_dir(&logs).expect("a folder can be made");
    fs::create_dir(&work).expect("a folder can be made");
    symlink(place("docs"), work.join("docs")).expect("a link can be made");
    fs::write(world.path("session.sh"), session(&examples, &logs)).expect("a file can be written");

    let program = process::program();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().expect("a program is in a folder").display());
    let mut command = Command::new("bash");
    command.arg(world.path("session.sh")).current_dir(&work);
    command.env("PATH", path).env("HOME", world.path("")).env("NO_PROXY", "*");
    command.env("FARROW_URL", world.url()).env("FARROW_TOKEN", tests::token());
    command.env("FARROW_DATA", world.data());
    let shell = world.spawn("session", &mut command);
    let pid = shell.pid();
    let ended = async || (!is_alive(pid)).then_some(());
    until_within(HANG, &format!("the examples of {document} end"), ended).await;

    let run = examples.iter().enumerate().filter(|(_, example)| example.not_run.is_none());
    let complaints: Vec<_> = run.filter_map(|(i, e)| complaint(e, &logs, i)).collect();
    assert!(complaints.is_empty(), "{document}, {}", complaints.join("\n"));
}

#[tokio::test]
async fn the_examples_of_the_readme_do_what_it_says() {
    run("README.md").await;
}

#[tokio::test]
async fn the_examples_of_the_api_do_what_it_says() {
    run("docs/api.md").await;
}

#[tokio::test]
async fn the_examples_of_the_commands_do_what_they_say() {
    run("docs/cli.md").await;
}

#[tokio::test]
async fn the_examples_about_tls_do_what_they_say() {
    run("docs/tls.md").await;
}

#[tokio::test]
async fn the_examples_about_ec2_do_what_they_say() {
    run("docs/ec2.md").await;
}

#[tokio::test]
async fn the_examples_about_operations_do_what_they_say() {
    run("docs/operations.md").await;
}

/// Also what is not run here, because it needs machines that a test does not have, is sound shell.
#[tokio::test]
async fn every_example_is_sound_shell() {
    for document in [
        "README.md",
        "docs/api.md",
        "docs/cli.md",
        "docs/ec2.md",
        "docs/operations.md",
        "docs/servers.md",
        "docs/storage.md",
        "docs/tls.md",
    ] {
        for example in document::examples(&read(document)) {
            let checked =
                Command::new("bash").args(["-n", "-c", &example.script]).output().unwrap();
            let complaint = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success(), "{document}, line {}: {complaint}", example.line);
        }
    }
}

/// The words behind each place of `from` in `text`.
fn words_behind<'a>(text: &'a str, from: &str) -> impl Iterator<Item = &'a str> {
    let is_outside = |c: char| !c.is_alphanumeric() && c != '-' && c != '_';
    text.split(from).skip(1).filter_map(move |rest| rest.split(is_outside).next())
}

/// Nothing that the API has for clients is missing from its examples: no route, no field of a
/// submission, no type of problem.
#[tokio::test]
async fn the_examples_of_the_api_leave_nothing_out() {
    let description = read("openapi/openapi.json");
    let api: Value = serde_json::from_str(&description).unwrap();
    let text = read("docs/api.md");
    let routes = api["paths"].as_object().unwrap().iter();
    let routes = routes.filter(|(_, route)| {
        let mut operations = route.as_object().unwrap().values();
        operations.any(|operation| operation["tags"] != json!(["agent protocol"]))
    });
    for (route, _) in routes {
        // Of /v1/jobs/{id}/value what is typed behind the id, of /v1/blobs/{digest} what is before.
        let word = match route.split_once('}') {
            Some((_, behind)) if !behind.is_empty() => behind,
            _ => route.trim_start_matches("/v1/").split('{').next().unwrap(),
        };
        assert!(text.contains(word), "docs/api.md does not show {route}");
    }
    for schema in ["SubmitJob", "Options"] {
        let fields = api["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for field in fields.keys() {
            let mut ways = ["\"", "`", "options."].map(|mark| format!("{mark}{field}")).into_iter();
            assert!(ways.any(|way| text.contains(&way)), "docs/api.md does not tell of {field}");
        }
    }
    for slug in words_behind(&description, "urn:farrow:").filter(|slug| !slug.is_empty()) {
        assert!(
            text.contains(&format!("| `{slug}`")) || text.contains(&format!("`, `{slug}` |")),
            "docs/api.md does not list the problem {slug}"
        );
    }
}
