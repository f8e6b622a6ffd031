//! The conformance suite of the store: what every database must do. The module is compiled twice, as
//! `tests` on SQLite and as `tests_on_postgres` on PostgreSQL.
//!
//! * [`conformance`]: each function, by example.
//! * [`losses`]: agents that are lost, come back or leave.
//! * [`takeover`]: leases ahead, and what idle slots take over.
//! * [`watching`]: what those who watch a job read, by example.
//! * [`contract`]: jobs that wait for others, are sent twice, retried, deleted.
//! * [`drafts`]: retries that are written in slices.
//! * [`costs`]: what grows with what.
//! * [`rights`]: tokens, whose things are whose, the audit log.
//! * [`artifacts`]: what elements leave behind, by example.
//! * [`keeping`]: old jobs deleted, references to blobs.
//! * [`objects`]: blobs in a bucket.
//! * [`damage`]: databases that are damaged, and what is found wrong with them.
//! * [`history`]: any order of submissions, grants, reports, losses, returns, retries and deletions
//!   keeps the [`books`].

mod artifacts;
mod books;
mod conformance;
mod contract;
mod costs;
mod damage;
mod drafts;
mod history;
mod keeping;
mod losses;
mod objects;
mod rights;
mod takeover;
mod watching;

use std::collections::{BTreeMap, HashSet};

use protocol::agent::{JobSpec, Register};
use protocol::job::{ElementError, Function, Level, OnError, Options, Runtime, Strategy};
use protocol::problem::FailedElement;
use protocol::{AgentId, JobId, PROTOCOL_VERSION, Range};

use super::audit::Actor;
use super::blocks::{Place, StoredBlock};
use super::db::Tx;
use super::jobs::{JobRow, NewJob};
use super::leases::Grant;
use super::reports::{NewPiece, Outcome};
use super::runnable::Walk;
use super::{Store, StoreError, agents, jobs, outcomes, reports};
use crate::block::{compress, pack};
use crate::dispatcher::{Decided, decide};
use crate::elements::Elements;
use crate::scheduler::assign::{Agent, Job};
use crate::scheduler::requirements::Offer;

/// Runs an operation in a transaction of the fixture's store.
macro_rules! write {
    ($fixture:expr, |$tx:ident| $operation:expr) => {
        $fixture.store.write(move |$tx| Box::pin(async move { $operation.await })).await.unwrap()
    };
}

/// Reads from the fixture's store.
macro_rules! read {
    ($fixture:expr, |$tx:ident| $operation:expr) => {
        $fixture.store.read(move |$tx| Box::pin(async move { $operation.await })).await.unwrap()
    };
}

pub(super) use {read, write};

/// A database of a test's own.
pub struct Fixture {
    pub store: Store,
    pub _folder: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = if module_path!().contains("tests_on_postgres") {
            let url = ::tests::postgres::Postgres::shared().create_database();
            Store::connect(&url).await.unwrap()
        } else {
            Store::open(folder.path()).await.unwrap()
        };
        Self { store, _folder: folder }
    }

    pub async fn agent(&self, slots: u32) -> AgentId {
        let agent = register(slots);
        let id = agent.id;
        write!(self, |tx| agents::register(tx, &agent, 0, 1000));
        id
    }

    pub async fn submit(&self, job: NewJob) -> JobId {
        let id = job.id;
        write!(self, |tx| jobs::insert(tx, job, 5));
        id
    }

    pub async fn map(&self, n: usize) -> JobId {
        self.submit(new_job(n)).await
    }

    /// One round for an agent with `free` slots.
    pub async fn grant(&self, agent: AgentId, free: u32) -> Vec<Grant> {
        write!(self, |tx| round(tx, agent, free))
    }

    pub async fn report(&self, agent: AgentId, pieces: Vec<NewPiece>) -> Outcome {
        write!(self, |tx| reports::report(tx, agent, pieces, 9))
    }

    pub async fn job(&self, job: JobId) -> JobRow {
        read!(self, |tx| jobs::find(tx, job)).unwrap()
    }

    pub async fn is_runnable(&self, job: JobId) -> bool {
        let jobs = read!(self, |tx| runnable_jobs(tx, 8));
        jobs.iter().any(|runnable| runnable.id == job)
    }

    pub async fn outcomes(&self, job: JobId) -> Vec<outcomes::Outcomes> {
        read!(self, |tx| outcomes::read(tx, job, 0, 100_000))
    }
}

/// One round of the dispatcher for an agent with `free` slots.
pub async fn round(tx: &mut Tx<'_>, agent: AgentId, free: u32) -> Result<Vec<Grant>, StoreError> {
    Ok(decision(tx, agent, 64, free, 0).await?.grants)
}

