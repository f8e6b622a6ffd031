//! A frame of elements on its way through a worker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::agent::{Condition, Note};

use super::Lane;
use crate::artifacts::Collected;
use crate::bounds::Bounds;
use crate::chunk::Element;
use crate::clock;
use crate::death::Death;
use crate::frame::{self, Outgoing, kind};
use crate::output::Printed;
use crate::pace;
use crate::runtimes::{Answer, Outcomes};
use crate::work::Batch;
use crate::worker::{Event, Worker};

/// Conditions kept of one element.
const MOST_CONDITIONS: usize = 1000;

/// How a frame of elements came to its end, if not by all outcomes.
pub(super) struct Broken {
    pub(super) death: Death,
    /// Elements of the frame that had their outcomes.
    pub(super) done: usize,
}

impl Lane {
    /// Sends a frame of elements and takes in their outcomes. Returns how many there are: fewer than elements
    /// where some took long, so that those behind them can be run by whoever is free.
    pub(super) async fn exchange(
        &mut self,
        batch: &[Element],
        frame: &Outgoing,
    ) -> Result<usize, Broken> {
        self.empty_folders().await.map_err(|death| Broken { death, done: 0 })?;
        let mut progress = Progress::new();
        let mut bounds = self.begin(batch, frame);
        while progress.done < batch.len() {
            let broken = |death| Broken { death, done: progress.done };
            match self.next_answer(&progress, bounds.as_mut()).await.map_err(broken)? {
                Answer::Condition { position, condition } => {
                    self.take_note(batch, position, condition, &mut progress);
                }
                Answer::Outcomes { mut outcomes, printed, waits }
                    if (1..=batch.len() - progress.done).contains(&outcomes.len()) =>
                {
                    // To keep its files takes time that is not the element's.
                    let ended = clock::now();
                    let left = self.collect(&mut outcomes).await;
                    let taken = Taken { outcomes, printed, waits, ended, left };
                    let time = self.take_in(batch, taken, &mut progress);
                    if waits && progress.done < batch.len() {
                        if time > pace::SLOW {
                            self.stop_worker();
                            break;
                        }
                        self.let_go_on();
                    }
                }
                _ => return Err(broken(Death::Untrusted("it answered out of turn".to_owned()))),
            }
        }
        Ok(progress.done)
    }

    /// Sends a frame; what holds the worker to its bounds until all of it is answered.
    fn begin(&mut self, batch: &[Element], frame: &Outgoing) -> Option<Bounds> {
        let worker = self.worker.as_mut()?;
        if let Some(tap) = worker.output.tap() {
            tap.move_to(batch.first().map(|element| element.index));
        }
        worker.send(frame);
        Some(Bounds::new(&self.work.job, worker, &self.work.pool.memory))
    }

    /// Keeps a condition for its element's outcome, and tells it to whoever watches.
    fn take_note(
        &mut self,
        batch: &[Element],
        position: u32,
        condition: Condition,
        progress: &mut Progress,
    ) {
        let tap = self.worker.as_mut().and_then(|worker| worker.output.tap());
        if self.work.job.spec.options.conditions
            && let (Some(tap), Some(element)) = (tap, batch.get(position as usize))
        {
            tap.signal(element.index, &condition);
        }
        progress.keep(position, condition);
    }

    /// Waits for what the worker says next, as long as it keeps to its bounds.
    async fn next_answer(
        &mut self,
        progress: &Progress,
        bounds: Option<&mut Bounds>,
    ) -> Result<Answer, Death> {
        let (Some(worker), Some(bounds)) = (&mut self.worker, bounds) else {
            return Err(Death::Untrusted("it is gone".to_owned()));
        };
        let event = bounds.next(worker, progress.since).await?;
        match event {
            Event::Said(answer) => Ok(answer),
            Event::Dead(death) => Err(death),
            Event::Swept => Err(Death::Untrusted("it was swept while it worked".to_owned())),
        }
    }

