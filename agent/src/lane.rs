//! A lane of a lease: one worker that draws elements from the lease's chunk until nothing is left,
//! replaced when it dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::agent::Condition;
use protocol::job::ElementError;
use tokio::time::timeout;

use crate::chunk::{Element, Strike};
use crate::clock;
use crate::death::{self, Death};
use crate::frame::{self, kind};
use crate::jobs;
use crate::lease::Stop;
use crate::output::Printed;
use crate::pace::{self, Pace};
use crate::runtimes::{self, Answer, Outcomes};
use crate::work::{Batch, Work};
use crate::worker::{Event, Worker, WorkerKey};

/// Conditions kept of one element.
const MOST_CONDITIONS: usize = 1000;

/// One worker's part of a lease.
#[derive(Debug)]
pub struct Lane {
    work: Arc<Work>,
    slot: u32,
    key: WorkerKey,
    pace: Pace,
    worker: Option<Worker>,
}

/// Why there is no worker that has the job.
enum Unready {
    /// None starts: what is left is for another agent, or for later.
    NoWorker(Death),
    /// The job cannot be set up.
    Failed(ElementError),
}

/// How a frame of elements came to its end, if not by all outcomes.
struct Broken {
    death: Death,
    /// Elements of the frame that had their outcomes.
    done: usize,
}

impl Lane {
    /// A lane in `slot`, whose elements have `cores` cores.
    pub fn new(work: Arc<Work>, slot: u32, cores: u32) -> Self {
        let spec = &work.job.spec;
        let key = WorkerKey { runtime: spec.runtime, owner: spec.owner.clone(), cores };
        let pace = Pace::new(work.job.timeout());
        Self { work, slot, key, pace, worker: None }
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
        while !self.work.draining.is_cancelled() && !self.work.chunk().is_drained() {
            if !self.have_worker().await {
                return;
            }
            let batch = self.work.chunk().take(self.pace.size(), pace::MOST_BYTES);
            if !batch.is_empty() {
                self.run_batch(batch).await;
            }
        }
    }

    /// Sees to it that there is a worker with the job set up; `false` when that cannot be.
    /// Either that is the job's fault and fails it, or what is left is given back.
    async fn have_worker(&mut self) -> bool {
        if self.worker.as_mut().is_some_and(Worker::is_sound) {
            return true;
        }
        if let Some(unsound) = self.worker.take() {
            unsound.kill().await;
        }
        let ready = match self.work.job.frame(self.key.cores, &self.work.blobs).await {
            Ok(frame) => self.set_up(&frame).await,
            Err(error) => Err(Unready::Failed(error)),
        };
        match ready {
            Ok(()) => return true,
            Err(Unready::Failed(error)) => self.work.fail(self.slot, error),
            Err(Unready::NoWorker(death)) => {
                tracing::warn!(lease = %self.work.lease, %death, "no worker; giving the rest back");
                self.work.chunk().close();
            }
        }
        false
    }

