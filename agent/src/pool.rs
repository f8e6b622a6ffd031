//! Idle workers, kept for the next lease that can use them.
//!
//! A worker whose job has ended is reset at once, so that the next job finds it ready; one that has had
//! no element of its job for [`LINGER`] as well, and gives its memory back. By a reset whatever its code
//! has started and left running is killed. Workers never outnumber slots.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use protocol::JobId;
use protocol::job::Runtime;
use tokio::sync::{Notify, OnceCell};
use tokio::time::sleep;

use crate::confinement::Confinement;
use crate::death::{self, Death};
use crate::lifeline::Ended;
use crate::memory::MemoryWatch;
use crate::output::Printed;
use crate::respite::Respite;
use crate::worker::{Launcher, Worker, WorkerKey};

/// For how long a worker keeps a job that it has no element of. The next lease of a running job
/// comes within a fraction of this, and then finds functions, globals and packages in place.
const LINGER: Duration = Duration::from_secs(5);

/// Ended jobs that are remembered.
const REMEMBERED: usize = 64;

/// The workers of an agent.
#[derive(Debug)]
pub struct WorkerPool {
    launcher: Launcher,
    slots: usize,
    workers: Mutex<Workers>,
    /// Workers that are out or about to be.
    busy: Arc<AtomicUsize>,
    /// Told when a worker that was being reset is idle again, or dead.
    rested: Notify,
    /// What the workers' memory is held by.
    pub memory: Arc<MemoryWatch>,
    /// Whether what workers of R read is compiled, or cannot be.
    compiled_r: OnceCell<()>,
    /// No work is to be taken while workers do not start.
    pub respite: Respite,
}

#[derive(Debug, Default)]
struct Workers {
    /// Longest idle first.
    idle: Vec<Idle>,
    /// The keys of those that are being reset while they rest.
    resetting: Vec<WorkerKey>,
    /// Jobs that ended not long ago, the latest last: a worker may come back from one behind its end.
    ended: VecDeque<JobId>,
    /// Counts how often a worker came back, to tell one rest from the next.
    rests: u64,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    worker: Worker,
    rest: u64,
}

/// Why there is no worker.
#[derive(Debug)]
pub enum NoWorker {
    /// None starts here, which is this machine's fault: no code of the job has run.
    OnThisMachine(Death),
    /// Others start, but none with what the job has prepared or where it wants to work.
    ForThisJob(Death, Printed),
}

impl WorkerPool {
    /// A pool of at most `slots` workers, none of which runs yet.
    pub fn new(launcher: Launcher, slots: u32) -> Arc<Self> {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Arc::new(Self {
            launcher,
            slots,
            workers: Mutex::default(),
            busy: Arc::default(),
            rested: Notify::new(),
            memory: Arc::default(),
            compiled_r: OnceCell::new(),
            respite: Respite::default(),
        })
    }

    /// Has what workers of R read compiled, once; whoever needs a worker of R waits for it.
    pub async fn compile_r(&self) {
        let compile = || async {
            if let Err(error) = self.launcher.scratch.compile_r().await {
                tracing::warn!(%error, "R cannot compile the scripts of its workers, which begin slower");
            }
        };
        self.compiled_r.get_or_init(compile).await;
    }

    /// What holds the workers.
    pub fn confinement(&self) -> &Confinement {
        &self.launcher.confinement
    }

    /// A worker for elements of `job`, with the job set up if there is one, else one that has
    /// none. Unless it comes back by [`WorkerPool::give_back`], it is dropped or killed.
    ///
    /// # Errors
    /// When none can be started.
    pub async fn acquire(&self, key: &WorkerKey, job: JobId) -> Result<Worker, NoWorker> {
        let seat = Seat::take(&self.busy);
        while let Some(mut worker) = self.idle_or_rested(key, job).await {
            let fits = worker.is_clean || worker.job == Some(job);
            if worker.is_sound() && (fits || worker.reset(false).await.is_ok()) {
                worker.seat = Some(seat);
                return Ok(worker);
            }
            worker.kill().await;
        }
        for worker in self.surplus() {
            worker.kill().await;
        }
        let mut worker = self.start(key).await?;
        worker.seat = Some(seat);
        Ok(worker)
    }

