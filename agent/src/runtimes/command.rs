//! The runtime of commands: any program, started anew for each element by [`crate::commands`], which
//! is this program again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use protocol::job::{ElementError, Encoding, Function, Seed};

use super::{
    Answer, Constants, Element, Input, Key, ProtocolError, WorkerJob, fatal, untranslatable,
};
use crate::commands::template;
use crate::commands::wire::{self, Entry, Form, Request};
use crate::frame::kind;

/// The hidden subcommand that is [`crate::commands::main`].
const SUBCOMMAND: &str = "run-commands";

/// The version of the runtime: this program's own.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The program and the arguments that start a worker. `ourselves` is this program.
pub fn command(ourselves: &Path) -> (PathBuf, Vec<OsString>) {
    (ourselves.to_owned(), vec![SUBCOMMAND.into()])
}

/// The body of a job frame.
///
/// # Errors
/// When a constant cannot be told to a program; the error is fatal and names it.
pub fn encode_job(job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    let Function::Command(words) = &job.function else {
        let message = "`function` must be an array of the program and its arguments";
        return Err(fatal(message.to_owned()));
    };
    if let Some(name) = job.globals.keys().find(|name| !can_be_a_variable(name)) {
        return Err(fatal(format!("globals: `{name}` cannot be the name of a variable")));
    }
    if let Some(Seed::State(_)) = job.options.seed {
        return Err(fatal("options.seed: a command takes a whole number".to_owned()));
    }
    let args = texts("args", &job.args)?;
    let globals = texts("globals", &job.globals)?;
    let lengths = |texts: &[(&String, Vec<u8>)]| {
        texts.iter().map(|(name, text)| ((*name).clone(), text.len())).collect()
    };
    let request = Request {
        job: job.id,
        words: words.clone(),
        setup: job.setup.clone(),
        options: job.options.clone(),
        args: lengths(&args),
        globals: lengths(&globals),
    };
    let payloads = args.iter().chain(&globals).map(|(_, text)| text.as_slice());
    wire::seal(&request, payloads).map_err(|error| fatal(format!("the job: {error}")))
}

fn can_be_a_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// Constants as texts for words and variables: a string is what it says, all else its JSON.
fn texts<'a>(
    field: &str,
    constants: &'a Constants,
) -> Result<Vec<(&'a String, Vec<u8>)>, ElementError> {
    let text = |(name, value): (&'a String, &'a super::ConstantValue)| {
        let wrong = |what: String| fatal(format!("{field}.{name}: {what}"));
        let text = match value.encoding {
            Encoding::Json => template::text_of(value.content.bytes())
                .map_err(|error| wrong(format!("it is no text: {error}")))?
                .into_owned(),
            Encoding::Bytes => value.content.bytes().to_vec(),
            Encoding::Rds | Encoding::Pickle => {
                return Err(wrong("a command is told JSON or bytes only".to_owned()));
            }
        };
        if text.contains(&0) {
            return Err(wrong(
                "it holds a NUL character, which no argument and no variable of a program can; \
                 pass it as a file"
                    .to_owned(),
            ));
        }
        Ok((name, text))
    };
    constants.iter().map(text).collect()
}

/// The body of an elements frame.
///
/// # Errors
/// Never, but for elements whose names alone are longer than 4 GiB.
pub fn encode_elements(elements: &[Element<'_>]) -> Result<Vec<u8>, (usize, ElementError)> {
    let (entries, payloads): (Vec<_>, Vec<_>) = elements.iter().map(entry).unzip();
    wire::seal(&entries, payloads).map_err(|error| (0, untranslatable(error.to_string())))
}

fn entry<'a>(element: &Element<'a>) -> (Entry, &'a [u8]) {
    let (form, bytes) = match element.input {
        Input::Nothing => (Form::Nothing, &b""[..]),
        Input::Json(text) => (Form::Json, text),
        Input::Encoded(bytes) => (Form::Bytes, bytes),
    };
    let named = |index: u64, name: Option<&str>| name.map_or(index.to_string(), str::to_owned);
    let (key, outer) = match element.key {
        None => (None, None),
        Some(Key { index, name, outer: None }) => (Some(named(index, name)), None),
        Some(Key { index, name: _, outer: Some((outer, name)) }) => {
            (Some(index.to_string()), Some(named(outer, name)))
        }
    };
    (Entry { index: element.index, form, length: bytes.len(), key, outer }, bytes)
}

/// Reads a frame whose body is the worker's.
///
/// # Errors
/// When it is none of the worker's.
pub fn decode(frame: u8, body: &Bytes) -> Result<Answer, ProtocolError> {
    let kind = char::from(frame);
    let misfit = || ProtocolError(format!("its frame `{kind}` has another shape"));
    match frame {
        kind::READY => serde_json::from_slice(body).map(Answer::Refused).map_err(|_| misfit()),
        kind::OUTCOMES | kind::WAITS | kind::PRINTED => {
            let outcomes = vec![wire::open_outcome(body).ok_or_else(misfit)?];
            Ok(Answer::outcomes(frame, outcomes))
        }
        _ => Err(misfit()),
    }
}
