//! What of the machine this process may use: cores from sysfs, cut by affinity and by the cgroup's
//! quota; memory, cut by the cgroup's limit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Cores and memory that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Cores, however many threads each runs. Work that computes gains nothing from more workers.
    pub physical_cores: u32,
    /// Hardware threads.
    pub logical_cores: u32,
    /// Bytes of memory; 0 when the system does not say.
    pub memory: u64,
}

impl Topology {
    /// Of the machine that this process runs on.
    pub fn of_this_machine() -> Self {
        Self::read(Path::new("/"), &affinity())
    }

    /// Of the machine whose `/proc` and `/sys` stand under `root`, for a process that may run on
    /// the logical cores `allowed`.
    fn read(root: &Path, allowed: &BTreeSet<u32>) -> Self {
        let cgroups = Cgroups::read(root);
        let quota = cgroups.cpu_quota().unwrap_or(u32::MAX);
        let cores: BTreeSet<String> = allowed.iter().map(|cpu| core_of(root, *cpu)).collect();
        Self {
            physical_cores: count(cores.len()).min(quota),
            logical_cores: count(allowed.len()).min(quota),
            memory: total_memory(root).min(cgroups.memory_limit().unwrap_or(u64::MAX)),
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX).max(1)
}

/// The logical cores that the scheduler may put this process on.
fn affinity() -> BTreeSet<u32> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return BTreeSet::from([0]);
    };
    (0..nix::sched::CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect()
}

/// A name for the physical core of a logical one: the list of the threads that share it. Where
/// sysfs does not say, each logical core stands for itself.
fn core_of(root: &Path, cpu: u32) -> String {
    let list = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    read(&root.join(list)).unwrap_or_else(|| cpu.to_string())
}

fn total_memory(root: &Path) -> u64 {
    let meminfo = read(&root.join("proc/meminfo")).unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The folders of the cgroups that bound this process, innermost first.
struct Cgroups {
    /// Version 2: all controllers in one tree.
    unified: Vec<PathBuf>,
    /// Version 1: a tree for each controller.
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Cgroups {
    fn read(root: &Path) -> Self {
        let membership = read(&root.join("proc/self/cgroup")).unwrap_or_default();
        let mount = root.join("sys/fs/cgroup");
        let mut cgroups = Self { unified: Vec::new(), cpu: Vec::new(), memory: Vec::new() };
        // Each line is `number:controllers:/path`; version 2 has number 0 and no controllers.
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let has = |name| controllers.split(',').any(|controller| controller == name);
            if controllers.is_empty() {
                cgroups.unified = upwards(&mount, path);
            }
            if has("cpu") {
                cgroups.cpu = upwards(&mount.join("cpu"), path);
            }
            if has("memory") {
                cgroups.memory = upwards(&mount.join("memory"), path);
            }
        }
        cgroups
    }

    /// Whole cores that the tightest quota grants, at least one.
    fn cpu_quota(&self) -> Option<u32> {
        let unified = self.unified.iter().filter_map(|folder| {
            let text = read(&folder.join("cpu.max"))?;
            let (quota, period) = text.split_once(' ')?;
            Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?))
        });
        let first_version = self.cpu.iter().filter_map(|folder| {
            // No quota is written as -1, which is no u64.
            let quota = read(&folder.join("cpu.cfs_quota_us"))?.parse::<u64>().ok()?;
            let period = read(&folder.join("cpu.cfs_period_us"))?.parse::<u64>().ok()?;
            Some((quota, period))
        });
        let cores = unified.chain(first_version).map(|(quota, period)| quota / period.max(1));
        cores.min().map(|cores| u32::try_from(cores).unwrap_or(u32::MAX).max(1))
    }

    fn memory_limit(&self) -> Option<u64> {
        let unified = self.unified.iter().map(|folder| folder.join("memory.max"));
        let first_version = self.memory.iter().map(|folder| folder.join("memory.limit_in_bytes"));
        unified.chain(first_version).filter_map(|file| read(&file)?.parse().ok()).min()
    }
}

/// The cgroup at `path` and all above it. Inside a container the path may be the host's and not
/// exist here; the mount itself then is the container's cgroup.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let innermost = mount.join(path.trim_start_matches('/'));
    let folders = innermost.ancestors().take_while(|folder| folder.starts_with(mount));
    folders.map(Path::to_path_buf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        /// Four cores of two threads each: 0 and 4, 1 and 5, …
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            for cpu in 0..8 {
                let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
                let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                machine.write(&file, &siblings);
            }
            machine.write("proc/meminfo", "MemTotal:       16 kB\nMemFree:  1 kB\n");
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self, allowed: impl IntoIterator<Item = u32>) -> (u32, u32, u64) {
            let topology = Topology::read(self.0.path(), &allowed.into_iter().collect());
            (topology.physical_cores, topology.logical_cores, topology.memory)
        }
    }

    #[test]
    fn threads_of_one_core_count_once() {
        assert_eq!(Machine::new().read(0..8), (4, 8, 16 * 1024));
    }

    #[test]
    fn affinity_cuts_cores() {
        assert_eq!(Machine::new().read([0, 4, 1]), (2, 3, 16 * 1024));
    }

    #[test]
    fn cgroup_2_cuts_at_any_level() {
        let machine = Machine::new();
        machine.write("proc/self/cgroup", "0::/slice/unit\n");
        machine.write("sys/fs/cgroup/slice/unit/cpu.max", "max 100000\n");
        machine.write("sys/fs/cgroup/slice/cpu.max", "250000 100000\n");
        machine.write("sys/fs/cgroup/slice/unit/memory.max", "8192\n");
        assert_eq!(machine.read(0..8), (2, 2, 8192));
    }

    #[test]
    fn cgroup_1_cuts_too_and_never_below_one_core() {
        let machine = Machine::new();
        machine.write("proc/self/cgroup", "4:cpu,cpuacct:/box\n3:memory:/box\n0::/\n");
        machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        machine.write("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n");
        machine.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "4096\n");
        assert_eq!(machine.read(0..8), (1, 1, 4096));
    }

    #[test]
    fn without_sysfs_each_logical_core_is_a_core() {
        let empty = tempfile::tempdir().unwrap();
        let topology = Topology::read(empty.path(), &BTreeSet::from([0, 1]));
        assert_eq!((topology.physical_cores, topology.memory), (2, 0));
    }
}
