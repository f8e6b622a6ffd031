//! Servers and agents that cannot start say why and what to do, and exit accordingly.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use tests::wait::until;
use tests::{Finished, Postgres, World};

/// The command line is wrong.
const USAGE: i32 = 2;
/// Something could not go on.
const FAILED: i32 = 1;

fn assert_says(finished: &Finished, code: i32, says: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stdout.is_empty(), "{finished:?}");
    for part in says {
        assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let world = World::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = world.path("other");
    let data = data.to_str().unwrap();
    let refused = world.farrow(&["server", "--listen", &address, "--data", data]).await;
    assert_says(&refused, FAILED, &[&address, "another program listens there", "--listen"]);
    let refused = world.farrow(&["up", "--listen", &address, "--data", data]).await;
    assert_says(&refused, FAILED, &[&address, "--listen"]);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written() {
    let world = World::start().await;
    fs::write(world.path("file"), "").unwrap();
    let below_a_file = world.path("file").join("data");
    let below_a_file = below_a_file.to_str().unwrap();
    let refused =
        world.farrow(&["server", "--listen", "127.0.0.1:0", "--data", below_a_file]).await;
    assert_says(&refused, FAILED, &[below_a_file, "cannot be written", "--data"]);
}

#[tokio::test]
async fn a_second_server_on_the_same_data() {
    let mut world = World::start().await;
    let data = world.data();
    let data = data.to_str().unwrap();
    let refused = world.farrow(&["server", "--listen", "127.0.0.1:0", "--data", data]).await;
    assert_says(&refused, FAILED, &[data, "another farrow server", "--data"]);
    // The lock goes with the process, however that ends.
    world.server().kill();
    world.restart().await;
}

#[tokio::test]
async fn a_database_that_is_none() {
    let world = World::start().await;
    let data = world.path("other");
    fs::create_dir(&data).unwrap();
    fs::write(
        data.join("farrow.db"),
        "this is not a database, and it is longer than a header".repeat(100),
    )
    .unwrap();
    let data = data.to_str().unwrap();
    let refused = world.farrow(&["server", "--listen", "127.0.0.1:0", "--data", data]).await;
    assert_says(&refused, FAILED, &["not a database"]);
}

/// A server removes blobs to which its database does not refer: all of another database's.
#[tokio::test]
async fn blobs_of_another_database() {
    let world = World::start().await;
    let url = Postgres::shared().create_database();
    let server = ["server", "--json", "--listen", "127.0.0.1:0", "--data"];
    let start = async |data: &Path, url: Option<&str>| {
        let mut command = world.command(&server);
        command.arg(data).envs(url.map(|url| ("FARROW_DATABASE_URL", url)));
        world.spawn("other", &mut command)
    };
    let mut refused = start(&world.data(), Some(&url)).await;
    let beside = world.data().join("farrow.db").display().to_string();
    assert_says(&refused.finished().await, FAILED, &[&beside, "--blobs"]);
    let data = world.path("other");
    let mut first = start(&data, Some(&url)).await;
    first.first_line().await;
    first.kill();
    let mut refused = start(&data, None).await;
    assert_says(&refused.finished().await, FAILED, &["PostgreSQL", "--database-url", "--data"]);
}

/// Whoever has named a database does not mean the file that may be in the default folder.
#[tokio::test]
async fn backups_and_copies_of_a_database_that_is_no_file() {
    let world = World::start().await;
    let backup = world.path("backup").display().to_string();
    for arguments in [&["server", "backup", &backup][..], &["server", "compact"]] {
        let mut command = world.command(arguments);
        command.env("FARROW_DATABASE_URL", "postgres://farrow@db/farrow").env_remove("FARROW_DATA");
        let refused = world.spawn("refused", &mut command).finished().await;
        assert_says(&refused, USAGE, &["FARROW_DATABASE_URL", "docs/operations.md", "--data"]);
    }
}

#[tokio::test]
async fn settings_that_cannot_be() {
    let world = World::start().await;
    for (arguments, says) in [
        (&["server", "--listen", "here"][..], &["--listen", "here"][..]),
        (&["server", "--listen", "0.0.0.0:0"], &["0.0.0.0:0", "--tls-cert", "--behind-proxy"]),
        (&["up", "--listen", "[::]:0"], &["[::]:0", "--tls-cert", "--behind-proxy"]),
        (&["server", "--listen", "10.0.0.5:3277"], &["10.0.0.5:3277", "ssh"]),
        (&["server", "--tls-cert", "x.pem"], &["--tls-key"]),
        (&["server", "--host", "https://x"], &["--host", "farrow.example.org"]),
        (&["server", "--lease", "0"], &["--lease", "0.5"]),
        (&["server", "--blobs", "x"], &["--database-url"]),
        (&["server", "--max-body", "20000"], &["--max-body", "at least 512 KiB"]),
        (&["server", "--max-blob", "1 XB"], &["--max-blob", "GiB"]),
        (&["server", "--listen", "localhost:4010"], &["--listen", "127.0.0.1:4010"]),
        (&["server", "--dta", "x"], &["--dta"]),
        (&["agent", "--server", "localhost"], &["--server", "http://"]),
        (&["agent", "--server", "http://localhost", "--slots", "0"], &["--slots", "number from 1"]),
        (
            &["agent", "--server", "http://localhost", "--runtime", "perl"],
            &["--runtime", "`python`"],
        ),
        (&["agent", "--server", "http://localhost", "--label", "zone"], &["--label", "key=value"]),
        (&["agent"], &["--server"]),
        (&["nothing"], &["nothing"]),
        (&[], &["Usage"]),
    ] {
        let refused = world.spawn("wrong", &mut world.command(arguments)).finished().await;
        assert_says(&refused, USAGE, says);
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used() {
    let world = World::start().await;
    let data = world.path("other");
    let (cert, key) = (world.path("cert.pem"), world.path("key.pem"));
    let [data, cert, key] = [&data, &cert, &key].map(|path| path.to_str().unwrap());
    let mut words = vec!["server", "--listen", "127.0.0.1:0", "--data", data];
    words.extend(["--tls-cert", cert, "--tls-key", key]);
    assert_says(&world.farrow(&words).await, FAILED, &["--tls-cert", cert, "cannot be read"]);
    fs::write(cert, "no certificate").unwrap();
    fs::write(key, "no key").unwrap();
    assert_says(&world.farrow(&words).await, FAILED, &["--tls-cert", cert, "PEM"]);
}

#[tokio::test]
async fn a_token_that_is_too_weak_or_wrong() {
    let world = World::start().await;
    let data = world.path("other");
    let arguments = ["server", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let mut command = world.command(&arguments);
    let refused = world.spawn("weak", command.env("FARROW_TOKEN", "short")).finished().await;
    assert_says(&refused, FAILED, &["FARROW_TOKEN", "16"]);
    assert!(!refused.stderr.contains("short"), "{}", refused.stderr);

    let arguments = ["agent", "--server", world.url(), "--runtime", "python"];
    let wrong = "this-is-not-the-token-of-this-server";
    let mut command = world.command(&arguments);
    let refused = world.spawn("wrong", command.env("FARROW_TOKEN", wrong)).finished().await;
    assert_says(&refused, FAILED, &[world.url(), "does not let this agent in", "FARROW_TOKEN"]);
    assert!(!refused.stderr.contains(wrong), "{}", refused.stderr);
    let mut command = world.command(&arguments);
    let refused = world.spawn("none", command.env_remove("FARROW_TOKEN")).finished().await;
    assert_says(&refused, USAGE, &["no token", "FARROW_TOKEN", "farrow up"]);
}

/// Whoever listens there would have it, and could run code here.
#[tokio::test]
async fn this_machines_token_is_not_for_another_server() {
    let world = World::start().await;
    let config = world.path("config");
    let folder = config.join("farrow");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("admin.token"), tests::token()).unwrap();
    let far = "http://192.0.2.1:9";
    for arguments in
        [&["jobs", "--url", far][..], &["agent", "--server", far, "--runtime", "python"]]
    {
        let mut command = world.command(arguments);
        let command = command.env_remove("FARROW_TOKEN").env("XDG_DATA_HOME", &config);
        let refused = world.spawn("far", command).finished().await;
        assert_says(
            &refused,
            USAGE,
            &["no token", far, "not on this machine", "farrow token create"],
        );
    }
    let mut command = world.command(&["jobs"]);
    let command = command.env_remove("FARROW_TOKEN").env("XDG_DATA_HOME", &config);
    let taken = world.spawn("near", command).finished().await;
    assert_eq!(taken.code, Some(0), "{taken:?}");
}

#[tokio::test]
async fn a_runtime_that_is_missing() {
    let world = World::start().await;
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    for (runtime, program, package) in
        [("r", "Rscript", "r-base-core"), ("python", "python3", "python3")]
    {
        let arguments = ["agent", "--server", world.url(), "--runtime", runtime];
        let mut command = world.command(&arguments);
        let refused = world.spawn("agent", command.env("PATH", &programs)).finished().await;
        assert_says(&refused, FAILED, &[runtime, program, package]);
    }
    // Commands can be run everywhere, so an agent without languages is one all the same.
    let mut command = world.command(&["agent", "--server", world.url(), "--name", "bare"]);
    let agent = world.spawn("agent", command.env("PATH", &programs));
    let runtimes = until("the agent registers", async || {
        let agents = world.client.get("/v1/agents").await.json();
        agents["items"].get(0).map(|agent| agent["runtimes"].clone())
    });
    let runtimes = runtimes.await;
    assert_eq!(runtimes.as_object().unwrap().keys().collect::<Vec<_>>(), ["command"]);
    for words in ["runtime r is not offered", "r-base-core", "runtime python is not offered"] {
        assert!(agent.stderr().contains(words), "no {words:?} in {}", agent.stderr());
    }
}

#[tokio::test]
async fn a_runtime_that_is_broken() {
    let world = World::start().await;
    let programs = world.path("programs");
    fs::create_dir(&programs).unwrap();
    symlink("/bin/false", programs.join("Rscript")).unwrap();
    let arguments = ["agent", "--server", world.url(), "--runtime", "r"];
    let mut command = world.command(&arguments);
    let refused = world.spawn("agent", command.env("PATH", &programs)).finished().await;
    assert_says(&refused, FAILED, &["Rscript"]);
}

#[tokio::test]
async fn an_agent_without_a_server_waits_for_it() {
    let mut world = World::start().await;
    let url = world.url().to_owned();
    world.server().kill();
    let arguments =
        ["agent", "--server", &url, "--runtime", "python", "--slots", "1", "--name", "early"];
    let mut agent = world.spawn("early", &mut world.command(&arguments));
    until("the agent says that nobody answers", async || {
        agent.stderr().contains("no answer").then_some(())
    })
    .await;
    world.restart().await;
    let job = serde_json::json!({"runtime": "python", "function": "abs", "elements": [-7]});
    assert_eq!(world.client.run(&job).await, serde_json::json!([7]));
    agent.kill();
}
