//! A database of version 0.1 is opened: its jobs go on, its outcomes have an order.

use std::path::Path;

use protocol::agent::{Constant, Verdict};
use protocol::job::{Encoding, Function, JobState};
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::super::db::{Arg, Row, Tx, args};
use super::super::migrations::migrator;
use super::super::snapshot::Snapshot;
use super::super::{Store, jobs, leases, outcomes, references, retries, sqlite};
use super::{Fixture, all_of, piece, read, write};
use crate::blobs::Blobs;
use crate::block::{compress, encode_lengths};
use crate::retry::work_out;
use crate::store::retries::Retried;

/// A database as an earlier server leaves it.
struct Old {
    connection: rusqlite::Connection,
}

impl Old {
    /// As version 0.1 leaves it: the first migration only.
    async fn new(folder: &Path) -> Self {
        Self::after(folder, 1).await
    }

    /// After the first so many migrations.
    async fn after(folder: &Path, n_migrations: usize) -> Self {
        let options =
            SqliteConnectOptions::new().filename(folder.join("farrow.db")).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        let first = migrator().iter().take(n_migrations).cloned().collect();
        sqlx::migrate::Migrator::with_migrations(first).run(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { connection: sqlite::open(&folder.join("farrow.db")).unwrap() }
    }

    async fn insert(&mut self, sql: &'static str, args: Vec<Arg>) {
        Tx::new(&mut self.connection).execute(sql, args).await.unwrap();
    }

    async fn agent(&mut self, name: &'static str) -> AgentId {
        let id = AgentId::new();
        self.insert(
            "insert into agents (id, name, state, slots, physical_cores, logical_cores, memory,
                 runtimes, labels, version, registered_at, alive_until)
             values ($1, $2, 'live', 4, 4, 8, 1000, '{\"python\":\"3.11\"}', '{}', '0.1.0', 1, 9)",
            args![id, name],
        )
        .await;
        id
    }

    async fn job(&mut self, state: &'static str, total: u64, done: u64, cursor: u64) -> JobId {
        let id = JobId::new();
        let spec = json!({
            "id": id, "owner": "ada", "runtime": "python", "function": "lambda x, k, big: x * k",
            "args": {"k": {"json": 3.50}, "big": {"blob": "sha256:00"}}, "globals": {"g": {"json": "a"}},
            "packages": ["math"], "setup": "import os", "timeout": 1.5, "retries": 1,
            "stdout": true, "conditions": false
        });
        let options = json!({
            "on_error": "collect", "chunk_size": null, "scheduling": null, "slots": 1,
            "timeout": 1.5, "retries": 1, "stdout": true, "conditions": false, "priority": 0,
            "labels": {}
        });
        let shape = json!({"range": 0, "named": false, "nested": false, "outer_named": false});
        self.insert(
            "insert into jobs (id, owner, name, runtime, state, priority, total, input_bytes,
                 shape, plan, options, spec, chunk, runnable, submitted_at, started_at,
                 finished_at, error)
             values ($1, 'ada', null, 'python', $2, 0, $3, 0, $4, '[{\"strategy\":\"cluster\"}]',
                 $5, $6, null, $7, 1, 2, null, null)",
            args![
                id,
                state,
                total,
                shape.to_string(),
                options.to_string(),
                spec.to_string(),
                cursor < total
            ],
        )
        .await;
        self.insert(
            "insert into progress (job_id, cursor, done, failed, running, slots, busy_us, version)
             values ($1, $2, $3, 0, $4, $5, 30, 4)",
            args![id, cursor, done, cursor - done, u64::from(cursor > done)],
        )
        .await;
        id
    }

    async fn outcomes(&mut self, job: JobId, range: Range, agent: AgentId) {
        let values: Vec<String> = (range.0..range.1).map(|i| (i * i).to_string()).collect();
        let lengths: Vec<u32> = values.iter().map(|value| value.len() as u32).collect();
        self.insert(
            "insert into outcomes (job_id, first, n, lease_id, attempt, agent_id, slot, pid,
                 started_at, micros, errors, notes, lengths, data, digest)
             values ($1, $2, $3, $4, 1, $5, 0, 9, 3, 10, '[]', '[{\"position\":0,\"stdout\":\"hi\"}]',
                 $6, $7, null)",
            args![
                job,
                range.0,
                range.len(),
                LeaseId::new(),
                agent,
                encode_lengths(&lengths),
                compress(values.concat().as_bytes())
            ],
        )
        .await;
    }

    async fn lease(&mut self, job: JobId, range: Range, agent: AgentId) -> LeaseId {
        let id = LeaseId::new();
        self.insert(
            "insert into leases (id, job_id, agent_id, state, ranges, remaining, slots, width,
                 attempt, lost, deaths, granted_at, version)
             values ($1, $2, $3, 'live', $4, $5, 1, 1, 1, 0, '{}', 3, 0)",
            args![id, job, agent, format!("[[{},{}]]", range.0, range.1), range.len()],
        )
        .await;
        id
    }

    /// Opens it as this program does.
    async fn open(self, folder: tempfile::TempDir) -> Fixture {
        self.connection.close().unwrap();
        Fixture { store: Store::open(folder.path()).await.unwrap(), _folder: folder }
    }
}

