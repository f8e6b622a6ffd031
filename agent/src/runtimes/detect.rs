//! Whether a runtime can be used here, and its version.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use protocol::job::Runtime;
use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

use super::{command, python, r};

/// For how long an interpreter may think about its version. It is generous because a cold R on a
/// busy machine takes seconds; only one that hangs reaches it.
const DETECT_LIMIT: Duration = Duration::from_secs(60);

/// Finds out the version of a runtime's interpreter by running it, by what `begin` makes of the
/// program's name.
///
/// # Errors
/// When it is missing, too old, hangs or fails; the message says what to do.
pub async fn detect(
    runtime: Runtime,
    begin: impl FnOnce(&str) -> io::Result<std::process::Command>,
) -> Result<String, DetectError> {
    let interpreter = match runtime {
        Runtime::R => &r::INTERPRETER,
        Runtime::Python => &python::INTERPRETER,
        Runtime::Command => return Ok(command::VERSION.to_owned()),
    };
    let command = begin(interpreter.program).map_err(|error| interpreter.not_started(error))?;
    let mut command = Command::from(command);
    command
        .args(interpreter.version_args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let finished = timeout(DETECT_LIMIT, command.output())
        .await
        .map_err(|_| DetectError::Hangs { program: interpreter.program })?;
    let output = finished.map_err(|error| interpreter.not_started(error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(DetectError::Fails { program: interpreter.program, said: said.trim().into() });
    }
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    interpreter.judge(version)
}

/// The program behind a runtime.
#[derive(Debug)]
pub(super) struct Interpreter {
    pub(super) program: &'static str,
    /// Make it print its version, `major.minor.patch`, and nothing else.
    pub(super) version_args: &'static [&'static str],
    pub(super) least: (u32, u32),
    pub(super) package: &'static str,
}

impl Interpreter {
    fn not_started(&self, error: io::Error) -> DetectError {
        if error.kind() == io::ErrorKind::NotFound {
            DetectError::Missing { program: self.program, package: self.package }
        } else {
            DetectError::NotStarted { program: self.program, error }
        }
    }

    fn judge(&self, version: String) -> Result<String, DetectError> {
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
        let found = (numbers.next().flatten(), numbers.next().flatten());
        let (Some(major), Some(minor)) = found else {
            let said = format!("it calls its version `{version}`");
            return Err(DetectError::Fails { program: self.program, said });
        };
        if (major, minor) < self.least {
            let (major, minor) = self.least;
            let least = format!("{major}.{minor}");
            return Err(DetectError::TooOld { program: self.program, version, least });
        }
        Ok(version)
    }
}

/// Why a runtime cannot be used.
#[derive(Debug, Error)]
pub enum DetectError {
    /// It is not installed.
    #[error(
        "`{program}` was not found on PATH; install it (Debian, Ubuntu: apt-get install {package})"
    )]
    Missing {
        /// The interpreter.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// It is there but cannot be started.
    #[error("`{program}` could not be started: {error}")]
    NotStarted {
        /// The interpreter.
        program: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// It did not answer.
    #[error(
        "`{program}` did not tell its version within a minute; run it by hand to see what it waits for"
    )]
    Hangs {
        /// The interpreter.
        program: &'static str,
    },
    /// It ended with an error.
    #[error("`{program}` did not tell its version: {said}")]
    Fails {
        /// The interpreter.
        program: &'static str,
        /// What it wrote.
        said: String,
    },
    /// It is older than the worker's script needs.
    #[error("`{program}` is version {version}, but a worker needs {least} or later")]
    TooOld {
        /// The interpreter.
        program: &'static str,
        /// Its version.
        version: String,
        /// The oldest that will do.
        least: String,
    },
}
