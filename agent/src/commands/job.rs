//! A job of commands that is set up, and how an element of it is run.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use nix::errno::Errno;
use protocol::envelope::EnvelopeError;
use protocol::job::{ElementError, Options, Seed, Variant};
use tokio::process::Command;

use super::failure;
use super::process::{self, Finished, Standard, Stdout};
use super::template::{self, Scope, Subject, Template, Texts};
use super::value::{self, TOO_LONG};
use super::wire::{Entry, Form, Payloads, Request};
use crate::death::{Death, last_lines};
use crate::lifeline::Ended;
use crate::seeds;

/// A job that is set up.
#[derive(Debug)]
pub struct Job {
    words: Vec<Template>,
    setup: String,
    args: Texts,
    /// What its programs find in their environment.
    variables: Vec<(OsString, OsString)>,
    options: Options,
}

/// What came of an element.
#[derive(Debug)]
pub struct Ran {
    /// Its value, or why it has none.
    pub outcome: Result<Vec<u8>, ElementError>,
    /// Whether it has printed anything that is no value.
    pub has_printed: bool,
}

impl Job {
    /// Takes a request apart.
    ///
    /// # Errors
    /// When its constants end early.
    pub fn new(request: Request, mut payloads: Payloads<'_>) -> Result<Self, EnvelopeError> {
        let Request { job, words, setup, options, args, globals } = request;
        let mut take = |(name, length): (String, usize)| {
            payloads.take(length).map(|text| (name, text.to_vec()))
        };
        let args = args.into_iter().map(&mut take).collect::<Result<Texts, _>>()?;
        let globals = globals.into_iter().map(take).collect::<Result<Texts, _>>()?;
        let mut variables: Vec<(OsString, OsString)> = globals
            .into_iter()
            .map(|(name, text)| (name.into(), OsString::from_vec(text)))
            .collect();
        variables.push(("FARROW_JOB".into(), job.to_string().into()));
        let words = words.iter().map(|word| Template::parse(word)).collect();
        Ok(Self { words, setup, args, variables, options })
    }

    /// Runs the job's set-up. What it leaves behind, such as a server that the elements are to
    /// talk to, keeps its pipes, and so may print for as long as it lives.
    ///
    /// # Errors
    /// When that fails; the error is fatal.
    pub async fn set_up(&self) -> Result<(), ElementError> {
        if self.setup.is_empty() {
            return Ok(());
        }
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.setup).envs(self.variables.iter().cloned());
        let finished = process::run(command, b"", Stdout::PassOn)
            .await
            .map_err(|error| fatal("CommandNotStarted", format!("setup: sh: {error}")))?;
        if finished.status.success() {
            finished.open.into_iter().for_each(|(pipe, stream)| process::pass_on(pipe, stream));
            return Ok(());
        }
        let story = story(finished.status, &finished.stderr);
        Err(fatal("CommandFailed", format!("setup: {story}")))
    }

    /// Runs the program for an element, whose bytes are `input`.
    pub async fn run(&self, entry: &Entry, input: &[u8]) -> Ran {
        let finished = match self.command(entry, input) {
            Ok((command, program)) => process::run(command, input, self.stdout())
                .await
                .map_err(|error| self.not_started(&program, &error)),
            Err(error) => Err(error),
        };
        match finished {
            Ok(finished) => self.judge(finished, entry.index),
            Err(error) => Ran { outcome: Err(error), has_printed: false },
        }
    }

    fn stdout(&self) -> Stdout {
        match self.options.variant {
            Variant::Walk => Stdout::PassOn,
            _ => Stdout::Keep(TOO_LONG),
        }
    }

    /// The command for an element, and its program.
    fn command(&self, entry: &Entry, input: &[u8]) -> Result<(Command, OsString), ElementError> {
        let scope = self.scope(entry, input)?;
        let mut words = self.words.iter().map(|word| OsString::from_vec(word.fill(&scope)));
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(&program);
        command.args(words).envs(self.variables.iter().map(|(name, text)| (name, text)));
        command.env("FARROW_INDEX", entry.index.to_string());
        match self.options.seed {
            Some(Seed::Number(seed)) => {
                command.env("FARROW_SEED", seeds::command_seed(seed, entry.index).to_string())
            }
            _ => command.env_remove("FARROW_SEED"),
        };
        Ok((command, program))
    }

    /// What the names in words mean for an element.
    fn scope<'a>(&'a self, entry: &Entry, input: &'a [u8]) -> Result<Scope<'a>, ElementError> {
        let no_text = |error: serde_json::Error| {
            let message = format!("element {}: it holds what no text can: {error}", entry.index);
            failure("Untranslatable", message)
        };
        let text = match entry.form {
            Form::Nothing => return Ok(Scope { args: &self.args, element: None }),
            Form::Json => template::text_of(input).map_err(no_text)?,
            Form::Bytes => input.into(),
        };
        let items = match (self.options.variant, entry.form) {
            (Variant::Pmap, Form::Json) => template::items_of(input)
                .map_err(no_text)?
                .ok_or_else(|| not_spread(&value::describe(input.trim_ascii())))?,
            (Variant::Pmap, _) => return Err(not_spread("bytes")),
            _ => Texts::new(),
        };
        let (key, outer) = (entry.key.clone(), entry.outer.clone());
        let subject = Subject { index: entry.index, text, items, key, outer };
        Ok(Scope { args: &self.args, element: Some(subject) })
    }

    fn judge(&self, finished: Finished, index: u64) -> Ran {
        let Finished { status, stdout, stderr, mut has_printed, open: _ } = finished;
        let outcome = match stdout {
            None => Err(value::too_large(TOO_LONG)),
            Some(written) if status.success() => value::value(written, index, &self.options),
            Some(written) => {
                // It is no value, but may say what has gone wrong.
                if !written.is_empty() && !matches!(self.stdout(), Stdout::PassOn) {
                    process::print(Standard::Output, &written);
                    has_printed = true;
                }
                Err(failure("CommandFailed", story(status, &stderr)))
            }
        };
        Ran { outcome, has_printed }
    }

    /// Why a program does not start: the job's fault if it is the same for all elements.
    fn not_started(&self, program: &OsStr, error: &io::Error) -> ElementError {
        let for_all = Scope { args: &self.args, element: None };
        let is_for_all =
            self.words.first().is_some_and(|word| word.fill(&for_all) == program.as_bytes());
        let (of_the_program, message) = cannot_start(program, error);
        let fatal = of_the_program && is_for_all;
        ElementError { fatal, ..failure("CommandNotStarted", message) }
    }
}

