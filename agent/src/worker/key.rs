//! Which jobs a worker may run.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::job::Runtime;

use crate::prepared::Environment;

/// What must be equal for a worker to run another job: owners never share a process, and what
/// libraries read only once, the number of cores, stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerKey {
    /// What it runs.
    pub runtime: Runtime,
    /// Whose code it runs.
    pub owner: String,
    /// How many cores it may use.
    pub cores: u32,
    /// Bytes of memory that it may use: what one job leaves in a process counts for the next.
    pub memory: Option<u64>,
    /// What is prepared for it.
    pub prepared: Option<Arc<Environment>>,
    /// Whether it has a folder for artifacts. Code of jobs that did not ask for them is not told of one,
    /// in which what it writes would be lost without a word.
    pub artifacts: bool,
    /// Where it works, if not in a folder of its own.
    pub workdir: Option<PathBuf>,
}

impl WorkerKey {
    /// The key of a worker that has nothing of what a job brings; nothing if this one has not either.
    pub fn plain(&self) -> Option<Self> {
        let is_plain = self.prepared.is_none() && self.workdir.is_none();
        (!is_plain).then(|| Self { prepared: None, workdir: None, ..self.clone() })
    }

    /// What its working directory holds in the beginning, if it is its own and not empty.
    pub fn files(&self) -> Option<PathBuf> {
        let prepared = self.prepared.as_ref().filter(|_| self.workdir.is_none());
        prepared.map(|prepared| prepared.files())
    }
}
