//! What jobs say while they run, on its way to the server, for people who watch.
//!
//! Nothing waits for it, except outcomes that may end their job, for a moment: whoever follows a job to
//! its end is to hear its last words. What cannot be sent as fast as it is said is left out, and the log
//! says so.
//! What an element's outcome says of its output does not depend on any of this.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::JobId;
use protocol::agent::Logs as Request;
use protocol::job::{LogEntry, LogSource, LogStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::clock;

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
    waiting: VecDeque<LogEntry>,
    /// Bytes of what waits.
    bytes: usize,
    /// Bytes of each job that found no room.
    left_out: BTreeMap<JobId, usize>,
    /// Whether a request is on its way.
    is_sending: bool,
}

impl Logs {
    /// Puts an entry in, if there is room.
    pub fn put(&self, entry: LogEntry) {
        let mut contents = self.lock();
        let size = size(&entry);
        if contents.bytes + size > WAITING_BYTES {
            *contents.left_out.entry(entry.job).or_default() += entry.text.len();
        } else {
            contents.bytes += size;
            contents.waiting.push_back(entry);
        }
        drop(contents);
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
        self.lock().is_sending = false;
        self.emptied.notify_waiters();
    }

    /// Waits until all is sent.
    pub async fn all_sent(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Sends what waits without a pause, and waits a moment until it is sent.
    pub async fn hurry(&self) {
        if !self.lock().is_empty() {
            self.hurried.notify_one();
            timeout(HURRY_LIMIT, self.all_sent()).await.ok();
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
        self.lock().waiting.iter().cloned().collect()
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.is_sending
    }

    fn take(&mut self) -> Vec<LogEntry> {
        let mut taken = 0;
        let fitting = self.waiting.iter().take_while(|entry| {
            taken += size(entry);
            taken <= REQUEST_BYTES
        });
        let count = fitting.count().max(1).min(self.waiting.len());
        let mut entries: Vec<LogEntry> = self.waiting.drain(..count).collect();
        self.bytes -= entries.iter().map(size).sum::<usize>();
        if self.waiting.is_empty() {
            let left_out = std::mem::take(&mut self.left_out);
            entries.extend(left_out.into_iter().map(|(job, bytes)| gap(job, bytes)));
        }
        self.is_sending = !entries.is_empty();
        entries
    }
}

fn size(entry: &LogEntry) -> usize {
    entry.text.len() + ENTRY_BYTES
}

/// The line that stands where something is missing.
fn gap(job: JobId, bytes: usize) -> LogEntry {
    LogEntry {
        job,
        at: clock::unix_millis(),
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
    for batch in 1.. {
        let request = Request { batch, entries: logs.take().await };
        if let Err(problem) = client.logs(&request).await {
            tracing::warn!(%problem, batch, "the server does not take a part of the log");
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
        LogEntry { text, element: Some(1), ..gap(job, 0) }
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
    fn what_finds_no_room_is_counted_and_told_once() {
        let (logs, job) = (Logs::default(), JobId::new());
        for _ in 0..100 {
            logs.put(entry(job, "x".repeat(100_000)));
        }
        let mut entries = Vec::new();
        while let Some(taken) = logs.take().now_or_never() {
            entries.extend(taken);
        }
        let gap = entries.pop().unwrap();
        let missing = (100 - entries.len()) * 100_000;
        assert!(missing > 5_000_000 && gap.text.contains(&format!("{missing} bytes")), "{gap:?}");
        assert!(logs.lock().bytes == 0 && logs.lock().left_out.is_empty());
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
