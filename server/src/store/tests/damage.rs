//! Databases that are damaged, each in one way, and what is found wrong with them.

use protocol::agent::{Constant, Note, Released};
use protocol::artifact::Artifact;
use protocol::job::{Encoding, JobState, Level, Strategy};
use protocol::{JobId, Range};

use super::super::blocks::Place;
use super::super::check::Kind;
use super::super::db::args;
use super::super::{ends, leases, retries};
use super::books::faults;
use super::{Fixture, collecting, failing, new_job, piece, read, write};
use crate::blobs::Blobs;
use crate::retry::work_out;

/// A database with something of everything.
struct World {
    fixture: Fixture,
    blobs: Blobs,
    _folder: tempfile::TempDir,
    /// Runs: ten of twenty elements have outcomes in two rows, one an error; five are leased, two came
    /// back, three were never leased.
    running: JobId,
    /// Waits for it.
    waiting: JobId,
    /// Was cancelled, and is retried.
    cancelled: JobId,
    retry: JobId,
    /// Is nested, named, and refers to blobs.
    nested: JobId,
    /// In a blob: its elements.
    elements: String,
}

impl World {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let agent = fixture.agent(4).await;

        let mut job = collecting(20);
        job.options.chunk_size = Some(10);
        let running = fixture.submit(job).await;
        let grant = fixture.grant(agent, 1).await.remove(0);
        let digest = blobs.put(bytes::Bytes::from("left")).await.unwrap();
        let artifacts = vec![Artifact { name: "file".to_owned(), digest, bytes: 4 }];
        let mut leaving = piece(&grant, Range(5, 10));
        leaving.notes = vec![Note { position: 2, artifacts, ..Note::default() }];
        fixture.report(agent, vec![leaving]).await;
        fixture.report(agent, vec![failing(&grant, 4, false)]).await;
        fixture.report(agent, vec![piece(&grant, Range(0, 3))]).await;
        write!(fixture, |tx| leases::release(
            tx,
            agent,
            &Released::whole(grant.id, Default::default())
        ));
        // What is left of the first, and then half of the rest.
        fixture.grant(agent, 1).await;
        write!(fixture, |tx| tx.execute("update jobs set chunk = 5", args![]));
        let second = fixture.grant(agent, 1).await.remove(0);
        assert_eq!(second.ranges.ranges(), [Range(10, 15)]);
        let third = fixture.grant(agent, 1).await.remove(0);
        write!(fixture, |tx| leases::release(
            tx,
            agent,
            &Released::whole(third.id, Default::default())
        ));

        let mut job = new_job(2);
        job.after = vec![running];
        let waiting = fixture.submit(job).await;

        let cancelled = fixture.submit(collecting(4)).await;
        write!(fixture, |tx| ends::end(tx, cancelled, JobState::Cancelled, None, 8));
        let retry = work_out(&fixture.store, &blobs, &fixture.job(cancelled).await).await.unwrap();
        let retry_id = retry.id;
        write!(fixture, |tx| retries::insert(tx, retry, 11));

        let mut job = new_job(6);
        job.plan.push(Level::new(Strategy::Multisession));
        job.elements.shape.nested = true;
        job.elements.groups = vec![2, 4];
        let data = job.elements.blocks[0].place.load(&blobs).await.unwrap();
        let elements = blobs.put(data).await.unwrap();
        job.elements.blocks[0].place = Place::Blob(elements.clone());
        job.elements.shape.outer_named = true;
        job.elements.outer_names = vec![crate::store::blocks::StoredBlock {
            first: 0,
            lengths: vec![3, 3],
            place: Place::Row(crate::block::compress(b"\"a\"\"b\"")),
        }];
        let digest = blobs.put("true".to_owned().into()).await.unwrap();
        job.spec.args.insert("x".to_owned(), Constant::Blob { digest, encoding: Encoding::Json });
        job.idempotency_key = Some("key".to_owned());
        let nested = fixture.submit(job).await;
        write!(fixture, |tx| tx.execute(
            "insert into idempotency_keys (owner, key, digest) values ('ada', 'key', 'x')",
            args![]
        ));

