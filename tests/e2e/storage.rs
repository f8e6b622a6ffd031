//! Blobs in a bucket of S3-compatible storage: large payloads go to agents past the servers, nothing
//! of what is wrong is kept, and what nobody needs is removed.

use std::fs;

use serde_json::{Value, json};
use tests::client::digest;
use tests::storage::BUCKET;
use tests::wait::until;
use tests::{Chance, Client, Database, Storage, World};
use tokio::io::AsyncWriteExt as _;

/// Where the blobs of these tests are.
const PLACE: &str = "s3://farrow-blobs/some/where";

/// What is at the beginning of every key there.
const PREFIX: &str = "some/where/";

/// Starts a deployment whose blobs are in `storage`.
async fn world(database: Database, storage: &Storage, flags: &[&str]) -> World {
    let variables = storage.variables();
    let mut variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    variables.push(("FARROW_LOG", "debug"));
    World::start_on(database, &[&["--blobs", PLACE], flags].concat(), &variables).await
}

/// Text of so many letters, in which nothing repeats that would compress.
fn text(chance: &mut Chance, length: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    (0..length).map(|_| char::from(letters[chance.between(0, letters.len())])).collect()
}

/// What all programs of a world have logged.
fn logs(world: &World) -> String {
    let entries = fs::read_dir(world.path("")).expect("the folder can be listed").flatten();
    let logs = entries.map(|entry| entry.path()).filter(|path| {
        path.extension().is_some_and(|extension| extension == "log" || extension == "out")
    });
    logs.map(|log| String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned())
        .collect()
}

/// A client that goes nowhere it is sent.
fn unfollowing() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    http.build().expect("HTTP can be set up")
}