fn fatal(kind: &str, message: String) -> ElementError {
    ElementError { fatal: true, ..failure(kind, message) }
}

fn not_spread(what: &str) -> ElementError {
    let message = format!(
        "an element of pmap must be an array or an object, whose items are the arguments; it is \
         {what}"
    );
    failure("TypeMismatch", message)
}

/// How a program ended, and the last that it wrote to standard error.
fn story(status: ExitStatus, stderr: &[u8]) -> String {
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or_default()),
    };
    let story = Death::Ended(ended).to_string();
    match last_lines(&String::from_utf8_lossy(stderr)) {
        Some(last) => format!("{story}: {last}"),
        None => story,
    }
}

/// Why a program cannot be started and what to do, and whether that lies in the program.
fn cannot_start(program: &OsStr, error: &io::Error) -> (bool, String) {
    let name = program.to_string_lossy();
    let is_path = program.as_bytes().contains(&b'/');
    let found = error.raw_os_error().map(Errno::from_raw);
    match found {
        Some(Errno::ENOENT) if is_path && Path::new(program).exists() => {
            (true, format!("`{name}` is there, but not the interpreter that its first line names"))
        }
        Some(Errno::ENOENT | Errno::ENOTDIR) if is_path => {
            let message = format!(
                "there is no `{name}` on this agent; send it along in `files`, or install it there"
            );
            (true, message)
        }
        Some(Errno::ENOENT) => {
            let message = format!(
                "`{name}` was not found on this agent's PATH; install it there, for example by \
                 `prepare`, or give its path"
            );
            (true, message)
        }
        Some(Errno::EACCES) => {
            let message = format!(
                "`{name}` is not executable on this agent; make it so (chmod +x), or let its \
                 interpreter run it, as in [\"sh\", \"{name}\"]"
            );
            (true, message)
        }
        Some(Errno::ENOEXEC) => {
            let message = format!(
                "`{name}` is no program for this agent's machine, and no script with a line `#!` \
                 that names its interpreter"
            );
            (true, message)
        }
        Some(Errno::E2BIG) => {
            let message = "the arguments are longer than the system allows (128 KiB one, 2 MiB all \
                           with the environment); read the element from standard input instead of \
                           `{}`";
            (false, message.to_owned())
        }
        None if error.kind() == io::ErrorKind::InvalidInput => {
            let message = "an argument holds a NUL character, which none can; read the element \
                           from standard input instead of `{}`";
            (false, message.to_owned())
        }
        _ => (false, format!("`{name}` could not be started: {error}")),
    }
}
