//! One worker: a child process that runs elements, behind its supervisor.
//!
//! Everything that a worker does reaches the agent through one method, [`Worker::next`], which
//! reads frames, the lifeline and both streams of output at once, and writes what is to be sent
//! meanwhile: whatever the worker does, none of its pipes is ever full for long. Its death is what
//! the supervisor says it is; a closed pipe is none.

mod key;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use protocol::JobId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

pub use self::key::WorkerKey;
use crate::clock;
use crate::confinement::{Confinement, Group};
use crate::death::Death;
use crate::descriptors;
use crate::frame::{self, Outgoing, Unsent, kind};
use crate::lifeline::{Ended, Order, Status};
use crate::output::{Output, Printed};
use crate::pool::Seat;
use crate::processes;
use crate::runtimes::{self, Answer};
use crate::scratch::{Scratch, WorkerScratch};

/// Bytes that a pipe of frames holds, so that a frame takes few turns to write.
const PIPE_BYTES: i32 = 1 << 20;
/// For how long a worker may start, or forget a job, before it is given up. A cold R on a busy
/// machine takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long a worker may have closed its frames before it counts as dead. One that died closed
/// them too, and its supervisor is about to say so.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);
/// For how long a killed worker and its descendants may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How workers are started.
#[derive(Debug)]
pub struct Launcher {
    /// This program: called with `supervise` it is [`crate::supervisor::main`], called with
    /// `run-commands` [`crate::commands::main`].
    pub supervisor: PathBuf,
    /// Where they work.
    pub scratch: Scratch,
    /// What holds them.
    pub confinement: Arc<Confinement>,
}

/// A worker, running.
#[derive(Debug)]
pub struct Worker {
    key: WorkerKey,
    /// The job that is set up in it.
    pub job: Option<JobId>,
    /// Whether no job has been set up in it yet.
    pub is_new: bool,
    /// Nothing of a job is in it: no job was sent to it since it started or was reset.
    pub is_clean: bool,
    pid: u32,
    /// What is left to be written of the frame that is being sent.
    outbox: Unsent,
    /// It waits, and the next frame tells it to forget what is left of the one before.
    is_stopped: bool,
    inbox: BytesMut,
    lines: BytesMut,
    frames_out: pipe::Sender,
    frames_in: pipe::Receiver,
    /// Since when the worker's end of `frames_in` is closed.
    silent_since: Option<Instant>,
    lifeline: UnixStream,
    supervisor: Child,
    /// What it prints.
    pub output: Output,
    scratch: WorkerScratch,
    group: Option<Arc<Group>>,
    death: Option<Death>,
    /// Its place among the busy workers of its pool.
    pub seat: Option<Seat>,
}

/// What a worker did.
#[derive(Debug)]
pub enum Event {
    /// It said something.
    Said(Answer),
    /// All that came of it is dead, except itself.
    Swept,
    /// It is dead, and all that came of it.
    Dead(Death),
}

impl Worker {
    /// Starts a worker and waits until it is ready for frames.
    ///
    /// # Errors
    /// When it cannot be started: why, and what it printed.
    pub async fn start(launcher: &Launcher, key: WorkerKey) -> Result<Self, (Death, Printed)> {
        let mut worker = Self::spawn(launcher, key).await.map_err(|error| {
            (Death::Ended(Ended::NotStarted(error.to_string())), Printed::default())
        })?;
        let hello = timeout(PATIENCE, worker.hello()).await;
        let hello = hello.unwrap_or_else(|_| {
            Err(Death::Untrusted(format!("it was not ready within {} s", PATIENCE.as_secs())))
        });
        match hello {
            Ok(()) => Ok(worker),
            Err(death) => Err((death, worker.kill().await)),
        }
    }

    async fn hello(&mut self) -> Result<(), Death> {
        self.expect(|event| matches!(event, Event::Said(Answer::Hello { .. }))).await?;
        // The supervisor says which process it is on its own line, which may come later.
        while self.pid == 0 {
            if let Some(Event::Dead(death)) = self.buffered() {
                return Err(death);
            }
            if self.pid == 0 {
                self.turn().await;
            }
        }
        tracing::debug!(pid = self.pid, runtime = self.key.runtime.as_str(), "worker started");
        Ok(())
    }

