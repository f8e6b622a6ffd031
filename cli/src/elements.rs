//! Where the elements of a map come from: arguments, a file, or standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// The elements of a map.
#[derive(Args, Clone, Debug)]
pub struct ElementArgs {
    /// The elements, each a string; without any they are read from --file or standard input
    #[arg(value_name = "ELEMENTS")]
    pub elements: Vec<String>,
    /// Read the elements from a file, a line each; `-` is standard input
    #[arg(long, env = "FARROW_MAP_FILE", value_name = "FILE", conflicts_with = "elements")]
    pub file: Option<PathBuf>,
    /// Each element is JSON, not a string
    #[arg(long, env = "FARROW_MAP_JSON_LINES", value_parser = FalseyValueParser::new())]
    pub json_lines: bool,
}

impl ElementArgs {
    /// The elements as one JSON array.
    pub fn read(&self) -> Result<Box<RawValue>, Failure> {
        let mut array = JsonArray::new(self.json_lines);
        match &self.file {
            _ if !self.elements.is_empty() => {
                self.elements.iter().enumerate().try_for_each(|(i, text)| {
                    array
                        .push(text)
                        .map_err(|error| Failure::usage(format!("element {}: {error}", i + 1)))
                })?;
            }
            Some(file) if file != Path::new("-") => {
                let name = file.display().to_string();
                let opened = File::open(file).map_err(|error| cannot_read(&name, &error))?;
                array.push_lines(BufReader::new(opened), &name)?;
            }
            None if io::stdin().is_terminal() => {
                return Err(Failure::usage("no elements").remedy(
                    "give them as arguments, by --file, or through a pipe: seq 10 | farrow map …",
                ));
            }
            _ => array.push_lines(io::stdin().lock(), "standard input")?,
        }
        array.finish()
    }
}

/// A JSON array that is being written.
struct JsonArray {
    text: String,
    elements_are_json: bool,
}

impl JsonArray {
    fn new(elements_are_json: bool) -> Self {
        Self { text: "[".to_owned(), elements_are_json }
    }

    fn push_lines(&mut self, mut reader: impl BufRead, name: &str) -> Result<(), Failure> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(|error| cannot_read(name, &error))? == 0
            {
                break;
            }
            let at_fault =
                |error: String| Failure::usage(format!("{name}, line {number}: {error}"));
            let text =
                str::from_utf8(&line).map_err(|_| at_fault("is not UTF-8 text".to_owned()))?;
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if !(self.elements_are_json && text.trim().is_empty()) {
                self.push(text).map_err(at_fault)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, element: &str) -> Result<(), String> {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        match self.elements_are_json {
            true => self.text.push_str(json(element)?.get()),
            false => self.text.push_str(&serde_json::Value::from(element).to_string()),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Box<RawValue>, Failure> {
        self.text.push(']');
        RawValue::from_string(self.text)
            .map_err(|error| Failure::usage(format!("the elements are not JSON: {error}")))
    }
}

/// Checks that a text is one JSON document.
pub fn json(text: &str) -> Result<&RawValue, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("is not JSON ({error}): {}", shortened(text)))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(lines: &[u8], elements_are_json: bool) -> Result<String, Failure> {
        let mut array = JsonArray::new(elements_are_json);
        array.push_lines(lines, "input")?;
        Ok(array.finish()?.get().to_owned())
    }

    #[test]
    fn a_line_is_a_string_whatever_it_holds() {
        let text = array(b"1\n\nsay \"hi\"\r\nlast", false).unwrap();
        assert_eq!(text, r#"["1","","say \"hi\"","last"]"#);
        assert_eq!(array(b"", false).unwrap(), "[]");
    }

    #[test]
    fn json_lines_keep_their_digits_and_skip_empty_lines() {
        let text = array(b"0.1000000000000000055\n\n {\"a\": 1} \n", true).unwrap();
        assert_eq!(text, r#"[0.1000000000000000055,{"a": 1}]"#);
    }

    #[test]
    fn a_line_at_fault_is_named() {
        let failure = format!("{:?}", array(b"1\nnope\n", true).unwrap_err());
        assert!(failure.contains("input, line 2: is not JSON"), "{failure}");
        let failure = format!("{:?}", array(b"a\n\xff\n", false).unwrap_err());
        assert!(failure.contains("input, line 2: is not UTF-8"), "{failure}");
    }
}