    /// Gets a worker and sets the job up in it. One that dies over it is replaced as often as one
    /// that dies over an element. One that does not even start has not seen the job.
    async fn set_up(&mut self, job_frame: &Bytes) -> Result<(), Unready> {
        let job = Arc::clone(&self.work.job);
        let spec = &job.spec;
        let mut attempts = 0;
        loop {
            let worker = self.work.pool.acquire(&self.key, spec.id).await;
            let worker = self.worker.insert(worker.map_err(Unready::NoWorker)?);
            if worker.job == Some(spec.id) {
                return Ok(());
            }
            let is_new = worker.is_new;
            let death = match set_up_in(worker, job_frame, job.timeout()).await {
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

    fn mark_set_up(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.job = Some(self.work.job.spec.id);
            worker.is_new = false;
            // What the set-up printed belongs to no element.
            worker.output.take();
        }
    }

    async fn lose_worker(&mut self) -> Printed {
        match self.worker.take() {
            Some(worker) => worker.kill().await,
            None => Printed::default(),
        }
    }

    async fn run_batch(&mut self, mut batch: Vec<Element>) {
        let elements: Vec<_> = batch
            .iter()
            .map(|element| runtimes::Element {
                index: element.index,
                input: runtimes::Input::Json(&element.input),
                key: None,
            })
            .collect();
        let options = &self.work.job.spec.options;
        let body = runtimes::encode_elements(self.key.runtime, options, &elements);
        match body.map(|body| frame::encode(kind::ELEMENTS, &body)) {
            Ok(Some(frame)) => self.run_frame(batch, &frame).await,
            Ok(None) => {
                let message = "the element is larger than the 4 GiB that a frame holds".to_owned();
                let error = ElementError { fatal: false, ..jobs::fatal(message) };
                self.deliver_error(&batch.remove(0), error);
                self.work.chunk().give_back(batch);
            }
            Err((position, error)) => {
                // Those before it go first, so that outcomes stay in order.
                let rest = batch.split_off(position.max(1).min(batch.len()));
                self.work.chunk().give_back(rest);
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

    async fn run_frame(&mut self, mut batch: Vec<Element>, frame: &Bytes) {
        let began = clock::now();
        let started_at = clock::unix_millis();
        match self.exchange(&batch, frame).await {
            Ok(()) => self.pace.observe(batch.len(), clock::now() - began),
            Err(Broken { death, done }) => {
                let pid = self.worker.as_ref().map_or(0, Worker::pid);
                let printed = self.lose_worker().await;
                let alone = batch.len() == 1;
                let rest = batch.split_off(done);
                tracing::warn!(lease = %self.work.lease, %death, elements = rest.len(),
                    "a worker died while it ran elements");
                match &rest[..] {
                    [element] if alone => {
                        let seconds = (clock::now() - began).as_secs_f64();
                        let slot = self.slot;
                        let batch = Batch { started_at, seconds, slot, pid, notes: Vec::new() };
                        self.strike(element, &death, &printed, batch);
                    }
                    _ => self.work.chunk().narrow(rest),
                }
            }
        }
    }

    /// Counts a death against the element that ran alone.
    fn strike(&self, element: &Element, death: &Death, printed: &Printed, mut batch: Batch) {
        let Strike::Out(attempts) = self.work.chunk().strike(element) else { return };
        let error = death::element_error(death, attempts, printed);
        batch.notes = self.work.notes(&[element.index], BTreeMap::new(), printed);
        batch.notes.iter_mut().for_each(|note| note.attempts = attempts);
        self.work.deliver(&[element.index], vec![Err(error)], batch);
    }

    /// Sends a frame of elements and takes in their outcomes.
    async fn exchange(&mut self, batch: &[Element], frame: &Bytes) -> Result<(), Broken> {
        let mut progress = Progress::new();
        if let Some(worker) = &mut self.worker {
            worker.send(frame);
        }
        while progress.done < batch.len() {
            let broken = |death| Broken { death, done: progress.done };
            match self.next_answer(&progress).await.map_err(broken)? {
                Answer::Condition { position, condition } => progress.keep(position, condition),
                Answer::Outcomes { outcomes, printed }
                    if (1..=batch.len() - progress.done).contains(&outcomes.len()) =>
                {
                    self.take_in(batch, outcomes, printed, &mut progress);
                    if printed && progress.done < batch.len() {
                        self.let_go_on();
                    }
                }
                _ => return Err(broken(Death::Untrusted("it answered out of turn".to_owned()))),
            }
        }
        Ok(())
    }

    /// Waits for what the worker says next, no longer than an element may run.
    async fn next_answer(&mut self, progress: &Progress) -> Result<Answer, Death> {
        let Some(worker) = &mut self.worker else {
            return Err(Death::Untrusted("it is gone".to_owned()));
        };
        let event = match self.work.job.timeout() {
            None => worker.next().await,
            Some(limit) => {
                let left = limit.saturating_sub(clock::now() - progress.since);
                timeout(left, worker.next()).await.map_err(|_| Death::TimedOut(limit))?
            }
        };
        match event {
            Event::Said(answer) => Ok(answer),
            Event::Dead(death) => Err(death),
            Event::Swept => Err(Death::Untrusted("it was swept while it worked".to_owned())),
        }
    }

    /// Tells a worker that waits that what its element printed has been taken.
    fn let_go_on(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.send(&frame::encode(kind::GO_ON, b"").unwrap_or_default());
        }
    }

    fn take_in(
        &mut self,
        batch: &[Element],
        outcomes: Outcomes,
        printed: bool,
        progress: &mut Progress,
    ) {
        let end = progress.done + outcomes.len();
        let elements = &batch[progress.done..end];
        let indexes: Vec<u64> = elements.iter().map(|element| element.index).collect();
        let output = self.take_output(printed, end == batch.len());
        let pid = self.worker.as_ref().map_or(0, Worker::pid);
        let (conditions, started_at, time) = progress.advance(outcomes.len());
        let notes = self.work.notes(&indexes, conditions, &output);
        let seconds = time.as_secs_f64();
        let batch = Batch { started_at, seconds, slot: self.slot, pid, notes };
        self.work.deliver(&indexes, outcomes, batch);
    }

    /// What was printed by the last of the elements whose outcomes have come. The worker says
    /// whether it noticed that this one `printed`; it `ends` its frame if none is left.
    fn take_output(&mut self, printed: bool, ends: bool) -> Printed {
        // What is there may be the next element's already, since the worker did not wait.
        if !printed && !ends {
            return Printed::default();
        }
        let output = self.worker.as_mut().map(|worker| worker.output.take()).unwrap_or_default();
        // These elements print in a way that the worker does not notice: the next ones get a frame
        // each, so that their output can be told apart.
        if !printed && !output.is_empty() {
            self.pace.go_alone();
        }
        output
    }
}

/// Sets a job up in a worker, for no longer than `limit`: nothing, or the error because of which
/// the worker refuses.
async fn set_up_in(
    worker: &mut Worker,
    job_frame: &Bytes,
    limit: Option<Duration>,
) -> Result<Option<ElementError>, Death> {
    worker.send(job_frame);
    let event = match limit {
        None => worker.next().await,
        Some(limit) => timeout(limit, worker.next()).await.map_err(|_| Death::TimedOut(limit))?,
    };
    match event {
        Event::Said(Answer::Ready) => Ok(None),
        Event::Said(Answer::Refused(error)) => Ok(Some(error)),
        Event::Dead(death) => Err(death),
        _ => Err(Death::Untrusted("it answered out of turn".to_owned())),
    }
}

/// How far a frame of elements has come.
struct Progress {
    /// Elements with outcomes.
    done: usize,
    /// When the next outcomes' first element began.
    since: Instant,
    started_at: u64,
    /// By position in the frame.
    conditions: BTreeMap<u32, Vec<Condition>>,
}

impl Progress {
    fn new() -> Self {
        let (since, started_at) = (clock::now(), clock::unix_millis());
        Self { done: 0, since, started_at, conditions: BTreeMap::new() }
    }

    fn keep(&mut self, position: u32, condition: Condition) {
        let kept = self.conditions.entry(position).or_default();
        if kept.len() < MOST_CONDITIONS {
            kept.push(condition);
        }
    }

    /// Notes that `count` more elements have their outcomes. Returns their conditions, by position
    /// among them, when the first of them began, and how long they took.
    fn advance(&mut self, count: usize) -> (BTreeMap<u32, Vec<Condition>>, u64, Duration) {
        let start = u32::try_from(self.done).unwrap_or(u32::MAX);
        self.done += count;
        let end = u32::try_from(self.done).unwrap_or(u32::MAX);
        let later = self.conditions.split_off(&end);
        let conditions = std::mem::replace(&mut self.conditions, later);
        let (now, since) = (clock::now(), self.since);
        let started_at = std::mem::replace(&mut self.started_at, clock::unix_millis());
        self.since = now;
        let conditions = conditions.into_iter().map(|(at, list)| (at.saturating_sub(start), list));
        (conditions.collect(), started_at, now - since)
    }
}