        let world = Self {
            fixture,
            blobs,
            _folder: folder,
            running,
            waiting,
            cancelled,
            retry: retry_id,
            nested,
            elements,
        };
        assert_eq!(world.findings().await, []);
        world
    }

    async fn findings(&self) -> Vec<(Kind, Option<JobId>, String)> {
        let report = faults(&self.fixture, &self.blobs, true).await;
        assert_eq!(report.n_findings, report.findings.len() as u64);
        report.findings.into_iter().map(|it| (it.kind, it.job, it.text)).collect()
    }

    /// Damages it by `sql`, in which `$1` is `job`, and checks that this is found, and nothing else.
    async fn finds(self, sql: &'static str, job: JobId, kind: Kind, says: &str) {
        let n = write!(self.fixture, |tx| tx.execute(sql, args![job]));
        assert!(n > 0, "{sql} changes nothing");
        let findings = self.findings().await;
        let is_it = |(found, of, text): &&(Kind, Option<JobId>, String)| {
            *found == kind && of.is_none_or(|of| of == job) && text.contains(says)
        };
        assert!(findings.iter().any(|it| is_it(&it)), "{sql}\n{kind:?} {says}\n{findings:#?}");
    }
}

/// The same, for each of many.
macro_rules! are_found {
    ($($name:ident: $job:ident, $sql:literal, $kind:ident, $says:literal;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let world = World::new().await;
            let job = world.$job;
            world.finds($sql, job, Kind::$kind, $says).await;
        })*
    };
}

