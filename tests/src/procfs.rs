//! Which processes there are, read from `/proc`.

use std::fs;

use nix::unistd::Pid;

/// The parent of a process, if that is still there.
pub fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().map(Pid::from_raw)
}

/// Whether a process is there and not dead already.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// Above so many processes a core a machine is too busy to keep the terms. The cells of `make test`
/// alone are some two.
pub const BUSY: f64 = 3.0;

/// How many processes each core had to serve at once, over the last minute.
///
/// # Panics
/// When the system does not say.
pub fn load_of_a_core() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").expect("/proc/loadavg can be read");
    let load: f64 = text.split(' ').next().and_then(|load| load.parse().ok()).expect("a number");
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "there are few cores")]
    let n_cores = n_cores as f64;
    load / n_cores
}

/// The living processes whose arguments contain `mark`.
pub fn with_argument(mark: &str) -> Vec<Pid> {
    let has_mark = |pid: &Pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(mark) && is_alive(*pid)
    };
    all().into_iter().filter(has_mark).collect()
}

/// The words and the variables with which a process was started; nothing of one that has gone or
/// is another user's.
pub fn start_of(pid: Pid) -> (String, String) {
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', "\n")
    };
    (read("cmdline"), read("environ"))
}

/// The living processes that descend from `ancestor`.
pub fn descendants(ancestor: Pid) -> Vec<Pid> {
    let everybody = all();
    let mut found = vec![ancestor];
    // Breadth first: every round adds the children of those who were found before.
    let mut next = 0;
    while next < found.len() {
        let children = everybody.iter().filter(|pid| parent(**pid) == Some(found[next]));
        let children: Vec<Pid> = children.filter(|pid| !found.contains(pid)).copied().collect();
        found.extend(children);
        next += 1;
    }
    found.remove(0);
    found.retain(|pid| is_alive(*pid));
    found
}

fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc can be listed");
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    entries.flatten().filter_map(name).map(Pid::from_raw).collect()
}
