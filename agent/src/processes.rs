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
    fn finds_itself_among_its_parents_descendants() {
        let parent = nix::unistd::getppid();
        let me = nix::unistd::getpid();
        assert!(children(parent).iter().any(|process| process.pid == me));
        assert!(descendants(parent).iter().any(|process| process.pid == me));
    }
}
