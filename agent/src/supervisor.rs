//! The process between an agent and one worker, whose only work is that nothing outlives it.
//!
//! A worker runs code that forks, calls `setsid`, daemonises, hangs. Process groups do not hold
//! such children, so each worker gets a parent that does: a subreaper, to which the kernel gives
//! every orphan among its descendants. It kills its children until it has none, and only then ends.
//!
//! * The agent dies, however: the lifeline ([`crate::lifeline`]) closes, everything is killed.
//! * The worker ends, however: its descendants are killed, and the agent hears how it ended.
//! * The supervisor is killed: the kernel kills the worker (`PR_SET_PDEATHSIG`), the one case in
//!   which daemonised grandchildren can stay.

use std::ffi::OsString;
use std::io::{self, Write};
use std::iter::Peekable;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, Pid};

use crate::confinement::{self, Terms};
use crate::descriptors::{self, FRAMES_IN, FRAMES_OUT};
use crate::lifeline::{Ended, Order, Status};
use crate::processes;

/// How often a sweep looks again, a millisecond apart, for strays that are not dead yet.
const SWEEP_ROUNDS: u32 = 2000;

/// Runs `[--terms JSON] [--] program arguments…` as a worker that is held to these terms, watches over
/// it, and exits as it did (killed by a signal: 128 and the signal's number). It expects the lifeline
/// as standard input and the frames on descriptors 3 and 4.
///
/// To be called from the main thread of a process that has no other thread yet: the kernel binds
/// the worker's life to the calling thread's.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Else what the worker runs could change the one that is to kill it.
    confinement::hide_this_process();
    let mut words = arguments.into_iter().peekable();
    let Some(terms) = terms(&mut words) else {
        return misused("--terms are not understood");
    };
    let mut words = words.skip_while(|word| word == "--");
    let Some(program) = words.next() else {
        return misused("no program given");
    };
    let ended = supervise(&terms, &program, words)
        .unwrap_or_else(|error| Ended::NotStarted(format!("{}: {error}", program.display())));
    let status = exit_status(&ended);
    tell(&Status::Ended(ended));
    ExitCode::from(status)
}

/// Says that somebody has typed the command, who may have closed standard error.
fn misused(what: &str) -> ExitCode {
    let line = format!("supervise: {what}; the agent starts this command by itself\n");
    io::stderr().write_all(line.as_bytes()).ok();
    ExitCode::from(2)
}

/// The terms that come first, if any do.
fn terms(words: &mut Peekable<impl Iterator<Item = OsString>>) -> Option<Terms> {
    match words.next_if(|word| word == "--terms") {
        None => Some(Terms::default()),
        Some(_) => serde_json::from_str(words.next()?.to_str()?).ok(),
    }
}

fn supervise(
    terms: &Terms,
    program: &OsString,
    arguments: impl Iterator<Item = OsString>,
) -> io::Result<Ended> {
    // A Ctrl-C at the agent's terminal is the agent's to handle.
    unistd::setsid().ok();
    descriptors::keep_lock();
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    confinement::bind(&mut command, terms)?;
    // After that: a change of user takes the bond away.
    descriptors::bind_to_parent(&mut command);
    let worker = command.spawn()?;
    let mut family = Family::new(Pid::from_raw(worker.id().cast_signed()), &terms.groups);
    let watched = signals().and_then(|signals| {
        let_go_of_the_workers_descriptors()?;
        tell(&Status::Started(family.worker.as_raw()));
        watch(&mut family, &signals)
    });
    family.kill();
    watched.map(|()| family.ended.unwrap_or(Ended::Killed(Signal::SIGKILL as i32)))
}

