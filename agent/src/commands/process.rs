//! One run of a program: written to and read from at once, and over when its process has ended.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes kept of what is passed on, for the story of a failure.
const TAIL: usize = 4 * 1024;
/// Bytes read at most once the program is over. More than a pipe holds, so that all that it wrote
/// is read, and a bound, so that what it left behind cannot hold us by writing for ever.
const DRAIN: usize = 1 << 20;

/// What to do with what a program writes to its standard output.
#[derive(Clone, Copy, Debug)]
pub enum Stdout {
    /// Keep it, up to so many bytes; a program that writes more is killed.
    Keep(usize),
    /// Pass it on to our own.
    PassOn,
}

/// A program that is over.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What was kept of its standard output, or `None` if that was too long.
    pub stdout: Option<Vec<u8>>,
    /// The end of what it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Whether anything was passed on.
    pub has_printed: bool,
    /// What would still be passed on, but for being dropped: what is left behind holds these pipes.
    pub open: Vec<(OwnedFd, Standard)>,
}

/// Runs a program with `input` as its standard input, in a process group of its own, so that one
/// that signals its group meets only itself.
///
/// # Errors
/// When it cannot be started.
pub async fn run(mut command: Command, input: &[u8], stdout: Stdout) -> io::Result<Finished> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let group = child.id();
    let stdin = child.stdin.take();
    let mut stdout = match stdout {
        Stdout::Keep(limit) => Stream::new(child.stdout.take(), Use::Keep { limit }),
        Stdout::PassOn => Stream::new(child.stdout.take(), Use::PassOn(Standard::Output)),
    };
    let mut stderr = Stream::new(child.stderr.take(), Use::PassOn(Standard::Error));
    let exchange =
        async { tokio::try_join!(feed(stdin, input), stdout.read_all(), stderr.read_all()) };
    let (status, exchanged) = tokio::select! {
        biased;
        status = child.wait() => (Some(status?), Ok(())),
        exchanged = exchange => (None, exchanged.map(drop)),
    };
    if exchanged.is_err() {
        kill_group(group);
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().await?,
    };
    let is_whole = exchanged.is_ok() & stdout.drain().is_ok() & stderr.drain().is_ok();
    let has_printed = stdout.has_passed_on || stderr.has_passed_on;
    let open = stdout.still_open().into_iter().chain(stderr.still_open()).collect();
    let stdout = is_whole.then_some(stdout.kept);
    Ok(Finished { status, stdout, stderr: stderr.kept, has_printed, open })
}

/// Passes on what is written to a pipe until nobody holds it any more, on a thread of its own. If
/// there can be none, the pipe is closed.
pub fn pass_on(pipe: OwnedFd, stream: Standard) {
    let copy = move || {
        // It is shared with nobody now, so to wait in it blocks nobody else.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).ok();
        let mut pipe = File::from(pipe);
        let mut chunk = vec![0; TAIL];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            print(stream, &chunk[..length]);
        }
    };
    thread::Builder::new().spawn(copy).ok();
}

/// Writes bytes to a standard stream of ours, which the agent reads all the time. If it is gone,
/// nobody needs them.
pub fn print(stream: Standard, bytes: &[u8]) {
    match stream {
        Standard::Output => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush()).ok();
        }
        Standard::Error => {
            io::stderr().lock().write_all(bytes).ok();
        }
    }
}

/// A standard stream of ours.
#[derive(Clone, Copy, Debug)]
pub enum Standard {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// A program wrote more than is kept.
#[derive(Debug)]
struct TooLong;

/// Gives a program its input, as far as it wants it, and then the end.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) -> Result<(), TooLong> {
    if let Some(mut stdin) = stdin {
        stdin.write_all(input).await.ok();
    }
    Ok(())
}

fn kill_group(leader: Option<u32>) {
    if let Some(leader) = leader.and_then(|leader| i32::try_from(leader).ok()) {
        killpg(Pid::from_raw(leader), Signal::SIGKILL).ok();
    }
}

/// One stream of a program.
struct Stream<P> {
    pipe: Option<P>,
    kept: Vec<u8>,
    purpose: Use,
    has_passed_on: bool,
}

/// What a stream is read for.
enum Use {
    /// To be kept up to a limit.
    Keep { limit: usize },
    /// To be passed on; the end of it is kept.
    PassOn(Standard),
}

impl<P: AsyncRead + AsFd + Unpin> Stream<P> {
    fn new(pipe: Option<P>, purpose: Use) -> Self {
        Self { pipe, kept: Vec::new(), purpose, has_passed_on: false }
    }

