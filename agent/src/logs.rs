//! What jobs say while they run, on its way to the server, for people who watch.
//!
//! Nothing waits for it, except outcomes that may end their job, for a moment: whoever follows a job to
//! its end is to hear its last words. What cannot be sent as fast as it is said is left out, and the log
//! says so.
//! What an element's outcome says of its output does not depend on any of this.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::JobId;
use protocol::agent::Logs as Request;
use protocol::job::{LogEntry, LogSource, LogStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::clock;
use crate::report::TOO_LARGE;

/// The least time from one request to the next.
const PAUSE: Duration = Duration::from_millis(200);
/// For how long an outcome that may end its job waits for what was said before it.
const HURRY_LIMIT: Duration = Duration::from_millis(250);
/// Bytes of text in one request; with [`PAUSE`] that makes the most an agent sends: some 1.25 MiB a
/// second.
const REQUEST_BYTES: usize = 256 << 10;
/// Bytes of text that wait at most.
const WAITING_BYTES: usize = 4 << 20;
/// What an entry takes beside its text.
const ENTRY_BYTES: usize = 100;

/// What is to be sent.
#[derive(Debug, Default)]
pub struct Logs {
    contents: Mutex<Contents>,
    filled: Notify,
    emptied: Notify,
    hurried: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    waiting: VecDeque<Waiting>,
    /// Bytes of what waits.
    bytes: usize,
    /// The jobs of what is on its way.
    sending: BTreeSet<JobId>,
}

impl Logs {
    /// Puts an entry in, if there is room.
    pub fn put(&self, entry: LogEntry) {
        self.lock().put(entry);
        self.filled.notify_one();
    }

    /// Waits until there is something to send, and takes as much as one request holds.
    async fn take(&self) -> Vec<LogEntry> {
        loop {
            let entries = self.lock().take();
            if !entries.is_empty() {
                return entries;
            }
            self.filled.notified().await;
        }
    }

    fn sent(&self) {
        self.lock().sending.clear();
        self.emptied.notify_waiters();
    }

    /// Waits until all is sent.
    pub async fn all_sent(&self) {
        self.until(Contents::is_empty).await;
    }

    /// Sends what waits without a pause, and waits a moment until what these jobs have said is sent.
    /// Not if they have said nothing, nor if so much waits that the moment would not do.
    pub async fn hurry(&self, jobs: &[JobId]) {
        let is_worth_it = {
            let contents = self.lock();
            contents.bytes <= REQUEST_BYTES && contents.is_of(jobs)
        };
        if is_worth_it {
            self.hurried.notify_one();
            timeout(HURRY_LIMIT, self.until(|contents| !contents.is_of(jobs))).await.ok();
        }
    }

    async fn until(&self, is_so: impl Fn(&Contents) -> bool) {
        loop {
            let emptied = self.emptied.notified();
            if is_so(&self.lock()) {
                return;
            }
            emptied.await;
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = self.hurried.notified() => {}
        }
    }

    /// What waits.
    #[cfg(test)]
    pub fn entries(&self) -> Vec<LogEntry> {
        self.lock().waiting.iter().cloned().map(Waiting::into_entry).collect()
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn put(&mut self, entry: LogEntry) {
        let (job, bytes) = (entry.job, entry.text.len());
        let entry = Waiting::Entry(entry);
        if self.bytes + entry.size() <= WAITING_BYTES {
            self.push(entry);
        } else if let Some(gap) = self.gap_of(job) {
            *gap += bytes;
        } else {
            self.push(Waiting::Gap { job, at: clock::unix_millis(), bytes });
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.size();
        self.waiting.push_back(waiting);
    }

    /// The bytes that are left out at the end of what waits of a job, if some are.
    fn gap_of(&mut self, job: JobId) -> Option<&mut usize> {
        match self.waiting.iter_mut().rev().find(|waiting| waiting.job() == job)? {
            Waiting::Gap { bytes, .. } => Some(bytes),
            Waiting::Entry(_) => None,
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.sending.is_empty()
    }

    /// Whether something of these jobs waits or is on its way.
    fn is_of(&self, jobs: &[JobId]) -> bool {
        jobs.iter().any(|job| self.sending.contains(job))
            || self.waiting.iter().any(|waiting| jobs.contains(&waiting.job()))
    }

    fn take(&mut self) -> Vec<LogEntry> {
        let mut taken = 0;
        let fitting = self.waiting.iter().take_while(|waiting| {
            taken += waiting.size();
            taken <= REQUEST_BYTES
        });
        let count = fitting.count().max(1).min(self.waiting.len());
        let waited: Vec<Waiting> = self.waiting.drain(..count).collect();
        self.bytes -= waited.iter().map(Waiting::size).sum::<usize>();
        self.sending = waited.iter().map(Waiting::job).collect();
        waited.into_iter().map(Waiting::into_entry).collect()
    }
}

/// What is to be sent, in its turn.
#[derive(Clone, Debug)]
enum Waiting {
    /// What was said.
    Entry(LogEntry),
    /// Where something of a job is missing since `at`, because there was no room.
    Gap { job: JobId, at: u64, bytes: usize },
}

impl Waiting {
    fn job(&self) -> JobId {
        match self {
            Self::Entry(LogEntry { job, .. }) | Self::Gap { job, .. } => *job,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Entry(entry) => entry.text.len() + ENTRY_BYTES,
            Self::Gap { .. } => 2 * ENTRY_BYTES,
        }
    }

    fn into_entry(self) -> LogEntry {
        match self {
            Self::Entry(entry) => entry,
            Self::Gap { job, at, bytes } => gap(job, at, bytes),
        }
    }
}

/// The line that stands where something is missing.
fn gap(job: JobId, at: u64, bytes: usize) -> LogEntry {
    LogEntry {
        job,
        at,
        source: LogSource::Element,
        element: None,
        stream: LogStream::Stderr,
        text: format!(
            "[… {bytes} bytes are left out here: jobs print faster than this agent sends …]\n"
        ),
    }
}

/// Sends what is put in, for ever.
pub async fn run(client: &Client, logs: &Logs) {
    let mut batch = 0;
    loop {
        let mut parts = vec![logs.take().await];
        while let Some(entries) = parts.pop() {
            batch += 1;
            let mut request = Request { batch, entries };
            let Err(problem) = client.logs(&request).await else { continue };
            if problem.status == TOO_LARGE && request.entries.len() > 1 {
                // A server or a proxy may take less at once than [`REQUEST_BYTES`].
                parts.push(request.entries.split_off(request.entries.len() / 2));
                parts.push(request.entries);
            } else {
                tracing::warn!(%problem, batch, "the server does not take a part of the log");
            }
        }
        logs.sent();
        logs.pause().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn entry(job: JobId, text: String) -> LogEntry {
        LogEntry { text, element: Some(1), ..gap(job, 0, 0) }
    }

    #[test]
    fn a_request_is_bounded_but_takes_what_is_large_by_itself() {
        let (logs, job) = (Logs::default(), JobId::new());
        logs.put(entry(job, "x".repeat(REQUEST_BYTES)));
        logs.put(entry(job, "a".into()));
        logs.put(entry(job, "b".into()));
        let lengths = |entries: Vec<LogEntry>| entries.iter().map(|e| e.text.len()).collect();
        let mut taken: Vec<Vec<usize>> = Vec::new();
        while let Some(entries) = logs.take().now_or_never() {
            taken.push(lengths(entries));
        }
        assert_eq!(taken, [vec![REQUEST_BYTES], vec![1, 1]]);
    }

    #[test]
    fn what_finds_no_room_is_counted_where_it_is_missing() {
        let (logs, job) = (Logs::default(), JobId::new());
        let put = |count: usize| {
            (0..count).for_each(|_| logs.put(entry(job, "x".repeat(100_000))));
        };
        put(100);
        let mut entries: Vec<LogEntry> = logs.take().now_or_never().unwrap();
        // There is room again, and soon none.
        put(10);
        while let Some(taken) = logs.take().now_or_never() {
            entries.extend(taken);
        }
        let is_gap = |entry: &LogEntry| entry.element.is_none();
        let parts: Vec<&[LogEntry]> = entries.split_inclusive(is_gap).collect();
        let [first, second] = &parts[..] else { panic!("{} parts", parts.len()) };
        for (part, put) in [(first, 100), (second, 10)] {
            let missing = (put - (part.len() - 1)) * 100_000;
            let story = &part.last().unwrap().text;
            assert!(missing > 0 && story.contains(&format!("{missing} bytes")), "{story}");
        }
        assert_eq!(logs.lock().bytes, 0);
    }

    #[test]
    fn nobody_waits_for_what_other_jobs_say_nor_for_more_than_a_moment_sends() {
        let (logs, job, other) = (Logs::default(), JobId::new(), JobId::new());
        logs.put(entry(other, "x".into()));
        assert!(logs.hurry(&[job]).now_or_never().is_some());
        logs.put(entry(other, "x".repeat(REQUEST_BYTES)));
        assert!(logs.hurry(&[other]).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_a_job_has_said_is_waited_for_until_it_is_sent() {
        let (logs, job, other) = (Logs::default(), JobId::new(), JobId::new());
        logs.put(entry(job, "x".into()));
        assert!(logs.hurry(&[other, job]).now_or_never().is_none());
        logs.take().await;
        logs.put(entry(other, "x".into()));
        assert!(logs.hurry(&[job]).now_or_never().is_none(), "it is on its way");
        logs.sent();
        assert!(logs.hurry(&[job]).now_or_never().is_some());
    }

    #[test]
    fn all_is_sent_only_when_nothing_is_on_its_way() {
        let (logs, job) = (Logs::default(), JobId::new());
        assert!(logs.all_sent().now_or_never().is_some());
        logs.put(entry(job, "x".into()));
        assert!(logs.all_sent().now_or_never().is_none());
        logs.take().now_or_never().unwrap();
        assert!(logs.all_sent().now_or_never().is_none());
        logs.sent();
        assert!(logs.all_sent().now_or_never().is_some());
    }
}