#[tokio::test]
async fn large_payloads_go_through_the_bucket_and_past_the_servers() {
    for &database in Database::ALL {
        let storage = Storage::start().await;
        let world = world(database, &storage, &["--blob-grace", "1s"]).await;
        let mut command = world.agent_command(&world.urls(), "one", 2, &["--runtime", "python"]);
        let _one = world.agent_by_command("one", command.env("FARROW_LOG", "debug")).await;
        let _two = world.python_agent("two", 2).await;

        let mut chance = Chance::new(1, "storage");
        let elements: Vec<String> = (0..12).map(|_| text(&mut chance, 200_000)).collect();
        // One that is sent in parts, and one that the server takes out of the submission.
        let (table, inline) = (text(&mut chance, 20 << 20), text(&mut chance, 300_000));
        let uploaded = world.client.upload(json!(table).to_string().into_bytes()).await;
        let job = json!({
            "runtime": "python",
            "function": "
import os
def f(x):
    with open(os.path.join(os.environ['FARROW_ARTIFACTS'], 'x'), 'w') as file:
        file.write(x * 3)
    return [x[::-1], len(table), inline[:8]]
",
            "elements": elements,
            "globals": {"table": {"blob": uploaded}, "inline": inline},
            "options": {"artifacts": true},
        });
        let id = world.client.submit(&job).await;
        let value = world.client.value(&id).await;
        let reversed = |text: &String| text.chars().rev().collect::<String>();
        let expected: Vec<Value> = elements
            .iter()
            .map(|element| json!([reversed(element), table.len(), &inline[..8]]))
            .collect();
        assert!(value == json!(expected), "another value on {}", database.name());

        // The agents have fetched all of it from the storage, without their token.
        let requests = storage.requests();
        assert!(requests.iter().all(|request| request.authorization() != "Bearer"));
        let by_agents: Vec<_> =
            requests.iter().filter(|request| request.agent() == "farrow-agent").collect();
        assert!(by_agents.iter().all(|r| r.method() == "GET" && r.is_signed()), "{by_agents:?}");
        assert!(by_agents.iter().all(|r| r.authorization().is_empty() && r.status() == 200));
        let bytes: u64 = by_agents.iter().map(|request| request.bytes()).sum();
        assert!(bytes > 2 * table.len() as u64, "agents fetched {bytes} bytes");
        let (mut sent, mut redirects) = (0, 0);
        for url in world.urls() {
            let client = Client::new(&url);
            sent += client.metric("farrow_blob_sent_bytes_total").await;
            redirects += client.metric("farrow_blob_redirects_total").await;
        }
        assert_eq!((sent, redirects), (0, by_agents.len()), "on {}", database.name());
        let logs = logs(&world);
        assert!(logs.contains("a blob came from the storage"), "no debug log of the agent");
        for secret in ["X-Amz", "a-key-of-the-storage"] {
            assert!(!logs.contains(secret), "{secret} in a log");
        }

        // What an element has left behind is fetched through the server.
        let mut lines = world.client.open(&format!("/v1/jobs/{id}/outcomes"), &[]).await;
        let line = lines.next().await.expect("an outcome");
        let outcome: Value = serde_json::from_str(&line).expect("JSON");
        let artifact = outcome["artifacts"][0]["digest"].as_str().expect("an artifact");
        let fetched = world.client.get(&format!("/v1/blobs/{artifact}")).await;
        let index = usize::try_from(outcome["index"].as_u64().expect("an index")).expect("small");
        assert!(fetched.text() == elements[index].repeat(3));

        // The value is there at every server, and goes with the job.
        for url in world.urls() {
            assert!(Client::new(&url).value(&id).await == json!(expected));
        }
        assert!(storage.blobs().await.len() > 3);
        assert!(storage.blobs().await.iter().all(|key| key.starts_with(PREFIX)));
        let deleted = world.client.send("DELETE", &format!("/v1/jobs/{id}"), &[], Vec::new()).await;
        assert_eq!(deleted.status, 204);
        until("the bucket is empty", async || storage.blobs().await.is_empty().then_some(())).await;
        assert_eq!(storage.uploads().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_wrong_upload_leaves_nothing_in_the_bucket() {
    let storage = Storage::start().await;
    let world = world(Database::Sqlite, &storage, &["--max-blob", "24MiB"]).await;
    let wrong = format!("/v1/blobs/{}", digest(b"something else"));
    for (size, status) in [(10, 422), (20 << 20, 422), (25 << 20, 413)] {
        let refused = world.client.send("PUT", &wrong, &[], vec![7; size]).await;
        assert_eq!(refused.status, status, "{}", refused.text());
        assert_eq!(world.client.get(&wrong).await.status, 404);
    }
    assert_eq!(storage.blobs().await, Vec::<String>::new());
    assert_eq!(storage.uploads().await, Vec::<String>::new());
    // The larger ones were on their way there.
    let parts = storage.requests().into_iter().filter(|r| r.method() == "PUT" && r.status() == 200);
    assert!(parts.count() > 2, "nothing was sent");
}

#[tokio::test]
async fn who_may_read_a_blob_is_sent_to_it_if_they_ask_for_that() {
    let storage = Storage::start().await;
    let world = world(Database::Sqlite, &storage, &[]).await;
    let uploaded = world.client.upload(b"farrow".to_vec()).await;
    let path = format!("/v1/blobs/{uploaded}");
    let plain = world.client.get(&path).await;
    assert_eq!((plain.status, plain.text().as_str()), (200, "farrow"));
    assert_eq!(world.client.metric("farrow_blob_sent_bytes_total").await, 6);

    let http = unfollowing();
    let ask = async |token: &str| {
        let url = format!("{}{path}?redirect=true", world.url());
        http.get(url).bearer_auth(token).send().await.expect("an answer")
    };
    let sent = ask(tests::token()).await;
    assert_eq!(sent.status(), 307);
    assert_eq!(sent.headers()["cache-control"], "no-store");
    let address = sent.headers()["location"].to_str().expect("an address").to_owned();
    assert!(address.starts_with(&format!("{}/{BUCKET}/{PREFIX}", storage.url())), "{address}");
    let read = http.get(&address).send().await.expect("an answer");
    assert_eq!(read.text().await.expect("a text"), "farrow");
    // To a digest that is another's there is no address.
    let made = world.client.post("/v1/tokens", &json!({"name": "ada", "role": "submit"})).await;
    let other = made.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(ask(&other).await.status(), 404);
    let misspelt = world.client.get(&format!("{path}?redirct=true")).await;
    assert_eq!(misspelt.status, 422, "{}", misspelt.text());
}

#[tokio::test]
async fn an_agent_that_cannot_reach_the_storage_gets_the_bytes_from_the_server() {
    let storage = Storage::start().await;
    let world = world(Database::Sqlite, &storage, &[]).await;
    let uploaded = world.client.upload(json!("x".repeat(100_000)).to_string().into_bytes()).await;
    let server = vec![format!("http://localhost:{}", world.port())];
    let mut command = world.agent_command(&server, "one", 1, &["--runtime", "python"]);
    // A proxy at which nobody listens, for all but the server, which goes by another name here.
    command.env("http_proxy", "http://127.0.0.1:9").env("no_proxy", "localhost");
    let _agent = world.agent_by_command("one", &mut command).await;
    let job = json!({
        "runtime": "python", "function": "lambda: len(big)", "globals": {"big": {"blob": uploaded}}
    });
    assert_eq!(world.client.run(&job).await, json!(100_000));
    assert_eq!(world.client.metric("farrow_blob_sent_bytes_total").await, 100_002);
    assert!(logs(&world).contains("a blob does not come from the storage"));
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_refused_at_the_start() {
    let storage = Storage::start().await;
    let first = world(Database::Sqlite, &storage, &[]).await;
    let start = async |arguments: &[&str], variables: &[(&'static str, String)]| {
        let mut command = first.command(&["server", "--listen", "127.0.0.1:0"]);
        command.args(arguments).envs(storage.variables()).envs(variables.iter().cloned());
        let ended = first.spawn("refused", &mut command).finished().await;
        assert!([Some(1), Some(2)].contains(&ended.code), "{}", ended.stderr);
        ended.stderr
    };
    let data = first.path("other").display().to_string();
    let other = ["--data", &data];

    let missing = start(&[&other[..], &["--blobs", "s3://no-such-bucket/x"]].concat(), &[]).await;
    assert!(missing.contains("the bucket s3://no-such-bucket/x cannot be written"), "{missing}");
    assert!(missing.contains("there is no such bucket"), "{missing}");

    let nowhere = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned())];
    let away = start(&[&other[..], &["--blobs", PLACE]].concat(), &nowhere).await;
    assert!(away.contains("cannot be") && away.contains("AWS_ENDPOINT_URL"), "{away}");

    // It holds the blobs of the first server's database.
    let taken = start(&[&other[..], &["--blobs", PLACE]].concat(), &[]).await;
    assert!(taken.contains("is not the bucket of this database's blobs"), "{taken}");

    let folder = first.path("folder").display().to_string();
    let folder = start(&[&other[..], &["--blobs", &folder]].concat(), &[]).await;
    assert!(folder.contains("s3://BUCKET/PREFIX"), "{folder}");
    for refused in [missing, away, taken, folder] {
        assert!(!refused.contains("a-key-of-the-storage"), "{refused}");
    }
    assert_eq!(storage.keys().await, [format!("{PREFIX}farrow-blobs-id")]);
}

#[tokio::test]
async fn what_is_in_the_bucket_is_checked_backed_up_and_restored() {
    let storage = Storage::start().await;
    let mut world = world(Database::Sqlite, &storage, &[]).await;
    let agent = world.python_agent("one", 1).await;
    let mut chance = Chance::new(2, "storage");
    let element = text(&mut chance, 300_000);
    let job = json!({"runtime": "python", "function": "lambda x: x[::-1]", "elements": [element]});
    let id = world.client.submit(&job).await;
    let value = world.client.value(&id).await;
    let data = world.data().display().to_string();
    let farrow = async |world: &World, arguments: &[&str]| {
        let mut command = world.command(arguments);
        let command = command.envs(storage.variables());
        world.spawn(arguments[1], command).finished().await
    };

    let check = ["server", "check", "--deep", "--data", &data, "--blobs", PLACE];
    let sound = farrow(&world, &check).await;
    assert_eq!((sound.code, sound.stdout.contains("all is well")), (Some(0), true), "{sound:?}");
    let beside = farrow(&world, &check[..5]).await;
    assert!(beside.code != Some(0) && beside.stderr.contains("--blobs s3://"), "{beside:?}");

    // A backup has no need of the bucket.
    let backup = world.path("backup").display().to_string();
    let made =
        farrow(&world, &["server", "backup", "--data", &data, "--blobs", PLACE, &backup]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let mut restored = World::start_with(&["--data", &backup]).await;
    assert!(restored.client.value(&id).await == value);
    let checked = farrow(&restored, &["server", "check", "--deep", "--data", &backup]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // It can be restored into the bucket beside what is there.
    restored.server().kill();
    restored.add_flags(&["--blobs", "s3://farrow-blobs/restored"], &storage.variables());
    restored.restart().await;
    assert!(restored.client.value(&id).await == value);
    assert!(storage.blobs().await.iter().any(|key| key.starts_with("restored/")));

    // Nor does the server start without it.
    drop(agent);
    world.server().kill();
    let without = farrow(&world, &["server", "--listen", "127.0.0.1:0", "--data", &data]).await;
    assert!(without.code == Some(1) && without.stderr.contains("--blobs s3://"), "{without:?}");
    world.restart().await;

    let mut blobs = storage.blobs().await;
    blobs.retain(|key| key.starts_with(PREFIX));
    storage.damage(&blobs[0], vec![0; 300_002]).await;
    storage.remove(&blobs[1]).await;
    let found = farrow(&world, &check).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stdout.contains("is damaged: its bytes have"), "{found:?}");
    assert!(found.stdout.contains(&format!("({}) is missing", blobs[1])), "{found:?}");
}

#[tokio::test]
async fn a_server_takes_its_blobs_along_into_a_bucket() {
    let mut world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let mut chance = Chance::new(3, "storage");
    let element = text(&mut chance, 300_000);
    let job = json!({"runtime": "python", "function": "lambda x: x[::-1]", "elements": [element]});
    let id = world.client.submit(&job).await;
    let value = world.client.value(&id).await;
    world.server().kill();

    let storage = Storage::start().await;
    world.add_flags(&["--blobs", PLACE], &storage.variables());
    world.restart().await;
    assert!(world.client.value(&id).await == value);
    assert_eq!(storage.blobs().await.len(), 2);
    // The files are not needed any more.
    fs::remove_dir_all(world.data().join("blobs")).expect("the folder can be removed");
    world.server().kill();
    world.restart().await;
    assert!(world.client.value(&id).await == value);
}

#[tokio::test]
async fn an_upload_that_is_broken_off_is_given_up_at_once() {
    let storage = Storage::start().await;
    let world = world(Database::Sqlite, &storage, &[]).await;
    let address = world.url().trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    let head = format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\n\r\n",
        digest(b"never"),
        tests::token(),
        30 << 20
    );
    connection.write_all(head.as_bytes()).await.expect("it is taken");
    connection.write_all(&vec![7; 20 << 20]).await.expect("it is taken");
    until("an upload has begun", async || (!storage.uploads().await.is_empty()).then_some(()))
        .await;
    drop(connection);
    until("it is given up", async || storage.uploads().await.is_empty().then_some(())).await;
    assert_eq!(storage.blobs().await, Vec::<String>::new());
}
