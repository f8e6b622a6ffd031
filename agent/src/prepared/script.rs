//! A `prepare` script, run under a supervisor as workers are: nothing of it outlives its run.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use bytes::{Buf, BytesMut};
use nix::fcntl::OFlag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use crate::confinement::{Confinement, Group};
use crate::descriptors;
use crate::lifeline::{Ended, Order, Status};
use crate::output::{Keep, Output, Printed};
use crate::tap::Tap;

/// A script and where it runs.
#[derive(Debug)]
pub struct Script<'a> {
    /// Run by `sh`, or by what its `#!` line names.
    pub text: &'a str,
    /// The folder of its environment.
    pub folder: &'a Path,
    /// Its working directory.
    pub work: &'a Path,
    /// The lock of its environment, which its supervisor holds as well: if the agent is killed, the
    /// next one waits until nothing of the script writes there any more.
    pub lock: BorrowedFd<'a>,
    /// What is set for it.
    pub variables: &'a [(&'static str, OsString)],
}

impl Script<'_> {
    /// Runs it to its end, or until `stop`, which kills it with all that came of it. Returns how it
    /// ended and what it printed, which goes to `tap` meanwhile.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(
        &self,
        supervisor: &Path,
        confinement: &Confinement,
        tap: Tap,
        stop: &CancellationToken,
    ) -> io::Result<(Ended, Printed)> {
        let mut running = self.start(supervisor, confinement)?;
        running.output.listen(Some(tap));
        let ended = running.end(stop).await;
        running.supervisor.wait().await.ok();
        running.output.drain();
        running.output.listen(None);
        if let Some(group) = running.group.take() {
            tokio::task::spawn_blocking(move || group.remove()).await.ok();
        }
        Ok((ended, running.output.take()))
    }

    fn start(&self, supervisor: &Path, confinement: &Confinement) -> io::Result<Running> {
        let path = self.folder.join("prepare");
        fs::write(&path, self.text)?;
        confinement.identity().let_read(&path)?;
        let (stdout, scripts_stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, scripts_stderr) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        confinement.identity().give_pipes([&scripts_stdout, &scripts_stderr])?;
        let (lifeline, supervisors_end) = StdUnixStream::pair()?;
        lifeline.set_nonblocking(true)?;
        // A supervisor expects frames there, and closes them.
        let null: OwnedFd = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into();

        let group = confinement.group();
        let mut command = confinement.supervised(supervisor, group.as_ref(), None)?;
        command.args(interpreter(self.text)).arg(path).env("TMPDIR", self.folder.join("tmp"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.work);
        command.stdin(OwnedFd::from(supervisors_end)).stdout(scripts_stdout).stderr(scripts_stderr);
        descriptors::give_frames(&mut command, &null, &null)?;
        descriptors::give_lock(&mut command, self.lock)?;
        Ok(Running {
            supervisor: tokio::process::Command::from(command).spawn()?,
            lifeline: UnixStream::from_std(lifeline)?,
            output: Output::new(stdout, stderr, Keep::default())?,
            group,
        })
    }
}

/// What is put before the script's name. The kernel would read the `#!` line by itself, but refuses
/// to run a file that some process has open to write, as a child that another thread has just
/// started may.
fn interpreter(text: &str) -> Vec<String> {
    let line = text.strip_prefix("#!").map(|rest| rest.lines().next().unwrap_or_default().trim());
    match line.filter(|line| !line.is_empty()) {
        None => vec!["sh".to_owned()],
        // All behind the program is one argument, as the kernel has it.
        Some(line) => match line.split_once([' ', '\t']) {
            Some((program, argument)) => vec![program.to_owned(), argument.trim().to_owned()],
            None => vec![line.to_owned()],
        },
    }
}

struct Running {
    supervisor: Child,
    lifeline: UnixStream,
    output: Output,
    group: Option<Group>,
}

impl Running {
    /// Waits until the script and all that came of it are gone.
    async fn end(&mut self, stop: &CancellationToken) -> Ended {
        let mut lines = BytesMut::new();
        let mut is_stopped = false;
        loop {
            tokio::select! {
                () = self.output.read() => {}
                read = self.lifeline.read_buf(&mut lines) => {
                    if let Some(ended) = last_word(&mut lines) {
                        return ended;
                    }
                    if !matches!(read, Ok(1..)) {
                        return Ended::Lost;
                    }
                }
                () = stop.cancelled(), if !is_stopped => {
                    is_stopped = true;
                    self.lifeline.write_all(&[Order::Kill.byte()]).await.ok();
                }
            }
        }
    }
}

/// How the script ended, once the supervisor has said so.
fn last_word(lines: &mut BytesMut) -> Option<Ended> {
    while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
        let line = lines.split_to(end);
        lines.advance(1);
        if let Some(Status::Ended(ended)) = Status::parse(&String::from_utf8_lossy(&line)) {
            return Some(ended);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_interpreter() {
        for (text, words) in [
            ("echo x", &["sh"][..]),
            ("#!\necho x", &["sh"]),
            ("#!/bin/bash\necho x", &["/bin/bash"]),
            ("#! /usr/bin/env  -S Rscript --vanilla\n1", &["/usr/bin/env", "-S Rscript --vanilla"]),
        ] {
            assert_eq!(interpreter(text), words, "{text}");
        }
    }
}
