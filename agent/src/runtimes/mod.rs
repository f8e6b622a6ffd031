//! Runtimes: how a worker of each is started, and what is said to it.
//!
//! A worker is a script ([`SCRIPTS`]) that an interpreter runs; the agent talks to it in the frames
//! of [`crate::frame`]. This module makes the bodies of those frames and reads them back; it does
//! no I/O, except for [`detect()`]. [`r`] translates JSON to R's serialization and back
//! ([`crate::rserial`]); [`python`] passes JSON on. The worker of [`command`] is no script but this
//! program ([`crate::commands`]).
//!
//! What a worker may rely on:
//!
//! * The agent sends the next frame only when the one before is answered in full, or `G` when it
//!   has answered with `p`. (A user's `closeAllConnections()` takes what R had read ahead of the
//!   frame with it.)
//! * [`environment`] is set when it is started.
//!
//! What the agent may rely on:
//!
//! * A worker that cannot be reset, or no longer understands its frames, ends. So does one whose
//!   descriptor 3 is closed.
//! * Outcomes wait for others only in frames of more than a few elements, and only for some
//!   milliseconds or until the element behind them ends. If that took longer, the worker waits (`w`),
//!   so that the elements behind it can be run elsewhere.
//! * What an element printed through its language's own output (R's standard error is none) is in
//!   the pipe before its outcome is, which comes as the last of a `p`; and nothing else is printed
//!   before the `G`, if an `S` does not stop the rest. So what the agent finds in the pipe when a `p` arrives belongs to the last
//!   element of that `p`. What it finds when an `o` arrives may be the next element's already,
//!   unless that `o` ends its `E`: then nobody noticed how it was printed (by a child, or past the
//!   language), and which element it belongs to is known only if the `E` held one.
//!
//! What it may not: that the pipe of frames ends with the worker. Base R cannot keep descriptors
//! from the programs that user code starts, which then hold it open; death is learned from `wait`.

pub mod command;
mod detect;
pub mod python;
pub mod r;

pub use detect::{DetectError, detect};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::JobId;
use protocol::agent::Condition;
use protocol::job::{ElementError, Encoding, Function, Options, Runtime, Seed, ValueType, Variant};
use serde::Deserialize;
use thiserror::Error;

use crate::frame::kind;
use crate::output;

/// The workers' scripts: file name and text. The agent writes them into a folder and gives that
/// to [`command`].
pub const SCRIPTS: [(&str, &str); 12] = [
    ("worker.R", include_str!("worker.R")),
    ("worker_io.R", include_str!("worker_io.R")),
    ("worker_loop.R", include_str!("worker_loop.R")),
    ("worker_errors.R", include_str!("worker_errors.R")),
    ("worker_calls.R", include_str!("worker_calls.R")),
    ("worker_values.R", include_str!("worker_values.R")),
    ("worker_reset.R", include_str!("worker_reset.R")),
    ("worker.py", include_str!("worker.py")),
    ("worker_calls.py", include_str!("worker_calls.py")),
    ("worker_io.py", include_str!("worker_io.py")),
    ("worker_reset.py", include_str!("worker_reset.py")),
    ("worker_values.py", include_str!("worker_values.py")),
];

/// Values that are the same for every element, by name.
pub type Constants = BTreeMap<String, ConstantValue>;

/// A value that is the same for every element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConstantValue {
    /// What it is written in.
    pub encoding: Encoding,
    /// JSON text, or what the encoding says.
    pub content: Content,
}

/// Where the bytes of a constant are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Bytes(Bytes),
    /// In a file, which a worker reads when it sets the job up. Only of constants that the agent does not have to
    /// read itself ([`reads_files`]).
    File {
        /// Where it is, from the root.
        path: String,
        /// Its length in bytes.
        size: u64,
    },
}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl Content {
    /// The bytes that are here: none of a file.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::File { .. } => &[],
        }
    }

    /// The file that it is in.
    fn file(&self) -> Option<&str> {
        match self {
            Self::Bytes(_) => None,
            Self::File { path, .. } => Some(path),
        }
    }
}

/// Whether workers of a runtime read constants of an encoding from files. What is JSON the agent reads: it
/// translates it, or sees whether it is JSON at all.
pub fn reads_files(runtime: Runtime, encoding: Encoding) -> bool {
    runtime != Runtime::Command && encoding != Encoding::Json
}

