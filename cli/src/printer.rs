//! A value on its way out: to standard output or a file.

use std::io::{BufWriter, Write};

use protocol::frames;
use protocol::job::{Encoding, JobKind, JobStatus, Output, Runtime, Variant};

use crate::failure::{Exit, Failure};
use crate::value_lines::ValueLines;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// An element a line.
    Lines,
    /// An element a line, strings as their text.
    RawLines,
    /// The whole value as one JSON document, as the server sent it.
    Document,
    /// Frames, as the server sent them.
    Frames,
    /// What is inside the one frame of a call.
    Payload,
    /// Not at all: the values of a walk are dropped.
    Nothing,
}

impl Format {
    /// How the value of a job is written for people, or with `--json`.
    pub fn of(status: &JobStatus, json: bool) -> Self {
        let options = &status.options;
        let is_call = status.kind == JobKind::Call;
        let is_text = status.runtime == Runtime::Command && options.output == Output::Text;
        match options.encoding {
            Encoding::Json if json => Self::Document,
            _ if options.variant == Variant::Walk && !is_call => Self::Nothing,
            Encoding::Json if is_text => Self::RawLines,
            Encoding::Json if is_call => Self::Document,
            Encoding::Json => Self::Lines,
            _ if is_call => Self::Payload,
            _ => Self::Frames,
        }
    }
}

/// Prints a value's bytes once, however often they arrive.
pub struct Printer<W: Write> {
    format: Format,
    lines: ValueLines,
    output: BufWriter<W>,
    /// Bytes of the value that were printed.
    printed: u64,
    /// Bytes of the value that this answer has brought.
    arrived: u64,
}

impl<W: Write> Printer<W> {
    /// A printer to `output`.
    pub fn new(format: Format, output: W) -> Self {
        let lines = match format {
            Format::RawLines => ValueLines::raw(),
            _ => ValueLines::default(),
        };
        let output = BufWriter::with_capacity(1 << 16, output);
        Self { format, lines, output, printed: 0, arrived: 0 }
    }

    /// How many bytes of the value were printed.
    pub fn printed(&self) -> u64 {
        self.printed
    }

    /// The next bytes are the value's first again.
    pub fn rewind(&mut self) {
        self.arrived = 0;
    }

    /// Prints those of the value's next bytes that are new.
    pub fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let skipped = self.printed.saturating_sub(self.arrived).min(bytes.len() as u64);
        let before = self.arrived + skipped;
        self.arrived += bytes.len() as u64;
        self.printed = self.printed.max(self.arrived);
        let new = &bytes[skipped as usize..];
        let result = match self.format {
            Format::Document | Format::Frames => self.output.write_all(new),
            Format::Payload => {
                check_is_value(new, before)?;
                let head = (frames::HEAD as u64).saturating_sub(before).min(new.len() as u64);
                self.output.write_all(&new[head as usize..])
            }
            Format::Lines | Format::RawLines => {
                let mut text = Vec::with_capacity(new.len());
                self.lines.push(new, &mut text);
                self.output.write_all(&text)
            }
            Format::Nothing => Ok(()),
        };
        result.map_err(|error| Failure::output(&error))
    }

    /// Prints what belongs behind a whole value.
    pub fn finish(mut self) -> Result<(), Failure> {
        let mut end = Vec::new();
        match self.format {
            Format::Document => end.push(b'\n'),
            Format::Lines | Format::RawLines => self.lines.finish(&mut end),
            Format::Frames | Format::Payload | Format::Nothing => {}
        }
        let result = self.output.write_all(&end).and_then(|()| self.output.flush());
        result.map_err(|error| Failure::output(&error))
    }
}

/// The one frame of a call must hold a value: with `collect` it may be an error.
fn check_is_value(bytes: &[u8], offset: u64) -> Result<(), Failure> {
    let kind_at = (frames::HEAD as u64 - 1).checked_sub(offset);
    match kind_at.and_then(|at| bytes.get(at as usize)) {
        Some(&frames::kind::ERROR) => {
            Err(Failure::new(Exit::Failed, "the call has failed: an error stands in its place")
                .remedy("`farrow outcomes ID --failed` tells of it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints a value whose first answer was cut short.
    fn printed_after_a_cut(format: Format, value: &str, cut: usize) -> String {
        let mut output = Vec::new();
        let mut printer = Printer::new(format, &mut output);
        printer.rewind();
        printer.print(&value.as_bytes()[..cut]).unwrap();
        printer.rewind();
        value.as_bytes().chunks(3).for_each(|bytes| printer.print(bytes).unwrap());
        printer.finish().unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn what_arrives_twice_is_printed_once() {
        let value = "[1,\"two\",[3]]";
        for cut in 0..=value.len() {
            assert_eq!(printed_after_a_cut(Format::Lines, value, cut), "1\n\"two\"\n[3]\n");
            assert_eq!(printed_after_a_cut(Format::Document, value, cut), format!("{value}\n"));
            assert_eq!(printed_after_a_cut(Format::Frames, value, cut), value);
            assert_eq!(printed_after_a_cut(Format::Payload, value, cut), value[5..]);
        }
    }

    #[test]
    fn an_error_in_the_place_of_a_call_is_no_value() {
        let mut body = Vec::new();
        frames::push(&mut body, frames::kind::ERROR, b"{}");
        for step in 1..=body.len() {
            let mut output = Vec::new();
            let mut printer = Printer::new(Format::Payload, &mut output);
            assert!(
                body.chunks(step).try_for_each(|bytes| printer.print(bytes)).is_err(),
                "{step}"
            );
        }
    }

    #[test]
    fn a_value_is_written_as_its_job_and_its_reader_need_it() {
        let format = |options: serde_json::Value, kind: &str, runtime: &str, json| {
            let status = crate::screen::tests::status(&serde_json::json!({
                "options": options, "kind": kind, "runtime": runtime
            }));
            Format::of(&status, json)
        };
        let none = serde_json::json!({});
        assert_eq!(format(none.clone(), "map", "r", false), Format::Lines);
        assert_eq!(format(none.clone(), "map", "r", true), Format::Document);
        assert_eq!(format(none.clone(), "call", "r", false), Format::Document);
        assert_eq!(format(none.clone(), "call", "command", false), Format::RawLines);
        assert_eq!(format(none, "map", "command", true), Format::Document);
        let parsed = serde_json::json!({"output": "json"});
        assert_eq!(format(parsed, "map", "command", false), Format::Lines);
        let walk = serde_json::json!({"variant": "walk"});
        assert_eq!(format(walk.clone(), "map", "r", false), Format::Nothing);
        assert_eq!(format(walk, "map", "r", true), Format::Document);
        let rds = serde_json::json!({"encoding": "rds"});
        assert_eq!(format(rds.clone(), "map", "r", false), Format::Frames);
        assert_eq!(format(rds, "call", "r", false), Format::Payload);
    }
}
