//! Locks on files, by which agents of one machine keep out of each other's way. The kernel drops those
//! of a process that dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How often a lock that another agent holds is tried.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Locks the file at `path`, which is made if it is not there, unless somebody holds it otherwise.
///
/// # Errors
/// When it cannot be opened or locked.
pub fn try_lock(path: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    try_lock_open(File::create(path)?, path, how)
}

/// Locks a file that was opened at `path`, unless somebody holds it otherwise or it is not there any more.
///
/// # Errors
/// When it cannot be locked.
pub fn try_lock_open(file: File, path: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, how) {
        // The file may have been removed between its opening and its locking: such a lock is nobody
        // else's.
        Ok(lock) => Ok(is_at(&lock, path).then_some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether this file, and no other, is what `path` leads to.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The time for the file system, by which files of several processes are compared.
pub fn file_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(crate::clock::unix_millis())
}