/// An element to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its index in the job, counted through all levels; decides its random stream.
    pub index: u64,
    /// What it is.
    pub input: Input<'a>,
    /// What the variant `imap` calls it by; `None` for other variants.
    pub key: Option<Key<'a>>,
}

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// Nothing: the job is a call.
    Nothing,
    /// JSON text.
    Json(&'a [u8]),
    /// Bytes in the job's encoding, which is not JSON.
    Encoded(&'a [u8]),
}

/// What the variant `imap` calls an element by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// Its index from 0 among its neighbours: those of its outer element under a nested plan.
    pub index: u64,
    /// Its name, if elements have names.
    pub name: Option<&'a str>,
    /// Under a nested plan its outer element's index from 0 and name.
    pub outer: Option<(u64, Option<&'a str>)>,
}

/// Everything of a job that a worker needs, with constants resolved to their bytes.
#[derive(Clone, Debug)]
pub struct WorkerJob {
    /// Its id.
    pub id: JobId,
    /// Whether it is a call: the function is run once, without an element.
    pub is_call: bool,
    /// What is run for each element.
    pub function: Function,
    /// Further arguments, by name.
    pub args: Constants,
    /// Global variables, by name.
    pub globals: Constants,
    /// Packages to load, in this order.
    pub packages: Vec<String>,
    /// A script to run before the first element.
    pub setup: String,
    /// How many cores an element may use.
    pub cores: u32,
    /// How it is run.
    pub options: Options,
}

impl WorkerJob {
    /// Bytes of its texts and of the constants that are here, about.
    pub fn n_bytes(&self) -> usize {
        let constants = self.args.values().chain(self.globals.values());
        let constants: usize = constants.map(|constant| constant.content.bytes().len()).sum();
        let function = match &self.function {
            Function::Source(source) => source.len(),
            Function::Command(words) => words.iter().map(String::len).sum(),
        };
        constants + function + self.setup.len()
    }
}

/// What became of elements: values in the job's encoding, or errors. Values are not copied where the frame that they came
/// in holds them as they are.
pub type Outcomes = Vec<Result<Bytes, ElementError>>;

/// What a worker said in one frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is there.
    Hello {
        /// Of its language.
        version: String,
    },
    /// It has the job and waits for elements.
    Ready,
    /// It cannot run the job; the error is fatal.
    Refused(ElementError),
    /// The next outcomes in order.
    Outcomes {
        /// Values in the job's encoding, or errors.
        outcomes: Outcomes,
        /// Whether the last one's element has printed.
        printed: bool,
        /// Whether the worker waits before it begins the next element, if any is left.
        waits: bool,
    },
    /// An element signalled a condition.
    Condition {
        /// The element's position in its frame of elements, from 0.
        position: u32,
        /// What it signalled.
        condition: Condition,
    },
    /// It has forgotten the job.
    ResetDone,
}

impl Answer {
    /// Outcomes that came in a frame of this kind.
    fn outcomes(frame: u8, outcomes: Outcomes) -> Self {
        let printed = frame == kind::PRINTED;
        Self::Outcomes { outcomes, printed, waits: printed || frame == kind::WAITS }
    }

    /// Bounds what user code says beside values: one message must not be a report too large to send.
    fn clip(&mut self) {
        match self {
            Self::Refused(error) => clip_error(error),
            Self::Outcomes { outcomes, .. } => {
                outcomes
                    .iter_mut()
                    .filter_map(|outcome| outcome.as_mut().err())
                    .for_each(clip_error);
            }
            Self::Condition { condition, .. } => {
                let Condition { kind, message, call } = condition;
                [kind, message].into_iter().chain(call).for_each(output::clip);
            }
            Self::Hello { .. } | Self::Ready | Self::ResetDone => {}
        }
    }
}

fn clip_error(error: &mut ElementError) {
    let ElementError { kind, message, call, traceback, fatal: _ } = error;
    [kind, message].into_iter().chain(call).chain(traceback).for_each(output::clip);
}

/// The program and the arguments that start a worker. `scripts` is the folder that holds
/// [`SCRIPTS`], `ourselves` this program.
pub fn command(runtime: Runtime, scripts: &Path, ourselves: &Path) -> (PathBuf, Vec<OsString>) {
    match runtime {
        Runtime::R => r::command(scripts),
        Runtime::Python => python::command(scripts),
        Runtime::Command => command::command(ourselves),
    }
}

/// Variables to start a worker with, so that libraries which look only once (BLAS, OpenMP) use no
/// more cores than an element has.
pub fn environment(cores: u32) -> Vec<(&'static str, String)> {
    let cores = cores.max(1).to_string();
    CORE_VARIABLES.iter().map(|name| (*name, cores.clone())).collect()
}

/// Variables that say how many cores to use. A job's frame names them, and workers set them anew for
/// each job.
const CORE_VARIABLES: [&str; 9] = [
    "MC_CORES",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RCPP_PARALLEL_NUM_THREADS",
    "R_PARALLELLY_AVAILABLECORES_FALLBACK",
];

