//! `farrow supervise`: the process that an agent puts between itself and a worker. Not for people.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

/// Watch over a worker (an agent starts this by itself)
#[derive(Args, Debug)]
pub struct Supervise {
    /// What the worker is held to, its program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

impl Supervise {
    /// Runs the worker; ends as it ends. To be called before the process has a second thread.
    pub fn run(self) -> ExitCode {
        agent::supervisor::main(self.words)
    }
}
