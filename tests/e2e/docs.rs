//! The documents' examples are run as they stand, and print what the documents say.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::document::{self, Example, Language};
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

/// The shell in which a reader types: a script that runs each example, its output in files of its
/// own, and ends with the first that ends otherwise than it should.
fn session(examples: &[Example], folder: &Path) -> String {
    let mut session = String::from("set -eo pipefail\n");
    for (i, example) in examples.iter().enumerate().filter(|(_, e)| e.not_run.is_none()) {
        let script = file(folder, i, "sh");
        fs::write(&script, format!("{}\n", example.script)).expect("a file can be written");
        let [script, out, err] = [script, file(folder, i, "out"), file(folder, i, "err")]
            .map(|p| format!("'{}'", p.display()));
        let expected = example.exit_code;
        session += &match expected {
            0 => format!(". {script} >{out} 2>{err}\n"),
            _ => format!("code=0; . {script} >{out} 2>{err} || code=$?; [ $code = {expected} ]\n"),
        };
    }
    session
}

fn file(folder: &Path, example: usize, kind: &str) -> PathBuf {
    folder.join(format!("example-{example}.{kind}"))
}

/// Runs the examples of a document on two agents of two slots, and compares what they print.
async fn run(document: &str) {
    let world = World::start().await;
    let _agents = [world.agent("one", 2).await, world.agent("two", 2).await];
    let examples = document::examples(&read(document));
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
    command.env("FARROW_URL", world.url()).env("FARROW_TOKEN", tests::TOKEN);
    let mut shell = world.spawn("session", &mut command);
    let pid = shell.pid();
    let ended = async || (!tests::procfs::is_alive(pid)).then_some(());
    until_within(HANG, &format!("the examples of {document} end"), ended).await;
    let code = shell.finished().await.code;

    let printed = |i, kind| fs::read_to_string(file(&logs, i, kind));
    let run = examples.iter().enumerate().filter(|(_, example)| example.not_run.is_none());
    let mut last = 0;
    for (i, example) in run {
        let (Ok(out), Ok(err)) = (printed(i, "out"), printed(i, "err")) else { break };
        last = i;
        let place = format!("{document}, line {}", example.line);
        let same = match &example.output {
            None => Ok(()),
            Some((Language::Text, expected)) => matching::text(expected, &out),
            Some((Language::Json, expected)) => matching::json(expected, &out),
        };
        if let Err(difference) = same {
            panic!("{place}:\n{}\nprints\n{out}{err}\n{difference}", example.script);
        }
    }
    let Example { line, script, .. } = &examples[last];
    let said = ["out", "err"].map(|kind| printed(last, kind).unwrap_or_default()).concat();
    assert_eq!(
        code,
        Some(0),
        "{document}, line {line}, ends otherwise than it should:\n{script}\n{said}"
    );
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
async fn the_examples_about_ec2_do_what_they_say() {
    run("docs/ec2.md").await;
}

/// Also what is not run here, because it needs machines that a test does not have, is sound shell.
#[tokio::test]
async fn every_example_is_sound_shell() {
    for document in ["README.md", "docs/api.md", "docs/ec2.md"] {
        for example in document::examples(&read(document)) {
            let checked =
                Command::new("bash").args(["-n", "-c", &example.script]).output().unwrap();
            let complaint = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success(), "{document}, line {}: {complaint}", example.line);
        }
    }
}