#[tokio::test]
async fn earlier_outcomes_are_ranked_in_element_order_and_know_their_agents() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::new(folder.path()).await;
    let (host, forgotten) = (old.agent("host").await, AgentId::new());
    let (one, two) = (old.job("resolved", 7, 7, 7).await, old.job("resolved", 5, 5, 5).await);
    // In the order in which they came, which was not kept.
    old.outcomes(one, Range(4, 6), host).await;
    old.outcomes(two, Range(3, 5), host).await;
    old.outcomes(one, Range(0, 4), forgotten).await;
    old.outcomes(two, Range(0, 3), host).await;
    old.outcomes(one, Range(6, 7), host).await;

    let fixture = old.open(folder).await;
    let ranked = async |job| {
        let rows = read!(fixture, |tx| outcomes::accepted(tx, job, 0, 9));
        rows.into_iter().map(|row| (row.rank, row.first, row.n, row.agent_name)).collect::<Vec<_>>()
    };
    let (host, none) = (|| "host".to_owned(), String::new());
    assert_eq!(ranked(one).await, [(0, 0, 4, none), (4, 4, 2, host()), (6, 6, 1, host())]);
    assert_eq!(ranked(two).await, [(0, 0, 3, host()), (3, 3, 2, host())]);
    let notes = &fixture.outcomes(two).await[1].notes;
    assert_eq!((notes[0].position, notes[0].stdout.as_str()), (0, "hi"));
}

#[tokio::test]
async fn a_job_that_was_running_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::new(folder.path()).await;
    let (host, lost) = (old.agent("host").await, old.agent("lost").await);
    let job = old.job("running", 10, 2, 7).await;
    old.outcomes(job, Range(0, 2), host).await;
    let kept = old.lease(job, Range(2, 4), host).await;
    old.lease(job, Range(4, 7), lost).await;

    let fixture = old.open(folder).await;
    let (spec, shape) = read!(fixture, |tx| jobs::spec(tx, job)).unwrap();
    check_spec(&spec, job);
    assert_eq!((shape.range, shape.is_call), (Some(0), false));
    assert_eq!(spec.options, fixture.job(job).await.options);

    // Its agent goes on with what it held.
    let grant = read!(fixture, |tx| leases::of_agent(tx, host)).remove(0);
    assert_eq!(grant.id, kept);
    let outcome = fixture.report(host, vec![piece(&grant, Range(2, 4))]).await;
    assert_eq!(outcome.verdicts, [Verdict::Accepted]);
    write!(fixture, |tx| leases::lapse(tx, lost));
    let mut run = RangeSet::default();
    let new = fixture.agent(4).await;
    while let Some(grant) = fixture.grant(new, 1).await.pop() {
        grant.ranges.ranges().iter().for_each(|&range| run.insert(range));
        fixture.report(new, all_of(&grant)).await;
    }
    assert_eq!(run, RangeSet::from_range(Range(4, 10)));
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.done), (JobState::Resolved, 10));
    let ranks: Vec<u64> = read!(fixture, |tx| outcomes::accepted(tx, job, 0, 99))
        .iter()
        .map(|row| row.rank)
        .collect();
    assert_eq!(ranks[..2], [0, 2]);
}

