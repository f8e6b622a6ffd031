//! The supervisor alone, as a program for this crate's own tests. The real one is `farrow
//! supervise`, which the agent starts from the very file it runs from; a test's file is not that.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first argument after the program's name is the word `supervise`.
    agent::supervisor::main(std::env::args_os().skip(2))
}