    async fn spawn(launcher: &Launcher, key: WorkerKey) -> io::Result<Self> {
        let scratch = launcher.scratch.worker()?;
        if let Some(files) = key.files() {
            scratch.renew_work(Some(files)).await?;
        }
        let (worker_in, agent_out) = pipe_of(PIPE_BYTES)?;
        let (agent_in, worker_out) = pipe_of(PIPE_BYTES)?;
        let (stdout, worker_stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, worker_stderr) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let pipes = [&worker_in, &worker_out, &worker_stdout, &worker_stderr];
        launcher.confinement.identity().give_pipes(pipes)?;
        let (lifeline, supervisors_end) = StdUnixStream::pair()?;
        lifeline.set_nonblocking(true)?;

        let (program, arguments) = {
            let ourselves = &launcher.supervisor;
            runtimes::command(key.runtime, &launcher.scratch.scripts(), ourselves)
        };
        let group = launcher.confinement.group().map(Arc::new);
        let mut command =
            launcher.confinement.supervised(&launcher.supervisor, group.as_deref(), key.memory)?;
        command.arg(program).args(arguments).env("TMPDIR", scratch.tmp());
        command.env("FARROW_SCRATCH", scratch.scratch());
        if key.artifacts {
            command.env("FARROW_ARTIFACTS", scratch.artifacts());
        }
        command.envs(runtimes::environment(key.cores)).current_dir(scratch.work());
        if let Some(prepared) = &key.prepared {
            command.envs(prepared.variables().iter().map(|(name, value)| (name, value)));
        }
        if let Some(workdir) = &key.workdir {
            command.current_dir(workdir);
        }
        command.stdin(OwnedFd::from(supervisors_end)).stdout(worker_stdout).stderr(worker_stderr);
        descriptors::give_frames(&mut command, &worker_in, &worker_out)?;
        let supervisor = tokio::process::Command::from(command).spawn()?;
        Ok(Self {
            key,
            job: None,
            is_new: true,
            is_clean: true,
            pid: 0,
            outbox: Outgoing::default().unsent(),
            is_stopped: false,
            inbox: BytesMut::new(),
            lines: BytesMut::new(),
            frames_out: pipe::Sender::from_owned_fd(agent_out)?,
            frames_in: pipe::Receiver::from_owned_fd(agent_in)?,
            silent_since: None,
            lifeline: UnixStream::from_std(lifeline)?,
            supervisor,
            output: Output::new(stdout, stderr, launcher.confinement.output())?,
            scratch,
            group,
            death: None,
            seat: None,
        })
    }