#[tokio::test]
async fn a_job_that_was_cancelled_can_be_retried() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::new(folder.path()).await;
    let host = old.agent("host").await;
    let job = old.job("cancelled", 10, 2, 2).await;
    old.outcomes(job, Range(0, 2), host).await;
    let fixture = old.open(folder).await;
    let blobs_folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(blobs_folder.path()).unwrap();
    let retry = work_out(&fixture.store, &blobs, &fixture.job(job).await).await.unwrap();
    let id = retry.id;
    assert_eq!(write!(fixture, |tx| retries::insert(tx, retry, 11)), Retried::Now);
    check_spec(&read!(fixture, |tx| jobs::spec(tx, id)).unwrap().0, id);
    assert_eq!(fixture.job(id).await.counts.waiting, 8);
}

/// The specification is the one that the old server wrote, in today's words.
fn check_spec(spec: &protocol::agent::JobSpec, job: JobId) {
    assert_eq!((spec.id, spec.owner.as_str(), spec.setup.as_str()), (job, "ada", "import os"));
    assert_eq!(spec.function, Function::Source("lambda x, k, big: x * k".to_owned()));
    assert_eq!(spec.packages, ["math"]);
    assert!(matches!(&spec.args["k"], Constant::Json(json) if json.get() == "3.5"));
    assert!(matches!(&spec.globals["g"], Constant::Json(json) if json.get() == "\"a\""));
    assert!(matches!(
        &spec.args["big"],
        Constant::Blob { digest, encoding: Encoding::Json } if digest == "sha256:00"
    ));
    let options = &spec.options;
    assert_eq!((options.timeout, options.retries, options.conditions), (Some(1.5), 1, false));
}

#[tokio::test]
async fn a_specification_of_neither_form_is_said_to_be_so_and_can_be_cancelled() {
    let fixture = Fixture::new().await;
    let job = fixture.map(1).await;
    write!(fixture, |tx| tx.execute("update jobs set spec = '{\"id\": 1}'", args![]));
    let read = fixture.store.read(|tx| Box::pin(async move { jobs::spec(tx, job).await })).await;
    assert!(read.unwrap_err().to_string().contains("spec holds"));
    let ended =
        write!(fixture, |tx| super::super::ends::end(tx, job, JobState::Cancelled, None, 8));
    assert!(matches!(ended, super::super::ends::Ended::Now(_)));
    let rows: Vec<Row> = read!(fixture, |tx| tx.all("select 1 from leases", args![]));
    assert!(rows.is_empty());
}

#[tokio::test]
async fn what_the_specifications_of_earlier_jobs_refer_to_is_written_down_before_anything_is_removed()
 {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::new(folder.path()).await;
    let one = old.job("running", 10, 2, 7).await;
    old.job("queued", 10, 0, 0).await;
    let fixture = old.open(folder).await;
    let digests = || vec!["sha256:00".to_owned(), "sha256:11".to_owned()];
    let unreferenced = async || {
        let digests = digests();
        read!(fixture, |tx| references::unreferenced(tx, &digests))
    };
    assert!(read!(fixture, |tx| references::is_to_be_read(tx)));
    assert_eq!(unreferenced().await, Vec::<String>::new());
    // A server that is killed in between begins anew.
    assert_eq!(write!(fixture, |tx| references::read_earlier(tx, "", 1)), Some(one.to_string()));
    let mut after = Some(String::new());
    while let Some(from) = after {
        after = write!(fixture, |tx| references::read_earlier(tx, &from, 1));
    }
    assert_eq!(unreferenced().await, ["sha256:11"]);
    assert_eq!(read!(fixture, |tx| references::referenced(tx, "", 9)), ["sha256:00"]);
    assert_eq!(write!(fixture, |tx| references::read_earlier(tx, "", 1)), None);
}