/// The body of a job frame.
///
/// # Errors
/// When a constant cannot be said in the runtime's language; the error is fatal and names it.
pub fn encode_job(runtime: Runtime, job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    let unread = |value: &ConstantValue| {
        value.content.file().is_some() && !reads_files(runtime, value.encoding)
    };
    if job.args.values().chain(job.globals.values()).any(unread) {
        return Err(fatal("a constant is in a file that the worker does not read".to_owned()));
    }
    match runtime {
        Runtime::R => r::encode_job(job),
        Runtime::Python => python::encode_job(job),
        Runtime::Command => command::encode_job(job),
    }
}

/// The body of an elements frame.
///
/// # Errors
/// The position of the first element that cannot be said in the runtime's language, and why. The
/// caller records that error as the element's outcome and sends the others.
pub fn encode_elements(
    runtime: Runtime,
    options: &Options,
    elements: &[Element<'_>],
) -> Result<Vec<u8>, (usize, ElementError)> {
    match runtime {
        Runtime::R => r::encode_elements(options, elements),
        Runtime::Python => python::encode_elements(options, elements),
        Runtime::Command => command::encode_elements(elements),
    }
}

/// Whether elements need more than themselves to be run: what they are called by, what their random
/// numbers begin with, or their index, which an error names.
fn need_notes(options: &Options) -> bool {
    matches!(options.variant, Variant::Imap | Variant::Pmap)
        || options.value_type != ValueType::List
        || options.encoding == Encoding::Bytes
        || is_seeded(options.seed.as_ref())
}

fn is_seeded(seed: Option<&Seed>) -> bool {
    !matches!(seed, None | Some(Seed::Drawn(_)))
}

/// Reads a frame that a worker sent.
///
/// # Errors
/// When the frame is none that a worker of this runtime writes: it is beyond trust and must be
/// replaced.
pub fn decode(runtime: Runtime, frame: u8, body: &Bytes) -> Result<Answer, ProtocolError> {
    let mut answer = decode_whole(runtime, frame, body)?;
    answer.clip();
    Ok(answer)
}

fn decode_whole(runtime: Runtime, frame: u8, body: &Bytes) -> Result<Answer, ProtocolError> {
    match (frame, runtime) {
        (kind::HELLO, _) => hello(body),
        (kind::RESET_DONE, _) => Ok(Answer::ResetDone),
        (kind::READY, _) if body.is_empty() => Ok(Answer::Ready),
        (kind::READY | kind::OUTCOMES | kind::WAITS | kind::PRINTED | kind::CONDITION, runtime) => {
            match runtime {
                Runtime::R => r::decode(frame, body),
                Runtime::Python => python::decode(frame, body),
                Runtime::Command => command::decode(frame, body),
            }
        }
        (other, _) => Err(ProtocolError(format!("no worker sends frames of kind {other:#04x}"))),
    }
}

fn hello(body: &[u8]) -> Result<Answer, ProtocolError> {
    #[derive(Deserialize)]
    struct Hello {
        version: String,
    }
    let Hello { version } = serde_json::from_slice(body)
        .map_err(|error| ProtocolError(format!("its hello is not JSON: {error}")))?;
    Ok(Answer::Hello { version })
}

/// An error that is the job's, not an element's.
pub fn fatal(message: String) -> ElementError {
    ElementError { fatal: true, ..untranslatable(message) }
}

/// A value that cannot go from one language to the other.
pub fn untranslatable(message: String) -> ElementError {
    ElementError {
        kind: "Untranslatable".into(),
        message,
        call: None,
        traceback: Vec::new(),
        fatal: false,
    }
}

/// A worker sent what no worker sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the worker broke the protocol: {0}")]
pub struct ProtocolError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_user_code_says_at_length_is_clipped() {
        let long = "x".repeat(1 << 20);
        let error =
            serde_json::json!({"type": "E", "message": long, "call": long, "traceback": [long]});
        let body = error.to_string().into();
        let Answer::Refused(error) = decode(Runtime::Python, kind::READY, &body).unwrap() else {
            panic!("it refuses")
        };
        for text in [Some(&error.message), error.call.as_ref(), error.traceback.first()] {
            assert!(text.unwrap().len() < 70_000);
        }
        let condition = serde_json::json!({"position": 0, "kind": "warning", "message": long});
        let body = condition.to_string().into();
        let answer = decode(Runtime::Python, kind::CONDITION, &body).unwrap();
        let Answer::Condition { condition, .. } = answer else { panic!("a condition") };
        assert!(condition.message.contains("bytes are not kept"));
    }
}