    /// What it may run.
    pub fn key(&self) -> &WorkerKey {
        &self.key
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The process of which it and all that comes of it descend; nothing when that is gone.
    pub fn supervisor(&self) -> Option<Pid> {
        let id = self.supervisor.id()?;
        i32::try_from(id).ok().map(Pid::from_raw)
    }

    /// The control groups that it and all that comes of it are in, if there are any.
    pub fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// Whether it can take another element: it lives, as far as is known, and has its streams.
    pub fn is_sound(&mut self) -> bool {
        self.hear_last_words();
        self.death.is_none() && !self.output.is_closed()
    }

    /// Sends a frame, while [`Worker::next`] is waited for. The one before must have been answered, or stopped.
    pub fn send(&mut self, frame: &Outgoing) {
        self.outbox = if std::mem::take(&mut self.is_stopped) {
            frame.behind(kind::STOP).unsent()
        } else {
            frame.unsent()
        };
    }

    /// Lets a worker that waits forget what is left of its frame. It hears of it with the next one.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Waits for what the worker does next. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.buffered() {
                return event;
            }
            self.turn().await;
        }
    }

    /// Forgets the job: resets the worker, kills whatever its code has started, makes its working
    /// directory as it was in the beginning. If it is to rest it also gives its memory back, which takes R some 40 ms.
    ///
    /// # Errors
    /// When it could not; the worker is not to be used again.
    pub async fn reset(&mut self, to_rest: bool) -> Result<(), Death> {
        self.job = None;
        let body: &'static [u8] = if to_rest { b"rest" } else { b"" };
        self.send(&frame::encode(kind::RESET, body).unwrap_or_default());
        let done = timeout(PATIENCE, async {
            self.expect(|event| matches!(event, Event::Said(Answer::ResetDone))).await?;
            if self.is_alone() {
                return Ok(());
            }
            self.order(Order::Sweep).await;
            self.expect(|event| matches!(event, Event::Swept)).await
        });
        done.await.unwrap_or_else(|_| Err(Death::Untrusted("it could not be reset".to_owned())))?;
        self.output.take();
        let renewed = self.scratch.renew_work(self.key.files()).await;
        self.is_clean = renewed.is_ok();
        renewed.map_err(|error| {
            Death::Untrusted(format!("its working directory could not be renewed: {error}"))
        })
    }

    /// Whether nothing is there that a sweep would kill. To look takes no longer than to wake up the supervisor, which
    /// takes longer still where the processors are busy; and somebody's next job may wait for it.
    fn is_alone(&self) -> bool {
        let worker = i32::try_from(self.pid).ok().map(Pid::from_raw);
        self.supervisor()
            .zip(worker)
            .is_some_and(|(supervisor, worker)| processes::is_alone(supervisor, worker))
    }

    async fn expect(&mut self, is_expected: impl Fn(&Event) -> bool) -> Result<(), Death> {
        match self.next().await {
            event if is_expected(&event) => Ok(()),
            Event::Dead(death) => Err(death),
            _ => Err(Death::Untrusted("it answered out of turn".to_owned())),
        }
    }

    /// Its folders.
    pub fn scratch(&self) -> &WorkerScratch {
        &self.scratch
    }

    /// Kills it and all that came of it, waits until they are gone, and returns what was printed.
    pub async fn kill(self) -> Printed {
        let (printed, scratch) = self.kill_and_keep().await;
        scratch.remove().await;
        printed
    }

    /// Kills it as [`Worker::kill`] does, but keeps its folders.
    pub async fn kill_and_keep(mut self) -> (Printed, WorkerScratch) {
        let gone = timeout(KILL_LIMIT, async {
            self.order(Order::Kill).await;
            while !matches!(self.next().await, Event::Dead(_)) {}
            self.supervisor.wait().await.ok();
        });
        if gone.await.is_err() {
            tracing::error!(pid = self.pid, "a worker's processes do not go when killed");
            self.supervisor.start_kill().ok();
        }
        self.output.drain();
        self.output.listen(None);
        let printed = self.output.take();
        if let Some(group) = self.group.take() {
            tokio::task::spawn_blocking(move || group.remove()).await.ok();
        }
        (printed, self.scratch)
    }

    async fn order(&mut self, order: Order) {
        // A supervisor that is gone has told how, or its silence will.
        self.lifeline.write_all(&[order.byte()]).await.ok();
    }

    /// What has been read and not told yet.
    fn buffered(&mut self) -> Option<Event> {
        if !matches!(self.death, Some(Death::Untrusted(_)))
            && let Some(event) = self.next_frame()
        {
            return Some(event);
        }
        if let Some(status) = self.next_status() {
            match status {
                Status::Started(pid) => self.pid = u32::try_from(pid).unwrap_or_default(),
                Status::Swept => return Some(Event::Swept),
                Status::Ended(ended) => self.note_end(ended),
            }
            return self.buffered();
        }
        self.death.clone().map(Event::Dead)
    }

    fn next_frame(&mut self) -> Option<Event> {
        let read = match frame::take(&mut self.inbox) {
            Ok(frame) => frame?,
            Err(_) => {
                let story = "user code wrote to the descriptor of the worker's frames".to_owned();
                self.death = Some(Death::Untrusted(story));
                return None;
            }
        };
        // What was printed before this frame was written is in the pipes by now.
        self.output.drain();
        match runtimes::decode(self.key.runtime, read.kind, &read.body) {
            Ok(answer) => Some(Event::Said(answer)),
            Err(error) => {
                self.death = Some(Death::Untrusted(error.to_string()));
                None
            }
        }
    }

    fn next_status(&mut self) -> Option<Status> {
        let end = self.lines.iter().position(|byte| *byte == b'\n')?;
        let line = self.lines.split_to(end);
        self.lines.advance(1);
        Status::parse(&String::from_utf8_lossy(&line))
    }

    fn note_end(&mut self, ended: Ended) {
        self.hear_last_words();
        self.death.get_or_insert(Death::Ended(ended));
    }

    /// Reads, without waiting, what is in the pipes; the supervisor speaks after all others.
    fn hear_last_words(&mut self) {
        read_all(&self.frames_in, &mut self.inbox);
        self.output.drain();
        read_all(&self.lifeline, &mut self.lines);
        let ended =
            self.lines[..].split(|byte| *byte == b'\n').find_map(|line| {
                match Status::parse(&String::from_utf8_lossy(line)) {
                    Some(Status::Ended(ended)) => Some(ended),
                    _ => None,
                }
            });
        if let Some(ended) = ended {
            self.death.get_or_insert(Death::Ended(ended));
        }
    }

    /// Waits until something can be read or written, and does it.
    async fn turn(&mut self) {
        let silent_for = self.silent_since.map(|since| clock::now() - since);
        tokio::select! {
            () = self.output.read() => {}
            read = self.frames_in.read_buf(&mut self.inbox), if silent_for.is_none() => {
                if !matches!(read, Ok(1..)) {
                    self.silent_since = Some(clock::now());
                }
            },
            () = sleep(SILENCE_LIMIT.saturating_sub(silent_for.unwrap_or_default())),
                if silent_for.is_some() =>
            {
                let story = "user code closed the descriptor of the worker's frames".to_owned();
                self.death.get_or_insert(Death::Untrusted(story));
            }
            read = self.lifeline.read_buf(&mut self.lines) => if !matches!(read, Ok(1..)) {
                self.note_end(Ended::Lost);
            },
            written = self.frames_out.write_buf(&mut self.outbox), if self.outbox.has_remaining() => {
                // It has closed its end or is dead: nothing of it is ever read.
                if written.is_err() {
                    self.outbox = Outgoing::default().unsent();
                }
            }
        }
    }
}

/// Reads until nothing is there, without waiting.
fn read_all(from: impl AsFd, buffer: &mut BytesMut) {
    // Most often nothing is there. On the stack, because to fetch so much memory takes longer than to look.
    let mut chunk = [0; 16 * 1024];
    loop {
        match nix::unistd::read(&from, &mut chunk) {
            Ok(length @ 1..) => buffer.extend_from_slice(&chunk[..length]),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

fn pipe_of(bytes: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // A smaller pipe works as well: the system bounds what one user's pipes hold together.
    fcntl(&write, FcntlArg::F_SETPIPE_SZ(bytes)).ok();
    Ok((read, write))
}
