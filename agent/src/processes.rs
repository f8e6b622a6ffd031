//! Who descends from whom, read from `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs;

use nix::unistd::{Pid, SysconfVar};

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Whether it is dead and only waits for its parent to notice.
    pub zombie: bool,
    /// Bytes of memory that it has, shared ones included.
    pub resident: u64,
}

/// All processes that can be seen. One that ends meanwhile may be missing.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            parse_stat(Pid::from_raw(pid), &stat)
        })
        .collect()
}

/// The children of `parent`.
pub fn children(parent: Pid) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// Whether all that descends from `parent`, which must have one thread and take in orphans, is its
/// first child `child`. `false` also where the kernel does not list children (`CONFIG_PROC_CHILDREN`).
///
/// Reads a few small files, where [`descendants`] reads one of each process of the machine. The lists
/// are exact: one is empty only if there is no child, and a child that lives is followed by the next
/// one, if there is any (Linux, `get_children_pid` in `fs/proc/array.c`).
pub fn is_alone(parent: Pid, child: Pid) -> bool {
    let is_only = || {
        let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        listed.is_ok_and(|listed| listed.trim_ascii() == child.to_string())
    };
    // The parent's list behind the child's, because an orphan goes from there to here; and the child's once
    // more, because a thread that ends leaves its children to another, which may have been read before.
    let has_none = || has_no_child(child) == Some(true);
    has_none() && is_only() && has_none()
}

fn has_no_child(pid: Pid) -> Option<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let listed = fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        if !listed.trim_ascii().is_empty() {
            return Some(false);
        }
    }
    Some(true)
}

/// Everything that descends from `ancestor`.
pub fn descendants(ancestor: Pid) -> Vec<Process> {
    Tree::now().descendants(ancestor)
}

/// All processes by their parents.
#[derive(Debug)]
pub struct Tree(HashMap<Pid, Vec<Process>>);

impl Tree {
    /// As it is now.
    pub fn now() -> Self {
        let mut by_parent: HashMap<Pid, Vec<Process>> = HashMap::new();
        for process in all() {
            by_parent.entry(process.parent).or_default().push(process);
        }
        Self(by_parent)
    }

    /// Everything that descends from `ancestor`.
    pub fn descendants(&self, ancestor: Pid) -> Vec<Process> {
        let mut found = Vec::new();
        let mut seen = HashSet::from([ancestor]);
        let mut parents = vec![ancestor];
        while let Some(parent) = parents.pop() {
            for process in self.0.get(&parent).into_iter().flatten() {
                // Ids may be used again while we read: without this a cycle could be walked for
                // ever.
                if seen.insert(process.pid) {
                    found.push(*process);
                    parents.push(process.pid);
                }
            }
        }
        found
    }
}

/// Reads `/proc/PID/stat`: the name stands in parentheses and may itself hold any character, so
/// the fields are counted from the last closing one.
fn parse_stat(pid: Pid, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    // Pages, the twentieth field behind the parent; a kernel that has none of it measures nothing.
    let pages = fields.nth(19).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
    Some(Process { pid, parent, zombie, resident: pages.saturating_mul(page_bytes()) })
}

/// When a process has started, in ticks since the machine has: with its id that tells it from all
/// others that have been and will be.
pub fn started(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    // The twentieth behind the name.
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn reads_a_stat_whose_name_is_hostile() {
        let stat = "7 (a) Z 1 (b) S 5 7 7 0 -1";
        let process = parse_stat(Pid::from_raw(7), stat).unwrap();
        assert_eq!((process.parent, process.zombie), (Pid::from_raw(5), false));
        assert!(parse_stat(Pid::from_raw(7), "7 (a) Z 5 7").unwrap().zombie);
    }

    #[test]
    fn reads_the_pages_that_are_resident() {
        let stat = "12661 (cat) R 12640 12639 12638 0 -1 4194560 94 0 0 0 0 0 0 0 20 0 1 0 \
            2205 2654208 222 18446744073709551615 1 1 0";
        let process = parse_stat(Pid::from_raw(12661), stat).unwrap();
        assert_eq!(process.resident, 222 * page_bytes());
    }

    #[test]
    fn a_child_of_a_child_is_seen() {
        let (parent, child) = (Pid::from_raw(i32::MAX), nix::unistd::getpid());
        assert!(!is_alone(parent, child), "there is no such parent");
        let mut shell = Command::new("sh")
            .args(["-c", "read line; sleep 600 & wait"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(shell.id().cast_signed());
        assert_eq!(has_no_child(pid), Some(true));
        drop(shell.stdin.take());
        while has_no_child(pid) == Some(true) {
            std::thread::yield_now();
        }
        let [sleep] = &children(pid)[..] else { panic!("a shell with one child") };
        // Whoever asks has other threads, and maybe other children; this shell has neither.
        assert!(is_alone(pid, sleep.pid));
        assert!(!is_alone(pid, child), "it is another");
        nix::sys::signal::kill(sleep.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn finds_itself_among_its_parents_descendants() {
        let parent = nix::unistd::getppid();
        let me = nix::unistd::getpid();
        assert!(children(parent).iter().any(|process| process.pid == me));
        assert!(descendants(parent).iter().any(|process| process.pid == me));
    }
}
