//! What the agent knows of jobs, so that the server need not send it with every lease.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::JobId;
use protocol::agent::{Constant, JobSpec};
use protocol::job::{ElementError, Encoding, Runtime};
use serde::de::IgnoredAny;
use tokio::sync::OnceCell;

use crate::blobs::{Blobs, InFile};
use crate::frame::{self, Outgoing, kind};
use crate::pace::{Learned, Pace};
use crate::runtimes::{self, ConstantValue, Constants, Content, WorkerJob, fatal};

/// Jobs remembered.
const REMEMBERED: usize = 256;
/// Jobs named to the server as known. Far fewer than remembered, so that none is forgotten between
/// the request that names it and the lease that relies on that.
const NAMED: usize = 64;
/// Jobs remembered that have ended: a lease of one may still be on its way.
const ENDED: usize = 16;
/// Bytes of what it is made of up to which a job is encoded where that is asked for: to have another thread do it takes longer.
const AT_ONCE: usize = 64 << 10;
/// Bytes kept of what sets up remembered jobs. Those of jobs with a lease stay beyond it.
const SET_UPS_KEPT: u64 = 64 << 20;

/// A job, and what sets it up.
#[derive(Debug)]
pub struct Job {
    /// What the server said of it.
    pub spec: JobSpec,
    /// What sets it up in a worker, by the cores that an element has.
    set_ups: Mutex<BTreeMap<u32, Arc<OnceCell<SetUp>>>>,
    /// How quick its elements were, the last time that somebody looked.
    learned: Mutex<Option<Learned>>,
    has_ended: AtomicBool,
}

/// What sets a job up in a worker. The files that the frame names are there while this lives.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    /// The frame that is sent to the worker.
    pub frame: Outgoing,
    files: Vec<InFile>,
}

impl SetUp {
    /// Whether the files are still where workers look for them.
    pub fn is_there(&self) -> bool {
        self.files.iter().all(InFile::is_there)
    }

    /// Bytes that it keeps from being used otherwise, in memory and on disk.
    fn size(&self) -> u64 {
        let files = self.files.iter().filter_map(InFile::get).map(|file| file.size);
        self.frame.size() as u64 + files.sum::<u64>()
    }
}

