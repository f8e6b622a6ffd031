//! A lane of a lease: one worker that draws elements from the lease's chunk until nothing is left,
//! replaced when it dies.

mod exchange;
mod leaving;
mod set_up;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::job::ElementError;

use self::exchange::Broken;
use crate::artifacts::Collected;
use crate::chunk::{Element, Prospect, Strike};
use crate::clock;
use crate::death::{self, Death};
use crate::frame::{self, Outgoing, kind};
use crate::lease::Stop;
use crate::output::Printed;
use crate::pace::{self, Pace};
use crate::runtimes;
use crate::scratch::WorkerScratch;
use crate::work::{Batch, Work};
use crate::worker::{Worker, WorkerKey};

/// One worker's part of a lease.
#[derive(Debug)]
pub struct Lane {
    work: Arc<Work>,
    slot: u32,
    key: WorkerKey,
    pace: Pace,
    /// How often elements had come back when it last took some.
    returns_seen: u64,
    worker: Option<Worker>,
}

impl Lane {
    /// A lane in `slot`, whose elements have `cores` cores.
    pub fn new(work: Arc<Work>, slot: u32, cores: u32) -> Self {
        let spec = &work.job.spec;
        let key = WorkerKey {
            runtime: spec.runtime,
            owner: spec.owner.clone(),
            cores,
            memory: spec.options.memory,
            prepared: work.prepared.clone(),
            artifacts: spec.options.artifacts,
            workdir: spec.workdir.as_deref().and_then(|folder| usable(folder, &work)),
        };
        let mut pace = Pace::new(work.job.timeout(), work.job.learned(), work.chunk().unfinished());
        if key.artifacts {
            pace.go_alone();
        }
        Self { work, slot, key, pace, returns_seen: 0, worker: None }
    }

    /// Runs elements until none is left or none is to be begun. When `stop` says so, the worker is
    /// killed with whatever it runs.
    pub async fn run(mut self, stop: Stop) {
        let done = tokio::select! {
            () = self.run_elements() => true,
            () = stop.requested() => false,
        };
        let Some(worker) = self.worker.take() else { return };
        if done {
            self.work.pool.give_back(worker).await;
        } else {
            worker.kill().await;
        }
    }

    async fn run_elements(&mut self) {
        while self.is_any_left().await {
            if !self.have_worker().await {
                return;
            }
            let batch = self.take();
            if batch.len() > 1 {
                let _loan = Loan(Arc::clone(&self.work));
                self.run_batch(batch).await;
            } else if !batch.is_empty() {
                self.run_batch(batch).await;
            }
        }
    }

    /// Takes the next elements: one, if some have come back since the last time.
    fn take(&mut self) -> Vec<Element> {
        let mut chunk = self.work.chunk();
        let returns = chunk.returns();
        if returns > std::mem::replace(&mut self.returns_seen, returns) {
            self.pace.begin_again();
        }
        chunk.take(self.pace.size(), pace::MOST_BYTES)
    }

    /// Waits, when nothing is left, until no other lane has elements that may come back.
    async fn is_any_left(&self) -> bool {
        loop {
            let ended = self.work.frame_ended.notified();
            if self.work.draining.is_cancelled() {
                return false;
            }
            match self.work.chunk().prospect() {
                Prospect::More => return true,
                Prospect::None => return false,
                Prospect::Perhaps => {}
            }
            ended.await;
        }
    }

    /// Kills the worker; what was printed, and its folders.
    async fn lose_worker_but_its_folders(&mut self) -> (Printed, Option<WorkerScratch>) {
        match self.worker.take() {
            Some(worker) => {
                let (printed, scratch) = worker.kill_and_keep().await;
                (printed, Some(scratch))
            }
            None => (Printed::default(), None),
        }
    }

    async fn lose_worker(&mut self) -> Printed {
        match self.worker.take() {
            Some(worker) => worker.kill().await,
            None => Printed::default(),
        }
    }