    async fn start(&self, key: &WorkerKey) -> Result<Worker, NoWorker> {
        if key.runtime == Runtime::R {
            self.compile_r().await;
        }
        let mut started = Worker::start(&self.launcher, key.clone()).await;
        if started.is_err() && self.restores_scratch() {
            started = Worker::start(&self.launcher, key.clone()).await;
        }
        match started {
            Ok(worker) => {
                self.respite.recovered(key.runtime);
                Ok(worker)
            }
            Err((death, printed)) if self.starts_without_the_job(key).await => {
                Err(NoWorker::ForThisJob(death, printed))
            }
            Err((death, printed)) => {
                self.pause(key.runtime, &death, &printed);
                Err(NoWorker::OnThisMachine(death))
            }
        }
    }

    /// Whether what workers start with was gone, and is there again.
    fn restores_scratch(&self) -> bool {
        let scratch = &self.launcher.scratch;
        let folder = scratch.scripts();
        let folder = folder.display();
        match scratch.restore() {
            Ok(false) => false,
            Ok(true) => {
                tracing::warn!(%folder, "somebody has emptied the scratch folder; it is made anew. Choose one \
                    by --scratch that nobody tidies");
                true
            }
            Err(error) => {
                tracing::error!(%folder, %error, "somebody has emptied the scratch folder, and it cannot be made anew");
                false
            }
        }
    }

    /// Whether a worker starts that has nothing of the job, after one did not that had: then it is
    /// the job's fault. Else one job could keep the whole agent from working.
    async fn starts_without_the_job(&self, key: &WorkerKey) -> bool {
        let Some(plain) = key.plain() else { return false };
        let Ok(worker) = Worker::start(&self.launcher, plain).await else { return false };
        worker.kill().await;
        true
    }

    fn pause(&self, runtime: Runtime, death: &Death, printed: &Printed) {
        let Some(pause) = self.respite.begin(runtime) else { return };
        let (runtime, pause) = (runtime.as_str(), pause.as_secs());
        let stderr = printed.stderr.text();
        let said = death::last_lines(&stderr).unwrap_or_default();
        tracing::error!(runtime, %death, said, "a worker did not start; the agent takes no work for \
            {pause} s and gives back what it has for it. See whether {runtime} starts here, and \
            whether memory, processes and disk suffice");
    }

    /// Takes a worker back that is ready for the next frame.
    pub async fn give_back(self: &Arc<Self>, mut worker: Worker) {
        if !worker.is_sound() {
            worker.kill().await;
            return;
        }
        let job = worker.job;
        let Some(rest) = self.put_to_rest(worker) else { return };
        tokio::spawn(Self::forget_after_long(Arc::downgrade(self), rest));
        if job.is_some_and(|job| self.lock().ended.contains(&job)) {
            tokio::spawn(Self::forget_job(Arc::downgrade(self), rest, false));
        }
    }

    /// Resets the idle workers that have one of these jobs, which have ended, and those that will
    /// come back from one.
    pub fn forget(self: &Arc<Self>, ended: &[JobId]) {
        if ended.is_empty() {
            return;
        }
        let mut workers = self.lock();
        workers.ended.extend(ended);
        let too_many = workers.ended.len().saturating_sub(REMEMBERED);
        workers.ended.drain(..too_many);
        let has_ended = |idle: &&Idle| idle.worker.job.is_some_and(|job| ended.contains(&job));
        for idle in workers.idle.iter().filter(has_ended) {
            tokio::spawn(Self::forget_job(Arc::downgrade(self), idle.rest, false));
        }
    }

    /// Lets a worker rest; the number of this rest, unless the pool is closed.
    fn put_to_rest(&self, mut worker: Worker) -> Option<u64> {
        let mut workers = self.lock();
        if workers.closed {
            return None;
        }
        worker.seat = None;
        worker.output.listen(None);
        workers.rests += 1;
        let rest = workers.rests;
        workers.idle.push(Idle { worker, rest });
        Some(rest)
    }

