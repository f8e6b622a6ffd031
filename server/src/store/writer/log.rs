//! SQLite's log (`-wal`), of which some commits are flushed a little later.
//!
//! A commit with `synchronous = normal` is in the log, where whatever becomes of this process leaves it, but the machine may
//! still lose it with its power. The next commit with `synchronous = full` flushes all of the log up to its own end
//! (<https://www.sqlite.org/wal.html>, "Performance considerations"), and so does [`Log::flush`].

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// After how long, about, a commit is flushed that no other has flushed by then.
const LATEST: Duration = Duration::from_millis(10);

/// The log, and how far it is flushed. Commits are numbered from 1.
pub struct Log {
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
        Some(Self {
            file: File::options().write(true).open(path).ok()?,
            committed: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            left_over: Notify::new(),
        })
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
            return Err(io::Error::other(
                "an earlier flush of the database's log has failed: see to its disk, and start the server again",
            ));
        }
        self.file.sync_data().inspect_err(|_| self.has_failed.store(true, Ordering::Release))?;
        self.flushed.fetch_max(committed, Ordering::AcqRel);
        Ok(())
    }

    /// Flushes whatever is left over, [`LATEST`] after it was committed, for ever.
    pub async fn keep_flushed(&self) {
        loop {
            self.left_over.notified().await;
            tokio::time::sleep(LATEST).await;
            // What is committed from now on needs another look.
            self.is_watched.swap(false, Ordering::AcqRel);
            if let Err(error) = self.flush() {
                tracing::error!(%error, "the log of the database could not be flushed");
            }
        }
    }
}
