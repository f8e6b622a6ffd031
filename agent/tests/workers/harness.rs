//! One worker: its process, its frames, and what it prints.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agent::frame::{self, kind};
use agent::runtimes::{self, Answer, ConstantValue, Constants, Element, Input, Key, WorkerJob};
use bytes::{Buf, BytesMut};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protocol::JobId;
use protocol::agent::Condition;
use protocol::job::{ElementError, Encoding, Function, Options, Runtime};
use serde_json::Value;
use tempfile::TempDir;

/// A worker that says nothing for so many milliseconds hangs.
const HANG_LIMIT: u16 = 60_000;

/// A job of which only the function matters.
pub fn job(function: &str) -> WorkerJob {
    WorkerJob {
        id: JobId::new(),
        is_call: false,
        function: Function::Source(function.into()),
        args: BTreeMap::new(),
        globals: BTreeMap::new(),
        packages: Vec::new(),
        setup: String::new(),
        cores: 1,
        options: Options::default(),
    }
}

/// Constants from JSON texts.
pub fn constants(pairs: &[(&str, &str)]) -> Constants {
    let value = |json: &str| ConstantValue {
        encoding: Encoding::Json,
        content: json.as_bytes().to_vec().into(),
    };
    pairs.iter().map(|(name, json)| ((*name).to_owned(), value(json))).collect()
}

/// Elements that are JSON texts, counted from 0.
pub fn elements<'a>(texts: &[&'a str]) -> Vec<Element<'a>> {
    let element = |(index, text): (u64, &&'a str)| {
        let input = Input::Json(text.as_bytes());
        Element { index, input, key: Some(Key { index, name: None, outer: None }) }
    };
    (0..).zip(texts).map(element).collect()
}

/// What a call is run with.
pub const CALL: Element<'static> = Element { index: 0, input: Input::Nothing, key: None };

/// Values in the job's encoding, or errors.
pub type Outcomes = Vec<Result<Vec<u8>, ElementError>>;

/// The values of outcomes that are JSON; every one must be a value.
pub fn json_values(outcomes: Outcomes) -> Vec<Value> {
    let parse = |outcome: Result<Vec<u8>, ElementError>| {
        serde_json::from_slice(&outcome.expect("a value")).expect("JSON")
    };
    outcomes.into_iter().map(parse).collect()
}

/// The body of a frame of elements that are these JSON texts.
pub fn encode(runtime: Runtime, texts: &[&str]) -> Result<Vec<u8>, (usize, ElementError)> {
    let elements = elements(texts);
    runtimes::encode_elements(runtime, &Options::default(), &elements)
}

/// A running worker. It is killed when dropped.
pub struct Worker {
    runtime: Runtime,
    process: Child,
    frames_in: Option<File>,
    frames_out: File,
    stdout: File,
    buffer: BytesMut,
    /// What it printed and nobody has taken yet.
    printed: Vec<u8>,
    /// The folder of the scripts and pipes.
    _folder: TempDir,
}

/// What became of the elements of one frame.
#[derive(Debug, Default)]
pub struct Run {
    pub outcomes: Vec<Result<String, ElementError>>,
    pub conditions: Vec<(u32, Condition)>,
    /// What was in the pipe when the worker said that an element had printed, or when the last
    /// outcomes arrived, by the last element of these.
    pub printed: Vec<(usize, String)>,
}

impl Run {
    /// The values; every outcome must be one.
    pub fn values(self) -> Vec<Value> {
        let parse = |outcome: Result<String, ElementError>| {
            serde_json::from_str(&outcome.expect("a value")).expect("JSON")
        };
        self.outcomes.into_iter().map(parse).collect()
    }

    /// The error at `position`.
    pub fn error(&self, position: usize) -> &ElementError {
        self.outcomes[position].as_ref().expect_err("an error")
    }
}

impl Worker {
    /// Starts one, and waits for its hello.
    pub fn start(runtime: Runtime) -> Self {
        Self::start_on(runtime, Stdio::inherit())
    }

    /// Starts one that has something to say nobody need hear.
    pub fn start_silent(runtime: Runtime) -> Self {
        Self::start_on(runtime, Stdio::null())
    }

