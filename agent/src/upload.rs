//! A large body on its way to a server: how far it has come, and how long it may take.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use reqwest::Body;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Bytes a second of the slowest link that is worth waiting for.
const SLOWEST_LINK: u64 = 10_000;

/// Bytes that are taken to be sent at once: a slow link moves them well within a third of a lease.
const PIECE: usize = 16 << 10;

/// Bytes that are read of a file at once.
const READ: u64 = 256 << 10;

/// Bytes that may be on their way, in the kernel and on the line, when the last ones are taken.
const ON_THE_WAY: u64 = 128 << 10;

/// How long so many bytes may be on their way.
pub fn upload_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_LINK)
}

/// A body that is sent, whole at each attempt.
#[derive(Debug)]
pub struct Upload {
    source: Source,
    /// How many bytes of it the connection has taken in this attempt.
    n_taken: watch::Sender<usize>,
}

/// Where its bytes are.
#[derive(Clone, Debug)]
enum Source {
    /// In memory, one behind the other.
    Memory(Arc<[Bytes]>),
    /// In a file, so many of them.
    File(Arc<File>, u64),
}

impl Upload {
    /// One of these, one behind the other, that has not begun.
    pub fn new(bodies: Arc<[Bytes]>) -> Self {
        Self { source: Source::Memory(bodies), n_taken: watch::Sender::new(0) }
    }

    /// The first `n_bytes` of a file, wherever it is being read.
    pub fn of_file(file: Arc<File>, n_bytes: u64) -> Self {
        Self { source: Source::File(file, n_bytes), n_taken: watch::Sender::new(0) }
    }

    /// How many bytes it has.
    pub fn n_bytes(&self) -> u64 {
        match &self.source {
            Source::Memory(bodies) => bodies.iter().map(|body| body.len() as u64).sum(),
            Source::File(_, n_bytes) => *n_bytes,
        }
    }

    /// All of it at once, for what is small.
    pub fn whole(&self) -> Body {
        match &self.source {
            Source::Memory(bodies) => bodies.concat().into(),
            Source::File(..) => self.begin(),
        }
    }

    /// Begins anew, piece by piece.
    pub fn begin(&self) -> Body {
        self.n_taken.send_replace(0);
        let n_taken = self.n_taken.clone();
        match self.source.clone() {
            Source::Memory(bodies) => {
                let all = (0..bodies.len()).flat_map(move |n| pieces(bodies[n].clone()));
                let pieces = stream::iter(all).map(move |piece| {
                    n_taken.send_modify(|n_taken| *n_taken += piece.len());
                    Ok::<_, io::Error>(piece)
                });
                Body::wrap_stream(pieces)
            }
            Source::File(file, n_bytes) => {
                let pieces = parts(file, n_bytes)
                    .map_ok(|part| stream::iter(pieces(part)).map(Ok::<_, io::Error>));
                Body::wrap_stream(pieces.try_flatten().inspect_ok(move |piece| {
                    n_taken.send_modify(|n_taken| *n_taken += piece.len());
                }))
            }
        }
    }

    /// Waits until nothing of it has moved for `limit`. When all of it was taken, what is still on its
    /// way has its time beside that.
    pub async fn stands_still(&self, limit: Duration) {
        let mut n_taken = self.n_taken.subscribe();
        loop {
            let patience = patience(limit, *n_taken.borrow_and_update() as u64, self.n_bytes());
            // It fails only when the sender is gone, which is borrowed here.
            if timeout(patience, n_taken.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// Bytes in the pieces in which they are sent.
fn pieces(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len()).step_by(PIECE);
    starts.map(move |start| bytes.slice(start..bytes.len().min(start + PIECE)))
}

/// The first `n_bytes` of a file, as they are read, or as many as there are.
fn parts(file: Arc<File>, n_bytes: u64) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(0, move |start| {
        let file = Arc::clone(&file);
        async move {
            let part = spawn_blocking(move || read_at(&file, start, n_bytes)).await;
            // What cannot be read any more ends it: the server sees by the digest that it is not whole.
            let part = part.ok().and_then(Result::ok).unwrap_or_default();
            let end = start + part.len() as u64;
            Ok((!part.is_empty()).then_some((part, end)))
        }
    })
}

fn read_at(file: &File, start: u64, n_bytes: u64) -> io::Result<Bytes> {
    let most = usize::try_from((n_bytes - start).min(READ)).unwrap_or(0);
    let mut part = vec![0; most];
    let n = loop {
        match file.read_at(&mut part, start) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    part.truncate(n);
    Ok(part.into())
}

/// How long a body of which so many bytes were taken may stand still.
fn patience(limit: Duration, n_taken: u64, n_bytes: u64) -> Duration {
    let rest = if n_taken == n_bytes { n_bytes.min(ON_THE_WAY) } else { 0 };
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
        let piece = PIECE as u64;
        let (limit, large) = (Duration::from_secs(10), 100 * piece);
        for (n_taken, n_bytes, rest) in [
            (0, large, 0),
            (large - 1, large, 0),
            (large, large, ON_THE_WAY),
            (piece, piece, 16 << 10),
        ] {
            let found = patience(limit, n_taken, n_bytes);
            assert_eq!(found, limit + upload_time(rest), "{n_taken} of {n_bytes}");
        }
    }

    #[tokio::test]
    async fn a_file_is_sent_as_far_as_it_was_long() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        io::Write::write_all(&mut file, &bytes).unwrap();
        let file = Arc::new(file);
        for n in [0, 1, 300_000, 600_000, 700_000] {
            let parts: Vec<Bytes> = parts(Arc::clone(&file), n).try_collect().await.unwrap();
            assert!(parts.concat() == bytes[..bytes.len().min(n as usize)], "{n}");
        }
    }

    #[tokio::test]
    async fn bodies_are_sent_one_behind_the_other() {
        let bodies = [&b"ab"[..], b"", &[b'c'; 3 * PIECE], b"d"].map(Bytes::copy_from_slice);
        let upload = Upload::new(bodies.clone().into());
        assert_eq!(upload.n_bytes(), bodies.concat().len() as u64);
        for body in [upload.whole(), upload.begin()] {
            let sent = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX).await.unwrap();
            assert!(sent == bodies.concat());
        }
        assert_eq!(*upload.n_taken.borrow() as u64, upload.n_bytes());
    }

    #[tokio::test]
    async fn one_of_which_nothing_moves_stands_still() {
        let upload = Upload::new([vec![0; 2 * PIECE].into()].into());
        upload.stands_still(Duration::from_millis(1)).await;
    }
}
