//! The R runtime: `worker.R`, spoken to in R's serialization.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use protocol::agent::Condition;
use protocol::job::{ElementError, Function};

use super::{Answer, Constants, Interpreter, Outcomes, ProtocolError, WorkerJob, untranslatable};
use crate::frame::kind;
use crate::rserial::{self, Data, Text, Untranslatable, Value, Writer};

/// The script that an interpreter is given; it reads the others by itself.
const SCRIPT: &str = "worker.R";

/// What `Rscript` is asked for. Environment files are read, since they say where packages are;
/// profiles are code, and not read, so that a value does not depend on the machine.
const FLAGS: [&str; 4] = ["--no-save", "--no-restore", "--no-site-file", "--no-init-file"];

pub(super) const INTERPRETER: Interpreter = Interpreter {
    program: "Rscript",
    version_args: &["--vanilla", "-e", "cat(format(getRversion()))"],
    least: (3, 6),
    package: "r-base-core",
};

/// The program and the arguments that start a worker.
pub fn command(scripts: &Path) -> (PathBuf, Vec<OsString>) {
    let mut args: Vec<OsString> = FLAGS.iter().map(OsString::from).collect();
    args.push(scripts.join(SCRIPT).into());
    (INTERPRETER.program.into(), args)
}

/// The body of a job frame: a named list.
///
/// # Errors
/// When a constant has no likeness in R.
pub fn encode_job(job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    let names = ["function", "args", "globals", "packages", "setup", "cores", "conditions"];
    let mut writer = Writer::new();
    writer.named_list(names.len());
    writer.characters(&[source("function", function_text(&job.function))?]);
    constants(&mut writer, "args", &job.args)?;
    constants(&mut writer, "globals", &job.globals)?;
    writer.characters(&job.packages);
    writer.characters(&[source("setup", &job.setup)?]);
    writer.integer(i32::try_from(job.cores).unwrap_or(i32::MAX));
    writer.logical(job.options.conditions);
    writer.names(&names);
    Ok(writer.into_bytes())
}

fn function_text(function: &Function) -> &str {
    match function {
        Function::Source(text) => text,
        Function::Command(_) => "",
    }
}

fn source<'a>(field: &str, text: &'a str) -> Result<&'a str, ElementError> {
    match text.find('\0') {
        None => Ok(text),
        Some(at) => {
            let what = format!("`{field}` holds \\u0000 at byte {at}, which R's strings cannot");
            Err(ElementError { fatal: true, ..untranslatable(what) })
        }
    }
}

fn constants(writer: &mut Writer, field: &str, constants: &Constants) -> Result<(), ElementError> {
    writer.named_list(constants.len());
    for (name, value) in constants {
        rserial::write_json(writer, &value.bytes).map_err(|why| {
            let what = format!("`{field}.{name}` cannot be said in R: {why}");
            ElementError { fatal: true, ..untranslatable(what) }
        })?;
    }
    let names: Vec<_> = constants.keys().collect();
    writer.names(&names);
    Ok(())
}

/// The body of an elements frame: a list.
///
/// # Errors
/// The position of the first element that has no likeness in R, and why.
pub fn encode_elements(elements: &[&[u8]]) -> Result<Vec<u8>, (usize, ElementError)> {
    let mut writer = Writer::new();
    writer.list(elements.len());
    for (position, element) in elements.iter().enumerate() {
        rserial::write_json(&mut writer, element).map_err(|why| {
            (position, untranslatable(format!("the element cannot be said in R: {why}")))
        })?;
    }
    Ok(writer.into_bytes())
}

/// Reads a frame whose body is R's.
///
/// # Errors
/// When it is none of the worker's.
pub fn decode(frame: u8, body: &[u8]) -> Result<Answer, ProtocolError> {
    let value = rserial::read(body).map_err(|why| ProtocolError(why.to_string()))?;
    let answer = match frame {
        kind::READY => {
            error(value).map(|error| Answer::Refused(ElementError { fatal: true, ..error }))
        }
        kind::CONDITION => condition(value),
        _ => outcomes(value)
            .map(|outcomes| Answer::Outcomes { outcomes, printed: frame == kind::PRINTED }),
    };
    let kind = char::from(frame);
    answer.ok_or_else(|| ProtocolError(format!("its frame `{kind}` has another shape")))
}

/// `list(position, kind, message, call)`.
fn condition(value: Value<'_>) -> Option<Answer> {
    let [position, kind, message, call] = value.into_list()?.try_into().ok()?;
    let condition = Condition {
        kind: kind.as_str()?.to_owned(),
        message: message.as_str()?.to_owned(),
        call: call.as_str().map(str::to_owned),
    };
    Some(Answer::Condition { position: position.as_integer()?.try_into().ok()?, condition })
}

/// `list(kind = , message = , call = , traceback = )`.
fn error(value: Value<'_>) -> Option<ElementError> {
    let [kind, message, call, traceback] = value.into_list()?.try_into().ok()?;
    let calls = traceback.texts()?.iter().filter_map(Text::as_str);
    Some(ElementError {
        kind: kind.as_str()?.to_owned(),
        message: message.as_str()?.to_owned(),
        call: call.as_str().map(str::to_owned),
        traceback: calls.map(str::to_owned).collect(),
        fatal: false,
    })
}

/// `list(apart, values, failed)`: the positions of values that are serialized apart, the values,
/// and the errors, each with its position in front.
fn outcomes(value: Value<'_>) -> Option<Outcomes> {
    let [apart, values, failed] = value.into_list()?.try_into().ok()?;
    let Data::Integer(apart) = apart.data else { return None };
    let mut apart = apart.iter().flatten().map(usize::try_from).peekable();
    let mut outcomes = Vec::with_capacity(values.len());
    for (position, value) in values.into_list()?.iter().enumerate() {
        let outcome = match apart.next_if_eq(&Ok(position)) {
            None => json(value),
            Some(_) => match value.data {
                Data::Raw(bytes) => rserial::read(bytes).and_then(|value| json(&value)),
                _ => return None,
            },
        };
        outcomes.push(outcome.map_err(|why| unsayable(&why)));
    }
    for failure in failed.into_list()? {
        let mut fields = failure.into_list()?;
        let position = usize::try_from(fields.first()?.as_integer()?).ok()?;
        let error = error(Value::list(fields.split_off(1)))?;
        *outcomes.get_mut(position)? = Err(error);
    }
    Some(outcomes)
}

fn json(value: &Value<'_>) -> Result<Vec<u8>, Untranslatable> {
    let mut json = Vec::with_capacity(16);
    rserial::write_value(&mut json, value)?;
    Ok(json)
}

fn unsayable(why: &Untranslatable) -> ElementError {
    untranslatable(format!(
        "the value {why}; return what JSON can say: vectors, lists and data frames of numbers, \
         strings, logicals, factors, dates and times"
    ))
}
