//! What the server counts while it works, for `/metrics`. Counting is an addition in memory; it
//! starts anew with the process, as Prometheus expects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

/// A number that goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one server process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Jobs that were submitted.
    pub jobs_submitted: Counter,
    /// Jobs that were resolved, failed or cancelled.
    pub jobs_ended: Counter,
    /// Outcomes that were accepted.
    pub elements_accepted: Counter,
    /// Bytes of blobs that were sent.
    pub blob_bytes_sent: Counter,
    /// Requests for blobs that were answered with the address of their storage.
    pub blobs_redirected: Counter,
    /// Requests that were answered, by the first digit of the status: 1 to 5.
    requests: [Counter; 5],
    waiting: Arc<AtomicU64>,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.requests.get(class) {
            counter.add(1);
        }
    }

    /// Answers by class of status: `("2xx", n)` and so on.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(self.requests.iter().map(Counter::get))
    }

    /// Counts a client as one that waits, until what is returned is dropped.
    pub fn waiting(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.waiting))
    }

    /// Clients that wait now.
    pub fn n_waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A client that waits.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicU64>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_clients_while_they_wait() {
        let metrics = Metrics::default();
        for status in [200, 202, 404, 503] {
            metrics.answered(StatusCode::from_u16(status).unwrap());
        }
        let requests: Vec<_> = metrics.requests().map(|(_, n)| n).collect();
        assert_eq!(requests, [0, 2, 0, 1, 1]);
        let waiting = metrics.waiting();
        assert_eq!(metrics.n_waiting(), 1);
        drop(waiting);
        assert_eq!(metrics.n_waiting(), 0);
    }
}