/// One round of the dispatcher for an agent of `slots` slots, of which some are `free`, that would hold
/// `ahead` leases beside.
pub async fn decision(
    tx: &mut Tx<'_>,
    agent: AgentId,
    slots: u32,
    free: u32,
    ahead: u32,
) -> Result<Decided, StoreError> {
    let agents = vec![waiting(agent, slots, free, ahead)];
    Ok(decide(tx, agents, &HashSet::new(), 7).await?.unwrap_or_default())
}

/// An agent of `slots` slots that waits for work, without labels.
fn waiting(id: AgentId, slots: u32, free: u32, ahead: u32) -> Agent {
    Agent {
        id,
        free,
        ahead,
        slots,
        memory: 1 << 34,
        free_memory: 1 << 34,
        runtimes: vec![Runtime::Python],
        labels: BTreeMap::new(),
    }
}

/// All runnable jobs, as the scheduler sees them with `slots` in the cluster.
async fn runnable_jobs(tx: &mut Tx<'_>, slots: u64) -> Result<Vec<Job>, StoreError> {
    let agents = [waiting(AgentId::new(), 1, 1, 0)];
    let Some(mut walk) = Walk::start(tx, &agents, 2).await? else { return Ok(Vec::new()) };
    let offers = [Offer { runtimes: vec![Runtime::Python], labels: BTreeMap::new(), slots }];
    let mut jobs = Vec::new();
    loop {
        match walk.next(tx, &offers).await? {
            page if page.is_empty() => return Ok(jobs),
            page => jobs.extend(page),
        }
    }
}

/// Ada, by this request.
pub fn actor(request: &str) -> Actor {
    Actor {
        token: "ada".to_owned(),
        name: "ada's laptop".to_owned(),
        address: Some("10.0.0.1".to_owned()),
        request: request.to_owned(),
    }
}

/// An agent that is new.
pub fn register(slots: u32) -> Register {
    Register {
        id: AgentId::new(),
        name: "host".to_owned(),
        protocol: PROTOCOL_VERSION,
        version: "0.1.0".to_owned(),
        slots,
        physical_cores: 4,
        logical_cores: 8,
        memory: 1 << 34,
        runtimes: BTreeMap::from([(Runtime::Python, "3.11".to_owned())]),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        leases: Vec::new(),
    }
}

/// A map of the integers from 0 to `n` that stops at the first error.
pub fn new_job(n: usize) -> NewJob {
    let id = JobId::new();
    let payloads: Vec<String> = (0..n).map(|i| i.to_string()).collect();
    let stored = |block: crate::block::Block| StoredBlock {
        first: block.first,
        lengths: block.lengths,
        place: Place::Row(compress(&block.data)),
    };
    NewJob {
        id,
        owner: "ada".to_owned(),
        name: Some("squares".to_owned()),
        plan: vec![Level::new(Strategy::Cluster)],
        options: Options::default(),
        after: Vec::new(),
        idempotency_key: None,
        spec: JobSpec {
            id,
            owner: "ada".to_owned(),
            runtime: Runtime::Python,
            function: Function::Source("lambda x: x".to_owned()),
            args: BTreeMap::new(),
            globals: BTreeMap::new(),
            packages: Vec::new(),
            is_call: false,
            prepare: String::new(),
            setup: String::new(),
            files: None,
            workdir: None,
            options: Options::default(),
        },
        elements: Elements {
            total: n as u64,
            input_bytes: 1,
            blocks: pack(&payloads).into_iter().map(stored).collect(),
            ..Elements::default()
        },
    }
}

/// A map that collects errors.
pub fn collecting(n: usize) -> NewJob {
    let mut job = new_job(n);
    job.options.on_error = OnError::Collect;
    job
}

/// A report of the elements of `range`, each its own square.
pub fn piece(grant: &Grant, range: Range) -> NewPiece {
    let values: Vec<String> = (range.0..range.1).map(|i| (i * i).to_string()).collect();
    let data = values.concat();
    NewPiece {
        lease: grant.id,
        job: grant.job,
        block: StoredBlock {
            first: range.0,
            lengths: values.iter().map(|value| value.len() as u32).collect(),
            place: Place::Row(compress(data.as_bytes())),
        },
        errors: Vec::new(),
        first_error: None,
        notes: Vec::new(),
        slot: 0,
        pid: 1,
        started_at: 6,
        micros: 10,
    }
}

/// An error of element `index`.
pub fn failing(grant: &Grant, index: u64, fatal: bool) -> NewPiece {
    let error = ElementError {
        kind: "ValueError".to_owned(),
        message: "no".to_owned(),
        call: None,
        traceback: Vec::new(),
        fatal,
    };
    let mut piece = piece(grant, Range(index, index + 1));
    piece.errors = vec![0];
    piece.first_error = Some(FailedElement::new(index, error));
    piece
}

/// Reports of all that a grant holds.
pub fn all_of(grant: &Grant) -> Vec<NewPiece> {
    grant.ranges.ranges().iter().map(|&range| piece(grant, range)).collect()
}
