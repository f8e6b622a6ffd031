//! TLS, with an authority that the system does not know.

use std::fs;

use serde_json::Value;
use tests::certificates::Authority;
use tests::wait::until;
use tests::{Finished, World};

/// The names under which a server on this machine is found.
const HERE: &str = "DNS:localhost,IP:127.0.0.1";

/// The server cannot be reached, or it refuses.
const SERVER: i32 = 3;

fn assert_says(finished: &Finished, code: i32, says: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stderr.contains(says), "no {says:?} in {}", finished.stderr);
}

#[tokio::test]
async fn a_map_over_tls() {
    let authority = Authority::new();
    let certificate = authority.certificate("server", HERE);
    let world = World::start_with(&certificate.flags()).await;
    let (url, ca_file) = (world.url().to_owned(), authority.file());
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let words = ["agent", "--server", &url, "--runtime", "command", "--ca-file", &ca_file];
    let _agent = world.spawn("agent", &mut world.command(&words));
    let words =
        ["map", "--runtime", "command", "--ca-file", &ca_file, "--", "echo", "{}", ":::", "1"];
    let mapped = world.farrow(&words).await;
    assert_eq!((mapped.code, mapped.stdout.as_str()), (Some(0), "1\n"), "{mapped:?}");
    // The variable is the same for both.
    let mut jobs = world.command(&["jobs", "--json"]);
    let jobs = world.spawn("jobs", jobs.env("FARROW_CA_FILE", &ca_file)).finished().await;
    assert_eq!(jobs.code, Some(0), "{jobs:?}");
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_of_and_gets_no_token() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.certificate("server", "DNS:farrow.example.org,IP:127.0.0.1");
    let world = World::start_with(&certificate.flags()).await;
    let url = world.url().to_owned();
    let by_name = url.replace("127.0.0.1", "localhost");
    let plain = url.replace("https", "http");
    let [ca_file, other] = [authority.file(), other.file()];
    for (url, ca_file, says) in [
        (&url, None, "--ca-file"),
        (&url, Some(&other), "--ca-file"),
        (&by_name, Some(&ca_file), "farrow.example.org"),
        (&plain, Some(&ca_file), "https://"),
    ] {
        let flags = ca_file.map(|file| ["--ca-file", file.as_str()]);
        let flags = flags.iter().flatten().copied();
        let words: Vec<&str> = ["jobs", "--url", url].into_iter().chain(flags.clone()).collect();
        assert_says(&world.farrow(&words).await, SERVER, says);
        let words = ["agent", "--runtime", "command", "--server", url];
        let words: Vec<&str> = words.into_iter().chain(flags).collect();
        assert_says(&world.farrow(&words).await, 1, says);
    }
    let missing = world.farrow(&["jobs", "--ca-file", "/nonexistent.pem"]).await;
    assert_says(&missing, 2, "--ca-file /nonexistent.pem");
}

#[tokio::test]
async fn a_certificate_is_read_again_when_it_changes() {
    let (first, second) = (Authority::new(), Authority::new());
    let certificate = first.certificate("server", HERE);
    let mut world = World::start_with(&certificate.flags()).await;
    let (first, ca_file) = (first.file(), second.file());
    let jobs = |ca_file: &str| ["jobs".to_owned(), "--ca-file".to_owned(), ca_file.to_owned()];
    let code = async |ca_file: &str| {
        let words = jobs(ca_file);
        world.farrow(&words.each_ref().map(String::as_str)).await.code
    };
    assert_eq!((code(&first).await, code(&ca_file).await), (Some(0), Some(SERVER)));
    fs::write(&certificate.cert, "broken").unwrap();
    let words = jobs(&first);
    until("the broken certificate is told of", async || {
        world.server().stderr().contains("stays in use").then_some(())
    })
    .await;
    let words = words.each_ref().map(String::as_str);
    assert_eq!(world.farrow(&words).await.code, Some(0), "what was there before stays in use");
    second.certificate("server", HERE).replace(&certificate);
    let words = jobs(&ca_file);
    let words = words.each_ref().map(String::as_str);
    until("the new certificate is in use", async || {
        (world.farrow(&words).await.code == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn up_speaks_tls_to_everybody_but_itself() {
    let authority = Authority::new();
    // A certificate for a name under which this machine does not find itself.
    let certificate = authority.certificate("server", "DNS:farrow.example.org,DNS:localhost");
    let world = World::start().await;
    let data = world.path("up");
    let data = data.to_str().unwrap();
    let mut words = vec!["up", "--json", "--listen", "127.0.0.1:0", "--data", data];
    words.extend(["--runtime", "command", "--host", "localhost"]);
    words.extend(certificate.flags());
    let mut up = world.spawn("up", &mut world.command(&words));
    let place: Value = serde_json::from_str(&up.first_line().await).unwrap();
    let (url, ca_file) = (place["url"].as_str().unwrap(), authority.file());
    assert!(url.starts_with("https://localhost:"), "{url}");
    let words =
        ["call", "--runtime", "command", "--url", url, "--ca-file", &ca_file, "--", "echo", "1"];
    let called = world.farrow(&words).await;
    assert_eq!((called.code, called.stdout.as_str()), (Some(0), "1\n"), "{called:?}");
}
