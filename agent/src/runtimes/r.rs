//! The R runtime: `worker.R`, spoken to in R's serialization.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use bytes::Bytes;
use protocol::agent::Condition;
use protocol::job::{ElementError, Encoding, Function, Options, ValueType, Variant};
use tokio::process::Command;
use tokio::time::timeout;

use super::detect::Interpreter;
use super::{
    Answer, CORE_VARIABLES, Constants, Content, Element, Input, Outcomes, ProtocolError, SCRIPTS,
    WorkerJob, fatal, need_notes, untranslatable,
};
use crate::frame::kind;
use crate::rserial::{self, Data, Text, Untranslatable, Value, Writer};
use crate::seeds::{Seeds, Stream};

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

/// For how long that may take: half a second, where R does not hang.
const COMPILE_LIMIT: Duration = Duration::from_secs(60);

/// Compiles the parts of `worker.R`, whose argument is the folder that they stand in.
const COMPILE: &str = r#"
for (part in list.files(commandArgs(TRUE), "^worker_.*[.]R$", full.names = TRUE)) {
  compiler::cmpfile(part, paste0(part, "c.new"))
}"#;

/// Has R compile the parts of its worker in the folder `scripts`: the files, each with the one that it
/// is to become when workers can read it. Before, they read the parts as they are.
///
/// # Errors
/// What went wrong.
pub async fn compile(scripts: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut command = Command::new(INTERPRETER.program);
    // Nothing of a job runs here, and nobody's profile.
    command.args(["--vanilla", "-e", COMPILE]).arg(scripts).stdin(Stdio::null()).env_clear();
    command.envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
    let compiled = timeout(COMPILE_LIMIT, command.kill_on_drop(true).output()).await;
    let hangs =
        |_| io::Error::other(format!("Rscript did not end in {} s", COMPILE_LIMIT.as_secs()));
    let output = compiled.map_err(hangs)??;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let parts =
        SCRIPTS.iter().filter(|(name, _)| name.starts_with("worker_") && name.ends_with(".R"));
    Ok(parts
        .map(|(name, _)| (format!("{name}c.new"), format!("{name}c")))
        .map(|(made, final_name)| (scripts.join(made), scripts.join(final_name)))
        .collect())
}

/// The largest raw vector that R's `readBin()` makes at once.
const LARGEST_BODY: usize = i32::MAX as usize;

/// The body of a job frame: a named list. Constants that are not JSON are raw vectors, or the names of the files that
/// hold them; those among them that are in files, and those that R has to unserialize, are named.
///
/// # Errors
/// When a constant or the seed has no likeness in R.
pub fn encode_job(job: &WorkerJob) -> Result<Vec<u8>, ElementError> {
    let names = [
        "is_call",
        "function",
        "args",
        "globals",
        "serialized_args",
        "serialized_globals",
        "stored_args",
        "stored_globals",
        "packages",
        "setup",
        "cores",
        "core_variables",
        "conditions",
        "variant",
        "type",
        "encoding",
        "notes",
    ];
    let options = &job.options;
    Stream::of(options.seed.as_ref())
        .map_err(|why| fatal(format!("`options.seed` is none of R's: {why}")))?;
    let mut writer = Writer::new();
    writer.named_list(names.len());
    writer.logical(job.is_call);
    writer.characters(&[source("function", function_text(&job.function))?]);
    constants(&mut writer, "args", &job.args)?;
    constants(&mut writer, "globals", &job.globals)?;
    writer.characters(&serialized(&job.args));
    writer.characters(&serialized(&job.globals));
    writer.characters(&stored("args", &job.args)?);
    writer.characters(&stored("globals", &job.globals)?);
    writer.characters(&job.packages);
    writer.characters(&[source("setup", &job.setup)?]);
    writer.integer(i32::try_from(job.cores).unwrap_or(i32::MAX));
    writer.characters(&CORE_VARIABLES);
    writer.logical(options.conditions);
    writer.characters(&[variant_name(options.variant)]);
    writer.characters(&[type_name(options.value_type)]);
    writer.characters(&[options.encoding.as_str()]);
    writer.logical(need_notes(options));
    writer.names(&names);
    let body = writer.into_bytes();
    if body.len() > LARGEST_BODY {
        return Err(fatal("args and globals together are larger than 2 GiB".into()));
    }
    Ok(body)
}

fn variant_name(variant: Variant) -> &'static str {
    match variant {
        Variant::Map => "map",
        Variant::Pmap => "pmap",
        Variant::Imap => "imap",
        Variant::Walk => "walk",
    }
}

