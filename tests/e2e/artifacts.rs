//! Files that elements leave behind, from the element to the disk of whoever submitted it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::wait::until;
use tests::{Client, Finished, World};

/// The name of the blob of no bytes.
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn document(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.stdout).expect("JSON")
}

async fn outcomes(client: &Client, job: &str) -> Vec<Value> {
    let text = client.get(&format!("/v1/jobs/{job}/outcomes")).await.text();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Files in a folder and those in it.
fn n_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { n_files(&entry.path()) } else { 1 }).sum()
}

/// Submits a map of each runtime, whose elements leave `out/N.txt` with their own number.
async fn maps(client: &Client) -> Vec<String> {
    let python = "
import os
def f(x):
    folder = os.environ['FARROW_ARTIFACTS'] + '/out'
    os.mkdir(folder)
    with open(f'{folder}/{x}.txt', 'w') as file:
        file.write(f'{x}\\n')
    return x
";
    let r = "
function(x) {
  folder <- file.path(Sys.getenv('FARROW_ARTIFACTS'), 'out')
  stopifnot(dir.create(folder), !length(dir(Sys.getenv('FARROW_SCRATCH'))))
  write(x, file.path(folder, paste0(x, '.txt')))
  file.create(file.path(Sys.getenv('FARROW_SCRATCH'), 'half'))
  x
}";
    let sh = "mkdir $FARROW_ARTIFACTS/out && echo {} > $FARROW_ARTIFACTS/out/{}.txt";
    let mut ids = Vec::new();
    for (runtime, function) in
        [("python", json!(python)), ("r", json!(r)), ("command", json!(["sh", "-c", sh]))]
    {
        let job = json!({
            "runtime": runtime, "function": function, "elements": [0, 1, 2],
            "options": {"artifacts": true}
        });
        ids.push(client.submit(&job).await);
    }
    ids
}

#[tokio::test]
async fn files_of_each_runtime_come_to_a_folder_of_whoever_submitted() {
    let world = World::start_with(&["--blob-grace", "4s"]).await;
    let _agent = world.agent("one", 2).await;
    let ids = maps(&world.client).await;
    for id in &ids {
        world.client.value(id).await;
        for (index, outcome) in (0..).zip(outcomes(&world.client, id).await) {
            assert_eq!(outcome["artifacts"][0]["name"], format!("out/{index}.txt"));
            assert_eq!(outcome["artifacts"].as_array().map(Vec::len), Some(1), "{outcome}");
        }
        let to = world.path(id);
        let to = to.to_str().expect("the path is UTF-8");
        let listed = world.farrow(&["artifacts", id]).await;
        assert!(listed.stdout.contains("2 B  out/1.txt"), "{listed:?}");
        let table = world.farrow(&["outcomes", id]).await;
        assert!(table.stdout.contains("[out/1.txt]"), "{table:?}");
        let fetched = document(&world.farrow(&["artifacts", id, "--json", "--to", to]).await);
        assert_eq!(fetched.as_array().map(Vec::len), Some(3));
        for index in 0..3 {
            let file = format!("{to}/{index}/out/{index}.txt");
            assert_eq!(fetched[index]["file"], file.as_str());
            assert_eq!(fs::read_to_string(file).expect("a file"), format!("{index}\n"));
        }

        // What is there and the same is left alone, and what is another file stays.
        let fetched = document(&world.farrow(&["artifacts", id, "--json", "--to", to]).await);
        assert!(fetched.as_array().expect("a list").iter().all(|one| one["new"] == false));
        let mine = format!("{to}/1/out/1.txt");
        fs::write(&mine, "mine").expect("a file can be written");
        let refused = world.farrow(&["artifacts", id, "--to", to]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("1/out/1.txt is there already"), "{refused:?}");
        assert_eq!(fs::read_to_string(&mine).expect("a file"), "mine");
        let forced = world.farrow(&["artifacts", id, "--to", to, "--force"]).await;
        assert_eq!(forced.code, Some(0), "{forced:?}");
        assert_eq!(fs::read_to_string(&mine).expect("a file"), "1\n");
    }

    // Files stay with their jobs, which share what is the same, and go with the last of them.
    let blobs = world.data().join("blobs");
    let n_blobs = || n_files(&blobs) - n_files(&blobs.join("locks"));
    assert_eq!(n_blobs(), 3);
    for id in &ids[1..] {
        delete(&world.client, id).await;
    }
    let unused = world.client.upload(b"in no job".to_vec()).await;
    until("what nothing refers to is gone", async || {
        let asked = world.client.get(&format!("/v1/blobs/{unused}")).await;
        (asked.status == 404).then_some(())
    })
    .await;
    let again = world.path("again");
    let to = again.to_str().expect("the path is UTF-8");
    document(&world.farrow(&["artifacts", &ids[0], "--json", "--to", to]).await);
    assert_eq!(n_files(&again), 3);
    delete(&world.client, &ids[0]).await;
    until("the files of deleted jobs are gone", async || (n_blobs() == 0).then_some(())).await;
}

