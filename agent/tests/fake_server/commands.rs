//! Jobs of commands, behind a supervisor.

use protocol::agent::{Input, JobSpec};
use protocol::job::{Function, Runtime};
use serde_json::json;

use crate::harness::{TestAgent, file, gone, integers, python};
use crate::server::FakeServer;

fn agent(server: &FakeServer) -> TestAgent {
    TestAgent::start_with(server, 1, |config| config.settings.runtimes = vec![Runtime::Command])
}

/// A job of a shell's script, in which `@` stands for the path of the agent's folder.
fn sh(script: &str, agent: &TestAgent) -> JobSpec {
    let script = script.replace('@', agent.folder.path().to_str().unwrap());
    let words = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let (runtime, function) = (Runtime::Command, Function::Command(words));
    JobSpec { runtime, function, ..python("", agent.folder.path()) }
}

#[tokio::test]
async fn an_agent_always_has_commands() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let runtimes = server
        .until("the agent has registered", |record| {
            Some(record.registers.first()?.runtimes.clone())
        })
        .await;
    assert_eq!(
        runtimes.get(&Runtime::Command).map(String::as_str),
        Some(env!("CARGO_PKG_VERSION"))
    );
    agent.stop().await;
}

#[tokio::test]
async fn each_element_has_its_own_standard_error() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let job = sh("echo {}; test $(({} % 3)) = 0 || echo said {} >&2", &agent);
    let lease = integers(&job, 0, 200);
    server.grant(lease.clone(), b"", &job);
    for (index, outcome) in server.outcomes(lease.id).await.into_iter().enumerate() {
        assert_eq!(outcome.result, Ok(json!(index.to_string())));
        let said = if index % 3 == 0 { String::new() } else { format!("said {index}\n") };
        assert_eq!((outcome.note.stdout, outcome.note.stderr), (String::new(), said));
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_call_is_one_run() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let job = JobSpec { is_call: true, ..sh("wc -c; echo ${FARROW_TOKEN-no token}; pwd", &agent) };
    let mut lease = integers(&job, 0, 1);
    lease.input = Input::Nothing;
    server.grant(lease.clone(), b"", &job);
    let outcome = server.outcomes(lease.id).await.remove(0);
    let value = outcome.result.unwrap();
    assert!(value.as_str().unwrap().starts_with("0\nno token\n/"), "{value}");
    agent.stop().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_the_job() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let words = vec!["no-such-program".to_owned()];
    let job = JobSpec { function: Function::Command(words), ..sh("", &agent) };
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let error = server.outcomes(lease.id).await.remove(0).result.unwrap_err();
    assert!(error.fatal && error.message.contains("PATH"), "{error:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_program_that_runs_too_long_is_killed_with_all_it_started() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let script = "test {} = 1 || exit 0
        setsid sleep 1000 & stray=$!
        (setsid sh -c 'echo $$ >> @/pids; exec sleep 1000' &)
        echo waiting >&2
        echo $$ $stray >> @/pids
        sleep 1000";
    let mut job = sh(script, &agent);
    job.options.timeout = Some(1.5);
    job.options.retries = 0;
    let lease = integers(&job, 0, 3);
    server.grant(lease.clone(), b"", &job);
    let outcomes = server.outcomes(lease.id).await;
    let error = outcomes[1].result.clone().unwrap_err();
    assert_eq!(error.kind, "Timeout");
    assert!(
        error.message.ends_with("waiting\n") || error.message.ends_with("waiting"),
        "{error:?}"
    );
    assert_eq!((&outcomes[0].result, &outcomes[2].result), (&Ok(json!("")), &Ok(json!(""))));
    gone(&file(&agent.path("pids")).await).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_revoked_lease_kills_the_program_that_runs() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let job = sh("echo $$ > @/pid; sleep 1000", &agent);
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    let pid = file(&agent.path("pid")).await;
    server.change(|record| record.revoke(lease.id));
    gone(&pid).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_a_job_leaves_behind_is_gone_when_the_next_one_begins() {
    let server = FakeServer::start();
    let agent = agent(&server);
    let job = sh("sleep 1000 & echo $!", &agent);
    let lease = integers(&job, 0, 2);
    server.grant(lease.clone(), b"", &job);
    let strays = server.outcomes(lease.id).await.into_iter().map(|outcome| outcome.result.unwrap());
    let strays: Vec<_> = strays.map(|pid| pid.as_str().unwrap().to_owned()).collect();
    let next = sh("ls", &agent);
    let lease = integers(&next, 0, 1);
    server.grant(lease.clone(), b"", &next);
    assert_eq!(server.outcomes(lease.id).await[0].result, Ok(json!("")));
    gone(&strays.join(" ")).await;
    agent.stop().await;
}