    /// Lets a worker that waits forget the elements that are left. What is printed from now on is not theirs.
    fn stop_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        worker.stop();
        if let Some(tap) = worker.output.tap() {
            tap.move_to(None);
        }
    }

    /// Tells a worker that waits to begin the next element; what the last one printed has been taken.
    fn let_go_on(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.send(&frame::encode(kind::GO_ON, &b""[..]).unwrap_or_default());
        }
    }

    /// Delivers outcomes. Returns how long their elements took.
    fn take_in(
        &mut self,
        batch: &[Element],
        Taken { outcomes, printed, waits, ended, left }: Taken,
        progress: &mut Progress,
    ) -> Duration {
        let end = progress.done + outcomes.len();
        let elements = &batch[progress.done..end];
        let indexes: Vec<u64> = elements.iter().map(|element| element.index).collect();
        // Until the worker is told to go on, nobody else prints.
        let pauses = waits || end == batch.len();
        let output = self.take_output(printed, pauses);
        if let Some(tap) = self.worker.as_mut().and_then(|worker| worker.output.tap()) {
            if pauses {
                elements.last().inspect(|last| tap.attribute(last.index));
            }
            tap.move_to(batch.get(end).map(|next| next.index));
        }
        let pid = self.worker.as_ref().map_or(0, Worker::pid);
        let (conditions, started_at, time) = progress.advance(outcomes.len(), ended);
        let mut notes = self.work.notes(&indexes, conditions, &output);
        left.note(0, &mut notes);
        let seconds = time.as_secs_f64();
        let batch = Batch { started_at, seconds, slot: self.slot, pid, notes };
        if self.work.job.spec.options.retry_on_error && outcomes.iter().any(Result::is_err) {
            self.deliver_or_run_again(elements, outcomes, batch);
        } else {
            self.work.deliver(&indexes, outcomes, batch);
        }
        time
    }

    /// Delivers the outcomes but those of elements that are run again: nothing is said of such a
    /// run, as if it had not been.
    fn deliver_or_run_again(&self, elements: &[Element], outcomes: Outcomes, batch: Batch) {
        let (mut indexes, mut delivered, mut again) = (Vec::new(), Vec::new(), Vec::new());
        let mut notes = Vec::new();
        let mut noted = batch.notes.into_iter().peekable();
        for ((position, element), outcome) in (0..).zip(elements).zip(outcomes) {
            let note = noted.next_if(|note| note.position == position);
            let is_own_error = outcome.as_ref().is_err_and(|error| !error.fatal);
            if is_own_error && self.work.chunk().may_run_again(element.index) {
                again.push(element.clone());
                continue;
            }
            let position = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
            notes.extend(note.map(|note| Note { position, ..note }));
            indexes.push(element.index);
            delivered.push(outcome);
        }
        self.work.chunk().narrow(again);
        self.work.deliver(&indexes, delivered, Batch { notes, ..batch });
    }

    /// What was printed by the last of the elements whose outcomes have come. The worker says
    /// whether it noticed that this one `printed`; it `pauses` if it waits or none is left.
    fn take_output(&mut self, printed: bool, pauses: bool) -> Printed {
        // What is there may be the next element's already, since the worker did not wait.
        if !pauses {
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

/// Outcomes that have come.
struct Taken {
    outcomes: Outcomes,
    printed: bool,
    waits: bool,
    /// When the last of their elements had ended.
    ended: Instant,
    /// What that one has left behind, if it was alone.
    left: Collected,
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
    /// among them, when the first of them began, and how long they took until `now`.
    fn advance(
        &mut self,
        count: usize,
        now: Instant,
    ) -> (BTreeMap<u32, Vec<Condition>>, u64, Duration) {
        let start = u32::try_from(self.done).unwrap_or(u32::MAX);
        self.done += count;
        let end = u32::try_from(self.done).unwrap_or(u32::MAX);
        let later = self.conditions.split_off(&end);
        let conditions = std::mem::replace(&mut self.conditions, later);
        let since = self.since;
        let started_at = std::mem::replace(&mut self.started_at, clock::unix_millis());
        self.since = clock::now();
        let conditions = conditions.into_iter().map(|(at, list)| (at.saturating_sub(start), list));
        (conditions.collect(), started_at, now - since)
    }
}
