//! Recounts from the rows of the tables what counters, flags and references claim.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::job::{JobState, OnError, Options};
use protocol::{JobId, LeaseId, RangeSet};

use super::super::StoreError;
use super::super::db::{Row, Tx, args};
use super::super::jobs;
use super::{Fixture, read};
use crate::blobs::Blobs;

/// The elements of a job that have an outcome, and whether it is an error.
pub type Expected = BTreeMap<u64, bool>;

/// Checks all rows against one another, and the outcomes against those `expected`.
pub async fn check(fixture: &Fixture, blobs: &Blobs, expected: &HashMap<JobId, Expected>) {
    let jobs = read!(fixture, |tx| job_books(tx));
    let leases = read!(fixture, |tx| lease_books(tx));
    let ids: BTreeSet<JobId> = jobs.keys().copied().collect();
    assert_eq!(ids, expected.keys().copied().collect(), "jobs are lost, or were not deleted");
    for lease in &leases {
        let job = jobs.get(&lease.job).expect("a lease of a job that is not there");
        assert!(!job.state.is_final(), "a lease of a job that is {:?}", job.state);
    }
    for (&id, job) in &jobs {
        check_outcomes(fixture, blobs, id, &expected[&id]).await;
        let leases: Vec<&LeaseBook> = leases.iter().filter(|lease| lease.job == id).collect();
        check_counters(job, &leases, &expected[&id]);
        if !job.state.is_final() {
            check_tiling(job, &leases, &expected[&id]);
        }
        check_references(id, job, &jobs);
    }
    let runnable: BTreeSet<JobId> = ids.into_iter().filter(|id| jobs[id].runnable).collect();
    let found = read!(fixture, |tx| super::runnable_jobs(tx, 8));
    assert_eq!(found.iter().map(|job| job.id).collect::<BTreeSet<_>>(), runnable);
}

/// Every outcome is the one that was accepted, and ranks are without a gap.
async fn check_outcomes(fixture: &Fixture, blobs: &Blobs, job: JobId, expected: &Expected) {
    let (mut seen, mut ranks) = (Expected::new(), Vec::new());
    for outcome in fixture.outcomes(job).await {
        let block = outcome.block.load(blobs).await.unwrap();
        assert_eq!(outcome.notes.len(), block.lengths.len());
        ranks.extend((outcome.rank..).take(block.lengths.len()));
        for ((position, payload), note) in (0..).zip(block.payloads()).zip(&outcome.notes) {
            let index = block.first + u64::from(position);
            assert_eq!(payload, (index * index).to_string(), "the value of another");
            let said = (note.position, note.stdout.clone());
            assert_eq!(said, (position, index.to_string()), "the output of another");
            let other = seen.insert(index, outcome.errors.contains(&position));
            assert!(other.is_none(), "element {index} has two outcomes");
        }
    }
    assert_eq!(&seen, expected, "outcomes were lost or changed");
    ranks.sort_unstable();
    assert!(ranks.iter().copied().eq(0..seen.len() as u64), "ranks are not dense: {ranks:?}");
}

fn check_counters(job: &JobBook, leases: &[&LeaseBook], expected: &Expected) {
    let n_failed = expected.values().filter(|is_error| **is_error).count() as u64;
    assert_eq!((job.done, job.failed), (expected.len() as u64 - n_failed, n_failed));
    let live = || leases.iter().filter(|lease| lease.state == "live");
    let running: u64 = live().map(|lease| lease.ranges.len()).sum();
    let slots: u64 = live().map(|lease| lease.slots).sum();
    assert_eq!((job.running, job.slots), (running, slots));
    let is_open = job.cursor < job.total || leases.iter().any(|lease| lease.state != "live");
    let runnable = !job.state.is_final() && job.waits_for.is_empty() && is_open;
    assert_eq!(job.runnable, runnable, "the flag `runnable` of {job:?}");
    if job.waits_for.is_empty() && expected.len() as u64 == job.total {
        assert!(job.state.is_final(), "a complete job is {:?}", job.state);
    }
    if job.stops && n_failed > 0 {
        assert_eq!(job.state, JobState::Failed, "the first error stops it");
    }
    if job.state == JobState::Resolved {
        assert_eq!(expected.len() as u64, job.total, "a resolved job is not complete");
    }
}