/// What `typeof()` says of values of a type.
fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::List => "list",
        ValueType::Chr => "character",
        ValueType::Dbl => "double",
        ValueType::Int => "integer",
        ValueType::Lgl => "logical",
    }
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
            Err(fatal(format!("`{field}` holds \\u0000 at byte {at}, which R's strings cannot")))
        }
    }
}

fn constants(writer: &mut Writer, field: &str, constants: &Constants) -> Result<(), ElementError> {
    writer.named_list(constants.len());
    for (name, value) in constants {
        match value.encoding {
            Encoding::Json => rserial::write_json(writer, value.content.bytes())
                .map_err(|why| fatal(format!("`{field}.{name}` cannot be said in R: {why}")))?,
            Encoding::Rds | Encoding::Bytes => match &value.content {
                Content::Bytes(bytes) => writer.raw(bytes),
                Content::File { path, .. } => writer.characters(&[path]),
            },
            Encoding::Pickle => {
                let what = format!("`{field}.{name}` is Python's pickle, which R cannot read");
                return Err(fatal(what));
            }
        }
    }
    let names: Vec<_> = constants.keys().collect();
    writer.names(&names);
    Ok(())
}

/// The names of those that are R's serialization.
fn serialized(constants: &Constants) -> Vec<&str> {
    let serialized = constants.iter().filter(|(_, value)| value.encoding == Encoding::Rds);
    serialized.map(|(name, _)| name.as_str()).collect()
}

/// The names of those that are in files.
fn stored<'a>(field: &str, constants: &'a Constants) -> Result<Vec<&'a str>, ElementError> {
    let mut names = Vec::new();
    for (name, value) in constants {
        let Content::File { size, .. } = value.content else { continue };
        // What R unserializes may be longer.
        if value.encoding == Encoding::Bytes && size > LARGEST_BODY as u64 {
            return Err(fatal(format!("`{field}.{name}` is larger than 2 GiB")));
        }
        names.push(name.as_str());
    }
    Ok(names)
}