    /// Reads to the end. What has been read is taken in also when this is given up.
    async fn read_all(&mut self) -> Result<(), TooLong> {
        while let Some(pipe) = &mut self.pipe {
            self.kept.reserve(CHUNK);
            match pipe.read_buf(&mut self.kept).await {
                Ok(length @ 1..) => self.take_in(length)?,
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        Ok(())
    }

    /// Reads what is in the pipe now. The system is asked itself: the runtime may not have heard
    /// yet that there is something to read.
    fn drain(&mut self) -> Result<(), TooLong> {
        let mut chunk = vec![0; if self.pipe.is_some() { CHUNK } else { 0 }];
        let mut drained = 0;
        while let Some(pipe) = &self.pipe
            && drained < DRAIN
        {
            match nix::unistd::read(pipe, &mut chunk) {
                Ok(length @ 1..) => {
                    self.kept.extend_from_slice(&chunk[..length]);
                    self.take_in(length)?;
                    drained += length;
                }
                Err(Errno::EINTR) => {}
                // It is empty, but somebody holds it still.
                Err(Errno::EAGAIN) => break,
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        Ok(())
    }

    /// The pipe, if its program is over, what it left behind holds it, and it is to be passed on.
    fn still_open(&self) -> Option<(OwnedFd, Standard)> {
        let Use::PassOn(stream) = self.purpose else { return None };
        Some((self.pipe.as_ref()?.as_fd().try_clone_to_owned().ok()?, stream))
    }

    /// Does with the last `length` bytes what they were read for.
    fn take_in(&mut self, length: usize) -> Result<(), TooLong> {
        match self.purpose {
            Use::Keep { limit } if self.kept.len() >= limit => {
                self.kept = Vec::new();
                return Err(TooLong);
            }
            Use::Keep { .. } => {}
            Use::PassOn(stream) => {
                print(stream, &self.kept[self.kept.len() - length..]);
                self.has_passed_on = true;
                let excess = self.kept.len().saturating_sub(TAIL);
                self.kept.drain(..excess);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    async fn sh(script: &str, input: &[u8], limit: usize) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, input, Stdout::Keep(limit)).await.unwrap()
    }

    #[tokio::test]
    async fn input_comes_back_as_output_however_long() {
        let input: Vec<u8> = (0..10_000_000_u32).map(|n| (n % 251) as u8).collect();
        let finished = sh("cat", &input, usize::MAX).await;
        assert!(finished.status.success() && !finished.has_printed);
        assert!(finished.stdout.unwrap() == input);
    }

    #[tokio::test]
    async fn input_that_is_not_read_harms_nobody() {
        let input = vec![b'x'; 1 << 20];
        for script in ["echo done", "exec <&-; echo done"] {
            assert_eq!(sh(script, &input, 100).await.stdout.unwrap(), b"done\n");
        }
        // Nor when a process that is left behind holds the pipe.
        let finished = sh("exec 3<&0; sleep 1000 & echo $!", &input, 100).await;
        kill_stray(&finished.stdout.unwrap());
    }

    #[tokio::test]
    async fn what_is_left_behind_holds_nobody_up() {
        let finished = sh("echo value; sleep 1000 & echo $! >&2", b"", 100).await;
        assert_eq!(finished.stdout.unwrap(), b"value\n");
        kill_stray(&finished.stderr);
        let finished = sh("yes & echo $! >&2", b"", usize::MAX).await;
        assert!(finished.stdout.is_some());
        kill_stray(&finished.stderr);
    }

    fn kill_stray(pid: &[u8]) {
        let pid = std::str::from_utf8(pid).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }

    #[tokio::test]
    async fn a_program_that_writes_too_much_is_killed_with_its_group() {
        let finished = sh("yes | cat", b"", 1 << 20).await;
        assert_eq!(finished.status.signal(), Some(9));
        assert!(finished.stdout.is_none());
        // Also when it has ended by itself before that was seen.
        assert!(sh("echo 12345", b"", 6).await.stdout.is_none());
        assert_eq!(sh("echo 12345", b"", 7).await.stdout.unwrap(), b"12345\n");
    }

    #[tokio::test]
    async fn of_standard_error_the_end_is_kept() {
        let finished = sh("seq 2000 >&2; echo last >&2; exit 3", b"", 100).await;
        assert!(finished.has_printed);
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stderr.len(), TAIL);
        assert!(finished.stderr.ends_with(b"\n2000\nlast\n"));
    }

    #[tokio::test]
    async fn a_program_that_kills_its_group_kills_itself_alone() {
        assert_eq!(sh("kill -9 0; sleep 1000", b"", 100).await.status.signal(), Some(9));
    }
}
