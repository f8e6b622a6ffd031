//! Large constants, which workers read from files of the agent's cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agent::Config;
use protocol::agent::{Constant, JobSpec};
use protocol::job::Encoding;
use serde_json::json;

use crate::harness::{TestAgent, integers, python};
use crate::preparing::value;
use crate::server::{FakeServer, digest_of};

/// A job with a constant `data` of these bytes.
pub fn with_data(server: &FakeServer, job: JobSpec, bytes: &[u8]) -> JobSpec {
    let digest = digest_of(bytes);
    server.put_blob(&digest, bytes);
    let data = Constant::Blob { digest, encoding: Encoding::Bytes };
    JobSpec { args: BTreeMap::from([("data".to_owned(), data)]), ..job }
}

fn sharing(scratch: &Path) -> impl FnOnce(&mut Config) {
    move |config| config.settings.scratch = Some(scratch.to_owned())
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).into_iter().flatten().count()
}

#[tokio::test]
async fn a_constant_is_fetched_once_for_all_slots_and_jobs_and_for_an_agent_that_is_started_again()
{
    let server = FakeServer::start();
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let agent = TestAgent::start_with(&server, 2, sharing(scratch.path()));
        let source = "lambda x, data: [x, data.decode()]";
        let jobs = [(); 2].map(|()| {
            let job = python(source, agent.folder.path());
            with_data(&server, job, b"large")
        });
        let leases = jobs.each_ref().map(|job| integers(job, 0, 2));
        let [one, other] = leases.each_ref();
        server.grant_together([(one.clone(), &jobs[0]), (other.clone(), &jobs[1])]);
        for lease in &leases {
            let outcomes = server.outcomes(lease.id).await;
            let values: Vec<_> = outcomes.into_iter().map(|one| one.result.unwrap()).collect();
            assert_eq!(values, [json!([0, "large"]), json!([1, "large"])]);
        }
        assert_eq!(server.record().blob_fetches, 1);
        agent.stop().await;
    }
    assert_eq!(files(&scratch.path().join("blobs")), 1);
}

#[tokio::test]
async fn agents_of_a_machine_that_want_a_constant_at_once_fetch_it_once() {
    let scratch = tempfile::tempdir().unwrap();
    let servers = [(); 2].map(|()| FakeServer::start());
    let agents =
        servers.each_ref().map(|server| TestAgent::start_with(server, 1, sharing(scratch.path())));
    let values = servers.iter().zip(&agents).map(|(server, agent)| async move {
        let job = python("lambda x, data: len(data)", agent.folder.path());
        value(server, &with_data(server, job, &[7; 1 << 20])).await
    });
    assert_eq!(futures::future::join_all(values).await, [json!(1 << 20), json!(1 << 20)]);
    let fetches: usize = servers.iter().map(|server| server.record().blob_fetches).sum();
    assert_eq!(fetches, 1);
    for agent in agents {
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_constant_that_a_job_has_removed_is_fetched_again() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let source = "
import os
def f(x, data):
    for name in os.listdir('@/scratch/blobs'):
        os.remove('@/scratch/blobs/' + name)
    os.kill(os.getpid(), 9) if x == 0 and not os.path.exists('@/died') and not open('@/died', 'w').close() else None
    return data.decode()
";
    // The worker that is started in the place of the one that died needs it again, and so does the next job.
    for fetches in 2..4 {
        let job = with_data(&server, python(source, agent.folder.path()), b"large");
        assert_eq!(value(&server, &job).await, "large");
        assert_eq!(server.record().blob_fetches, fetches);
    }
    agent.stop().await;
}

#[tokio::test]
async fn without_a_cache_constants_come_from_memory() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| config.settings.blob_cache = 0);
    for _ in 0..2 {
        let job = python("lambda x, data: data.decode()", agent.folder.path());
        assert_eq!(value(&server, &with_data(&server, job, b"large")).await, "large");
    }
    assert_eq!(server.record().blob_fetches, 1);
    assert!(!agent.path("scratch/blobs").exists());
    agent.stop().await;
}

#[tokio::test]
async fn a_constant_that_finds_no_place_on_disk_comes_from_memory() {
    let server = FakeServer::start();
    let agent = TestAgent::start(&server, 1);
    let job = python("lambda x: x", agent.folder.path());
    value(&server, &job).await;
    // A folder that is none: what it says to whoever would write there is as with a full disk.
    let blobs = agent.path("scratch/blobs");
    fs::remove_dir(&blobs).unwrap();
    fs::write(&blobs, "").unwrap();
    let job = python("lambda x, data: data.decode()", agent.folder.path());
    assert_eq!(value(&server, &with_data(&server, job, b"large")).await, "large");
    agent.stop().await;
}