/// The body of an elements frame: a list. If elements need notes, or with the encoding rds, it is a
/// named list of them and of what else is to say of them.
///
/// # Errors
/// The position of the first element that has no likeness in R, and why.
pub fn encode_elements(
    options: &Options,
    elements: &[Element<'_>],
) -> Result<Vec<u8>, (usize, ElementError)> {
    let mut writer = Writer::new();
    if need_notes(options) || options.encoding == Encoding::Rds {
        let names = ["elements", "reads", "indexes", "keys", "seeds"];
        writer.named_list(names.len());
        let reads = inputs(&mut writer, options, elements)?;
        writer.logical(reads);
        notes(&mut writer, options, elements).map_err(|error| (0, error))?;
        writer.names(&names);
    } else {
        inputs(&mut writer, options, elements)?;
    }
    let body = writer.into_bytes();
    if body.len() > LARGEST_BODY {
        return Err((
            0,
            untranslatable("the element is larger than 2 GiB; pass it as a file".into()),
        ));
    }
    Ok(body)
}

/// The elements in a list, bytes as raw vectors; and whether there are any that R has to
/// unserialize by themselves ([`rserial::splice`]), which are raw vectors too.
fn inputs(
    writer: &mut Writer,
    options: &Options,
    elements: &[Element<'_>],
) -> Result<bool, (usize, ElementError)> {
    let write_json = match options.variant {
        Variant::Pmap => rserial::write_arguments,
        Variant::Map | Variant::Imap | Variant::Walk => rserial::write_json,
    };
    let mut reads = false;
    writer.list(elements.len());
    for (position, element) in elements.iter().enumerate() {
        match element.input {
            Input::Nothing => writer.null(),
            Input::Encoded(bytes) => {
                if options.encoding != Encoding::Rds || !rserial::splice(writer, bytes) {
                    writer.raw(bytes);
                    reads = true;
                }
            }
            Input::Json(json) => write_json(writer, json).map_err(|why| {
                (position, untranslatable(format!("the element cannot be said in R: {why}")))
            })?,
        }
    }
    Ok(reads)
}

/// What stands behind the elements: nothing of what they do not need.
fn notes(
    writer: &mut Writer,
    options: &Options,
    elements: &[Element<'_>],
) -> Result<(), ElementError> {
    let elements = if need_notes(options) { elements } else { &[] };
    writer.numbers(&elements.iter().map(|element| number(element.index)).collect::<Vec<_>>());
    keys(writer, elements);
    writer.integers(&seeds(options, elements)?);
    Ok(())
}

/// What `imap` gives beside the element: a list of one key, or of two under a nested plan.
fn keys(writer: &mut Writer, elements: &[Element<'_>]) {
    writer.list(elements.len());
    for element in elements {
        let Some(of) = element.key else {
            writer.null();
            continue;
        };
        writer.list(if of.outer.is_some() { 2 } else { 1 });
        key(writer, of.index, of.name);
        if let Some((index, name)) = of.outer {
            key(writer, index, name);
        }
    }
}

/// A name, or else a number from 1.
fn key(writer: &mut Writer, index: u64, name: Option<&str>) {
    match (name, i32::try_from(index + 1)) {
        (Some(name), _) => writer.characters(&[name]),
        (None, Ok(number)) => writer.integer(number),
        (None, Err(_)) => writer.numbers(&[number(index + 1)]),
    }
}

#[expect(clippy::cast_precision_loss, reason = "no job has 2^53 elements")]
fn number(index: u64) -> f64 {
    index as f64
}

/// A `.Random.seed` for each element; nothing if the job has no seed.
fn seeds(options: &Options, elements: &[Element<'_>]) -> Result<Vec<i32>, ElementError> {
    let stream = Stream::of(options.seed.as_ref()).map_err(fatal)?;
    let Some(mut seeds) = stream.map(Seeds::new) else { return Ok(Vec::new()) };
    Ok(elements.iter().flat_map(|element| seeds.at(element.index)).collect())
}

/// Reads a frame whose body is R's.
///
/// # Errors
/// When it is none of the worker's.
pub fn decode(frame: u8, body: &Bytes) -> Result<Answer, ProtocolError> {
    let value = rserial::read(body).map_err(|why| ProtocolError(why.to_string()))?;
    let answer = match frame {
        kind::READY => {
            error(value).map(|error| Answer::Refused(ElementError { fatal: true, ..error }))
        }
        kind::CONDITION => condition(value),
        _ => outcomes(body, value).map(|outcomes| Answer::outcomes(frame, outcomes)),
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
/// and the errors, each with its position in front. If an encoding stands behind them, values are
/// what the job wants: raw vectors, or all in one serialization ([`rserial::take_apart`]).
fn outcomes(frame: &Bytes, value: Value<'_>) -> Option<Outcomes> {
    let mut parts = value.into_list()?;
    let encoded = parts.len() == 4 && parts.pop().is_some();
    let [apart, values, failed] = parts.try_into().ok()?;
    let mut outcomes = match values.data {
        Data::Raw(joined) if encoded => {
            let values = rserial::take_apart(joined)?.into_iter();
            values.map(|value| Ok(value.into())).collect()
        }
        Data::List(values) if encoded => raw(frame, values)?,
        Data::List(values) => translated(&apart, &values)?,
        _ => return None,
    };
    for failure in failed.into_list()? {
        let mut fields = failure.into_list()?;
        let position = usize::try_from(fields.first()?.as_integer()?).ok()?;
        let error = error(Value::list(fields.split_off(1)))?;
        *outcomes.get_mut(position)? = Err(error);
    }
    Some(outcomes)
}

fn raw(frame: &Bytes, values: Vec<Value<'_>>) -> Option<Outcomes> {
    let bytes = |value: Value<'_>| match value.data {
        Data::Raw(bytes) => Some(Ok(frame.slice_ref(bytes))),
        // In the place of an error.
        Data::Null => Some(Ok(Bytes::new())),
        _ => None,
    };
    values.into_iter().map(bytes).collect()
}

fn translated(apart: &Value<'_>, values: &[Value<'_>]) -> Option<Outcomes> {
    let Data::Integer(apart) = &apart.data else { return None };
    let mut apart = apart.iter().map_while(|position| position.map(usize::try_from)).peekable();
    let mut outcomes = Vec::with_capacity(values.len());
    for (position, value) in values.iter().enumerate() {
        let outcome = match apart.next_if_eq(&Ok(position)) {
            None => json(value),
            Some(_) => match value.data {
                Data::Raw(bytes) => rserial::read(bytes).and_then(|value| json(&value)),
                _ => return None,
            },
        };
        outcomes.push(outcome.map(Bytes::from).map_err(|why| unsayable(&why)));
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
         strings, logicals, factors, dates and times; or submit with the encoding `rds`"
    ))
}
