//! The control groups of one worker: by them the kernel bounds what it and all that comes of it use
//! together, and kills them together.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the removal of a group is tried, and the pause from one to the next: what is killed
/// takes some time to be gone.
const ROUNDS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Which of the kernel's two interfaces bounds memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `memory.limit_in_bytes`.
    V1,
    /// `memory.max`.
    V2,
}

/// The groups of one worker, one in each hierarchy that is used. Gone with it.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
    memory: Option<(PathBuf, Version)>,
    bounds_processes: bool,
    /// The bound that is in force.
    bound: Mutex<Option<u64>>,
    is_removed: AtomicBool,
}

/// Why memory is not bounded.
#[derive(Debug)]
pub enum NotBounded {
    /// More is in use already.
    Exceeded,
    /// The kernel does not do it, and why.
    Refused(io::Error),
}

impl Group {
    /// The group that is these folders.
    pub fn new(
        folders: Vec<PathBuf>,
        memory: Option<(PathBuf, Version)>,
        bounds_processes: bool,
    ) -> Self {
        let is_removed = AtomicBool::new(false);
        Self { folders, memory, bounds_processes, bound: Mutex::default(), is_removed }
    }

    /// Its folders.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Whether it can bound memory.
    pub fn bounds_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether it bounds how many processes there are in it.
    pub fn bounds_processes(&self) -> bool {
        self.bounds_processes
    }

    /// Lets all in it use so many bytes together from now on. What needs more is killed.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), NotBounded> {
        let Some((folder, version)) = &self.memory else {
            let error = io::Error::other("no group bounds memory here");
            return Err(NotBounded::Refused(error));
        };
        // The lock is held for moments only, by one task that uses the worker.
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if *bound == Some(bytes) {
            return Ok(());
        }
        match version {
            Version::V1 => limit_v1(folder, bytes)?,
            Version::V2 => limit_v2(folder, bytes).map_err(NotBounded::Refused)?,
        }
        *bound = Some(bytes);
        Ok(())
    }

    /// How many processes the kernel has killed in it because they needed more than they may use.
    pub fn memory_kills(&self) -> u64 {
        let Some((folder, version)) = &self.memory else { return 0 };
        let file = match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let events = fs::read_to_string(folder.join(file)).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|kills| kills.trim().parse().ok()).unwrap_or_default()
    }

    /// Kills all that is in it and removes it; takes a while if something is.
    pub fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::SeqCst) {
            self.folders.iter().for_each(|folder| remove(folder));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_removed.swap(true, Ordering::SeqCst) {
            return;
        }
        // What is in it is killed by its supervisor meanwhile, which is not to be waited for here.
        let folders = std::mem::take(&mut self.folders);
        let remove_all = move || folders.iter().for_each(|folder| remove(folder));
        thread::Builder::new().spawn(remove_all).ok();
    }
}

fn limit_v1(folder: &Path, bytes: u64) -> Result<(), NotBounded> {
    set(folder, "memory.limit_in_bytes", &bytes.to_string()).map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            NotBounded::Exceeded
        } else {
            NotBounded::Refused(error)
        }
    })?;
    // Together with swap, where the kernel counts that.
    set(folder, "memory.memsw.limit_in_bytes", &bytes.to_string()).ok();
    Ok(())
}

fn limit_v2(folder: &Path, bytes: u64) -> io::Result<()> {
    // What is swapped out is used as well. Older kernels, and such without swap, lack these.
    set(folder, "memory.swap.max", "0").ok();
    // All at once: what lives on without one of its processes may wait for it for ever.
    set(folder, "memory.oom.group", "1").ok();
    set(folder, "memory.max", &bytes.to_string())
}

/// Writes to a file of a control group.
///
/// # Errors
/// When it is not there or does not take the value.
pub fn set(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(folder.join(file))?.write_all(value.as_bytes())
}

/// Kills all that is in a group, where one write does that.
pub fn kill_at_once(folder: &Path) -> bool {
    set(folder, "cgroup.kill", "1").is_ok()
}

/// Kills what is in a group, and removes it with those below it.
pub fn remove(folder: &Path) {
    for _ in 0..ROUNDS {
        match fs::remove_dir(folder).map_err(|error| error.kind()) {
            Ok(()) | Err(io::ErrorKind::NotFound) => return,
            // Not on a file system of control groups: there is nothing that we could do.
            Err(io::ErrorKind::DirectoryNotEmpty) => break,
            Err(_) => {}
        }
        kill_all(folder);
        for inner in fs::read_dir(folder).into_iter().flatten().flatten() {
            if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&inner.path());
            }
        }
        thread::sleep(PAUSE);
    }
    tracing::warn!(folder = %folder.display(), "cannot remove a worker's control group");
}

fn kill_all(folder: &Path) {
    if kill_at_once(folder) {
        return;
    }
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
