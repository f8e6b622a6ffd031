//! The Python runtime: `worker.py`, spoken to in JSON.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::agent::Condition;
use protocol::job::{ElementError, Encoding, Function, Options, Seed};
use serde::Deserialize;
use serde_json::json;

use super::detect::Interpreter;
use super::{
    Answer, CORE_VARIABLES, ConstantValue, Constants, Element, Input, Outcomes, ProtocolError,
    WorkerJob, fatal, need_notes, untranslatable,
};
use crate::frame::kind;

/// The script that an interpreter is given; it reads the others by itself.
const SCRIPT: &str = "worker.py";

pub(super) const INTERPRETER: Interpreter = Interpreter {
    program: "python3",
    version_args: &["-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"],
    least: (3, 8),
    package: "python3",
};

/// Of a length: an outcome is an error, an element is not JSON.
const MARK: u32 = 1 << 31;

/// The program and the arguments that start a worker. The script itself takes its folder off
/// `sys.path` (`-P` came with 3.11); `-I` would take the user's packages too.
pub fn command(scripts: &Path) -> (PathBuf, Vec<OsString>) {
    (INTERPRETER.program.into(), vec![scripts.join(SCRIPT).into()])
}

/// The body of a job frame: the length of a JSON text, the text, and behind it the constants that
/// are not in files, in the order in which it names them.
///
/// # Errors
/// When a constant or the seed is none of Python's.
pub fn encode_job(job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    let WorkerJob { is_call, packages, setup, cores, options, .. } = job;
    let function = match &job.function {
        Function::Source(text) => text,
        Function::Command(_) => "",
    };
    let head = json!({
        "is_call": is_call,
        "function": function,
        "packages": packages,
        "setup": setup,
        "cores": cores,
        "core_variables": CORE_VARIABLES,
        "conditions": options.conditions,
        "variant": options.variant,
        "type": options.value_type,
        "encoding": options.encoding,
        "seed": seed(options)?,
        "notes": need_notes(options),
        "constants": [described("args", &job.args)?, described("globals", &job.globals)?],
    });
    let head = head.to_string();
    let constants = || job.args.values().chain(job.globals.values());
    let bytes: usize = constants().map(|value| value.content.bytes().len()).sum();
    let mut body = Vec::with_capacity(4 + head.len() + bytes);
    body.extend_from_slice(&length(head.len()).unwrap_or_default().to_le_bytes());
    body.extend_from_slice(head.as_bytes());
    constants().for_each(|value| body.extend_from_slice(value.content.bytes()));
    Ok(body)
}

/// What is said of a constant: its name, encoding, length behind the text, and file if it is in one.
type Described<'a> = (&'a str, Encoding, usize, Option<&'a str>);

fn described<'a>(
    field: &str,
    constants: &'a Constants,
) -> Result<Vec<Described<'a>>, ElementError> {
    let describe = |(name, value): (&'a String, &'a ConstantValue)| match value.encoding {
        Encoding::Rds => {
            Err(fatal(format!("`{field}.{name}` is R's serialization, which Python cannot read")))
        }
        encoding => {
            let content = &value.content;
            Ok((name.as_str(), encoding, content.bytes().len(), content.file()))
        }
    };
    constants.iter().map(describe).collect()
}

fn seed(options: &Options) -> Result<Option<i64>, ElementError> {
    match options.seed {
        None | Some(Seed::Drawn(_)) => Ok(None),
        Some(Seed::Number(number)) => Ok(Some(number)),
        Some(Seed::State(_)) => {
            Err(fatal("`options.seed` is a state of R's generator; give Python a number".into()))
        }
    }
}

fn length(length: usize) -> Option<u32> {
    u32::try_from(length).ok().filter(|length| length & MARK == 0)
}

/// The body of an elements frame: their number, the length of each, and an array of them all. The
/// worker parses the array at once, and one by one only if that fails. An element that is not JSON
/// stands in it as it is, and its length is marked. If elements need notes, these stand in front,
/// as JSON behind its length.
///
/// # Errors
/// The first element that is longer than a frame can say.
pub fn encode_elements(
    options: &Options,
    elements: &[Element<'_>],
) -> Result<Vec<u8>, (usize, ElementError)> {
    let inputs: Vec<_> = elements.iter().map(|element| input(element.input)).collect();
    let bytes: usize = inputs.iter().map(|(bytes, _)| bytes.len() + 5).sum();
    let mut body = Vec::with_capacity(6 + bytes);
    if need_notes(options) {
        let notes = notes(elements);
        body.extend_from_slice(&length(notes.len()).unwrap_or_default().to_le_bytes());
        body.extend_from_slice(notes.as_bytes());
    }
    let count = u32::try_from(elements.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&count.to_le_bytes());
    for (position, (bytes, mark)) in inputs.iter().enumerate() {
        let length = length(bytes.len()).ok_or_else(|| {
            (position, untranslatable("the element is larger than 2 GiB; pass it as a file".into()))
        })?;
        body.extend_from_slice(&(length | mark).to_le_bytes());
    }
    body.push(b'[');
    for (position, (bytes, _)) in inputs.iter().enumerate() {
        if position > 0 {
            body.push(b',');
        }
        body.extend_from_slice(bytes);
    }
    body.push(b']');
    Ok(body)
}

fn input<'a>(input: Input<'a>) -> (&'a [u8], u32) {
    match input {
        Input::Nothing => (b"null", 0),
        Input::Json(json) => (json, 0),
        Input::Encoded(bytes) => (bytes, MARK),
    }
}

/// The index of each, and what `imap` gives beside it: `[[3, ["c"]], [4, ["d"]]]`.
fn notes(elements: &[Element<'_>]) -> String {
    let notes = elements.iter().map(|element| {
        let keys = element.key.map(|of| {
            let outer = of.outer.map(|(index, name)| key(index, name));
            std::iter::once(key(of.index, of.name)).chain(outer).collect::<Vec<_>>()
        });
        json!([element.index, keys])
    });
    notes.collect::<serde_json::Value>().to_string()
}

/// A name, or else a number from 0.
fn key(index: u64, name: Option<&str>) -> serde_json::Value {
    name.map_or_else(|| index.into(), Into::into)
}

/// Reads a frame whose body is the Python worker's.
///
/// # Errors
/// When it is none of the worker's.
pub fn decode(frame: u8, body: &Bytes) -> Result<Answer, ProtocolError> {
    match frame {
        kind::READY => json(frame, body).map(Answer::Refused),
        kind::CONDITION => condition(frame, body),
        _ => outcomes(body).map(|outcomes| Answer::outcomes(frame, outcomes)),
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
fn outcomes(body: &Bytes) -> Result<Outcomes, ProtocolError> {
    let short = || ProtocolError("its frame of outcomes ends early".into());
    let (count, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let count = u32::from_le_bytes(*count) as usize;
    let (lengths, mut texts) = rest.split_at_checked(count * 4).ok_or_else(short)?;
    let mut outcomes = Vec::with_capacity(count);
    for length in lengths.chunks_exact(4) {
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default());
        let size = (length & !MARK) as usize;
        let (text, rest) = texts.split_at_checked(size).ok_or_else(short)?;
        texts = rest;
        outcomes.push(match length & MARK {
            0 => Ok(body.slice_ref(text)),
            _ => Err(json(kind::OUTCOMES, text)?),
        });
    }
    Ok(outcomes)
}
