//! Outcomes that outlive the agent that could not report them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use protocol::agent::{JobSpec, Lease};
use protocol::{AgentId, DatabaseId};
use tokio::time::{sleep, timeout};

use crate::ending::start_agent_process;
use crate::harness::{TestAgent, file, integers, python};
use crate::server::{FakeServer, HANG};

/// Says in the file `ran` that it runs, waits for the file `go`, and has a value of its own.
const WORKS: &str = "
import os, time
def f(x):
    with open('@/ran', 'a') as ran: ran.write(f'{x}\\n')
    while not os.path.exists('@/go'): time.sleep(0.005)
    return f'value of {x}'
";

/// All that is on disk below a folder, and where.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |path: PathBuf| {
        if path.is_dir() {
            files_below(&path)
        } else {
            fs::read(&path).map(|bytes| vec![(path, bytes)]).unwrap_or_default()
        }
    };
    entries.flat_map(|entry| read(entry.path())).collect()
}

/// Waits until the spool holds the values of these elements. Another process writes them: there is
/// no other event to wait for than its files.
async fn kept(spool: &Path, elements: std::ops::Range<u64>) -> Vec<PathBuf> {
    let values: Vec<String> = elements.map(|x| format!("\"value of {x}\"")).collect();
    let written = async {
        loop {
            let files = files_below(spool);
            let has = |value: &String| {
                let is_in =
                    |bytes: &[u8]| bytes.windows(value.len()).any(|w| w == value.as_bytes());
                files.iter().any(|(_, bytes)| is_in(bytes))
            };
            if values.iter().all(has) {
                let segments = files.into_iter().filter(|(_, bytes)| !bytes.is_empty());
                return segments.map(|(path, _)| path).collect();
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG, written).await.expect("waited in vain for outcomes on disk")
}

/// An agent process that has finished the elements of a lease while no server took them.
struct Finisher {
    folder: tempfile::TempDir,
    agent: Child,
    id: AgentId,
    job: JobSpec,
    lease: Lease,
    files: Vec<PathBuf>,
}

impl Finisher {
    async fn start_in(
        folder: tempfile::TempDir,
        server: &mut FakeServer,
        take_away: impl FnOnce(&mut FakeServer),
    ) -> Self {
        let agent = start_agent_process(server, &folder.path().join("scratch"));
        let job = python(WORKS, folder.path());
        let lease = integers(&job, 0, 5);
        server.grant(lease.clone(), b"", &job);
        file(&folder.path().join("ran")).await;
        let id = server.record().registers[0].id;
        take_away(server);
        fs::write(folder.path().join("go"), "").unwrap();
        let files = kept(&folder.path().join("scratch/spool"), 0..5).await;
        Self { folder, agent, id, job, lease, files }
    }

    /// Kills the agent.
    fn kill(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }

    /// The next agent on the machine.
    fn next(&self, server: &FakeServer) -> TestAgent {
        let scratch = self.folder.path().join("scratch");
        TestAgent::start_with(server, 1, |config| config.settings.scratch = Some(scratch))
    }

    fn left(&self) -> Vec<PathBuf> {
        let files = files_below(&self.folder.path().join("scratch/spool"));
        let agents = files.into_iter().map(|(path, _)| path);
        agents.filter(|path| path.to_string_lossy().contains("agent-")).collect()
    }

    /// Waits until an agent has asked for work, this time by the request of this number.
    async fn asks_for_work(server: &FakeServer, asked: usize) {
        let asks =
            |record: &crate::record::Record| (record.lease_requests.len() > asked).then_some(());
        server.until("the next agent asks for work", asks).await;
    }
}

impl Drop for Finisher {
    fn drop(&mut self) {
        // An error says that it is dead already.
        self.agent.kill().ok();
        self.agent.wait().ok();
    }
}

/// An agent whose server goes away while it works.
async fn without_server(server: &mut FakeServer) -> Finisher {
    let folder = tempfile::tempdir().unwrap();
    Finisher::start_in(folder, server, FakeServer::stop).await
}

#[tokio::test]
async fn what_a_killed_agent_could_not_report_the_next_one_reports_before_it_asks_for_work() {
    let mut server = FakeServer::start();
    let mut finisher = without_server(&mut server).await;
    finisher.kill();
    // Such a tail is left when a machine goes down in the midst of a write.
    for path in &finisher.files {
        let mut torn = fs::read(path).unwrap();
        torn.extend([200, 0, 0, 0, 1, 2, 3]);
        fs::write(path, torn).unwrap();
    }
    let asked = server.record().lease_requests.len();
    server.start_again();
    let next = finisher.next(&server);
    Finisher::asks_for_work(&server, asked).await;
    {
        let record = server.record();
        let values: Vec<_> =
            record.outcomes_of(finisher.lease.id).into_iter().map(|o| o.result).collect();
        let expected: Vec<_> = (0..5).map(|x| Ok(format!("value of {x}").into())).collect();
        assert_eq!(values, expected);
        assert!(record.reported_for.iter().all(|agent| *agent == finisher.id));
    }
    next.stop().await;
    assert_eq!(finisher.left(), Vec::<PathBuf>::new());
    let ran = fs::read_to_string(finisher.folder.path().join("ran")).unwrap();
    assert_eq!(ran, "0\n1\n2\n3\n4\n", "each ran once");
}

#[tokio::test]
async fn what_the_server_had_accepted_when_its_answer_was_lost_is_sent_again_in_the_same_pieces() {
    let mut server = FakeServer::start();
    let lose_answers = |server: &mut FakeServer| {
        server.change(|record| record.loses_report_answers = true);
    };
    let folder = tempfile::tempdir().unwrap();
    let mut finisher = Finisher::start_in(folder, &mut server, lose_answers).await;
    finisher.kill();
    server.change(|record| record.loses_report_answers = false);
    let (before, asked) = {
        let record = server.record();
        (record.reports.len(), record.lease_requests.len())
    };
    let next = finisher.next(&server);
    Finisher::asks_for_work(&server, asked).await;
    {
        let record = server.record();
        let pieces = |reports: &[(protocol::agent::Report, Vec<u8>)]| {
            let pieces = reports.iter().flat_map(|(report, _)| &report.pieces);
            let same = pieces.map(|piece| (piece.lease, piece.first, piece.lengths.clone()));
            same.collect::<Vec<_>>()
        };
        let (sent, again) = (pieces(&record.reports[..before]), pieces(&record.reports[before..]));
        assert!(!sent.is_empty() && sent.iter().all(|piece| again.contains(piece)), "{again:?}");
        assert_eq!(record.outcomes_of(finisher.lease.id).len(), 5);
    }
    next.stop().await;
    assert_eq!(finisher.left(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_was_leased_anew_meanwhile_is_dropped() {
    let mut server = FakeServer::start();
    let mut finisher = without_server(&mut server).await;
    finisher.kill();
    let nothing = Lease { ranges: protocol::RangeSet::default(), ..finisher.lease.clone() };
    server.change(|record| record.expect_only(&nothing));
    server.start_again();
    let asked = server.record().lease_requests.len();
    let next = finisher.next(&server);
    Finisher::asks_for_work(&server, asked).await;
    assert!(!server.record().reported_for.is_empty());
    assert!(server.record().outcomes_of(finisher.lease.id).is_empty());
    next.stop().await;
    assert_eq!(finisher.left(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_is_for_another_server_waits_for_it() {
    let mut server = FakeServer::start();
    let mut finisher = without_server(&mut server).await;
    finisher.kill();
    let own = server.change(|record| std::mem::replace(&mut record.database, DatabaseId::new()));
    server.start_again();
    let asked = server.record().lease_requests.len();
    let other = finisher.next(&server);
    Finisher::asks_for_work(&server, asked).await;
    assert_eq!(server.record().reported_for, []);
    other.stop().await;
    assert!(!finisher.left().is_empty());
    server.change(|record| record.database = own);
    let next = finisher.next(&server);
    assert_eq!(server.outcomes(finisher.lease.id).await.len(), 5);
    next.stop().await;
}

#[tokio::test]
async fn what_the_server_refuses_is_left_for_later_and_holds_nothing_up() {
    let mut server = FakeServer::start();
    let mut finisher = without_server(&mut server).await;
    finisher.kill();
    server.change(|record| record.refuses_reports = Some(403));
    server.start_again();
    let asked = server.record().lease_requests.len();
    let refused = finisher.next(&server);
    Finisher::asks_for_work(&server, asked).await;
    refused.stop().await;
    server.change(|record| record.refuses_reports = None);
    let next = finisher.next(&server);
    assert_eq!(server.outcomes(finisher.lease.id).await.len(), 5);
    next.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_while_no_outcome_is_taken_leaves_them_to_the_next() {
    let server = FakeServer::start();
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let set_up = |config: &mut agent::Config| {
        config.settings.scratch = Some(scratch.clone());
        config.settings.grace = agent::Seconds(Duration::from_millis(50));
    };
    let agent = TestAgent::start_with(&server, 1, set_up);
    let job = python(WORKS, folder.path());
    let lease = integers(&job, 0, 1);
    server.grant(lease.clone(), b"", &job);
    file(&folder.path().join("ran")).await;
    server.change(|record| record.refuses_reports = Some(503));
    fs::write(folder.path().join("go"), "").unwrap();
    kept(&scratch.join("spool"), 0..1).await;
    agent.stop().await;
    assert!(!server.record().left, "it would have given its finished lease back");
    server.change(|record| record.refuses_reports = None);
    let next = TestAgent::start_with(&server, 1, set_up);
    assert_eq!(server.outcomes(lease.id).await.len(), 1);
    next.stop().await;
}

#[tokio::test]
async fn what_waited_for_the_server_is_removed_once_it_is_accepted() {
    let mut server = FakeServer::start();
    let finisher = without_server(&mut server).await;
    server.start_again();
    assert_eq!(server.outcomes(finisher.lease.id).await.len(), 5);
    let removed = async {
        while finisher.files.iter().any(|path| path.exists()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(HANG, removed).await.expect("waited in vain until the outcomes are removed");
    // It works on as before.
    let lease = integers(&finisher.job, 7, 8);
    server.grant(lease.clone(), b"", &finisher.job);
    assert_eq!(server.outcomes(lease.id).await.len(), 1);
}

#[tokio::test]
async fn a_spool_folder_that_cannot_be_used_is_told_of_at_the_start() {
    let server = FakeServer::start();
    let agent = TestAgent::start_with(&server, 1, |config| {
        config.settings.spool = Some("/dev/null/spool".into());
    });
    let message = agent.ended().await.unwrap_err().to_string();
    assert!(message.contains("/dev/null/spool") && message.contains("--spool"), "{message}");
}