    fn start_on(runtime: Runtime, stderr: Stdio) -> Self {
        // As in a home folder of a first and a second name.
        let folder = TempDir::with_prefix("farrow worker ").unwrap();
        for (name, text) in runtimes::SCRIPTS {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (to, from) = (folder.path().join("in"), folder.path().join("out"));
        mkfifo(&to, Mode::S_IRWXU).unwrap();
        mkfifo(&from, Mode::S_IRWXU).unwrap();
        let (program, args) = {
            let ourselves = Path::new(env!("CARGO_BIN_EXE_farrow-supervise"));
            runtimes::command(runtime, folder.path(), ourselves)
        };
        // Not beside the scripts, and not where other tests are.
        let work = folder.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let mut process = Command::new("sh")
            .current_dir(&work)
            .args(["-c", r#"exec "$@" 3<"$FRAMES_IN" 4>"$FRAMES_OUT""#, "sh"])
            .arg(program)
            .args(args)
            .env("FRAMES_IN", &to)
            .env("FRAMES_OUT", &from)
            .envs(runtimes::environment(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut worker = Self {
            runtime,
            process,
            frames_in: Some(OpenOptions::new().write(true).open(&to).unwrap()),
            frames_out: File::open(&from).unwrap(),
            stdout: std::os::fd::OwnedFd::from(stdout).into(),
            buffer: BytesMut::new(),
            printed: Vec::new(),
            _folder: folder,
        };
        let Some(Answer::Hello { version }) = worker.answer() else { panic!("no hello") };
        assert!(version.split('.').count() >= 3, "{version}");
        worker
    }

    pub fn send(&mut self, kind: u8, body: &[u8]) {
        let frame = frame::encode(kind, body.to_vec()).unwrap();
        let mut frames_in = self.frames_in.as_ref().unwrap();
        std::io::copy(&mut frame.unsent().reader(), &mut frames_in).unwrap();
    }

    /// The next answer, or `None` when the worker has ended.
    pub fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(frame) = frame::take(&mut self.buffer).expect("a kind of frame") {
                return Some(runtimes::decode(self.runtime, frame.kind, &frame.body).unwrap());
            }
            self.wait();
            let mut chunk = vec![0; 1 << 16];
            let count = self.frames_out.read(&mut chunk).unwrap();
            if count == 0 {
                return None;
            }
            self.drain();
            self.buffer.extend_from_slice(&chunk[..count]);
        }
    }

    /// Waits for frames, and reads what is printed meanwhile.
    fn wait(&mut self) {
        loop {
            let (frames, stdout) = (self.frames_out.as_fd(), self.stdout.as_fd());
            let mut fds =
                [PollFd::new(frames, PollFlags::POLLIN), PollFd::new(stdout, PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(HANG_LIMIT)).unwrap();
            assert!(ready > 0, "the worker hangs");
            if fds[0].any().unwrap() {
                return;
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        let mut chunk = vec![0; 1 << 16];
        loop {
            match self.stdout.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.printed.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives it a job, which it must take.
    pub fn prepare(&mut self, job: &WorkerJob) {
        match self.try_prepare(job) {
            Some(Answer::Ready) => {}
            other => panic!("not ready: {other:?}"),
        }
    }

    pub fn try_prepare(&mut self, job: &WorkerJob) -> Option<Answer> {
        let body = runtimes::encode_job(self.runtime, job).unwrap();
        self.send(kind::JOB, &body);
        self.answer()
    }

    /// The error for which it does not take a job.
    pub fn refusal(&mut self, job: &WorkerJob) -> ElementError {
        match self.try_prepare(job) {
            Some(Answer::Refused(error)) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Runs elements. The outcomes are fewer when the worker ends.
    pub fn run(&mut self, elements: &[&str]) -> Run {
        let body = encode(self.runtime, elements).unwrap();
        let (outcomes, mut run) = self.exchange(&body, elements.len());
        run.outcomes = outcomes.into_iter().map(text).collect();
        run
    }

    /// Gives it a job and runs elements of it, whatever they are.
    pub fn outcomes(&mut self, job: &WorkerJob, elements: &[Element<'_>]) -> Outcomes {
        self.prepare(job);
        let body = runtimes::encode_elements(self.runtime, &job.options, elements).unwrap();
        self.exchange(&body, elements.len()).0
    }

    /// Sends a frame of elements and takes what comes back.
    fn exchange(&mut self, body: &[u8], count: usize) -> (Outcomes, Run) {
        self.send(kind::ELEMENTS, body);
        let (mut all, mut run) = (Outcomes::new(), Run::default());
        while all.len() < count {
            match self.answer() {
                Some(Answer::Outcomes { outcomes, waits, .. }) => {
                    all.extend(outcomes.into_iter().map(|outcome| outcome.map(Vec::from)));
                    let ends = all.len() == count;
                    if waits || ends {
                        self.take_printed(&mut run, all.len() - 1);
                    }
                    if waits && !ends {
                        self.send(kind::GO_ON, &[]);
                    }
                }
                Some(Answer::Condition { position, condition }) => {
                    run.conditions.push((position, condition));
                }
                Some(other) => panic!("not an outcome: {other:?}"),
                None => break,
            }
        }
        (all, run)
    }

    fn take_printed(&mut self, run: &mut Run, last: usize) {
        let printed = std::mem::take(&mut self.printed);
        if !printed.is_empty() {
            let printed = String::from_utf8(printed).unwrap();
            run.printed.push((last, printed));
        }
    }

    /// The value of a single element.
    pub fn value(&mut self, element: &str) -> Value {
        self.run(&[element]).values().remove(0)
    }

    /// Makes it forget its job; `false` when it ends instead.
    pub fn reset(&mut self) -> bool {
        self.send(kind::RESET, &[]);
        match self.answer() {
            Some(Answer::ResetDone) => true,
            None => false,
            other => panic!("not reset: {other:?}"),
        }
    }

    /// Waits until its process has ended.
    pub fn join(&mut self) {
        self.process.wait().unwrap();
    }

    /// Closes the pipe of frames, as an agent that dies does.
    pub fn hang_up(&mut self) {
        self.frames_in = None;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(outcome: Result<Vec<u8>, ElementError>) -> Result<String, ElementError> {
    outcome.map(|value| String::from_utf8(value).unwrap())
}

/// A worker with a job.
pub fn worker(runtime: Runtime, function: &str) -> Worker {
    let mut worker = Worker::start(runtime);
    worker.prepare(&job(function));
    worker
}
