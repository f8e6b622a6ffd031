//! SQLite's log (`-wal`), of which some commits are flushed a little later.
//!
//! A commit with `synchronous = normal` is in the log, where whatever becomes of this process leaves it, but the machine may
//! still lose it with its power. The next commit with `synchronous = full` flushes all of the log up to its own end
//! (<https://www.sqlite.org/wal.html>, "Performance considerations"), and so does [`Log::flush`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// After how long, about, a commit is flushed that no other has flushed by then.
const LATEST: Duration = Duration::from_millis(10);

/// The log, and how far it is flushed. Commits are numbered from 1.
pub struct Log {
    path: PathBuf,
    file: File,
    committed: AtomicU64,
    flushed: AtomicU64,
    /// A flush has failed: what it was to write is lost, and the system tells of that once.
    has_failed: AtomicBool,
    /// Whether somebody will look whether it is flushed.
    is_watched: AtomicBool,
    left_over: Notify,
}

impl Log {
    /// The log of the database at `file`, which is open; `None`: it has none, or it cannot be opened.
    pub fn open(file: &Path) -> Option<Self> {
        let mut path = file.as_os_str().to_owned();
        path.push("-wal");
        let path = PathBuf::from(path);
        let opened = File::options().write(true).open(&path).ok()?;
        Some(Self::of(path, opened))
    }

    fn of(path: PathBuf, file: File) -> Self {
        Self {
            path,
            file,
            committed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            left_over: Notify::new(),
        }
    }

    /// Notes a commit, by the only one who writes. `is_flushed`: it is on disk, and all before it are.
    pub fn committed(&self, is_flushed: bool) {
        let number = self.committed.fetch_add(1, Ordering::AcqRel) + 1;
        if self.has_failed() {
            return;
        }
        if is_flushed {
            self.flushed.fetch_max(number, Ordering::AcqRel);
        } else if !self.is_watched.swap(true, Ordering::AcqRel) {
            self.left_over.notify_one();
        }
    }

    /// The number of the last commit.
    pub fn n_committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// The number of the last commit that is on disk for sure, with all before it.
    pub fn n_flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// As if somebody would look, so that nobody does.
    #[cfg(test)]
    pub fn watch(&self) {
        self.is_watched.store(true, Ordering::Release);
    }

    /// Whether a flush has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Sees to it that all that was committed so far is on disk.
    ///
    /// # Errors
    /// The disk's: then nothing more can be flushed by itself, for another attempt would say that all is well
    /// (<https://wiki.postgresql.org/wiki/Fsync_Errors>).
    pub fn flush(&self) -> io::Result<()> {
        let committed = self.n_committed();
        if self.n_flushed() >= committed {
            return Ok(());
        }
        if self.has_failed() {
            return Err(self.failure("an earlier flush has failed"));
        }
        self.file.sync_data().map_err(|error| {
            self.has_failed.store(true, Ordering::Release);
            self.failure(&error.to_string())
        })?;
        self.flushed.fetch_max(committed, Ordering::AcqRel);
        Ok(())
    }

    fn failure(&self, why: &str) -> io::Error {
        io::Error::other(format!(
            "the log of the database, {}, could not be flushed: {why}; see to its disk, and start the server again",
            self.path.display()
        ))
    }

    /// Flushes whatever is left over, [`LATEST`] after it was committed, for ever.
    pub async fn keep_flushed(&self) {
        loop {
            self.left_over.notified().await;
            tokio::time::sleep(LATEST).await;
            // What is committed from now on needs another look.
            self.is_watched.swap(false, Ordering::AcqRel);
            if let Err(error) = self.flush() {
                tracing::error!("{error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_at(path: impl Into<PathBuf>) -> Log {
        let path = path.into();
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        Log::of(path, file.expect("the log's file"))
    }

    #[test]
    fn after_a_flush_that_failed_nothing_is_said_to_be_flushed() {
        // There is nothing behind this device that could be flushed.
        let log = log_at("/dev/null");
        log.committed(false);
        for why in ["Invalid argument", "an earlier flush has failed"] {
            let error = log.flush().expect_err("a flush of a device").to_string();
            for part in [why, "/dev/null", "start the server again"] {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
        log.committed(true);
        assert_eq!((log.n_committed(), log.n_flushed()), (2, 0));
    }

    #[tokio::test]
    async fn whatever_is_left_over_is_flushed_a_little_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = log_at(folder.path().join("wal"));
        let commits = async {
            for number in 1..=3 {
                log.committed(false);
                while log.n_flushed() < number {
                    tokio::task::yield_now().await;
                }
            }
        };
        let all = async {
            tokio::select! { () = log.keep_flushed() => {}, () = commits => {} }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("each is flushed");
    }
}