/// Waits until the worker has ended or is to be killed.
fn watch(family: &mut Family<'_>, signals: &SignalFd) -> io::Result<()> {
    let lifeline = io::stdin();
    loop {
        family.reap();
        if family.ended.is_some() {
            return Ok(());
        }
        let mut ready = [
            PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [spoken, signalled] = ready.map(|end| end.any().unwrap_or(true));
        if signalled && asked_to_end(signals)? {
            return Ok(());
        }
        if spoken && !obey(family, &lifeline)? {
            return Ok(());
        }
    }
}

/// Whether a signal other than the death of a child has come.
fn asked_to_end(signals: &SignalFd) -> io::Result<bool> {
    while let Some(signal) = signals.read_signal()? {
        if signal.ssi_signo != Signal::SIGCHLD as u32 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does what the agent asks; `false` once everything is to be killed, also because the agent is gone.
fn obey(family: &mut Family<'_>, lifeline: &io::Stdin) -> io::Result<bool> {
    let mut orders = [0; 16];
    let length = match unistd::read(lifeline, &mut orders) {
        Ok(length) => length,
        Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
        Err(Errno::ECONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    for order in orders[..length].iter().filter_map(|byte| Order::of(*byte)) {
        match order {
            Order::Kill => return Ok(false),
            Order::Sweep => {
                family.sweep();
                tell(&Status::Swept);
            }
        }
    }
    Ok(length > 0)
}

/// The worker and all that came of it.
struct Family<'a> {
    worker: Pid,
    ended: Option<Ended>,
    supervisor: Pid,
    /// The folders of the control groups that all of it is in.
    groups: &'a [PathBuf],
}

impl<'a> Family<'a> {
    fn new(worker: Pid, groups: &'a [PathBuf]) -> Self {
        Self { worker, ended: None, supervisor: unistd::getpid(), groups }
    }

    /// Notices every child that is dead by now.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                return;
            }
            self.note(status);
        }
    }

    fn note(&mut self, status: WaitStatus) {
        let ended = match status {
            WaitStatus::Exited(pid, status) if pid == self.worker => Ended::Exited(status),
            WaitStatus::Signaled(pid, signal, _) if pid == self.worker => {
                Ended::Killed(signal as i32)
            }
            _ => return,
        };
        self.ended = Some(ended);
    }

    /// Kills children until there are none. Only our own are killed, never their children by id:
    /// those come to us as orphans, and the id of a child that we have not waited for is not used
    /// for another process.
    fn kill(&mut self) {
        // Where the kernel can, all at once: also what forks faster than anybody could look.
        self.groups.iter().for_each(|group| {
            confinement::kill_at_once(group);
        });
        loop {
            let children = processes::children(self.supervisor);
            let killed = children.iter().filter(|child| kill(child.pid, Signal::SIGKILL).is_ok());
            if killed.count() == 0 {
                // None left, or only such as have become another user's and are not ours to kill.
                return self.reap();
            }
            match waitpid(None, None) {
                Ok(status) => self.note(status),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            self.reap();
        }
    }

    /// Kills all but the worker. The worker is idle meanwhile and starts nothing.
    fn sweep(&mut self) {
        for _ in 0..SWEEP_ROUNDS {
            self.reap();
            if processes::is_alone(self.supervisor, self.worker) {
                return;
            }
            let strays = processes::descendants(self.supervisor)
                .into_iter()
                .filter(|process| process.pid != self.worker && !process.zombie);
            if strays.filter(|stray| kill(stray.pid, Signal::SIGKILL).is_ok()).count() == 0 {
                return;
            }
            poll(&mut [], 1_u8).ok();
        }
    }
}

/// Only the worker shall hold these, so that the agent sees when it closes them.
fn let_go_of_the_workers_descriptors() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdout(&null)?;
    unistd::dup2_stderr(&null)?;
    unistd::close(FRAMES_IN).ok();
    unistd::close(FRAMES_OUT).ok();
    Ok(())
}

/// Blocks the signals that end us and the deaths of children, to be read from a descriptor. After
/// the worker was started, which would inherit the blocking.
fn signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Tells the agent; if it is gone, nobody needs to know.
fn tell(status: &Status) {
    unistd::write(io::stdin(), format!("{status}\n").as_bytes()).ok();
}

fn exit_status(ended: &Ended) -> u8 {
    match ended {
        Ended::Exited(status) => u8::try_from(*status).unwrap_or(1),
        Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(255),
        Ended::NotStarted(_) | Ended::Lost => 125,
    }
}
