//! Whether workers use more memory than their jobs allow: looked at a few times a second, for all
//! workers at once, and only while one of them runs something of a job that has a bound.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::confinement::Group;
use crate::processes::{Process, Tree};

/// The time from one look to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// The workers that are looked at.
#[derive(Debug, Default)]
pub struct MemoryWatch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By the ids of their supervisors.
    watched: BTreeMap<Pid, Watched>,
    is_looking: bool,
}

#[derive(Debug)]
struct Watched {
    subject: Subject,
    exceeded: watch::Sender<Option<Excess>>,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Subject {
    /// What all that came of the supervisor uses together, which may be so many bytes.
    Processes {
        /// So many.
        bound: u64,
    },
    /// Whether the kernel, which bounds this group, has killed more in it than these.
    Group {
        /// The group.
        group: Arc<Group>,
        /// So many.
        killed: u64,
    },
}

/// How a worker uses more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// So many bytes were found in use.
    Found(u64),
    /// The kernel did not give what was asked for, and killed.
    Refused,
}

/// A worker is looked at while this lives.
#[derive(Debug)]
pub struct MemoryGuard {
    watch: Arc<MemoryWatch>,
    supervisor: Pid,
    exceeded: watch::Receiver<Option<Excess>>,
}

impl MemoryWatch {
    /// Looks at what came of `supervisor` from now on.
    pub fn guard(self: &Arc<Self>, supervisor: Pid, subject: Subject) -> MemoryGuard {
        let (sender, exceeded) = watch::channel(None);
        let mut state = self.lock();
        state.watched.insert(supervisor, Watched { subject, exceeded: sender });
        if !std::mem::replace(&mut state.is_looking, true) {
            tokio::spawn(look_again_and_again(Arc::downgrade(self)));
        }
        MemoryGuard { watch: Arc::clone(self), supervisor, exceeded }
    }

    /// Looks once; `false` when there is nothing to look at.
    fn look(&self) -> bool {
        let subjects: Vec<(Pid, Subject)> = {
            let mut state = self.lock();
            state.is_looking = !state.watched.is_empty();
            state.watched.iter().map(|(pid, watched)| (*pid, watched.subject.clone())).collect()
        };
        if subjects.is_empty() {
            return false;
        }
        // Not read where the kernel looks.
        let tree = LazyCell::new(Tree::now);
        for (supervisor, subject) in subjects {
            let excess = match subject {
                Subject::Processes { bound } => {
                    excess(&tree.descendants(supervisor), bound).map(Excess::Found)
                }
                Subject::Group { group, killed } => {
                    (group.memory_kills() > killed).then_some(Excess::Refused)
                }
            };
            if let Some(excess) = excess
                && let Some(watched) = self.lock().watched.get(&supervisor)
            {
                watched.exceeded.send_replace(Some(excess));
            }
        }
        true
    }

    /// The lock is held for moments only and never while something is waited for.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryGuard {
    /// Waits until the worker uses more than it may, and says how.
    pub async fn exceeded(&mut self) -> Excess {
        match self.exceeded.wait_for(Option::is_some).await.map(|excess| *excess) {
            Ok(Some(excess)) => excess,
            _ => std::future::pending().await,
        }
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.watch.lock().watched.remove(&self.supervisor);
    }
}

async fn look_again_and_again(watch: Weak<MemoryWatch>) {
    loop {
        sleep(PAUSE).await;
        let Some(watch) = watch.upgrade() else { return };
        if !spawn_blocking(move || watch.look()).await.unwrap_or(false) {
            return;
        }
    }
}

/// What these processes use together, if that is more than `bound`.
fn excess(processes: &[Process], bound: u64) -> Option<u64> {
    let resident = processes.iter().map(|process| process.resident).sum::<u64>();
    // Pages that processes share, as forked ones do, count for each of them here. It costs the
    // kernel more to divide them, so it is asked only when it matters.
    let used = || processes.iter().map(proportional).sum::<u64>();
    (resident > bound).then(used).filter(|used| *used > bound)
}

/// Bytes that a process uses, its part of what it shares with others.
fn proportional(process: &Process) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid));
    let line = |text: &str| {
        let kib = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    rollup.ok().and_then(|text| line(&text)).map_or(process.resident, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_uses_is_more_than_nothing_and_less_than_everything() {
        let parent = nix::unistd::getppid();
        let own: Vec<Process> = Tree::now()
            .descendants(parent)
            .into_iter()
            .filter(|process| process.pid == nix::unistd::getpid())
            .collect();
        assert_eq!(own.len(), 1);
        assert!(excess(&own, 1).is_some_and(|used| used > 100_000));
        assert_eq!(excess(&own, u64::MAX), None);
        assert!(proportional(&own[0]) <= own[0].resident + (1 << 20));
    }

    #[tokio::test]
    async fn nobody_looks_once_there_is_nothing_to_look_at() {
        let watch = Arc::new(MemoryWatch::default());
        let mut guard = watch.guard(nix::unistd::getppid(), Subject::Processes { bound: 1 });
        assert!(matches!(guard.exceeded().await, Excess::Found(2..)));
        drop(guard);
        assert!(!watch.look());
        assert!(!watch.lock().is_looking);
    }
}
