//! Histories: whatever is submitted, granted, reported late or twice, lapsed, released, revived,
//! cancelled, retried and deleted, the books are right.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proptest::prelude::*;
use protocol::agent::{Constant, Note, Released, Verdict};
use protocol::artifact::Artifact;
use protocol::job::{Encoding, JobState, Level, OnError, Strategy as Spread};
use protocol::{AgentId, JobId, Range, RangeSet};

use super::super::blocks::Place;
use super::super::ends;
use super::super::leases::{self, Grant};
use super::super::reports::NewPiece;
use super::super::retries::{Retried, Retry};
use super::super::trash;
use super::books::{Expected, check, check_nothing_is_left};
use super::{Fixture, actor, all_of, failing, new_job, piece, read, write};
use crate::blobs::{Blobs, N_PARTS};
use crate::collector::collect;
use crate::retry::{work_out, write_in_slices};
use crate::scheduler::lease::MAX_LOST_AGENTS;

/// When histories end: jobs end from 5 on.
const NOW: i64 = 12;

/// What a history does next. Jobs and grants are picked by number from all that ever were, however
/// outdated.
#[derive(Clone, Debug)]
enum Step {
    Submit(Submission),
    Grant {
        agent: usize,
        free: u32,
    },
    /// Reports part of a lease in two pieces; the bits of `errors` say which elements failed.
    Report {
        grant: usize,
        from: u64,
        n: [u64; 2],
        errors: u32,
        fatal: bool,
    },
    /// Gives a lease back, or so many of its elements from one on.
    Release {
        grant: usize,
        part: Option<(u64, u64)>,
    },
    Lapse {
        agent: usize,
    },
    Revive {
        grant: usize,
    },
    Cancel {
        job: usize,
    },
    /// Retries a job, cancelled before if it has not ended.
    Retry {
        job: usize,
    },
    Delete {
        job: usize,
    },
    /// Deletes the jobs that ended more than so long ago, in steps of two.
    Expire {
        keep: i64,
    },
    /// Clears some rows of deleted jobs.
    Clear,
    /// Removes the blobs to which nothing refers, however young.
    Collect,
}

/// A job of a history.
#[derive(Clone, Debug)]
struct Submission {
    n: usize,
    chunk: Option<u64>,
    collects: bool,
    nested: bool,
    after: Vec<usize>,
    /// Which of a few blobs its arguments, its files and its elements are in.
    blobs: [Option<u8>; 3],
}

fn any_submission() -> impl Strategy<Value = Submission> {
    let after = prop::collection::vec(any::<usize>(), 0..3);
    let blobs = prop::array::uniform3(prop::option::of(0..3_u8));
    (0..40_usize, prop::option::of(1..20_u64), any::<bool>(), any::<bool>(), after, blobs).prop_map(
        |(n, chunk, collects, nested, after, blobs)| Submission {
            n,
            chunk,
            collects,
            nested,
            after,
            blobs,
        },
    )
}

