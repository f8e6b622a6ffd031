//! The Python runtime: `worker.py`, spoken to in JSON.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use protocol::agent::Condition;
use protocol::job::{ElementError, Function};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Interpreter, Outcomes, ProtocolError, WorkerJob, untranslatable};
use crate::frame::kind;

/// The script that an interpreter is given; it reads the others by itself.
const SCRIPT: &str = "worker.py";

pub(super) const INTERPRETER: Interpreter = Interpreter {
    program: "python3",
    version_args: &["-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"],
    least: (3, 8),
    package: "python3",
};

/// Of an outcome's length: it is an error.
const ERROR_BIT: u32 = 1 << 31;

/// The program and the arguments that start a worker. The script itself takes its folder off
/// `sys.path` (`-P` came with 3.11); `-I` would take the user's packages too.
pub fn command(scripts: &Path) -> (PathBuf, Vec<OsString>) {
    (INTERPRETER.program.into(), vec![scripts.join(SCRIPT).into()])
}

/// The body of a job frame: JSON.
///
/// # Errors
/// Never: every constant is JSON already.
pub fn encode_job(job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    #[derive(Serialize)]
    struct Job<'a> {
        function: &'a str,
        args: BTreeMap<&'a str, &'a RawValue>,
        globals: BTreeMap<&'a str, &'a RawValue>,
        packages: &'a [String],
        setup: &'a str,
        cores: u32,
        conditions: bool,
    }
    let function = match &job.function {
        Function::Source(text) => text,
        Function::Command(_) => "",
    };
    let raw = |constants: &'_ super::Constants| -> BTreeMap<String, Box<RawValue>> {
        constants
            .iter()
            .filter_map(|(name, value)| {
                Some((name.clone(), serde_json::from_slice(&value.bytes).ok()?))
            })
            .collect()
    };
    let (args, globals) = (raw(&job.args), raw(&job.globals));
    let args = args.iter().map(|(name, value)| (name.as_str(), &**value)).collect();
    let globals = globals.iter().map(|(name, value)| (name.as_str(), &**value)).collect();
    let WorkerJob { packages, setup, .. } = job;
    let (cores, conditions) = (job.cores, job.options.conditions);
    let job = Job { function, args, globals, packages, setup, cores, conditions };
    serde_json::to_vec(&job).map_err(|error| ElementError {
        fatal: true,
        ..untranslatable(format!("the job cannot be said in JSON: {error}"))
    })
}

/// The body of an elements frame: their number, the length of each, and an array of them all. The
/// worker parses the array at once, and one by one only if that fails.
///
/// # Errors
/// When an element is longer than a frame can be.
pub fn encode_elements(elements: &[&[u8]]) -> Result<Vec<u8>, (usize, ElementError)> {
    let bytes: usize = elements.iter().map(|element| element.len() + 5).sum();
    let mut body = Vec::with_capacity(6 + bytes);
    let count = u32::try_from(elements.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_le_bytes());
    for (position, element) in elements.iter().enumerate() {
        let length = u32::try_from(element.len()).map_err(|_| {
            (position, untranslatable("the element is larger than 4 GiB; pass it as a file".into()))
        })?;
        body.extend_from_slice(&length.to_le_bytes());
    }
    body.push(b'[');
    for (position, element) in elements.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        body.extend_from_slice(element);
    }
    body.push(b']');
    Ok(body)
}

/// Reads a frame whose body is the Python worker's.
///
/// # Errors
/// When it is none of the worker's.
pub fn decode(frame: u8, body: &[u8]) -> Result<Answer, ProtocolError> {
    match frame {
        kind::READY => json(frame, body).map(Answer::Refused),
        kind::CONDITION => condition(frame, body),
        _ => outcomes(body)
            .map(|outcomes| Answer::Outcomes { outcomes, printed: frame == kind::PRINTED }),
    }
}

fn json<'a, T: Deserialize<'a>>(frame: u8, body: &'a [u8]) -> Result<T, ProtocolError> {
    let kind = char::from(frame);
    serde_json::from_slice(body)
        .map_err(|error| ProtocolError(format!("its frame `{kind}` has another shape: {error}")))
}

fn condition(frame: u8, body: &[u8]) -> Result<Answer, ProtocolError> {
    #[derive(Deserialize)]
    struct Signalled {
        position: u32,
        #[serde(flatten)]
        condition: Condition,
    }
    let Signalled { position, condition } = json(frame, body)?;
    Ok(Answer::Condition { position, condition })
}

/// Their number, the length of each with a bit that says error, and the texts back to back.
fn outcomes(body: &[u8]) -> Result<Outcomes, ProtocolError> {
    let short = || ProtocolError("its frame of outcomes ends early".into());
    let (count, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let count = u32::from_le_bytes(*count) as usize;
    let (lengths, mut texts) = rest.split_at_checked(count * 4).ok_or_else(short)?;
    let mut outcomes = Vec::with_capacity(count);
    for length in lengths.chunks_exact(4) {
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default());
        let size = (length & !ERROR_BIT) as usize;
        let (text, rest) = texts.split_at_checked(size).ok_or_else(short)?;
        texts = rest;
        outcomes.push(match length & ERROR_BIT {
            0 => Ok(text.to_vec()),
            _ => Err(json(kind::OUTCOMES, text)?),
        });
    }
    Ok(outcomes)
}