/// Opens a database again after `sql` was run on it by another program.
async fn reopened(sql: &'static [&'static str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).await.unwrap());
    let connection = sqlite::open(&folder.path().join("farrow.db")).unwrap();
    sql.iter().for_each(|statement| sqlite::script(&connection, statement).unwrap());
    connection.close().unwrap();
    let opened = match Store::open(folder.path()).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let looked = match Snapshot::open(folder.path()).await {
        Ok(_) => panic!("it was looked at"),
        Err(error) => error.to_string(),
    };
    assert_eq!(opened, looked);
    opened
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_and_told_which_program_it_needs() {
    const LATER: &str = "insert into _sqlx_migrations (version, description, success, checksum,
        execution_time) values (900, 'later', true, x'00', 1)";
    let refused = reopened(&[LATER]).await;
    let ours = migrator().iter().map(|migration| migration.version).max().unwrap();
    for part in ["a newer farrow (schema 900)", &format!("knows schema {ours}"), "backup"] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    let refused =
        reopened(&[LATER, "insert into meta (key, value) values ('schema 900', '7.1.0')"]).await;
    assert!(refused.contains("written by farrow 7.1.0 (schema 900)"), "{refused}");
}

#[tokio::test]
async fn a_database_with_another_step_of_the_same_number_is_refused() {
    let refused =
        reopened(&["update _sqlx_migrations set checksum = x'00' where version = 3"]).await;
    for part in ["step 3 (watching)", "another program", "backup"] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
}

#[tokio::test]
async fn a_database_of_an_earlier_version_is_only_looked_at_once_it_is_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    Old::new(folder.path()).await.connection.close().unwrap();
    let refused = Snapshot::open(folder.path()).await.unwrap_err().to_string();
    assert!(refused.contains("has schema 1,") && refused.contains("`farrow server`"), "{refused}");
    drop(Store::open(folder.path()).await.unwrap());
    Snapshot::open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn an_earlier_database_gives_room_back_after_it_was_opened_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::new(folder.path()).await;
    old.job("resolved", 7, 7, 7).await;
    let fixture = old.open(folder).await;
    let mode = read!(fixture, |tx| tx.first("pragma auto_vacuum", args![])).unwrap();
    assert_eq!(mode.int("auto_vacuum").unwrap(), 2);
}

#[tokio::test]
async fn what_jobs_of_an_earlier_version_come_after_stays_until_they_have_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = Old::after(folder.path(), 7).await;
    let mut before = Vec::new();
    for _ in 0..3 {
        before.push(old.job("resolved", 1, 1, 1).await);
    }
    for (state, n) in [("queued", 3), ("queued", 1), ("resolved", 2)] {
        let job = old.job(state, 1, 0, 0).await;
        let after = json!(before[..n]).to_string();
        old.insert(
            "update jobs set after_jobs = $2, finished_at = case when state = 'resolved' then 9 end
             where id = $1",
            args![job, after],
        )
        .await;
    }
    let fixture = old.open(folder).await;
    let rows = read!(fixture, |tx| tx
        .all("select on_id, count(*) as n from needs group by on_id order by on_id", args![]));
    let needed = rows.iter().map(|row| (row.id("on_id").unwrap(), row.count("n").unwrap()));
    let expected: Vec<(JobId, u64)> = before.into_iter().zip([2, 1, 1]).collect();
    assert_eq!(needed.collect::<Vec<_>>(), expected);
}
