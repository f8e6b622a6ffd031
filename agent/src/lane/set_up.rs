//! How a lane comes by a worker that has the job.

use std::sync::Arc;

use protocol::job::{ElementError, LogSource};

use super::Lane;
use crate::bounds::Bounds;
use crate::clock;
use crate::death::{self, Death};
use crate::frame::Outgoing;
use crate::pool::NoWorker;
use crate::runtimes::Answer;
use crate::worker::{Event, Worker};

/// How often a job is set up whose files do not stay.
const MOST_SET_UPS: u32 = 3;

/// Why there is no worker that has the job.
enum Unready {
    /// None starts: what is left is for another agent, or for later.
    NoWorker(Death),
    /// The job cannot be set up.
    Failed(ElementError),
}

impl Lane {
    /// Sees to it that there is a worker with the job set up; `false` when that cannot be.
    /// Either that is the job's fault and fails it, or what is left is given back.
    pub(super) async fn have_worker(&mut self) -> bool {
        if self.worker.as_mut().is_some_and(Worker::is_sound) {
            return true;
        }
        if let Some(unsound) = self.worker.take() {
            unsound.kill().await;
        }
        match self.try_set_up().await {
            Ok(()) => return true,
            Err(Unready::Failed(error)) => self.work.fail(self.slot, error),
            Err(Unready::NoWorker(death)) => {
                tracing::warn!(lease = %self.work.lease, %death, "no worker; giving the rest back");
                self.work.chunk().close();
            }
        }
        false
    }

    /// Sets the job up. If the files of its constants went before the worker had read them, which code of another
    /// job may have done, it is set up again: that is not this job's fault.
    async fn try_set_up(&mut self) -> Result<(), Unready> {
        let mut left = MOST_SET_UPS;
        loop {
            left -= 1;
            let made = self.work.job.set_up(self.key.cores, &self.work.blobs).await;
            let set_up = made.map_err(Unready::Failed)?;
            match self.set_up(&set_up.frame).await {
                Err(Unready::Failed(_)) if left > 0 && !set_up.is_there() => {
                    tracing::warn!(lease = %self.work.lease, "files of constants went while they were read");
                    self.lose_worker().await;
                }
                ready => return ready,
            }
        }
    }

    /// Gets a worker and sets the job up in it. One that dies over it is replaced as often as one
    /// that dies over an element. One that does not even start has not seen the job.
    async fn set_up(&mut self, job_frame: &Outgoing) -> Result<(), Unready> {
        let job = Arc::clone(&self.work.job);
        let spec = &job.spec;
        let mut attempts = 0;
        loop {
            let worker = match self.work.pool.acquire(&self.key, spec.id).await {
                Ok(worker) => self.worker.insert(worker),
                Err(no_worker) => return Err(self.unready(no_worker)),
            };
            if worker.job == Some(spec.id) {
                worker.output.listen(Some(self.work.tap(LogSource::Element)));
                return Ok(());
            }
            worker.output.listen(Some(self.work.tap(LogSource::Setup)));
            let is_new = worker.is_new;
            let death = match set_up_in(
                worker,
                job_frame,
                Bounds::new(&job, worker, &self.work.pool.memory),
            )
            .await
            {
                Ok(None) => {
                    self.mark_set_up();
                    return Ok(());
                }
                Ok(Some(error)) => return Err(Unready::Failed(error)),
                Err(death) => death,
            };
            let printed = self.lose_worker().await;
            // What it ran before may have damaged it: that is not this job's fault.
            if !is_new && !matches!(death, Death::TimedOut(_)) {
                tracing::warn!(job = %spec.id, %death, "a used worker is replaced");
                continue;
            }
            attempts += 1;
            tracing::warn!(job = %spec.id, %death, attempts, "a worker died while a job was set up");
            if attempts > spec.options.retries {
                return Err(Unready::Failed(death::set_up_error(&death, attempts, &printed)));
            }
        }
    }

    fn unready(&self, no_worker: NoWorker) -> Unready {
        match no_worker {
            NoWorker::OnThisMachine(death) => Unready::NoWorker(death),
            NoWorker::ForThisJob(death, printed) => {
                let runtime = self.key.runtime;
                let workdir = self.key.workdir.as_deref();
                Unready::Failed(death::start_error(&death, runtime, workdir, &printed))
            }
        }
    }

    fn mark_set_up(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.job = Some(self.work.job.spec.id);
            worker.is_new = false;
            // What the set-up printed belongs to no element; it is in the log.
            worker.output.take();
            worker.output.listen(Some(self.work.tap(LogSource::Element)));
        }
    }
}

/// Sets a job up in a worker within these bounds: nothing, or the error because of which the worker
/// refuses.
async fn set_up_in(
    worker: &mut Worker,
    job_frame: &Outgoing,
    mut bounds: Bounds,
) -> Result<Option<ElementError>, Death> {
    worker.is_clean = false;
    worker.send(job_frame);
    match bounds.next(worker, clock::now()).await? {
        Event::Said(Answer::Ready) => Ok(None),
        Event::Said(Answer::Refused(error)) => Ok(Some(error)),
        Event::Dead(death) => Err(death),
        _ => Err(Death::Untrusted("it answered out of turn".to_owned())),
    }
}
