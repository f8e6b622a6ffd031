//! A lease while it is worked on: what its lanes draw from, and where outcomes go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::agent::{Condition, Note};
use protocol::job::{ElementError, LogSource, OnError};
use protocol::{LeaseId, RangeSet};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::chunk::{Chunk, Prospect};
use crate::clock;
use crate::elements::Elements;
use crate::jobs::Job;
use crate::logs::Logs;
use crate::outbox::Outbox;
use crate::output::Printed;
use crate::pace::Pace;
use crate::parcel::Finished;
use crate::pool::WorkerPool;
use crate::prepared::Environment;
use crate::runtimes::Outcomes;
use crate::slots::Slots;
use crate::tap::Tap;

/// What all lanes of a lease share.
#[derive(Debug)]
pub struct Work {
    /// The lease.
    pub lease: LeaseId,
    /// Its job.
    pub job: Arc<Job>,
    /// What is prepared for the job's workers.
    pub prepared: Option<Arc<Environment>>,
    /// How its elements are said to workers.
    pub elements: Elements,
    /// What is left of it.
    pub chunk: Mutex<Chunk>,
    /// Told when part of a frame may have come back.
    pub frame_ended: Notify,
    /// Cancelled when no further element is to be begun.
    pub draining: CancellationToken,
    /// Where the agent notes how quick elements are, if its leases may wait for a slot.
    pub slots: Option<Arc<Slots>>,
    /// Where workers come from.
    pub pool: Arc<WorkerPool>,
    /// Where outcomes go.
    pub outbox: Arc<Outbox>,
    /// Where what the job says goes as it is said.
    pub logs: Arc<Logs>,
    /// Where constants come from.
    pub blobs: Arc<Blobs>,
}

impl Work {
    /// The lock is held for moments only and never while something is waited for.
    pub fn chunk(&self) -> MutexGuard<'_, Chunk> {
        self.chunk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out part of what has not begun, for a slot elsewhere; if all is in frames that are being run, part of what
    /// comes back of these. Nothing when nothing can come back.
    pub async fn spare(&self) -> RangeSet {
        loop {
            let frame_ended = self.frame_ended.notified();
            {
                let mut chunk = self.chunk();
                let part = chunk.spare();
                if !part.is_empty() || chunk.prospect() != Prospect::Perhaps {
                    return part;
                }
            }
            frame_ended.await;
        }
    }

    /// Notes how quick the lease's elements are in a slot, also for the next lease of the job.
    pub fn note_pace(&self, slot: u32, pace: &Pace) {
        self.job.learn(pace);
        if let (Some(slots), Some(element)) = (&self.slots, pace.element()) {
            slots.note_pace(slot, element);
        }
    }

    /// A way to the log for a worker that runs this `source`.
    pub fn tap(&self, source: LogSource) -> Tap {
        let prints = self.job.spec.options.stdout || source != LogSource::Element;
        let audience = Arc::new(Mutex::new(vec![self.job.spec.id]));
        Tap::new(Arc::clone(&self.logs), audience, source, prints)
    }

    /// Fails the job by way of the next element, and begins no other.
    pub fn fail(&self, slot: u32, error: ElementError) {
        let next = {
            let mut chunk = self.chunk();
            let next = chunk.take(1, 0);
            chunk.close();
            next
        };
        // No element is left when another lane has failed the job already.
        if let [element] = &next[..] {
            let started_at = clock::unix_millis();
            let batch = Batch { started_at, seconds: 0.0, slot, pid: 0, notes: Vec::new() };
            self.deliver(&[element.index], vec![Err(error)], batch);
        }
    }

    /// Puts the outcomes of elements into the outbox, neighbours together.
    pub fn deliver(&self, indexes: &[u64], outcomes: Outcomes, mut batch: Batch) {
        let count = indexes.len();
        let fails_job =
            self.job.spec.options.on_error == OnError::Stop && outcomes.iter().any(Result::is_err);
        let may_end_job = self.finish(count) || fails_job;
        let mut outcomes = outcomes.into_iter();
        let mut start = 0;
        for run in indexes.chunk_by(|one, next| one + 1 == *next) {
            let end = start + run.len();
            let here = batch.notes.extract_if(.., |note| (note.position as usize) < end);
            let shift = u32::try_from(start).unwrap_or(u32::MAX);
            let notes = here.map(|note| Note { position: note.position - shift, ..note });
            #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
            let share = run.len() as f64 / count as f64;
            self.outbox.put(Finished {
                lease: self.lease,
                job: self.job.spec.id,
                first: run[0],
                notes: notes.collect(),
                outcomes: outcomes.by_ref().take(run.len()).collect(),
                slot: batch.slot,
                pid: batch.pid,
                started_at: batch.started_at,
                seconds: batch.seconds * share,
                may_end_job,
            });
            start = end;
        }
    }

    /// Notes that `count` elements are finished; whether these were the last.
    fn finish(&self, count: usize) -> bool {
        let mut chunk = self.chunk();
        chunk.finish(count);
        chunk.unfinished() == 0
    }

    /// What else is to say of these elements. What was printed belongs to the last.
    pub fn notes(
        &self,
        indexes: &[u64],
        mut conditions: BTreeMap<u32, Vec<Condition>>,
        printed: &Printed,
    ) -> Vec<Note> {
        let options = &self.job.spec.options;
        let chunk = self.chunk();
        let mut notes = Vec::new();
        for (position, index) in (0..).zip(indexes) {
            let is_last = position as usize + 1 == indexes.len();
            let printed = (is_last && options.stdout).then_some(printed);
            let conditions = conditions.remove(&position).filter(|_| options.conditions);
            let attempts = chunk.attempts(*index);
            let note = Note {
                position,
                attempts: if attempts > 1 { attempts } else { 0 },
                stdout: printed.map_or_else(String::new, |printed| printed.stdout.text()),
                stderr: printed.map_or_else(String::new, |printed| printed.stderr.text()),
                dropped: printed
                    .map_or(0, |printed| printed.stdout.dropped() + printed.stderr.dropped()),
                conditions: conditions.unwrap_or_default(),
                artifacts: Vec::new(),
            };
            if note != (Note { position, ..Note::default() }) {
                notes.push(note);
            }
        }
        notes
    }
}

/// What is to say of outcomes that came together.
#[derive(Debug)]
pub struct Batch {
    /// When the first element began, in milliseconds since 1970.
    pub started_at: u64,
    /// Seconds that they took together.
    pub seconds: f64,
    /// The slot that ran them.
    pub slot: u32,
    /// The worker's process id; 0 when they never reached one.
    pub pid: u32,
    /// What else is to say of some, by their position from 0.
    pub notes: Vec<Note>,
}