    async fn run_batch(&mut self, mut batch: Vec<Element>) {
        let elements: Vec<_> =
            batch.iter().map(|element| self.work.elements.say(element)).collect();
        let options = &self.work.job.spec.options;
        let body = runtimes::encode_elements(self.key.runtime, options, &elements);
        match body.map(|body| frame::encode(kind::ELEMENTS, body)) {
            Ok(Some(frame)) => self.run_frame(batch, &frame).await,
            Ok(None) => {
                let message = "the element is larger than the 4 GiB that a frame holds".to_owned();
                self.deliver_error(&batch.remove(0), runtimes::untranslatable(message));
                self.work.chunk().give_back(batch);
            }
            Err((position, error)) => {
                // Those before it go first, so that outcomes stay in order.
                let rest = batch.split_off(position.max(1).min(batch.len()));
                self.work.chunk().give_back(rest);
                self.work.frame_ended.notify_waiters();
                if position == 0 {
                    self.deliver_error(&batch.remove(0), error);
                } else {
                    Box::pin(self.run_batch(batch)).await;
                }
            }
        }
    }

    fn deliver_error(&self, element: &Element, error: ElementError) {
        let batch = Batch {
            started_at: clock::unix_millis(),
            seconds: 0.0,
            slot: self.slot,
            pid: 0,
            notes: self.work.notes(&[element.index], BTreeMap::new(), &Printed::default()),
        };
        self.work.deliver(&[element.index], vec![Err(error)], batch);
    }

    async fn run_frame(&mut self, mut batch: Vec<Element>, frame: &Outgoing) {
        let began = clock::now();
        let started_at = clock::unix_millis();
        match self.exchange(&batch, frame).await {
            Ok(done) => {
                self.pace.observe(done, clock::now() - began);
                let left = batch.split_off(done);
                if !left.is_empty() {
                    self.work.chunk().give_back_behind_slow(left);
                }
                self.work.note_pace(self.slot, &self.pace);
            }
            Err(Broken { death, done }) => {
                let pid = self.worker.as_ref().map_or(0, Worker::pid);
                let (printed, scratch) = self.lose_worker_but_its_folders().await;
                let alone = batch.len() == 1;
                let rest = batch.split_off(done);
                tracing::warn!(lease = %self.work.lease, %death, elements = rest.len(),
                    "a worker died while it ran elements");
                match &rest[..] {
                    [element] if alone => {
                        let seconds = (clock::now() - began).as_secs_f64();
                        let slot = self.slot;
                        let batch = Batch { started_at, seconds, slot, pid, notes: Vec::new() };
                        self.strike(element, &death, &printed, batch, scratch.as_ref()).await;
                    }
                    _ => self.work.chunk().narrow(rest),
                }
                if let Some(scratch) = scratch {
                    scratch.remove().await;
                }
            }
        }
    }

    /// Counts a death against the element that ran alone.
    async fn strike(
        &mut self,
        element: &Element,
        death: &Death,
        printed: &Printed,
        mut batch: Batch,
        scratch: Option<&WorkerScratch>,
    ) {
        let strike = self.work.chunk().strike(element);
        let Strike::Out(attempts) = strike else { return };
        let left = match scratch {
            Some(scratch) => self.collect_of_dead(scratch).await,
            None => Collected::default(),
        };
        let error = death::element_error(death, attempts, printed);
        batch.notes = self.work.notes(&[element.index], BTreeMap::new(), printed);
        left.note(0, &mut batch.notes);
        batch.notes.iter_mut().for_each(|note| note.attempts = attempts);
        self.work.deliver(&[element.index], vec![Err(error)], batch);
    }
}

/// Several elements that a lane has taken, of which some may come back.
struct Loan(Arc<Work>);

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.chunk().end_loan();
        self.0.frame_ended.notify_waiters();
    }
}

/// A folder, if this machine has it and workers may enter it.
fn usable(folder: &str, work: &Work) -> Option<PathBuf> {
    Some(PathBuf::from(folder)).filter(|folder| work.pool.confinement().may_enter(folder))
}
