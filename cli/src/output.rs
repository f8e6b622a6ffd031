//! Standard output of commands that print something small at once, and what is remarked beside it.

use std::io::{self, IsTerminal, Write};

use clap::builder::FalseyValueParser;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::printable::printable;

/// What a command prints: for people, or one JSON document.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Print JSON instead of text for people
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

impl OutputArgs {
    /// Prints `document` as JSON, or the text that `text` makes of it.
    pub fn print<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.json {
            true => print_text(&(to_json(document)? + "\n")),
            false => print_text(&text(document)),
        }
    }
}

/// Prints a text as it stands.
pub fn print_text(text: &str) -> Result<(), Failure> {
    write_text(text).map_err(|error| Failure::output(&error))
}

/// Writes a text to standard output, at once; to a terminal only what does not steer it.
pub fn write_text(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    let text = if output.is_terminal() { printable(text) } else { text.into() };
    output.write_all(text.as_bytes()).and_then(|()| output.flush())
}

/// Writes lines to standard error that are not the command's result. Who reads there may have gone (`farrow up 2>&1 |
/// head`): then nobody wants to know, and the work goes on.
pub fn remark(lines: &str) {
    write!(io::stderr().lock(), "{}", printable(lines)).ok();
}

fn to_json<T: Serialize>(document: &T) -> Result<String, Failure> {
    serde_json::to_string(document).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot write the answer as JSON: {error}"))
    })
}