async fn delete(client: &Client, job: &str) {
    let deleted = client.send("DELETE", &format!("/v1/jobs/{job}"), &[], Vec::new()).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
}

#[tokio::test]
async fn artifacts_are_for_their_owner_and_agents_send_nothing_else() {
    let world = World::start().await;
    let mut tokens = Vec::new();
    for (role, name) in [("agent", "fleet"), ("submit", "ada"), ("submit", "bob")] {
        let made = world.farrow(&["token", "create", "--role", role, "--name", name]).await;
        tokens.push(format!("Bearer {}", made.stdout.trim()));
    }
    let [fleet, ada, bob] = &tokens[..] else { panic!("three tokens") };
    let send = async |token: &str, method: &str, path: &str, body: Vec<u8>| {
        world.client.send(method, path, &[("authorization", token)], body).await
    };
    let blob = format!("/v1/blobs/{EMPTY}");
    let token = fleet.trim_start_matches("Bearer ");
    let _agent = world.agent_by(token, "one", 1, &["--runtime", "python"]).await;
    let refused = send(fleet, "PUT", &blob, Vec::new()).await;
    assert!(
        refused.problem(403, "forbidden")["detail"]
            .as_str()
            .is_some_and(|detail| { detail.contains("none of its agents holds a lease") })
    );

    let function = "
import os
def f(x):
    with open(os.environ['FARROW_ARTIFACTS'] + '/file', 'w') as file:
        file.write('what ada may read')
    return x
";
    let job = json!({
        "runtime": "python", "function": function, "elements": [1], "options": {"artifacts": true}
    });
    let submitted = send(ada, "POST", "/v1/jobs", job.to_string().into_bytes()).await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let id = submitted.json()["id"].as_str().expect("an id").to_owned();
    world.client.value(&id).await;
    let artifact = outcomes(&world.client, &id).await[0]["artifacts"][0].clone();
    assert_eq!((&artifact["name"], &artifact["bytes"]), (&json!("file"), &json!(17)));
    let path = format!("/v1/blobs/{}", artifact["digest"].as_str().expect("a digest"));
    assert_eq!(send(ada, "GET", &path, Vec::new()).await.text(), "what ada may read");
    send(bob, "GET", &path, Vec::new()).await.problem(404, "not-found");
    // Nor by naming it in a job of his own.
    let named = json!({
        "runtime": "python", "function": "lambda x, y: y", "elements": [1],
        "args": {"y": {"blob": artifact["digest"], "encoding": "bytes"}}
    });
    let named = named.to_string().into_bytes();
    send(bob, "POST", "/v1/jobs", named.clone()).await.problem(422, "invalid-field");
    assert_eq!(send(ada, "POST", "/v1/jobs", named).await.status, 202);

    // While an agent of the token runs something, it may send what that leaves.
    let gate = world.path("gate");
    let waiting = "
import os, time
def f(gate):
    while not os.path.exists(gate):
        time.sleep(0.01)
";
    let held = json!({"runtime": "python", "function": waiting, "elements": [gate]});
    let held = world.client.submit(&held).await;
    world.client.status_when(&held, |status| status["elements"]["running"] == 1).await;
    assert_eq!(send(fleet, "PUT", &blob, Vec::new()).await.status, 201);
    send(ada, "GET", &blob, Vec::new()).await.problem(404, "not-found");
    fs::write(&gate, "").expect("a file can be written");
    world.client.value(&held).await;
    assert_eq!(send(ada, "DELETE", &format!("/v1/jobs/{id}"), Vec::new()).await.status, 204);
}