    /// Ends all idle workers, and keeps none from now on.
    pub async fn close(&self) {
        let idle = {
            let mut workers = self.lock();
            workers.closed = true;
            std::mem::take(&mut workers.idle)
        };
        futures::future::join_all(idle.into_iter().map(|idle| idle.worker.kill())).await;
    }

    /// Resets the worker that began its rest number `rest`, if it still rests after [`LINGER`].
    /// Boxed, because behind one rest comes the next.
    fn forget_after_long(pool: Weak<Self>, rest: u64) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            sleep(LINGER).await;
            Self::forget_job(pool, rest, true).await;
        })
    }

    /// Resets the worker that began its rest number `rest`, if it still rests; `for_long`: it also
    /// gives its memory back.
    async fn forget_job(pool: Weak<Self>, rest: u64, for_long: bool) {
        let Some(pool) = pool.upgrade() else { return };
        let Some(mut worker) = pool.take_resting(rest) else { return };
        let key = worker.key().clone();
        if let Err(death) = worker.reset(for_long).await {
            tell_of_stain(worker.pid(), &death);
            worker.kill().await;
        } else if let Some(rest) = pool.put_to_rest(worker).filter(|_| !for_long) {
            tokio::spawn(Self::forget_after_long(Arc::downgrade(&pool), rest));
        }
        pool.end_resetting(&key);
    }

    fn end_resetting(&self, key: &WorkerKey) {
        let mut workers = self.lock();
        if let Some(at) = workers.resetting.iter().position(|resetting| resetting == key) {
            workers.resetting.remove(at);
        }
        drop(workers);
        self.rested.notify_waiters();
    }

    fn take_resting(&self, rest: u64) -> Option<Worker> {
        let mut workers = self.lock();
        let at = workers.idle.iter().position(|idle| idle.rest == rest)?;
        let mut worker = workers.idle.remove(at).worker;
        worker.seat = Some(Seat::take(&self.busy));
        workers.resetting.push(worker.key().clone());
        Some(worker)
    }

    /// An idle worker with this key. One that is just being reset is waited for: that takes less
    /// than to start another, which would be one more than there are slots.
    async fn idle_or_rested(&self, key: &WorkerKey, job: JobId) -> Option<Worker> {
        loop {
            // Registered before the look, so that no rest between look and wait is missed.
            let rested = self.rested.notified();
            if let Some(worker) = self.idle_for(key, job) {
                return Some(worker);
            }
            if !self.lock().resetting.contains(key) {
                return None;
            }
            rested.await;
        }
    }

    /// Of the idle workers with this key the one that has the job, else one that has none, else
    /// the one that has rested longest.
    fn idle_for(&self, key: &WorkerKey, job: JobId) -> Option<Worker> {
        let mut workers = self.lock();
        let fitting = workers.idle.iter().enumerate().filter(|(_, idle)| idle.worker.key() == key);
        let (at, _) = fitting.min_by_key(|(_, idle)| match idle.worker.job {
            Some(own) if own == job => 0,
            None => 1,
            Some(_) => 2,
        })?;
        Some(workers.idle.remove(at).worker)
    }

    /// Takes out the idle workers for which there is no room beside the busy ones.
    fn surplus(&self) -> Vec<Worker> {
        let mut workers = self.lock();
        let excess =
            (self.busy.load(Ordering::SeqCst) + workers.idle.len()).saturating_sub(self.slots);
        let excess = excess.min(workers.idle.len());
        workers.idle.drain(..excess).map(|idle| idle.worker).collect()
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says why a worker is replaced that was to forget its job. It ends by itself where it cannot, which is nothing wrong.
fn tell_of_stain(pid: u32, death: &Death) {
    if *death == Death::Ended(Ended::Exited(0)) {
        tracing::info!(
            pid,
            "a worker could not forget its job, has ended, and is replaced: a thread runs on in it, a \
            compiled module of the job is loaded, or an R package or class that stays"
        );
    } else {
        tracing::warn!(pid, %death, "a worker did not forget its job, and is replaced");
    }
}

/// The place of a busy worker; given up when dropped, be it with its worker or because none came.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(busy: &Arc<AtomicUsize>) -> Self {
        busy.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(busy))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