are_found! {
    a_wrong_count_of_values: running,
        "update progress set done = done + 1 where job_id = $1",
        Counters, "the job counts 9 values, there are 8";
    a_wrong_count_of_errors: running,
        "update progress set failed = 0 where job_id = $1",
        Counters, "the job counts 0 errors, there are 1";
    a_wrong_count_of_running_elements: running,
        "update progress set running = running + 2 where job_id = $1",
        Counters, "running elements";
    a_wrong_count_of_slots: running,
        "update progress set slots = 0 where job_id = $1",
        Counters, "slots at work";
    a_job_without_counters: running,
        "delete from progress where job_id = $1",
        Counters, "no counters";
    a_cursor_behind_the_end: running,
        "update progress set cursor = 21 where job_id = $1",
        Counters, "the cursor is 21, behind 20";
    a_cursor_that_went_back: running,
        "update progress set cursor = 15 where job_id = $1",
        Elements, "elements 15 to 19 are in lease";
    outcomes_that_are_gone: running,
        "delete from outcomes where job_id = $1 and first = 4",
        Elements, "element 4 is nowhere";
    outcomes_that_overlap: running,
        "update outcomes set first = 3 where job_id = $1 and first = 5",
        Elements, "element 4 is both among the outcomes and among the outcomes";
    an_element_with_an_outcome_and_a_lease: running,
        "update leases set ranges = '[[2,4]]', remaining = 2 where job_id = $1 and ranges = '[[3,4]]'",
        Elements, "element 2 is both among the outcomes and in lease";
    an_element_in_two_leases: running,
        "update leases set ranges = '[[10,16]]', remaining = 6
         where job_id = $1 and ranges = '[[10,15]]'",
        Elements, "element 15 is both in lease";
    a_lease_that_says_another_number: running,
        "update leases set remaining = 1 where job_id = $1 and state = 'released'",
        Leases, "holds 5 elements and says 1";
    a_lease_that_could_spare_more_than_it_holds: running,
        "update leases set spare = 6 where job_id = $1 and state = 'released'",
        Leases, "could spare 6 elements of 5";
    a_lease_that_is_gone: running,
        "delete from leases where job_id = $1 and state = 'released'",
        Elements, "elements 15 to 19 are nowhere";
    a_lease_of_a_job_that_has_ended: cancelled,
        "update leases set job_id = $1 where state = 'released'",
        Leases, "the job has ended and has lease";
    a_lease_in_a_state_that_there_is_not: running,
        "update leases set state = 'lost' where job_id = $1 and state = 'released'",
        Leases, "\"lost\"";
    a_lease_that_cannot_be_read: running,
        "update leases set ranges = '{' where job_id = $1 and state = 'released'",
        Leases, "ranges holds";
    a_live_lease_of_nobody: running,
        "delete from agents where $1 <> ''",
        Leases, "of an agent that is not there";
    ranks_with_a_gap: running,
        "update outcomes set rank = rank + 100 where job_id = $1 and first = 0",
        Ranks, "behind outcome 6 in the order of acceptance comes 106";
    errors_that_are_no_positions: running,
        "update outcomes set errors = '[7]' where job_id = $1 and first = 4",
        Outcomes, "errors at [7]";
    notes_that_cannot_be_read: running,
        "update outcomes set notes = 'x' where job_id = $1 and first = 4",
        Outcomes, "notes holds";
    outcomes_that_do_not_decompress: running,
        "update outcomes set data = substr(data, 1, 1) where job_id = $1 and first = 4",
        Outcomes, "do not decompress";
    outcomes_of_another_number_of_bytes: running,
        "update outcomes set lengths = substr(data, 2, 1) where job_id = $1 and first = 4",
        Outcomes, "their lengths sum to another number";
    outcomes_of_another_number: running,
        "update outcomes set n = 4 where job_id = $1 and first = 0",
        Outcomes, "hold 3 payloads and say 4";
    outcomes_without_bytes: running,
        "update outcomes set data = null where job_id = $1 and first = 0",
        Outcomes, "neither or both";
    a_flag_that_was_forgotten: running,
        "update jobs set runnable = false where id = $1",
        Runnable, "its row says that nothing can";
    a_flag_that_was_not_taken_back: waiting,
        "update jobs set runnable = true where id = $1",
        Runnable, "its row says that something can";
    a_job_that_asks_for_other_agents: waiting,
        "update jobs set requires = replace(requires, 'python', 'r') where id = $1",
        Runnable, "its row says {\"runtime\":\"r\"";
    slots_that_nobody_offers: waiting,
        "update offers set slots = slots + 1 where $1 <> ''",
        Offers, "written down is";
    a_job_that_does_not_wait: waiting,
        "delete from dependencies where job_id = $1",
        Dependencies, "does not wait for";
    a_job_that_does_not_keep_what_it_comes_after: waiting,
        "delete from needs where job_id = $1",
        Dependencies, "does not keep";
    a_job_that_keeps_another_in_vain: running,
        "insert into needs (job_id, on_id) values ($1, 'another')",
        Dependencies, "keeps another without need";
    a_job_that_waits_in_vain: waiting,
        "update jobs set after_jobs = '[]' where id = $1",
        Dependencies, "without need";
    a_job_after_one_that_failed: waiting,
        "update jobs set after_jobs = (select '[\"' || min(id) || '\"]' from jobs where state = 'cancelled')
         where id = $1",
        Dependencies, "which is cancelled, and is queued";
    a_retry_that_is_gone: cancelled,
        "update jobs set retried_as = 'gone' where id = $1",
        Retries, "its retry gone is not there";
    a_retry_of_another: cancelled,
        "update jobs set retry_of = null where id = (select retried_as from jobs where id = $1)",
        Retries, "does not say that it is one of this job";
    a_job_that_is_resolved_too_early: running,
        "update jobs set state = 'resolved', finished_at = 9 where id = $1",
        State, "the job is resolved with 9 outcomes of 20 elements";
    a_job_that_goes_on_for_ever: retry,
        "update jobs set total = 0 where id = $1",
        State, "an outcome for each element and is queued";
    a_job_that_should_have_stopped: running,
        "update jobs set options = replace(options, '\"collect\"', '\"stop\"') where id = $1",
        State, "stops at its first error";
    a_job_that_does_not_say_when_it_ended: cancelled,
        "update jobs set finished_at = null where id = $1",
        State, "does not say when it ended";
    a_job_that_does_not_say_why_it_failed: cancelled,
        "update jobs set state = 'failed' where id = $1",
        State, "does not say why";
    a_job_that_cannot_be_read: running,
        "update jobs set shape = 'round' where id = $1",
        Unreadable, "shape holds";
    a_specification_that_cannot_be_read: running,
        "update jobs set spec = '{}' where id = $1",
        Unreadable, "spec holds";
    elements_that_are_gone: waiting,
        "delete from blocks where job_id = $1",
        Inputs, "inputs: elements 0 to 1 are nowhere";
    elements_that_do_not_decompress: waiting,
        "update blocks set data = substr(data, 2, 1) where job_id = $1",
        Inputs, "the inputs from 0 on";
    names_that_are_gone: nested,
        "delete from blocks where job_id = $1 and kind = 'outer_name'",
        Inputs, "outer names: elements 0 to 1 are nowhere";
    outer_elements_that_are_gone: nested,
        "delete from groups where job_id = $1 and position = 0",
        Inputs, "outer element 1 begins at 2";
    outer_elements_of_another_size: nested,
        "update groups set n = 5 where job_id = $1 and position = 1",
        Inputs, "hold 7 elements, the job has 6";
    a_reference_that_was_not_written_down: nested,
        "delete from job_blobs where job_id = $1",
        References, "refers to 1 blobs, and 0";
    a_reference_of_nothing: waiting,
        "insert into job_blobs (job_id, digest) values ($1, 'sha256:00')",
        References, "refers to 0 blobs, and 1";
    an_artifact_that_was_not_written_down: running,
        "delete from artifacts where job_id = $1",
        Outcomes, "elements 5 to 9 list other artifacts than are written down";
    an_artifact_of_nobody: running,
        "insert into artifacts (job_id, element, digest) values ($1, 0, 'sha256:00')",
        References, "the outcomes list 1 blobs as artifacts, and 2 are written down";
    an_artifact_that_never_was: running,
        "update outcomes set notes = replace(notes, '\"bytes\":4', '\"bytes\":5') where job_id = $1",
        Blobs, "has 4 bytes, must have 5";
    artifacts_of_a_job_that_is_not_there: running,
        "delete from jobs where id = $1",
        Orphans, "1 rows of artifacts are of job";
    a_blob_that_never_was: nested,
        "update blocks set digest = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
         where job_id = $1 and digest is not null",
        Blobs, "is missing";
    counters_of_a_job_that_is_not_there: waiting,
        "delete from jobs where id = $1",
        Orphans, "1 rows of progress are of job";
    elements_of_a_job_that_is_not_there: waiting,
        "delete from jobs where id = $1",
        Orphans, "1 rows of blocks are of job";
    dependencies_of_a_job_that_is_not_there: waiting,
        "delete from jobs where id = $1",
        Orphans, "1 rows of dependencies are of job";
    outcomes_of_a_job_that_is_not_there: running,
        "delete from jobs where id = $1",
        Orphans, "3 rows of outcomes are of job";
    leases_of_a_job_that_is_not_there: running,
        "delete from jobs where id = $1",
        Orphans, "3 rows of leases are of job";
    outer_elements_of_a_job_that_is_not_there: nested,
        "delete from jobs where id = $1",
        Orphans, "2 rows of groups are of job";
    references_of_a_job_that_is_not_there: nested,
        "delete from jobs where id = $1",
        Orphans, "1 rows of job_blobs are of job";
    a_key_of_no_job: nested,
        "update jobs set idempotency_key = null where id = $1",
        Orphans, "the Idempotency-Key \"key\" is of no job";
    logs_of_a_job_that_is_not_there: running,
        "insert into logs (job_id, ends, bytes, agent_id, agent_name, data)
         select 'gone', 1, 1, $1, '', lengths from outcomes limit 1",
        Orphans, "1 rows of logs are of job gone";
    a_job_that_is_deleted_and_there: running,
        "insert into trash (job_id) values ($1)",
        Orphans, "is there, and in trash too";
    a_draft_that_is_a_job: running,
        "insert into drafts (job_id) values ($1)",
        Orphans, "is there, and in drafts too";
}

