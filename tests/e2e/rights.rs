//! Tokens and their roles, as people and agents meet them.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::wait::until;
use tests::{Audit, Finished, Gate, World};

/// Runs a command with another token.
async fn by(world: &World, token: &str, words: &[&str]) -> Finished {
    let mut command = world.command(words);
    world.spawn(words[0], command.env("FARROW_TOKEN", token)).finished().await
}

async fn create(world: &World, role: &str, name: &str) -> String {
    let made = world.farrow(&["token", "create", "--role", role, "--name", name]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    // Alone on standard output, so that a shell can take it.
    let secret = made.stdout.trim().to_owned();
    assert_eq!(made.stdout, format!("{secret}\n"));
    assert!(secret.starts_with("farrow_") && !made.stderr.contains(&secret), "{}", made.stderr);
    secret
}

fn document(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    serde_json::from_str(&finished.stdout).expect("JSON")
}

fn assert_refused(finished: &Finished, code: i32, says: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    for says in says {
        assert!(finished.stderr.contains(says), "no {says:?} in {}", finished.stderr);
    }
}

#[tokio::test]
async fn an_agent_and_a_submitter_with_tokens_of_their_roles_map_through_a_restart() {
    let mut world = World::start().await;
    let agents = create(&world, "agent", "fleet").await;
    let ada = create(&world, "submit", "ada").await;
    let bob = create(&world, "submit", "bob").await;
    let agent = world.agent_by(&agents, "one", 1, &["--runtime", "python"]).await;

    let (audit, gate) = (Audit::new(&world, "map"), Gate::new(&world, "map"));
    let job = gate.hold_from(1, audit.python(&json!([0, 1, 2]), "x + 1"));
    let authorization = format!("Bearer {ada}");
    let submitted = world
        .client
        .send(
            "POST",
            "/v1/jobs",
            &[("authorization", &authorization)],
            job.to_string().into_bytes(),
        )
        .await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let id = submitted.json()["id"].as_str().expect("an id").to_owned();
    audit.started(2).await;
    world.server().kill();
    world.restart().await;
    gate.open();
    // The agent registers again, by the same token, and goes on with what it holds.
    let value = by(&world, &ada, &["value", "--json", &id]).await;
    assert_eq!(document(&value), json!([1, 2, 3]));
    assert!(audit.repeated().is_empty(), "nothing ran twice");

    let theirs = by(&world, &bob, &["value", &id]).await;
    assert_refused(&theirs, 3, &["there is no job", &id]);
    let jobs = by(&world, &bob, &["jobs", "--json"]).await;
    assert_eq!(document(&jobs), json!([]));
    assert_refused(&by(&world, &agents, &["jobs"]).await, 3, &["\"fleet\" has the role `agent`"]);
    assert_refused(&by(&world, &bob, &["token", "list"]).await, 3, &["needs the role `admin`"]);

    // An agent by a token that is not one's cannot even register, and says why.
    let wrong = ["agent", "--server", world.url(), "--name", "two", "--slots", "1"];
    let wrong = by(&world, &ada, &wrong).await;
    assert_refused(&wrong, 1, &["\"ada\" has the role `submit`", "`agent`"]);
    agent.process.signal(Signal::SIGTERM);
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_name() {
    let world = World::start().await;
    let words =
        ["token", "create", "--role", "submit", "--name", "ada", "--expires-in", "30d", "--json"];
    let made = document(&world.farrow(&words).await);
    let (secret, id) = (made["token"].as_str().expect("a token"), made["id"].clone());
    assert!(made["expires_at"].is_string(), "{made}");
    assert_refused(&world.farrow(&words).await, 3, &["\"ada\" already", "farrow token revoke"]);
    let wrong = ["token", "create", "--role", "submit", "--name", "x", "--expires-in", "soon"];
    assert_refused(&world.farrow(&wrong).await, 2, &["--expires-in", "such as 90s"]);
    let wrong = ["token", "create", "--role", "root", "--name", "x"];
    assert_refused(&world.farrow(&wrong).await, 2, &["--role", "a role is submit, agent or admin"]);

    assert_eq!(document(&by(&world, secret, &["jobs", "--json"]).await), json!([]));
    let listed = document(&world.farrow(&["token", "list", "--json"]).await);
    let ada = listed.as_array().expect("a list").iter().find(|token| token["id"] == id);
    let ada = ada.expect("the token is listed");
    assert_eq!(
        (&ada["name"], &ada["state"], &ada["role"]),
        (&json!("ada"), &json!("live"), &json!("submit"))
    );
    assert!(ada["last_used_at"].is_string(), "{ada}");
    let table = world.farrow(&["token", "list"]).await.stdout;
    assert!(table.starts_with("NAME ") && table.contains("first administrator"), "{table}");
    assert!(!table.contains(secret));

    let revoked = document(&world.farrow(&["token", "revoke", "--json", "ada"]).await);
    assert_eq!(revoked, json!([{"id": id, "revoked": true}]));
    assert_refused(&by(&world, secret, &["jobs"]).await, 3, &["\"ada\" was revoked at"]);
    let revoked = world.farrow(&["token", "revoke", id.as_str().expect("an id")]).await;
    assert_eq!(revoked.code, Some(0), "revoking again is fine: {}", revoked.stderr);
    assert_refused(
        &world.farrow(&["token", "revoke", "eve"]).await,
        3,
        &["no token called \"eve\""],
    );
    let last = world.farrow(&["token", "revoke", "first administrator"]).await;
    assert_refused(&last, 3, &["the last of an administrator", "--role admin"]);

    let audit = document(&world.farrow(&["audit", "--json", id.as_str().expect("an id")]).await);
    let told: Vec<_> =
        audit.as_array().expect("a list").iter().map(|entry| &entry["action"]).collect();
    assert_eq!(told, ["token-revoked", "token-created"]);
    assert_eq!(audit[0]["address"], "127.0.0.1");
    let table = world.farrow(&["audit", "--limit", "1"]).await.stdout;
    assert!(table.contains("token-revoked") && !table.contains("token-created"), "{table}");
}

/// Who cancels is found again by the request: in the answer, the audit log and the server's log.
#[tokio::test]
async fn an_act_is_traced_from_its_answer_to_the_audit_log_and_the_servers_log() {
    let mut world = World::start_as(&[], vec![("FARROW_LOG", "debug".to_owned())]).await;
    let job = world.client.submit(&json!({"runtime": "python", "function": "1"})).await;
    let path = format!("/v1/jobs/{job}/cancel");
    let answer = world.client.send("POST", &path, &[], Vec::new()).await;
    let request = answer.header("x-request-id").to_owned();
    let audit = document(&world.farrow(&["audit", "--json", &job]).await);
    assert_eq!(
        (&audit[0]["action"], &audit[0]["request"]),
        (&json!("job-cancelled"), &json!(request))
    );
    until("the request is in the log", async || {
        world.server().stderr().contains(&request).then_some(())
    })
    .await;
}
