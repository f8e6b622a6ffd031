//! Artifacts: who refers to their blobs, who may read them, and for how long.

use protocol::JobId;
use protocol::Range;
use protocol::agent::Note;
use protocol::artifact::Artifact;
use protocol::job::JobState;

use super::super::leases::Grant;
use super::super::reports::NewPiece;
use super::super::retries::{self, Retried};
use super::super::{ends, references, trash, uploads};
use super::books::{check_nothing_is_left, faults};
use super::{Fixture, actor, collecting, failing, piece, read, write};
use crate::blobs::Blobs;
use crate::retry::{work_out, write_in_slices};

/// Blobs, each of one byte.
struct Files {
    blobs: Blobs,
    _folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { blobs: Blobs::open(folder.path()).unwrap(), _folder: folder }
    }

    /// A file that holds `byte`, put.
    async fn file(&self, byte: u8) -> Artifact {
        let digest = self.blobs.put(vec![byte].into()).await.unwrap();
        Artifact { name: format!("{byte}"), digest, bytes: 1 }
    }

    /// A report of the elements of `range`, each of which has left a file of its index and one that is
    /// the same for all, twice.
    async fn left(&self, grant: &Grant, range: Range) -> NewPiece {
        let mut piece = piece(grant, range);
        let same = Artifact { name: "again".to_owned(), ..self.file(b'x').await };
        for (position, index) in (0..).zip(range.0..range.1) {
            let own = self.file(index as u8).await;
            let artifacts = vec![own, self.file(b'x').await, same.clone()];
            piece.notes.push(Note { position, artifacts, ..Note::default() });
        }
        piece
    }

    /// Of the files of these bytes, those to which nothing refers.
    async fn unreferenced(&self, fixture: &Fixture, bytes: &[u8]) -> Vec<u8> {
        let mut found = Vec::new();
        for &byte in bytes {
            let digests = vec![self.file(byte).await.digest];
            if !read!(fixture, |tx| references::unreferenced(tx, &digests)).is_empty() {
                found.push(byte);
            }
        }
        found
    }

    async fn may_read(&self, fixture: &Fixture, owner: &'static str, byte: u8) -> bool {
        let digest = self.file(byte).await.digest;
        read!(fixture, |tx| uploads::has(tx, owner, &digest))
    }
}

/// A map of six elements in one chunk, leased.
async fn leased(fixture: &Fixture) -> (JobId, protocol::AgentId, Grant) {
    let agent = fixture.agent(1).await;
    let mut job = collecting(6);
    job.options.chunk_size = Some(6);
    let job = fixture.submit(job).await;
    (job, agent, fixture.grant(agent, 1).await.remove(0))
}

async fn delete(fixture: &Fixture, job: JobId) {
    write!(fixture, |tx| trash::delete(tx, job));
    while write!(fixture, |tx| trash::clear(tx, 2)) {}
}

#[tokio::test]
async fn an_accepted_outcome_refers_to_its_artifacts_and_its_owner_may_read_them() {
    let (fixture, files) = (Fixture::new().await, Files::new());
    let (job, agent, grant) = leased(&fixture).await;
    let none = [0, 1, 2, b'x'];
    assert_eq!(files.unreferenced(&fixture, &none).await, none);
    assert!(!files.may_read(&fixture, "ada", 0).await);
    let report = files.left(&grant, Range(0, 2)).await;
    // Sent twice, and then once more under a lease that is not the agent's.
    fixture.report(agent, vec![report.clone(), report.clone()]).await;
    let other = fixture.agent(1).await;
    fixture.report(other, vec![files.left(&grant, Range(2, 3)).await]).await;
    assert_eq!(files.unreferenced(&fixture, &none).await, [2]);
    for (byte, ada) in [(0, true), (1, true), (b'x', true), (2, false)] {
        assert_eq!(files.may_read(&fixture, "ada", byte).await, ada);
        assert!(!files.may_read(&fixture, "bob", byte).await);
    }
    let referenced = read!(fixture, |tx| references::referenced(tx, "", 10));
    assert_eq!(referenced.len(), 3);
    assert_eq!(fixture.outcomes(job).await[0].notes[1].artifacts.len(), 3);
    let report = faults(&fixture, &files.blobs, true).await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

#[tokio::test]
async fn a_deleted_jobs_artifacts_are_nobodys_at_once_and_unreferenced_when_it_is_cleared() {
    let (fixture, files) = (Fixture::new().await, Files::new());
    let (job, agent, grant) = leased(&fixture).await;
    let report = files.left(&grant, Range(0, 6)).await;
    fixture.report(agent, vec![report]).await;
    write!(fixture, |tx| trash::delete(tx, job));
    assert!(!files.may_read(&fixture, "ada", 0).await);
    assert!(files.unreferenced(&fixture, &[0, 5, b'x']).await.is_empty());
    let report = faults(&fixture, &files.blobs, false).await;
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    while write!(fixture, |tx| trash::clear(tx, 2)) {}
    assert_eq!(files.unreferenced(&fixture, &[0, 5, b'x']).await, [0, 5, b'x']);
    check_nothing_is_left(&fixture).await;
}

#[tokio::test]
async fn a_retry_refers_to_the_artifacts_of_the_values_that_it_takes_over() {
    for slice in [None, Some(1), Some(2), Some(100)] {
        let (fixture, files) = (Fixture::new().await, Files::new());
        let (job, agent, grant) = leased(&fixture).await;
        // All values; a value between errors; nothing of the last element.
        let mut mixed = files.left(&grant, Range(2, 5)).await;
        mixed.errors = vec![0, 2];
        mixed.first_error = failing(&grant, 2, false).first_error;
        let values = files.left(&grant, Range(0, 2)).await;
        fixture.report(agent, vec![values, mixed]).await;
        write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
        let retry = work_out(&fixture.store, &files.blobs, &fixture.job(job).await).await.unwrap();
        let id = retry.id;
        let retried = match slice {
            Some(slice) => {
                write_in_slices(&fixture.store, retry, slice, actor("1"), 11).await.unwrap()
            }
            None => write!(fixture, |tx| retries::insert(tx, retry, 11)),
        };
        assert_eq!(retried, Retried::Now);
        let report = faults(&fixture, &files.blobs, true).await;
        assert!(report.findings.is_empty(), "{slice:?} {:#?}", report.findings);
        delete(&fixture, job).await;
        assert_eq!(files.unreferenced(&fixture, &[0, 1, 2, 3, 4, b'x']).await, [2, 4]);
        assert!(files.may_read(&fixture, "ada", 3).await);
        let report = faults(&fixture, &files.blobs, true).await;
        assert!(report.findings.is_empty(), "{slice:?} {:#?}", report.findings);
        write!(fixture, |tx| ends::end(tx, id, JobState::Cancelled, None, 12));
        delete(&fixture, id).await;
        check_nothing_is_left(&fixture).await;
    }
}