#[tokio::test]
async fn a_blob_that_is_damaged_or_missing() {
    let world = World::new().await;
    let path = world.blobs.path(&world.elements).unwrap();
    let says = async |says: &str| {
        let findings = world.findings().await;
        let [(Kind::Blobs, Some(job), text)] = &findings[..] else { panic!("{findings:?}") };
        assert!(*job == world.nested && text.contains(says), "{text}");
    };
    std::fs::write(&path, "543210").unwrap();
    says("is damaged: its bytes have the digest").await;
    std::fs::write(&path, "54321").unwrap();
    says("has 5 bytes, must have 6").await;
    std::fs::remove_file(&path).unwrap();
    says("is missing").await;
}

#[tokio::test]
async fn what_is_wrong_with_many_jobs_is_counted_and_some_of_it_is_told() {
    let world = World::new().await;
    write!(world.fixture, |tx| tx
        .execute("insert into trash (job_id) select id from jobs", args![]));
    for _ in 0..400 {
        let job = world.fixture.map(1).await;
        write!(world.fixture, |tx| tx.execute(
            "update progress set done = 1, failed = 1, running = 1 where job_id = $1",
            args![job]
        ));
    }
    let report = faults(&world.fixture, &world.blobs, true).await;
    assert_eq!((report.findings.len(), report.n_findings), (1000, 1205));
    let jobs = read!(world.fixture, |tx| tx.all("select id from jobs", args![]));
    assert_eq!(report.jobs, jobs.len() as u64);
}
