//! What must happen to descriptors in a child process between fork and exec, and so is unsafe code:
//! the standard library can neither place descriptors at numbers of our choice nor bind a child's
//! life to its parent's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Where a worker reads frames.
pub const FRAMES_IN: RawFd = 3;
/// Where a worker writes frames.
pub const FRAMES_OUT: RawFd = 4;

/// Where a supervisor holds a lock for as long as it lives, if it is given one.
const LOCK: RawFd = 5;

/// How much nicer workers are than agents where the kernel knows no slices: on a busy machine the agent, and a server
/// beside it, must still answer at once.
const NICENESS: libc::c_int = 10;

/// For how long, in nanoseconds, a worker keeps a core that others like it wait for too; the kernel's own is 1.4 to 4 ms.
/// Who asks for less, and has not had more than its share, runs before it as soon as it wakes up.
const SLICE: u64 = 10_000_000;

/// Lets the child of `command` have no descriptor but its standard ones and those that are placed
/// later: also of what this process has inherited nothing is passed on.
pub fn close_others(command: &mut Command) {
    let close = || {
        #[expect(unsafe_code, reason = "marks descriptors; no memory is involved")]
        unsafe {
            // Kernels before 5.11 cannot. All that the agent itself opens is marked already.
            libc::syscall(
                libc::SYS_close_range,
                FRAMES_IN,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "the closure makes one system call")]
    unsafe {
        command.pre_exec(close);
    }
}

/// Lets the child of `command` find `frames_in` as descriptor 3 and `frames_out` as descriptor 4.
///
/// # Errors
/// When no more descriptors are to be had.
pub fn give_frames(
    command: &mut Command,
    frames_in: &OwnedFd,
    frames_out: &OwnedFd,
) -> io::Result<()> {
    place(
        command,
        vec![(out_of_the_way(frames_in)?, FRAMES_IN), (out_of_the_way(frames_out)?, FRAMES_OUT)],
    );
    Ok(())
}

/// Lets the child of `command`, a supervisor, hold a lock together with this process: it is held
/// until both have ended, however.
///
/// # Errors
/// When no more descriptors are to be had.
pub fn give_lock(command: &mut Command, lock: impl AsFd) -> io::Result<()> {
    place(command, vec![(out_of_the_way(lock)?, LOCK)]);
    Ok(())
}

/// Keeps the lock that this process, a supervisor, may have been given from the programs it starts.
pub fn keep_lock() {
    // It fails if there is none, as for workers.
    close_on_exec(LOCK).ok();
}

/// Places these descriptors at these numbers in the child of `command`.
fn place(command: &mut Command, ends: Vec<(OwnedFd, RawFd)>) {
    let place = move || {
        ends.iter().try_for_each(|(end, number)| {
            #[expect(
                unsafe_code,
                reason = "dup2 onto a number of our choice; no memory is involved"
            )]
            let placed = unsafe { libc::dup2(end.as_raw_fd(), *number) };
            Errno::result(placed).map(drop).map_err(io::Error::from)
        })
    };
    #[expect(unsafe_code, reason = "the closure calls dup2 alone, which is async-signal-safe")]
    unsafe {
        command.pre_exec(place);
    }
}

/// Takes the frames that [`give_frames`] gave this process: to read from, and to write to. No
/// program that it starts has them.
///
/// # Errors
/// When it was given none.
pub fn take_frames() -> io::Result<(File, File)> {
    Ok((take(FRAMES_IN)?, take(FRAMES_OUT)?))
}

fn take(number: RawFd) -> io::Result<File> {
    let missing = |errno| {
        let hint = "an agent starts this command by itself";
        io::Error::other(format!("no frames on descriptor {number} ({errno}); {hint}"))
    };
    close_on_exec(number).map_err(missing)?;
    #[expect(unsafe_code, reason = "it is open, came with the process, and nobody else owns it")]
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

fn close_on_exec(number: RawFd) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "sets a flag of a number; no memory is involved")]
    let marked = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    Errno::result(marked).map(drop)
}

