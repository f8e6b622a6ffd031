//! The supervisor and the worker of commands alone, as a program for this crate's own tests. The
//! real one is `farrow`, which an agent starts from the very file it runs from; a test's file is
//! not that.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(word) if word == "run-commands" => agent::commands::main(),
        _ => agent::supervisor::main(words),
    }
}
