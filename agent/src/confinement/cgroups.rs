//! The control groups that this agent may make, found once at its start.
//!
//! ```text
//! BASE/farrow-agent              the agent itself: version 2 lets no group that is divided hold processes
//! BASE/farrow-worker-NS-PID-START-N   one worker, of the agent that is process PID of namespace NS
//! ```
//!
//! BASE is the group that the agent was started in. Version 2 bounds and kills there if the group is
//! *delegated*: by `Delegate=yes` in the unit of a service, or because it is all that a container
//! sees. Version 1 bounds where it is still in use and the agent may write to it, which is root's.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::unistd::{AccessFlags, Pid, access, geteuid};

use super::group::{self, Group, Version};
use crate::processes;

/// Where the kernel's control groups are found.
const ROOT: &str = "/sys/fs/cgroup";
/// The agent's own group.
const OWN: &str = "farrow-agent";
/// What the names of workers' groups begin with.
const WORKER: &str = "farrow-worker-";

/// Numbers the groups of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The hierarchies in which this agent makes groups.
#[derive(Debug, Default)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Why others are not used, for the log.
    pub remarks: Vec<String>,
}

/// One hierarchy, and what it does for us.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    base: PathBuf,
    memory: Option<Version>,
    processes: bool,
}

impl Cgroups {
    /// Those of this process. Takes the place in them that it needs, and removes what agents that
    /// are dead have left.
    pub fn of_this_process() -> Self {
        let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = Self::find(Path::new(ROOT), &memberships, geteuid().is_root());
        found.hierarchies.iter().for_each(|hierarchy| remove_abandoned(&hierarchy.base));
        found
    }

    /// Those below `root` of a process that is in the groups of `memberships`, as `/proc/PID/cgroup`
    /// says.
    fn find(root: &Path, memberships: &str, is_root: bool) -> Self {
        let mut found = Self::default();
        let groups = memberships.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        });
        let groups: Vec<(&str, &str)> = groups.collect();
        if let Some((_, path)) = groups.iter().find(|(controllers, _)| controllers.is_empty()) {
            match unified(root, path, is_root) {
                Ok((hierarchy, remark)) => {
                    found.hierarchies.push(hierarchy);
                    found.remarks.extend(remark);
                }
                Err(why) => found.remarks.push(format!("cgroup v2: {why}")),
            }
        }
        for controller in ["memory", "pids"] {
            if found.does(controller) {
                continue;
            }
            let group = groups.iter().find(|(list, _)| list.split(',').any(|it| it == controller));
            match group.map(|(list, path)| older(root, list, path, controller)) {
                Some(Ok(hierarchy)) => found.hierarchies.push(hierarchy),
                Some(Err(why)) => found.remarks.push(format!("cgroup v1, {controller}: {why}")),
                None => {}
            }
        }
        found
    }

    fn does(&self, controller: &str) -> bool {
        self.hierarchies.iter().any(|hierarchy| match controller {
            "memory" => hierarchy.memory.is_some(),
            _ => hierarchy.processes,
        })
    }

    /// By which of the kernel's interfaces memory is bounded, if by any.
    pub fn memory(&self) -> Option<Version> {
        self.hierarchies.iter().find_map(|hierarchy| hierarchy.memory)
    }

    /// Whether how many processes there are is bounded.
    pub fn bounds_processes(&self) -> bool {
        self.does("pids")
    }

    /// Keeps those hierarchies into whose groups a process can be put as `enter` does.
    pub fn keep_usable(&mut self, enter: impl Fn(&Group) -> io::Result<()>) {
        let tried = std::mem::take(&mut self.hierarchies);
        for hierarchy in tried {
            let group = hierarchy.group(&name(), None);
            match group.and_then(|group| {
                let entered = enter(&group);
                group.remove();
                entered
            }) {
                Ok(()) => self.hierarchies.push(hierarchy),
                Err(error) => {
                    let base = hierarchy.base.display();
                    self.remarks.push(format!("{base}: no process can be put there: {error}"));
                }
            }
        }
    }

    /// Makes the groups of a new worker, in which there may be so many processes; nothing where
    /// there are none to be had.
    pub fn make(&self, processes: u32) -> Option<Group> {
        let name = name();
        let (mut folders, mut memory, mut bounds_processes) = (Vec::new(), None, false);
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.base.join(&name);
            if let Err(error) = hierarchy.make(&folder, Some(processes)) {
                tracing::warn!(folder = %folder.display(), %error, "cannot make a control group");
                continue;
            }
            memory = memory.or(hierarchy.memory.map(|version| (folder.clone(), version)));
            bounds_processes |= hierarchy.processes;
            folders.push(folder);
        }
        (!folders.is_empty()).then(|| Group::new(folders, memory, bounds_processes))
    }
}