/// A copy whose number is none at which something is placed, so that placing one never closes
/// another.
fn out_of_the_way(end: impl AsFd) -> io::Result<OwnedFd> {
    let copy = fcntl(end, FcntlArg::F_DUPFD_CLOEXEC(10))?;
    #[expect(unsafe_code, reason = "fcntl has just made this descriptor, and nobody else owns it")]
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}

/// How the kernel shares cores out to a thread: `sched_attr` of sched_setattr(2), without what came to it later.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SCHEDULING_SIZE: u32 = 48;
const _: () = assert!(size_of::<Scheduling>() == SCHEDULING_SIZE as usize);

impl Scheduling {
    /// The thread's of this number; 0: the caller's.
    fn of(thread: libc::pid_t) -> Option<Self> {
        let mut found = Self::default();
        #[expect(
            unsafe_code,
            reason = "the kernel writes as many bytes as it is told that there are"
        )]
        let failed = unsafe {
            libc::syscall(libc::SYS_sched_getattr, thread, &raw mut found, SCHEDULING_SIZE, 0)
        };
        (failed == 0).then_some(found)
    }

    /// The same with longer slices; `None`: this kernel knows none for what shares cores fairly. Those from 6.12 on
    /// do, and tell the slice of who has asked for none.
    fn with_slices(self) -> Option<Self> {
        let shares_fairly =
            [libc::SCHED_OTHER, libc::SCHED_BATCH].map(i32::cast_unsigned).contains(&self.policy);
        (shares_fairly && self.runtime > 0).then_some(Self { runtime: SLICE, ..self })
    }
}

/// Lets this thread have longer slices. Whether the kernel knows them, and lets it.
fn take_long_slices() -> bool {
    let Some(scheduling) = Scheduling::of(0).and_then(Scheduling::with_slices) else {
        return false;
    };
    #[expect(
        unsafe_code,
        reason = "the kernel reads as many bytes as `scheduling` says that it has"
    )]
    let failed = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) };
    failed == 0
}

/// Lets the child of `command` leave the cores to its parent, and to others like it, whenever they wake up, and lets the
/// kernel kill it when its parent dies. The kernel means the parent's *thread*, so this is for programs of one thread.
///
/// A nice process does that too, but the kernel ends its waits late: a two-hundredth of what select(2) was to wait for,
/// five times what it allows itself with others (`select_estimate_accuracy` in fs/select.c). R's Sys.sleep() and its
/// downloads wait so. With slices a process is not nice: what works beside it has no larger share of the cores, but gets
/// its own at once, which an agent and a server need, who work for moments.
pub fn bind_to_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let bind = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        if !take_long_slices() {
            #[expect(unsafe_code, reason = "nice takes and gives a number; no memory is involved")]
            unsafe {
                libc::nice(NICENESS);
            }
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "the closure makes system calls alone, which neither allocate nor lock"
    )]
    unsafe {
        command.pre_exec(bind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_leaves_the_cores_to_its_parent_and_is_nice_only_where_it_must() {
        let mut command = Command::new("sleep");
        bind_to_parent(command.arg("60"));
        let mut child = command.spawn().unwrap();
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        let (own, its) = (Scheduling::of(0), Scheduling::of(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        // Where a kernel, or who confines this test, does not say, there is nothing to see.
        let (Some(own), Some(its)) = (own, its) else { return };
        let has_slices = its.nice == own.nice && its.runtime == SLICE;
        let is_nice = its.nice == (own.nice + NICENESS).min(19);
        assert!(has_slices || is_nice, "{its:?} of {own:?}");
        assert!(has_slices || own.runtime == 0, "{its:?} of {own:?}");
    }

    #[test]
    fn what_is_scheduled_otherwise_stays_so() {
        let fair = Scheduling { nice: 3, runtime: 2_800_000, ..Scheduling::default() };
        let with_slices = fair.with_slices().unwrap();
        assert_eq!((with_slices.nice, with_slices.runtime), (3, SLICE));
        let real_time = Scheduling { policy: libc::SCHED_FIFO.cast_unsigned(), ..fair };
        let on_an_old_kernel = Scheduling { runtime: 0, ..fair };
        for other in [real_time, on_an_old_kernel] {
            assert!(other.with_slices().is_none());
        }
    }
}
