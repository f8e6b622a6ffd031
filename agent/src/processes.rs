//! Who descends from whom, read from `/proc`.

use std::collections::{HashMap, HashSet};
use std::fs;

use nix::unistd::Pid;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id.
    pub parent: Pid,
    /// Whether it is dead and only waits for its parent to notice.
    pub zombie: bool,
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
    let mut by_parent: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in all() {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([ancestor]);
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for process in by_parent.get(&parent).into_iter().flatten() {
            // Ids may be used again while we read: without this a cycle could be walked for ever.
            if seen.insert(process.pid) {
                found.push(*process);
                parents.push(process.pid);
            }
        }
    }
    found
}

/// Reads `/proc/PID/stat`: the name stands in parentheses and may itself hold any character, so
/// the fields are counted from the last closing one.
fn parse_stat(pid: Pid, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    Some(Process { pid, parent, zombie })
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
    fn finds_itself_among_its_parents_descendants() {
        let parent = nix::unistd::getppid();
        let me = nix::unistd::getpid();
        assert!(children(parent).iter().any(|process| process.pid == me));
        assert!(descendants(parent).iter().any(|process| process.pid == me));
    }
}
