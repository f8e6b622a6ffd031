//! What a process is held to from its first instruction: said by the agent, and put into force
//! between fork and exec.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Uid};
use serde::{Deserialize, Serialize};

/// How much likelier than others workers are ended when the machine is out of memory.
const OOM_SCORE: &[u8] = b"500";

/// What a worker, and whatever comes of it, is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Whose process it is, if not the supervisor's user's.
    pub user: Option<Ids>,
    /// The folders of the control groups that it enters.
    pub groups: Vec<PathBuf>,
    /// Bytes of data that each of its processes may have, where no group bounds its memory.
    pub data: Option<u64>,
    /// Processes that its user may have, where no group bounds its own.
    pub processes: Option<u64>,
    /// Whether it may gain rights by the programs that it starts.
    pub allow_setuid: bool,
}

/// A user, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The user.
    pub user: u32,
    /// Its own group.
    pub group: u32,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// Holds the child of `command` to these terms.
///
/// # Errors
/// When the name of a group is none.
pub fn bind(command: &mut Command, terms: &Terms) -> io::Result<()> {
    let doors = terms.groups.iter().map(|group| {
        CString::new(group.join("cgroup.procs").as_os_str().as_bytes()).map_err(io::Error::other)
    });
    let doors: Vec<CString> = doors.collect::<io::Result<_>>()?;
    let bounds = [
        // A core holds all that the process knew, and fills the disk.
        (Resource::RLIMIT_CORE, Some(0)),
        (Resource::RLIMIT_DATA, terms.data),
        (Resource::RLIMIT_NPROC, terms.processes),
    ];
    let user = terms.user.clone().map(|ids| {
        let groups: Vec<Gid> = ids.groups.into_iter().map(Gid::from_raw).collect();
        (Uid::from_raw(ids.user), Gid::from_raw(ids.group), groups)
    });
    let allow_setuid = terms.allow_setuid;
    let enter = move || {
        for door in &doors {
            // 0 is the process that writes.
            write(door, b"0")?;
        }
        // What is the supervisor's secret is not this process's, whose files in /proc would else be
        // closed to itself.
        prctl::set_dumpable(true)?;
        write(c"/proc/self/oom_score_adj", OOM_SCORE).ok();
        for (resource, bound) in bounds {
            if let Some(bound) = bound {
                let (_, most) = getrlimit(resource)?;
                setrlimit(resource, bound.min(most), bound.min(most))?;
            }
        }
        if let Some((user, group, groups)) = &user {
            unistd::setgroups(groups)?;
            unistd::setresgid(*group, *group, *group)?;
            unistd::setresuid(*user, *user, *user)?;
        }
        if !allow_setuid {
            prctl::set_no_new_privs()?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "the closure makes system calls alone, with what was allocated before the fork"
    )]
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

fn write(path: &std::ffi::CStr, bytes: &[u8]) -> nix::Result<()> {
    // On a control group's file system there is nothing to create, it only does no harm.
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC, Mode::S_IRUSR)?;
    unistd::write(&file, bytes).map(drop)
}
