//! What the agent knows of jobs, so that the server need not send it with every lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::JobId;
use protocol::agent::{Constant, JobSpec};
use protocol::job::{ElementError, Encoding};
use serde::de::IgnoredAny;
use tokio::sync::OnceCell;

use crate::blobs::Blobs;
use crate::frame::{self, Outgoing, kind};
use crate::pace::{Learned, Pace};
use crate::runtimes::{self, ConstantValue, Constants, WorkerJob, fatal};

/// Jobs remembered.
const REMEMBERED: usize = 256;
/// Jobs named to the server as known. Far fewer than remembered, so that none is forgotten between
/// the request that names it and the lease that relies on that.
const NAMED: usize = 64;
/// Bytes kept of the frames that set up remembered jobs. Those of jobs with a lease stay beyond it.
const FRAMES_KEPT: usize = 64 << 20;

/// A job, and the frames that set it up.
#[derive(Debug)]
pub struct Job {
    /// What the server said of it.
    pub spec: JobSpec,
    /// The frame that sets it up in a worker, by the cores that an element has.
    frames: Mutex<BTreeMap<u32, Arc<OnceCell<Outgoing>>>>,
    /// How quick its elements were, the last time that somebody looked.
    learned: Mutex<Option<Learned>>,
}

impl Job {
    fn new(spec: JobSpec) -> Self {
        Self { spec, frames: Mutex::default(), learned: Mutex::default() }
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

    /// The frame that sets the job up in a worker whose elements have `cores` cores.
    ///
    /// # Errors
    /// When it cannot be made: a constant is missing or cannot be said in the runtime's language.
    /// The error fails the job.
    pub async fn frame(&self, cores: u32, blobs: &Blobs) -> Result<Outgoing, ElementError> {
        let cell = {
            let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(frames.entry(cores).or_default())
        };
        cell.get_or_try_init(|| self.make_frame(cores, blobs)).await.cloned()
    }

    /// Bytes of the frames that are there.
    fn frame_bytes(&self) -> usize {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.values().filter_map(|frame| frame.get()).map(Outgoing::size).sum()
    }

    fn forget_frames(&self) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn make_frame(&self, cores: u32, blobs: &Blobs) -> Result<Outgoing, ElementError> {
        let spec = &self.spec;
        let job = WorkerJob {
            id: spec.id,
            is_call: spec.is_call,
            function: spec.function.clone(),
            args: resolve("args", &spec.args, blobs).await?,
            globals: resolve("globals", &spec.globals, blobs).await?,
            packages: spec.packages.clone(),
            setup: spec.setup.clone(),
            cores,
            options: spec.options.clone(),
        };
        let runtime = spec.runtime;
        let encode = move || runtimes::encode_job(runtime, &job);
        let body = tokio::task::spawn_blocking(encode)
            .await
            .unwrap_or_else(|panic| Err(fatal(format!("the job could not be encoded: {panic}"))))?;
        frame::encode(kind::JOB, body)
            .ok_or_else(|| fatal("args and globals together are larger than 4 GiB".to_owned()))
    }
}

/// Constants with those that are blobs fetched.
async fn resolve(
    field: &str,
    constants: &BTreeMap<String, Constant>,
    blobs: &Blobs,
) -> Result<Constants, ElementError> {
    let mut resolved = BTreeMap::new();
    for (name, constant) in constants {
        let text = match constant {
            Constant::Json(text) => ConstantValue {
                encoding: Encoding::Json,
                bytes: text.get().as_bytes().to_vec().into(),
            },
            Constant::Blob { digest, encoding } => {
                let wrong = |what: String| fatal(format!("{field}.{name}: {what}"));
                let bytes = blobs.get(digest).await.map_err(|error| wrong(error.to_string()))?;
                if *encoding == Encoding::Json {
                    serde_json::from_slice::<IgnoredAny>(&bytes)
                        .map_err(|error| wrong(format!("the blob is not JSON: {error}")))?;
                }
                ConstantValue { encoding: *encoding, bytes }
            }
        };
        resolved.insert(name.clone(), text);
    }
    Ok(resolved)
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
        make_room(&jobs, FRAMES_KEPT);
        Some(job)
    }

    /// The jobs to name as known, the latest first.
    pub fn known(&self) -> Vec<JobId> {
        self.lock().iter().rev().take(NAMED).map(|job| job.spec.id).collect()
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the frames of the jobs that were used least recently until the others fit. A frame that
/// is wanted again is made again.
fn make_room(jobs: &[Arc<Job>], bytes: usize) {
    let mut total = 0;
    for job in jobs.iter().rev() {
        total += job.frame_bytes();
        // Whoever else has it holds a lease of it.
        if total > bytes && Arc::strong_count(job) == 1 {
            total -= job.frame_bytes();
            job.forget_frames();
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::job::{Function, Options, Runtime};

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
    fn frames_are_kept_while_there_is_room_and_while_they_are_in_use() {
        let jobs: Vec<Arc<Job>> = (0..4)
            .map(|_| {
                let job = Job::new(spec());
                let frame = frame::encode(kind::JOB, &[0; 95][..]);
                let frame = Arc::new(OnceCell::new_with(frame));
                job.frames.lock().unwrap().insert(1, frame);
                Arc::new(job)
            })
            .collect();
        let in_use = Arc::clone(&jobs[0]);
        let left = |jobs: &[Arc<Job>]| jobs.iter().map(|job| job.frame_bytes()).collect::<Vec<_>>();
        make_room(&jobs, 400);
        assert_eq!(left(&jobs), [100; 4]);
        make_room(&jobs, 250);
        assert_eq!(left(&jobs), [100, 0, 100, 100]);
        drop(in_use);
        make_room(&jobs, 250);
        assert_eq!(left(&jobs), [0, 0, 100, 100]);
    }
}
