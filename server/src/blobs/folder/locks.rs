//! What keeps servers, backups and collectors that share a folder of blobs out of each other's way.
//!
//! * `locks/names`: held by who gives a blob its name or finds that it is there, for a moment each;
//!   and alone by a collector while it looks once more and removes a few.
//! * `locks/collecting`: held alone by a collector, and together by those who read a snapshot of the
//!   database whose blobs must stay meanwhile.
//!
//! Both are locks of the kernel's: they go with the process that holds them, however that ends.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

/// The folder of the locks.
pub const LOCKS: &str = "locks";

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "it is held, not used")] Flock<File>);

/// How long one waits for a collector, which needs milliseconds unless its server was stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(2);

/// Held by who names or finds a blob. It may wait for a collector, a few milliseconds.
///
/// # Errors
/// `TimedOut` when a collector does not let go: whoever waits must not be stopped with its server.
pub fn naming(folder: &Path) -> io::Result<Held> {
    let mut waited = Duration::ZERO;
    loop {
        match lock(folder, "names", FlockArg::LockSharedNonblock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && waited < PATIENCE => {
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let path = folder.join(LOCKS).join("names");
                let text = format!(
                    "another server of this folder holds {} and does not let go: it may have been \
                     stopped; continue or end it",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            locked => return locked,
        }
    }
}

/// Held by a collector while it removes blobs: nobody names or finds one.
pub fn removing(folder: &Path) -> io::Result<Held> {
    lock(folder, "names", FlockArg::LockExclusive)
}

/// Held by who needs the blobs of a snapshot. It may wait for a collector, a few milliseconds.
pub fn reading(folder: &Path) -> io::Result<Held> {
    lock(folder, "collecting", FlockArg::LockShared)
}

/// Held by a collector; `None`: somebody needs the blobs of a snapshot, or another one collects.
pub fn collecting(folder: &Path) -> io::Result<Option<Held>> {
    match lock(folder, "collecting", FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(folder: &Path, name: &str, how: FlockArg) -> io::Result<Held> {
    let path = folder.join(LOCKS).join(name);
    let mut file = File::options().create(true).append(true).open(path)?;
    loop {
        match Flock::lock(file, how) {
            Ok(held) => return Ok(Held(held)),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// Makes a file as young as one that is written now.
pub fn touch(file: &File) -> io::Result<()> {
    Ok(futimens(file.as_fd(), &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)?)
}

/// The time now, by the clock that says how old the folder's files are.
pub fn now(folder: &Path) -> io::Result<SystemTime> {
    let file = File::options().create(true).append(true).open(folder.join(LOCKS).join("now"))?;
    touch(&file)?;
    file.metadata()?.modified()
}