impl Hierarchy {
    fn group(&self, name: &str, processes: Option<u32>) -> io::Result<Group> {
        let folder = self.base.join(name);
        self.make(&folder, processes)?;
        Ok(Group::new(vec![folder], None, false))
    }

    fn make(&self, folder: &Path, processes: Option<u32>) -> io::Result<()> {
        fs::create_dir(folder)?;
        match processes.filter(|_| self.processes) {
            Some(processes) => group::set(folder, "pids.max", &processes.to_string())
                .inspect_err(|_| group::remove(folder)),
            None => Ok(()),
        }
    }
}

/// The hierarchy of version 2, and what it does not do and why.
fn unified(root: &Path, path: &str, is_root: bool) -> Result<(Hierarchy, Option<String>), String> {
    let is_unified = |mount: &PathBuf| mount.join("cgroup.controllers").exists();
    let mount = [root.to_owned(), root.join("unified")].into_iter().find(is_unified);
    let mount = mount.ok_or("it is not mounted")?;
    let (mut base, is_all) = seen(&mount, path);
    if !is_all && base.file_name().is_some_and(|name| name == OWN) {
        // An agent that was started by what runs in such a group, or `DelegateSubgroup=` of a unit.
        base.pop();
    }
    writable(&base)?;
    if !is_all && is_root && !is_delegated(&base) {
        return Err("the agent's group is not delegated to it: Delegate=yes in its unit".to_owned());
    }
    let enabled = divide(&base);
    let remark = enabled.as_ref().err().map(|why| format!("cgroup v2 only kills: {why}"));
    let enabled = enabled.unwrap_or_default();
    let does = |controller: &str| enabled.iter().any(|it| it == controller);
    let memory = does("memory").then_some(Version::V2);
    Ok((Hierarchy { base, memory, processes: does("pids") }, remark))
}

