//! The books of a database: that [`check`](super::super::check) finds nothing wrong with them, and that
//! what is there is what was accepted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::JobId;

use super::super::check::{self, Report};
use super::super::db::args;
use super::{Fixture, read};
use crate::blobs::{Blobs, Inspected};

/// The elements of a job that have an outcome, and whether it is an error.
pub type Expected = BTreeMap<u64, bool>;

/// What is wrong with the database and its blobs, of which the bytes are read if `deep`.
pub async fn faults(fixture: &Fixture, blobs: &Blobs, deep: bool) -> Report {
    let blobs = Inspected::of(blobs);
    read!(fixture, |tx| check::run(tx, &blobs, deep))
}

/// Checks all rows against one another, and the outcomes against those `expected`.
pub async fn check(fixture: &Fixture, blobs: &Blobs, expected: &HashMap<JobId, Expected>) {
    let report = faults(fixture, blobs, false).await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    let rows = read!(fixture, |tx| tx.all("select id, runnable from jobs", args![]));
    let ids: BTreeSet<JobId> = rows.iter().map(|row| row.id("id").unwrap()).collect();
    assert_eq!(ids, expected.keys().copied().collect(), "jobs are lost, or were not deleted");
    for &id in &ids {
        check_outcomes(fixture, blobs, id, &expected[&id]).await;
    }
    let runnable = rows.iter().filter(|row| row.flag("runnable").unwrap());
    let runnable: BTreeSet<JobId> = runnable.map(|row| row.id("id").unwrap()).collect();
    let found = read!(fixture, |tx| super::runnable_jobs(tx, 8));
    assert_eq!(found.iter().map(|job| job.id).collect::<BTreeSet<_>>(), runnable);
}

/// Every outcome is the one that was accepted.
async fn check_outcomes(fixture: &Fixture, blobs: &Blobs, job: JobId, expected: &Expected) {
    let mut seen = Expected::new();
    for outcome in fixture.outcomes(job).await {
        let block = outcome.block.load(blobs).await.unwrap();
        assert_eq!(outcome.notes.len(), block.lengths.len());
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
         union all select 'needs', count(*) from needs
         union all select 'job_blobs', count(*) from job_blobs
         union all select 'artifacts', count(*) from artifacts
         union all select 'drafts', count(*) from drafts
         union all select 'trash', count(*) from trash",
        args![]
    ));
    for row in rows {
        assert_eq!(row.count("n").unwrap(), 0, "{}", row.text("name").unwrap());
    }
}