/// Every element has an outcome, or is in one lease, or was never leased.
fn check_tiling(job: &JobBook, leases: &[&LeaseBook], expected: &Expected) {
    let mut leased: HashMap<u64, LeaseId> = HashMap::new();
    for lease in leases {
        assert_eq!(lease.remaining, lease.ranges.len());
        for index in lease.ranges.indexes() {
            assert!(!expected.contains_key(&index), "finished element {index} is still leased");
            let other = leased.insert(index, lease.id);
            assert!(other.is_none(), "element {index} stands in two leases");
        }
    }
    for index in 0..job.total {
        let is_leased = leased.contains_key(&index) || expected.contains_key(&index);
        assert_eq!(is_leased, index < job.cursor, "element {index} is lost, or found twice");
    }
}

/// A job waits for those before it that have not ended; it and its retry know each other.
fn check_references(id: JobId, job: &JobBook, jobs: &BTreeMap<JobId, JobBook>) {
    let not_ended = |on: &&JobId| jobs.get(on).is_some_and(|on: &JobBook| !on.state.is_final());
    let after: BTreeSet<JobId> = if job.state.is_final() {
        BTreeSet::new()
    } else {
        job.after.iter().filter(not_ended).copied().collect()
    };
    assert_eq!(job.waits_for, after, "what job {id} waits for");
    if !job.state.is_final() {
        for on in job.after.iter().filter_map(|on| jobs.get(on)) {
            let failed = matches!(on.state, JobState::Failed | JobState::Cancelled);
            assert!(!failed, "job {id} comes after one that is {:?}", on.state);
        }
    }
    if let Some(retry) = job.retried_as {
        assert_eq!(jobs[&retry].retry_of, Some(id));
    }
}

/// Checks that no table holds anything of any job.
pub async fn check_nothing_is_left(fixture: &Fixture) {
    let rows = read!(fixture, |tx| tx.all(
        "select 'jobs' as name, count(*) as n from jobs
         union all select 'progress', count(*) from progress
         union all select 'leases', count(*) from leases
         union all select 'outcomes', count(*) from outcomes
         union all select 'blocks', count(*) from blocks
         union all select 'groups', count(*) from groups
         union all select 'dependencies', count(*) from dependencies
         union all select 'drafts', count(*) from drafts
         union all select 'trash', count(*) from trash",
        args![]
    ));
    for row in rows {
        assert_eq!(row.count("n").unwrap(), 0, "{}", row.text("name").unwrap());
    }
}

/// A job's row, its counters and what it waits for.
#[derive(Debug)]
struct JobBook {
    state: JobState,
    stops: bool,
    runnable: bool,
    total: u64,
    cursor: u64,
    done: u64,
    failed: u64,
    running: u64,
    slots: u64,
    after: Vec<JobId>,
    waits_for: BTreeSet<JobId>,
    retry_of: Option<JobId>,
    retried_as: Option<JobId>,
}

async fn job_books(tx: &mut Tx<'_>) -> Result<BTreeMap<JobId, JobBook>, StoreError> {
    let rows = tx.all("select * from jobs j join progress p on p.job_id = j.id", args![]).await?;
    let mut books = BTreeMap::new();
    for row in &rows {
        books.insert(row.id("id")?, job_book(row)?);
    }
    for row in tx.all("select job_id, on_id from dependencies", args![]).await? {
        let job: JobId = row.id("job_id")?;
        let book = books.get_mut(&job).expect("a job that is not there waits");
        book.waits_for.insert(row.id("on_id")?);
    }
    Ok(books)
}

fn job_book(row: &Row) -> Result<JobBook, StoreError> {
    Ok(JobBook {
        state: jobs::state(row)?,
        stops: row.json::<Options>("options")?.on_error == OnError::Stop,
        runnable: row.flag("runnable")?,
        total: row.count("total")?,
        cursor: row.count("cursor")?,
        done: row.count("done")?,
        failed: row.count("failed")?,
        running: row.count("running")?,
        slots: row.count("slots")?,
        after: row.json("after_jobs")?,
        waits_for: BTreeSet::new(),
        retry_of: row.maybe_id("retry_of")?,
        retried_as: row.maybe_id("retried_as")?,
    })
}

struct LeaseBook {
    id: LeaseId,
    job: JobId,
    state: String,
    ranges: RangeSet,
    remaining: u64,
    slots: u64,
}

async fn lease_books(tx: &mut Tx<'_>) -> Result<Vec<LeaseBook>, StoreError> {
    let rows = tx
        .all(
            "select id, job_id, state, ranges, remaining, slots from leases
             where job_id not in (select job_id from trash)",
            args![],
        )
        .await?;
    let book = |row: &Row| {
        Ok(LeaseBook {
            id: row.id("id")?,
            job: row.id("job_id")?,
            state: row.text("state")?,
            ranges: row.json("ranges")?,
            remaining: row.count("remaining")?,
            slots: row.count("slots")?,
        })
    };
    rows.iter().map(book).collect()
}
