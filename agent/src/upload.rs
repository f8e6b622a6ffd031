//! A large body on its way to a server: how far it has come, and how long it may take.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use reqwest::Body;
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes a second of the slowest link that is worth waiting for.
const SLOWEST_LINK: u64 = 10_000;

/// Bytes that are taken to be sent at once: a slow link moves them well within a third of a lease.
const PIECE: usize = 16 << 10;

/// Bytes that may be on their way, in the kernel and on the line, when the last ones are taken.
const ON_THE_WAY: u64 = 128 << 10;

/// How long so many bytes may be on their way.
pub fn upload_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_LINK)
}

/// A body that is sent, whole at each attempt.
#[derive(Debug)]
pub struct Upload {
    body: Bytes,
    /// How many bytes of it the connection has taken in this attempt.
    n_taken: watch::Sender<usize>,
}

impl Upload {
    /// One that has not begun.
    pub fn new(body: Bytes) -> Self {
        Self { body, n_taken: watch::Sender::new(0) }
    }

    /// How many bytes it has.
    pub fn n_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// All of it at once, for what is small.
    pub fn whole(&self) -> Body {
        self.body.clone().into()
    }

    /// Begins anew, piece by piece.
    pub fn begin(&self) -> Body {
        self.n_taken.send_replace(0);
        let (body, n_taken) = (self.body.clone(), self.n_taken.clone());
        let pieces = (0..body.len()).step_by(PIECE).map(move |start| {
            let end = body.len().min(start + PIECE);
            n_taken.send_replace(end);
            Ok::<_, Infallible>(body.slice(start..end))
        });
        Body::wrap_stream(stream::iter(pieces))
    }

    /// Waits until nothing of it has moved for `limit`. When all of it was taken, what is still on its
    /// way has its time beside that.
    pub async fn stands_still(&self, limit: Duration) {
        let mut n_taken = self.n_taken.subscribe();
        loop {
            let patience = patience(limit, *n_taken.borrow_and_update(), self.body.len());
            // It fails only when the sender is gone, which is borrowed here.
            if timeout(patience, n_taken.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// How long a body of which so many bytes were taken may stand still.
fn patience(limit: Duration, n_taken: usize, n_bytes: usize) -> Duration {
    let rest = if n_taken == n_bytes { (n_bytes as u64).min(ON_THE_WAY) } else { 0 };
    limit + upload_time(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_takes_the_time_that_a_slow_connection_needs() {
        assert_eq!(upload_time(0), Duration::ZERO);
        assert_eq!(upload_time(3_600 * SLOWEST_LINK), Duration::from_secs(3_600));
    }

    #[test]
    fn what_was_taken_last_may_be_on_its_way_for_a_while() {
        let (limit, large) = (Duration::from_secs(10), 100 * PIECE);
        for (n_taken, n_bytes, rest) in [
            (0, large, 0),
            (large - 1, large, 0),
            (large, large, ON_THE_WAY),
            (PIECE, PIECE, 16 << 10),
        ] {
            let found = patience(limit, n_taken, n_bytes);
            assert_eq!(found, limit + upload_time(rest), "{n_taken} of {n_bytes}");
        }
    }

    #[tokio::test]
    async fn one_of_which_nothing_moves_stands_still() {
        let upload = Upload::new(vec![0; 2 * PIECE].into());
        upload.stands_still(Duration::from_millis(1)).await;
    }
}