/// Lets the groups below `base` be bounded: for that all processes must leave it, and so does this one.
fn divide(base: &Path) -> Result<Vec<String>, String> {
    let words = |file: &str| {
        let text = fs::read_to_string(base.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let wanted: Vec<String> = words("cgroup.controllers")
        .into_iter()
        .filter(|controller| ["memory", "pids"].contains(&controller.as_str()))
        .collect();
    if wanted.is_empty() {
        return Err("its controllers are not given to it".to_owned());
    }
    let enabled = words("cgroup.subtree_control");
    if wanted.iter().all(|controller| enabled.contains(controller)) {
        return Ok(wanted);
    }
    let this = std::process::id().to_string();
    // The one that all others are below is exempt, and known by what it lacks.
    if base.join("cgroup.type").exists() {
        if words("cgroup.procs").iter().any(|member| *member != this) {
            return Err(
                "other processes are in the agent's group; start it as a service".to_owned()
            );
        }
        let own = base.join(OWN);
        let moved = match fs::create_dir(&own).map_err(|error| (error.kind(), error)) {
            Ok(()) | Err((io::ErrorKind::AlreadyExists, _)) => {
                group::set(&own, "cgroup.procs", &this)
            }
            Err((_, error)) => Err(error),
        };
        moved.map_err(|error| format!("the agent cannot move to {}: {error}", own.display()))?;
    }
    let enable: Vec<String> = wanted.iter().map(|controller| format!("+{controller}")).collect();
    group::set(base, "cgroup.subtree_control", &enable.join(" "))
        .map_err(|error| format!("its controllers cannot be enabled: {error}"))?;
    Ok(wanted)
}

/// The hierarchy of version 1 that has this controller.
fn older(root: &Path, list: &str, path: &str, controller: &str) -> Result<Hierarchy, String> {
    let mounts = [root.join(list), root.join(controller)];
    let mount = mounts.iter().find(|mount| mount.join("cgroup.procs").exists());
    let (base, _) = seen(mount.ok_or("it is not mounted")?, path);
    writable(&base)?;
    let memory = (controller == "memory").then_some(Version::V1);
    Ok(Hierarchy { base, memory, processes: controller == "pids" })
}

/// The folder of the group at `path`, and whether it is all that can be seen of its hierarchy. In a
/// container the path may be one of the machine's, where the group itself is mounted.
fn seen(mount: &Path, path: &str) -> (PathBuf, bool) {
    let relative = path.trim_start_matches('/');
    let folder = mount.join(relative);
    match relative.is_empty() || !folder.is_dir() {
        true => (mount.to_owned(), true),
        false => (folder, false),
    }
}

fn writable(base: &Path) -> Result<(), String> {
    let all = AccessFlags::W_OK | AccessFlags::X_OK;
    let allowed =
        access(base, all).and_then(|()| access(&base.join("cgroup.procs"), AccessFlags::W_OK));
    allowed.map_err(|error| format!("{} cannot be changed: {}", base.display(), error.desc()))
}

/// Whether systemd leaves what is below this group to whom it gave it.
fn is_delegated(base: &Path) -> bool {
    [c"user.delegate", c"trusted.delegate"].into_iter().any(|name| {
        let Ok(path) = CString::new(base.as_os_str().as_bytes()) else { return false };
        let mut value = [0_u8; 8];
        #[expect(unsafe_code, reason = "the kernel writes no more than the length that it is told")]
        let length = unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast::<libc::c_void>(),
                value.len(),
            )
        };
        length > 0 && value[0] == b'1'
    })
}

/// The name of a new worker's group.
fn name() -> String {
    let pid = nix::unistd::getpid();
    let started = processes::started(pid).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{WORKER}{}-{pid}-{started}-{number}", namespace())
}

/// The number of the namespace in which this process's id is one.
fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino()).unwrap_or_default()
}

/// Whether a group of this name is one of an agent that is dead. What cannot be known is not said.
fn is_abandoned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(WORKER) else { return false };
    let numbers: Option<Vec<u64>> = rest.split('-').map(|number| number.parse().ok()).collect();
    let Some([of_namespace, pid, started, _]) = numbers.as_deref() else { return false };
    let Ok(pid) = i32::try_from(*pid) else { return false };
    *of_namespace == namespace() && processes::started(Pid::from_raw(pid)) != Some(*started)
}

