//! Whether all of a database is as it must be: what rows claim is recounted from other rows.
//!
//! * [`jobs`]: states, counters, flags, and what jobs say of one another.
//! * [`leases`]: what agents hold, and what came back.
//! * [`outcomes`]: accepted outcomes, their ranks, whether they can be read.
//! * [`inputs`]: elements, names, the sizes of outer elements.
//! * [`tiling`]: that each element is in one place, once.
//! * [`payloads`]: bytes in rows and in blobs.
//! * [`orphans`]: rows of jobs that are not there.
//! * [`offers`]: what live agents offer together.
//!
//! It reads one snapshot, a job at a time, so that it can run beside a server. The tests of the store
//! call it after every step of their histories: what must hold is said here alone.

mod inputs;
mod jobs;
mod leases;
mod offers;
mod orphans;
mod outcomes;
mod payloads;
mod tiling;

use protocol::JobId;
use serde::Serialize;

use super::StoreError;
use super::db::{Tx, args};
use crate::blobs::Inspected;

/// Findings that are kept; more are counted.
const KEPT: usize = 1000;

/// Jobs that one read takes.
const PAGE: u32 = 200;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The file of the database itself is damaged.
    File,
    /// A column holds what no farrow has written.
    Unreadable,
    /// A job is in a state that does not fit what it has.
    State,
    /// Counters of a job are not what a recount gives.
    Counters,
    /// Whether something of a job can be leased is not what its row says.
    Runnable,
    /// A job waits for what it should not wait for, or does not wait for what it should.
    Dependencies,
    /// A job and its retry do not know each other.
    Retries,
    /// An element is nowhere, or in two places.
    Elements,
    /// A lease holds other elements than it says, or should not be there.
    Leases,
    /// Outcomes overlap, or cannot be read.
    Outcomes,
    /// The order in which outcomes came has gaps.
    Ranks,
    /// Inputs or names are missing, overlap, or cannot be read.
    Inputs,
    /// A row belongs to a job that is not there.
    Orphans,
    /// The blobs that a specification, or outcomes, refer to are not those that are written down.
    References,
    /// A blob is missing or is not what it should be.
    Blobs,
    /// What live agents offer together is not what a recount gives.
    Offers,
}

impl Kind {
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Unreadable => "unreadable",
            Self::State => "state",
            Self::Counters => "counters",
            Self::Runnable => "runnable",
            Self::Dependencies => "dependencies",
            Self::Retries => "retries",
            Self::Elements => "elements",
            Self::Leases => "leases",
            Self::Outcomes => "outcomes",
            Self::Ranks => "ranks",
            Self::Inputs => "inputs",
            Self::Orphans => "orphans",
            Self::References => "references",
            Self::Blobs => "blobs",
            Self::Offers => "offers",
        }
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// The job that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// What is wrong.
    pub text: String,
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Jobs that were looked at.
    pub jobs: u64,
    /// Outcomes of elements.
    pub outcomes: u64,
    /// References to blobs.
    pub blobs: u64,
    /// How much is wrong.
    pub n_findings: u64,
    /// What is wrong; the first thousand of it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds something that is wrong.
    pub fn add(&mut self, kind: Kind, job: Option<JobId>, text: impl Into<String>) {
        self.n_findings += 1;
        if self.findings.len() < KEPT {
            self.findings.push(Finding { kind, job, text: text.into() });
        }
    }
}

/// A check that is going on.
struct Check<'a> {
    report: Report,
    blobs: &'a Inspected,
    /// Whether the bytes of blobs are read.
    deep: bool,
    /// Blobs whose bytes were read.
    read: std::collections::HashSet<String>,
}

/// Checks all of a database and of the blobs that it refers to; of these the sizes, and on request
/// (`deep`) their bytes.
///
/// # Errors
/// The database's.
pub async fn run(tx: &mut Tx<'_>, blobs: &Inspected, deep: bool) -> Result<Report, StoreError> {
    let read = std::collections::HashSet::new();
    let mut check = Check { report: Report::default(), blobs, deep, read };
    let mut after = String::new();
    loop {
        let rows = tx.all(jobs::SELECT_PAGE, args![after.as_str(), PAGE]).await?;
        let Some(last) = rows.last() else { break };
        after = last.text("id")?;
        for row in &rows {
            check.report.jobs += 1;
            check.job(tx, row).await?;
        }
    }
    check.orphans(tx).await?;
    check.offers(tx).await?;
    Ok(check.report)
}
