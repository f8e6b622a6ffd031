//! A value on standard output.

use std::io::{BufWriter, Write};

use crate::failure::Failure;
use crate::value_lines::ValueLines;

/// How a value is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// An element a line.
    Lines,
    /// The whole value as one JSON document, as the server sent it.
    Json,
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
        let output = BufWriter::with_capacity(1 << 16, output);
        Self { format, lines: ValueLines::default(), output, printed: 0, arrived: 0 }
    }

    /// The next bytes are the value's first again.
    pub fn rewind(&mut self) {
        self.arrived = 0;
    }

    /// Prints those of the value's next bytes that are new.
    pub fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let skipped = self.printed.saturating_sub(self.arrived).min(bytes.len() as u64);
        self.arrived += bytes.len() as u64;
        self.printed = self.printed.max(self.arrived);
        let new = &bytes[skipped as usize..];
        let result = match self.format {
            Format::Json => self.output.write_all(new),
            Format::Lines => {
                let mut text = Vec::with_capacity(new.len());
                self.lines.push(new, &mut text);
                self.output.write_all(&text)
            }
        };
        result.map_err(|error| Failure::output(&error))
    }

    /// Prints what belongs behind a whole value.
    pub fn finish(mut self) -> Result<(), Failure> {
        let mut end = Vec::new();
        match self.format {
            Format::Json => end.push(b'\n'),
            Format::Lines => self.lines.finish(&mut end),
        }
        let result = self.output.write_all(&end).and_then(|()| self.output.flush());
        result.map_err(|error| Failure::output(&error))
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
            assert_eq!(printed_after_a_cut(Format::Json, value, cut), format!("{value}\n"));
        }
    }
}