impl Job {
    fn new(spec: JobSpec) -> Self {
        Self {
            spec,
            set_ups: Mutex::default(),
            learned: Mutex::default(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// What a lane has learned of how quick the elements are.
    pub fn learned(&self) -> Option<Learned> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a lane has learned.
    pub fn learn(&self, pace: &Pace) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = pace.learned();
    }

    /// How long an element may run.
    pub fn timeout(&self) -> Option<Duration> {
        self.spec.options.timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// What sets the job up in a worker whose elements have `cores` cores.
    ///
    /// # Errors
    /// When it cannot be made: a constant is missing or cannot be said in the runtime's language.
    /// The error fails the job.
    pub async fn set_up(&self, cores: u32, blobs: &Blobs) -> Result<SetUp, ElementError> {
        let cell = {
            let mut set_ups = self.lock();
            let cell = set_ups.entry(cores).or_default();
            // Code of jobs may have removed the files.
            if cell.get().is_some_and(|set_up| !set_up.is_there()) {
                *cell = Arc::default();
            }
            Arc::clone(cell)
        };
        cell.get_or_try_init(|| self.make_set_up(cores, blobs)).await.cloned()
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Bytes of what there is to set it up.
    fn set_up_bytes(&self) -> u64 {
        self.lock().values().filter_map(|set_up| set_up.get()).map(SetUp::size).sum()
    }

    fn forget_set_ups(&self) {
        self.lock().clear();
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<OnceCell<SetUp>>>> {
        self.set_ups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_set_up(&self, cores: u32, blobs: &Blobs) -> Result<SetUp, ElementError> {
        let (spec, runtime) = (&self.spec, self.spec.runtime);
        let mut resolver = Resolver { runtime, blobs, files: Vec::new() };
        let job = WorkerJob {
            id: spec.id,
            is_call: spec.is_call,
            function: spec.function.clone(),
            args: resolver.resolve("args", &spec.args).await?,
            globals: resolver.resolve("globals", &spec.globals).await?,
            packages: spec.packages.clone(),
            setup: spec.setup.clone(),
            cores,
            options: spec.options.clone(),
        };
        let files = resolver.files;
        let body = if job.n_bytes() <= AT_ONCE {
            runtimes::encode_job(runtime, &job)?
        } else {
            tokio::task::spawn_blocking(move || runtimes::encode_job(runtime, &job))
                .await
                .unwrap_or_else(|panic| {
                    Err(fatal(format!("the job could not be encoded: {panic}")))
                })?
        };
        let frame = frame::encode(kind::JOB, body)
            .ok_or_else(|| fatal("args and globals together are larger than 4 GiB".to_owned()))?;
        Ok(SetUp { frame, files })
    }
}

/// Finds what constants are.
struct Resolver<'a> {
    runtime: Runtime,
    blobs: &'a Blobs,
    /// Those that workers read.
    files: Vec<InFile>,
}

impl Resolver<'_> {
    /// Constants with those that are blobs fetched.
    async fn resolve(
        &mut self,
        field: &str,
        constants: &BTreeMap<String, Constant>,
    ) -> Result<Constants, ElementError> {
        let mut resolved = BTreeMap::new();
        for (name, constant) in constants {
            let value = match constant {
                Constant::Json(text) => ConstantValue {
                    encoding: Encoding::Json,
                    content: text.get().as_bytes().to_vec().into(),
                },
                Constant::Blob { digest, encoding } => {
                    let content = self.blob(digest, *encoding).await;
                    let content =
                        content.map_err(|what| fatal(format!("{field}.{name}: {what}")))?;
                    ConstantValue { encoding: *encoding, content }
                }
            };
            resolved.insert(name.clone(), value);
        }
        Ok(resolved)
    }

    async fn blob(&mut self, digest: &str, encoding: Encoding) -> Result<Content, String> {
        if runtimes::reads_files(self.runtime, encoding) {
            let in_file = self.blobs.in_file(digest).await.map_err(|error| error.to_string())?;
            let file = in_file.as_ref().and_then(InFile::get);
            if let Some((path, size)) = file.and_then(|file| Some((file.path.to_str()?, file.size)))
            {
                let content = Content::File { path: path.to_owned(), size };
                self.files.extend(in_file);
                return Ok(content);
            }
        }
        let bytes = self.blobs.get(digest).await.map_err(|error| error.to_string())?;
        if encoding == Encoding::Json {
            serde_json::from_slice::<IgnoredAny>(&bytes)
                .map_err(|error| format!("the blob is not JSON: {error}"))?;
        }
        Ok(bytes.into())
    }
}

/// The jobs that the agent has heard of last.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<Vec<Arc<Job>>>);

impl Jobs {
    /// Remembers a job.
    pub fn learn(&self, spec: JobSpec) {
        let mut jobs = self.lock();
        jobs.retain(|job| job.spec.id != spec.id);
        jobs.push(Arc::new(Job::new(spec)));
        let excess = jobs.len().saturating_sub(REMEMBERED);
        jobs.drain(..excess);
    }

    /// A job that was learnt, made the most recent one.
    pub fn get(&self, id: JobId) -> Option<Arc<Job>> {
        let mut jobs = self.lock();
        let at = jobs.iter().position(|job| job.spec.id == id)?;
        let job = jobs.remove(at);
        jobs.push(Arc::clone(&job));
        make_room(&jobs, SET_UPS_KEPT);
        Some(job)
    }

    /// The jobs to name as known, the latest first: of those that have ended nothing more is leased.
    pub fn known(&self) -> Vec<JobId> {
        let jobs = self.lock();
        let going_on = jobs.iter().rev().filter(|job| !job.has_ended());
        going_on.take(NAMED).map(|job| job.spec.id).collect()
    }

    /// Notes that jobs have ended.
    pub fn ended(&self, ids: &[JobId]) {
        if ids.is_empty() {
            return;
        }
        let mut jobs = self.lock();
        for job in jobs.iter().filter(|job| ids.contains(&job.spec.id)) {
            job.has_ended.store(true, Ordering::Relaxed);
        }
        let mut excess = jobs.iter().filter(|job| job.has_ended()).count().saturating_sub(ENDED);
        jobs.retain(|job| {
            let is_excess = excess > 0 && job.has_ended();
            excess -= usize::from(is_excess);
            !is_excess
        });
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what sets up the jobs that were used least recently until the others fit. What is wanted
/// again is made again.
fn make_room(jobs: &[Arc<Job>], bytes: u64) {
    let mut total = 0;
    for job in jobs.iter().rev() {
        total += job.set_up_bytes();
        // Whoever else has it holds a lease of it.
        if total > bytes && Arc::strong_count(job) == 1 {
            total -= job.set_up_bytes();
            job.forget_set_ups();
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::job::{Function, Options};

    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            id: JobId::new(),
            owner: "me".into(),
            runtime: Runtime::Python,
            is_call: false,
            function: Function::Source("abs".into()),
            args: BTreeMap::new(),
            globals: BTreeMap::new(),
            packages: Vec::new(),
            prepare: String::new(),
            setup: String::new(),
            files: None,
            workdir: None,
            options: Options::default(),
        }
    }

    #[test]
    fn the_latest_jobs_are_remembered_and_fewer_are_named() {
        let jobs = Jobs::default();
        let ids: Vec<JobId> = (0..REMEMBERED + 1)
            .map(|_| {
                let spec = spec();
                let id = spec.id;
                jobs.learn(spec);
                id
            })
            .collect();
        assert!(jobs.get(ids[0]).is_none());
        assert!(jobs.get(ids[1]).is_some());
        let known = jobs.known();
        assert_eq!((known.len(), known[0], known[1]), (NAMED, ids[1], ids[REMEMBERED]));
    }

    #[test]
    fn jobs_that_have_ended_are_named_no_more_and_few_of_them_remembered() {
        let jobs = Jobs::default();
        let ids: Vec<JobId> = (0..ENDED + 3)
            .map(|_| {
                let spec = spec();
                let id = spec.id;
                jobs.learn(spec);
                id
            })
            .collect();
        jobs.ended(&ids[1..]);
        assert_eq!(jobs.known(), [ids[0]]);
        let is_remembered = |id: &&JobId| jobs.get(**id).is_some();
        let forgotten: Vec<&JobId> = ids.iter().filter(|id| !is_remembered(id)).collect();
        assert_eq!(forgotten, [&ids[1], &ids[2]], "the first of them");
    }

    #[test]
    fn set_ups_are_kept_while_there_is_room_and_while_they_are_in_use() {
        let jobs: Vec<Arc<Job>> = (0..4)
            .map(|_| {
                let job = Job::new(spec());
                let frame = frame::encode(kind::JOB, &[0; 95][..]).unwrap();
                let set_up = SetUp { frame, files: Vec::new() };
                job.lock().insert(1, Arc::new(OnceCell::new_with(Some(set_up))));
                Arc::new(job)
            })
            .collect();
        let in_use = Arc::clone(&jobs[0]);
        let left =
            |jobs: &[Arc<Job>]| jobs.iter().map(|job| job.set_up_bytes()).collect::<Vec<_>>();
        make_room(&jobs, 400);
        assert_eq!(left(&jobs), [100; 4]);
        make_room(&jobs, 250);
        assert_eq!(left(&jobs), [100, 0, 100, 100]);
        drop(in_use);
        make_room(&jobs, 250);
        assert_eq!(left(&jobs), [0, 0, 100, 100]);
    }
}