fn remove_abandoned(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_abandoned) {
            tracing::info!(group = %entry.path().display(), "removing what a dead agent left");
            group::remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::NotBounded;
    use super::*;

    const SERVICE: &str = "system.slice/farrow-agent.service";

    /// A file system of control groups as a delegated service of version 2 sees it.
    fn service(members: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let base = root.path().join(SERVICE);
        fs::create_dir_all(base.join(OWN)).unwrap();
        for (file, text) in [
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cgroup.procs", members),
            ("cgroup.subtree_control", ""),
            ("cgroup.type", "domain\n"),
            ("farrow-agent/cgroup.procs", ""),
        ] {
            fs::write(base.join(file), text).unwrap();
        }
        root
    }

    fn read(folder: &Path, file: &str) -> String {
        fs::read_to_string(folder.join(file)).unwrap()
    }

    fn find(root: &Path) -> Cgroups {
        Cgroups::find(root, &format!("0::/{SERVICE}\n"), false)
    }

    #[test]
    fn a_delegated_group_is_divided_and_the_agent_moves_out_of_the_way() {
        let this = std::process::id().to_string();
        let root = service(&format!("{this}\n"));
        let cgroups = find(root.path());
        assert!(cgroups.remarks.is_empty(), "{:?}", cgroups.remarks);
        assert_eq!((cgroups.memory(), cgroups.bounds_processes()), (Some(Version::V2), true));
        let base = root.path().join(SERVICE);
        assert_eq!(read(&base, "farrow-agent/cgroup.procs"), this);
        assert_eq!(read(&base, "cgroup.subtree_control"), "+memory +pids");
        // As an agent that is started by this one finds it.
        fs::write(base.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        let inner = format!("0::/{SERVICE}/{OWN}\n");
        let inner = Cgroups::find(root.path(), &inner, false);
        assert_eq!(inner.hierarchies, cgroups.hierarchies);
    }

    #[test]
    fn a_group_that_is_shared_or_not_delegated_is_left_alone() {
        let root = service("1\n");
        let cgroups = find(root.path());
        assert_eq!((cgroups.memory(), cgroups.bounds_processes()), (None, false));
        assert!(cgroups.remarks[0].contains("other processes"), "{:?}", cgroups.remarks);
        assert_eq!(read(&root.path().join(SERVICE), "cgroup.subtree_control"), "");
        let as_root = Cgroups::find(root.path(), &format!("0::/{SERVICE}\n"), true);
        assert!(as_root.hierarchies.is_empty());
        assert!(as_root.remarks[0].contains("Delegate=yes"), "{:?}", as_root.remarks);
    }

    #[test]
    fn a_group_bounds_all_that_is_in_it() {
        let root = service(&std::process::id().to_string());
        let cgroups = find(root.path());
        let base = &cgroups.hierarchies[0].base;
        let folder = base.join("made");
        fs::create_dir(&folder).unwrap();
        let files = ["memory.max", "memory.swap.max", "memory.oom.group", "cgroup.kill"];
        for file in files {
            fs::write(folder.join(file), "").unwrap();
        }
        fs::write(folder.join("memory.events"), "low 0\nmax 7\noom 2\noom_kill 3\n").unwrap();
        let group = Group::new(vec![folder.clone()], Some((folder.clone(), Version::V2)), true);
        group.limit_memory(200 << 20).unwrap();
        assert_eq!(read(&folder, "memory.max"), (200 << 20).to_string());
        assert_eq!(read(&folder, "memory.swap.max"), "0");
        assert_eq!(read(&folder, "memory.oom.group"), "1");
        assert_eq!(group.memory_kills(), 3);
        assert!(group::kill_at_once(&folder));
        assert_eq!(read(&folder, "cgroup.kill"), "1");
        let without = Group::new(vec![folder], None, false);
        assert!(matches!(without.limit_memory(1), Err(NotBounded::Refused(_))));
    }

    #[test]
    fn the_older_version_is_found_beside_the_newer_one() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["unified", "memory/a/b", "pids"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in [
            "unified/cgroup.controllers",
            "unified/cgroup.procs",
            "memory/cgroup.procs",
            "memory/a/b/cgroup.procs",
            "pids/cgroup.procs",
        ] {
            fs::write(root.path().join(file), "").unwrap();
        }
        // The path of `pids` is one of the machine outside, which is not to be seen.
        let memberships = "8:pids:/docker/x\n4:memory:/a/b\n1:cpu:/\n0::/\n";
        let cgroups = Cgroups::find(root.path(), memberships, true);
        let place = |base: &str, memory, processes| Hierarchy {
            base: root.path().join(base),
            memory,
            processes,
        };
        let expected = [
            place("unified", None, false),
            place("memory/a/b", Some(Version::V1), false),
            place("pids", None, true),
        ];
        assert_eq!(cgroups.hierarchies, expected);
    }

    #[test]
    fn groups_of_the_dead_are_known_by_their_names() {
        assert!(!is_abandoned(&name()));
        let this = nix::unistd::getpid();
        let (space, started) = (namespace(), processes::started(this).unwrap());
        assert!(is_abandoned(&format!("{WORKER}{space}-{this}-{}-0", started + 1)));
        assert!(is_abandoned(&format!("{WORKER}{space}-{}-5-0", i32::MAX)));
        assert!(!is_abandoned(&format!("{WORKER}{}-{}-5-0", space + 1, i32::MAX)));
        assert!(!is_abandoned("farrow-worker-mine"));
        assert!(!is_abandoned(OWN));
    }
}
