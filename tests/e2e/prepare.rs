//! Projects of several files, and what is installed for them once an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::wait::until;
use tests::{Client, World};

/// A folder of files as a tar.gz.
fn packed(world: &World, name: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let folder = world.path(name);
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }
    let archive = world.path(&format!("{name}.tar.gz"));
    let packed =
        Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&folder).arg(".").status();
    assert!(packed.expect("tar runs").success());
    fs::read(archive).expect("the archive is there")
}

async fn upload(world: &World, bytes: Vec<u8>) -> Value {
    json!({"blob": world.client.upload(bytes).await})
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Waits for what `prepare` says, while the job runs.
async fn log_of_prepare(client: &Client, job: &str, word: &str) {
    until(&format!("{word} in the log of {job}"), async || {
        let logs = client.get(&format!("/v1/jobs/{job}/logs?source=prepare")).await;
        assert_eq!(logs.status, 200, "{}", logs.text());
        logs.text().contains(word).then_some(())
    })
    .await;
}

/// What both runtimes' projects have in common: two agents, eight workers, one installation each.
struct Project {
    files: Value,
    prepare: String,
    runs: PathBuf,
    gate: PathBuf,
}

impl Project {
    async fn new(world: &World, name: &str, files: &[(&str, &str)], install: &str) -> Self {
        let (runs, gate) = (world.path(&format!("{name}.runs")), world.path(&format!("{name}.go")));
        let prepare = format!(
            "echo run >> '{}'\necho preparing {name}\n\
             while [ ! -e '{}' ]; do sleep 0.05; done\n{install}\necho prepared",
            runs.display(),
            gate.display()
        );
        let files = upload(world, packed(world, name, files)).await;
        Self { files, prepare, runs, gate }
    }

    fn job(&self, runtime: &str, function: &str) -> Value {
        json!({
            "runtime": runtime, "function": function, "files": self.files,
            "prepare": self.prepare, "elements": [1, 2, 3, 4, 5, 6, 7, 8],
            "options": {"chunk_size": 1, "seed": null}
        })
    }

    /// Runs it twice: it is prepared once on each agent, and not again.
    async fn runs_prepared(&self, world: &World, job: &Value, value: &Value) {
        let client = &world.client;
        let id = client.submit(job).await;
        until("two agents that prepare", async || (lines(&self.runs) == 2).then_some(())).await;
        log_of_prepare(client, &id, "preparing").await;
        assert_eq!(client.status(&id).await["elements"]["done"], 0);
        fs::write(&self.gate, "").expect("a gate can be opened");
        assert_eq!(client.value(&id).await, *value);
        log_of_prepare(client, &id, "prepared").await;
        assert_eq!(client.run(job).await, *value);
        assert_eq!(lines(&self.runs), 2, "the second job prepares nothing");
    }
}

#[tokio::test]
async fn an_r_package_is_installed_once_on_each_of_two_agents() {
    let world = World::start().await;
    let _agents = [world.agent("one", 4).await, world.agent("two", 4).await];
    let files = [
        (
            "greeter/DESCRIPTION",
            "Package: greeter\nVersion: 0.1.0\nTitle: Greets\nDescription: Greets.\nLicense: MIT\nAuthor: farrow\nMaintainer: farrow <farrow@example.org>\n",
        ),
        ("greeter/NAMESPACE", "export(greet)\n"),
        ("greeter/R/greet.R", "greet <- function(x) paste('hello', x)\n"),
        ("data/offset.txt", "100\n"),
    ];
    let project = Project::new(&world, "greeter", &files, "R CMD INSTALL greeter").await;
    let mut job = project.job("r", "function(x) greet(x + scan('data/offset.txt', quiet = TRUE))");
    job["packages"] = json!(["greeter"]);
    let value: Value = (1..=8).map(|x| format!("hello {}", x + 100)).collect();
    project.runs_prepared(&world, &job, &value).await;
}

#[tokio::test]
async fn a_python_package_is_installed_once_on_each_of_two_agents() {
    let world = World::start().await;
    let _agents = [world.python_agent("one", 4).await, world.python_agent("two", 4).await];
    let files = [
        (
            "setup.py",
            "from setuptools import setup\nsetup(name='greeter', version='0.1.0', packages=['greeter'])\n",
        ),
        ("greeter/__init__.py", "def greet(x):\n    return f'hello {x}'\n"),
        ("data/offset.txt", "100\n"),
    ];
    // What pip does with such a folder, without asking an index.
    let install = "python3 -m pip install --quiet --no-index --no-deps --no-build-isolation . \
                   && rm -rf greeter build";
    let project = Project::new(&world, "greeter", &files, install).await;
    let mut job =
        project.job("python", "lambda x: greeter.greet(x + int(open('data/offset.txt').read()))");
    job["packages"] = json!(["greeter"]);
    let value: Value = (1..=8).map(|x| format!("hello {}", x + 100)).collect();
    project.runs_prepared(&world, &job, &value).await;
}