fn any_report() -> impl Strategy<Value = Step> {
    let errors = prop_oneof![Just(0), any::<u32>(), (0..32_u32).prop_map(|bit| 1 << bit)];
    (any::<usize>(), 0..12_u64, (1..6_u64, 0..6_u64), errors, prop::bool::weighted(0.02)).prop_map(
        |(grant, from, n, errors, fatal)| Step::Report {
            grant,
            from,
            n: [n.0, n.1],
            errors,
            fatal,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let part = prop::option::of((0..40_u64, 0..12_u64));
    prop_oneof![
        2 => any_submission().prop_map(Step::Submit),
        8 => (0..3_usize, 1..4_u32).prop_map(|(agent, free)| Step::Grant { agent, free }),
        16 => any_report(),
        2 => (any::<usize>(), part).prop_map(|(grant, part)| Step::Release { grant, part }),
        2 => (0..3_usize).prop_map(|agent| Step::Lapse { agent }),
        2 => any::<usize>().prop_map(|grant| Step::Revive { grant }),
        1 => any::<usize>().prop_map(|job| Step::Cancel { job }),
        3 => any::<usize>().prop_map(|job| Step::Retry { job }),
        2 => any::<usize>().prop_map(|job| Step::Delete { job }),
        1 => (0..6_i64).prop_map(|keep| Step::Expire { keep }),
        1 => Just(Step::Clear),
        2 => Just(Step::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// No element is lost or has two outcomes, an accepted outcome never changes, the counters tell
    /// the truth, and all comes to an end.
    #[test]
    fn every_history_keeps_the_books(
        first in any_submission(),
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history = History::new().await;
            history.step(Step::Submit(first)).await;
            for step in steps {
                history.step(step).await;
                check(&history.fixture, &history.blobs, &history.expected).await;
            }
            history.end_all().await;
            check(&history.fixture, &history.blobs, &history.expected).await;
            history.delete_all().await;
            check_nothing_is_left(&history.fixture).await;
            history.collect().await;
            assert_eq!(history.blobs_left(), Vec::<String>::new());
        });
    }
}

/// A store, and what it must hold by what it has answered.
struct History {
    fixture: Fixture,
    blobs: Blobs,
    folder: tempfile::TempDir,
    agents: Vec<AgentId>,
    /// Every grant that there was.
    granted: Vec<Grant>,
    /// Every job that there was, also those that were deleted.
    jobs: Vec<JobId>,
    expected: HashMap<JobId, Expected>,
}

impl History {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let folder = tempfile::tempdir().unwrap();
        let mut agents = Vec::new();
        for _ in 0..3 {
            agents.push(fixture.agent(4).await);
        }
        let blobs = Blobs::open(folder.path()).unwrap();
        Self {
            fixture,
            blobs,
            folder,
            agents,
            granted: Vec::new(),
            jobs: Vec::new(),
            expected: HashMap::new(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Submit(submission) => self.submit(submission).await,
            Step::Grant { agent, free } => {
                self.granted.extend(self.fixture.grant(self.agents[agent], free).await);
            }
            Step::Report { grant, from, n, errors, fatal } => {
                self.report(grant, from, n, errors, fatal).await;
            }
            Step::Release { grant, part } => {
                let Some(grant) = pick(&self.granted, grant) else { return };
                let of = |(from, n)| RangeSet::from_range(Range(from, from + n));
                let whole = Released::whole(grant.id, BTreeMap::new());
                let released = Released { part: part.map(of), ..whole };
                write!(self.fixture, |tx| leases::release(tx, grant.agent, &released));
            }
            Step::Lapse { agent } => self.lapse(self.agents[agent]).await,
            Step::Revive { grant } => {
                let Some(grant) = pick(&self.granted, grant) else { return };
                write!(self.fixture, |tx| leases::revive(tx, grant.agent, grant.id));
            }
            Step::Cancel { job } => {
                let Some(job) = pick(&self.jobs, job) else { return };
                write!(self.fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
            }
            Step::Retry { job } => {
                let Some(job) = pick(&self.jobs, job) else { return };
                self.retry(job).await;
            }
            Step::Delete { job } => {
                let Some(job) = pick(&self.jobs, job) else { return };
                self.delete(job).await;
            }
            Step::Expire { keep } => self.expire(NOW - keep).await,
            Step::Clear => {
                write!(self.fixture, |tx| trash::clear(tx, 3));
            }
            Step::Collect => self.collect().await,
        }
    }

    async fn submit(&mut self, submission: Submission) {
        let mut job = new_job(submission.n);
        job.options.chunk_size = submission.chunk;
        job.options.on_error = if submission.collects { OnError::Collect } else { OnError::Stop };
        if submission.nested {
            job.elements.shape.nested = true;
            job.plan.push(Level::new(Spread::Multisession));
            let n = submission.n as u64;
            job.elements.groups = (0..n.div_ceil(3)).map(|i| 3.min(n - 3 * i)).collect();
        }
        let [argument, files, elements] = submission.blobs;
        if let Some(which) = argument {
            let digest = self.blob(&format!("argument {which}")).await;
            let constant = Constant::Blob { digest, encoding: Encoding::Json };
            job.spec.args.insert("x".to_owned(), constant);
        }
        if let Some(which) = files {
            // The same as an argument of another job, now and then.
            job.spec.files = Some(self.blob(&format!("argument {which}")).await);
        }
        if elements.is_some() {
            for block in &mut job.elements.blocks {
                let data = block.place.load(&self.blobs).await.unwrap();
                block.place = Place::Blob(self.blobs.put(data).await.unwrap());
            }
        }
        for on in submission.after.iter().filter_map(|&on| pick(&self.jobs, on)) {
            // The server refuses what comes after a job that is not there.
            if read!(self.fixture, |tx| ends::state_of(tx, on)).is_some() {
                job.after.push(on);
            }
        }
        self.jobs.push(job.id);
        self.expected.insert(job.id, Expected::new());
        self.fixture.submit(job).await;
    }

    async fn report(&mut self, grant: usize, from: u64, n: [u64; 2], errors: u32, fatal: bool) {
        let Some(grant) = pick(&self.granted, grant) else { return };
        let all = grant.ranges.ranges();
        let range = all[from as usize % all.len()];
        let first = range.0 + from % range.len();
        // Mostly what the lease held, sometimes more.
        let end = if from == 0 { u64::MAX } else { range.1 };
        let between = end.min(first + n[0]);
        let ranges = [Range(first, between), Range(between, end.min(between + n[1]))];
        let pieces = ranges.into_iter().filter(|range| !range.is_empty());
        let mut pieces: Vec<_> = pieces.map(|range| noted(&grant, range, errors, fatal)).collect();
        if errors.is_multiple_of(3) {
            self.store_in_blobs(&mut pieces).await;
        }
        self.accept(grant.agent, pieces).await;
    }

    /// Lets outcomes stand in blobs, as large ones do.
    async fn store_in_blobs(&self, pieces: &mut [NewPiece]) {
        for piece in pieces {
            let data = piece.block.place.load(&self.blobs).await.unwrap();
            piece.block.place = Place::Blob(self.blobs.put(data).await.unwrap());
        }
    }

    async fn blob(&self, text: &str) -> String {
        self.blobs.put(text.to_owned().into()).await.unwrap()
    }

    /// Removes blobs; the books say afterwards whether one was needed.
    async fn collect(&self) {
        collect(&self.fixture.store, &self.blobs, Duration::ZERO).await.unwrap();
    }

    fn blobs_left(&self) -> Vec<String> {
        let inside =
            |part: usize| std::fs::read_dir(self.folder.path().join(format!("{part:02x}")));
        let names = (0..N_PARTS).filter_map(|part| inside(part).ok()).flatten();
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn expire(&mut self, before: i64) {
        let mut from = None;
        loop {
            let expired = write!(self.fixture, |tx| trash::expire(tx, before, from, 2));
            for job in expired.deleted {
                let expected = self.expected.remove(&job);
                assert!(expected.is_some(), "job {job} was deleted twice");
            }
            from = expired.next;
            if from.is_none() {
                break;
            }
        }
    }

    /// Sends a report and keeps what was accepted of it.
    async fn accept(&mut self, agent: AgentId, pieces: Vec<NewPiece>) {
        // What elements have left is there before their outcomes.
        assert_eq!(self.blobs.put(bytes::Bytes::new()).await.unwrap(), EMPTY);
        let verdicts = self.fixture.report(agent, pieces.clone()).await.verdicts;
        for (piece, verdict) in pieces.into_iter().zip(verdicts) {
            if verdict == Verdict::Stale {
                continue;
            }
            let Some(expected) = self.expected.get_mut(&piece.job) else { continue };
            for index in piece.block.first..piece.block.end() {
                let position = (index - piece.block.first) as u32;
                // One that was accepted before stays as it was.
                expected.entry(index).or_insert(piece.errors.contains(&position));
            }
        }
    }

    async fn lapse(&self, agent: AgentId) {
        // Elements that many agents were lost with are the reaper's business.
        let held = read!(self.fixture, |tx| leases::of_agent(tx, agent));
        if held.iter().all(|lease| lease.lost + 1 < MAX_LOST_AGENTS) {
            write!(self.fixture, |tx| leases::lapse(tx, agent));
        }
    }

    async fn retry(&mut self, job: JobId) {
        let Some(row) = read!(self.fixture, |tx| super::jobs::find(tx, job)) else { return };
        if !row.state.is_final() {
            write!(self.fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
        }
        let retry = work_out(&self.fixture.store, &self.blobs, &row).await.unwrap();
        if retry.rows.is_empty() && row.state == JobState::Resolved {
            return;
        }
        let id = retry.id;
        let again = Retry { id: JobId::new(), ..retry.clone() };
        // As a large one is, in slices of two rows.
        match write_in_slices(&self.fixture.store, retry, 2, actor("1"), 11).await.unwrap() {
            Retried::Now => {
                let mut values = self.expected[&job].clone();
                values.retain(|_, is_error| !*is_error);
                self.expected.insert(id, values);
                self.jobs.push(id);
                let store = &self.fixture.store;
                let repeated = write_in_slices(store, again, 2, actor("2"), 11).await.unwrap();
                assert_eq!(repeated, Retried::Before(id));
            }
            Retried::Before(before) => assert_eq!(row.retried_as, Some(before)),
            Retried::Dependency(..) => assert_eq!(row.started_at, None, "it had waited for all"),
            Retried::Unknown => panic!("job {job} was there a moment ago"),
        }
    }

    async fn delete(&mut self, job: JobId) {
        if write!(self.fixture, |tx| trash::delete(tx, job)) == trash::Deleted::Now {
            self.expected.remove(&job);
        }
    }

    /// Lets one agent run all that there is, without an error.
    async fn end_all(&mut self) {
        for agent in self.agents.clone() {
            write!(self.fixture, |tx| leases::lapse(tx, agent));
        }
        let agent = self.agents[0];
        loop {
            let grants = self.fixture.grant(agent, 64).await;
            if grants.is_empty() {
                break;
            }
            let whole = |grant| all_of(grant).into_iter().map(with_notes).collect::<Vec<_>>();
            self.accept(agent, grants.iter().flat_map(whole).collect()).await;
        }
        for &job in self.expected.keys() {
            let state = self.fixture.job(job).await.state;
            assert!(state.is_final(), "job {job} is {state:?} for ever");
        }
    }

    async fn delete_all(&mut self) {
        // Retries before what they retry, which is then to forget them.
        for job in self.jobs.clone().into_iter().rev() {
            self.delete(job).await;
            check(&self.fixture, &self.blobs, &self.expected).await;
        }
        while write!(self.fixture, |tx| trash::clear(tx, 100)) {}
    }
}

fn pick<T: Clone>(all: &[T], number: usize) -> Option<T> {
    all.get(number % all.len().max(1)).cloned()
}

/// A piece whose elements fail by the bits of `errors`, each with a note of its own.
fn noted(grant: &Grant, range: Range, errors: u32, fatal: bool) -> NewPiece {
    let mut piece = with_notes(piece(grant, range));
    let fails = |index: &u64| errors >> (index % 32) & 1 == 1;
    let failed: Vec<u64> = (range.0..range.1).filter(fails).collect();
    piece.errors = failed.iter().map(|index| (index - range.0) as u32).collect();
    piece.first_error = failed.first().and_then(|&index| failing(grant, index, fatal).first_error);
    piece
}

/// The blob of no bytes.
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Lets every element say its index, so that what was moved to another's place is seen. Every third
/// leaves a file.
fn with_notes(piece: NewPiece) -> NewPiece {
    let file = || Artifact { name: "file".to_owned(), digest: EMPTY.to_owned(), bytes: 0 };
    let note = |(position, index): (u32, u64)| Note {
        position,
        stdout: index.to_string(),
        artifacts: (index % 3 == 0).then(file).into_iter().collect(),
        ..Note::default()
    };
    let notes = (0..).zip(piece.block.first..piece.block.end()).map(note).collect();
    NewPiece { notes, ..piece }
}
