//! Where the elements of a map come from: arguments, files, patterns, tables, a range, or standard
//! input.

mod list;
mod path;
mod range;
mod table;

pub use list::{Elements, json};

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::Encoding;
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::failure::Failure;
use list::{ElementList, Form};
use range::IntegerRange;

/// The elements of a map, unless they are arguments.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Elements (from one place; without any, standard input)")]
pub struct ElementArgs {
    /// Lines of a file, an element each; `-` is standard input. With --encoding rds or pickle the
    /// file is frames, as `farrow value --out` writes them
    #[arg(long, env = "FARROW_MAP_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Paths that match a pattern, sorted; quote it, or the shell expands it. May be repeated. The
    /// agents must see the same paths: by a shared folder, or by --files
    #[arg(long, env = "FARROW_MAP_GLOB", value_name = "PATTERN")]
    glob: Vec<String>,
    /// Rows of a table with a heading, an object each; `-` is standard input. Empty cells are
    /// null; a column that holds only numbers is numbers, and an NA among them is null. Where a
    /// number would lose digits (007, whole ones beyond 2^53) the column is text. `*.tsv` is
    /// separated by tabs
    #[arg(long, env = "FARROW_MAP_CSV", value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Whole numbers: `0..100` without, `0..=100` with its end
    #[arg(long, env = "FARROW_MAP_RANGE", value_name = "FROM..TO", allow_hyphen_values = true)]
    range: Option<IntegerRange>,
    /// A blob of the server: a line of JSON an element, or frames
    #[arg(long, env = "FARROW_MAP_BLOB", value_name = "DIGEST")]
    blob: Option<Digest>,
    /// Each argument or line is JSON, not a string
    #[arg(long, env = "FARROW_MAP_JSON_LINES", value_parser = FalseyValueParser::new())]
    json_lines: bool,
    /// Elements end with a zero byte instead of a line's end, as `find -print0` writes them
    #[arg(short = '0', long, env = "FARROW_MAP_NULL", value_parser = FalseyValueParser::new())]
    null: bool,
    /// Every cell of the table is text
    #[arg(long, env = "FARROW_MAP_CSV_TEXT", value_parser = FalseyValueParser::new())]
    csv_text: bool,
    /// Elements have names, which stand before their values: their own text; of a table's rows,
    /// the text of the first column
    #[arg(long, env = "FARROW_MAP_NAMED", value_parser = FalseyValueParser::new())]
    named: bool,
}

impl ElementArgs {
    /// The elements: `words` if there are any, else from where the flags say.
    pub fn read(&self, words: &[String], encoding: Encoding) -> Result<Elements, Failure> {
        self.check_one_place(words)?;
        self.check_encoding(words, encoding)?;
        if let Some(range) = self.range {
            return Ok(Elements::Inline(range.to_json()));
        }
        if let Some(digest) = &self.blob {
            return Ok(Elements::Inline(blob_reference(digest)));
        }
        if matches!(encoding, Encoding::Rds | Encoding::Pickle) {
            return self.read_frames();
        }
        let mut list = ElementList::new(self.form(encoding), self.named);
        if !words.is_empty() {
            for (i, word) in words.iter().enumerate() {
                list.push(word.as_bytes())
                    .map_err(|error| at_fault(&format!("element {i}"), &error))?;
            }
        } else if !self.glob.is_empty() {
            for path in path::matching(&self.glob)? {
                list.push(&path).map_err(|error| {
                    at_fault(&format!("the path {}", String::from_utf8_lossy(&path)), &error)
                })?;
            }
        } else if let Some(file) = &self.csv {
            let (name, input) = open(file)?;
            let tabs = file.extension().is_some_and(|extension| extension == "tsv");
            table::read(input, &name, tabs, self.csv_text, &mut list)?;
        } else {
            let (name, input) = self.open_file()?;
            self.push_pieces(input, &name, &mut list)?;
        }
        Ok(list.finish())
    }

    /// What to say where the code failed at such elements: that they are strings may be why.
    pub fn remedy(&self, elements: &Elements) -> Option<&'static str> {
        let is_likely =
            !self.json_lines && self.glob.is_empty() && elements.begin_with_a_number_in_quotes();
        is_likely.then_some(
            "the elements are strings, also those that look like numbers: with --json-lines they are numbers",
        )
    }

    fn check_one_place(&self, words: &[String]) -> Result<(), Failure> {
        let places = [
            ("arguments", !words.is_empty()),
            ("--file", self.file.is_some()),
            ("--glob", !self.glob.is_empty()),
            ("--csv", self.csv.is_some()),
            ("--range", self.range.is_some()),
            ("--blob", self.blob.is_some()),
        ];
        let given: Vec<_> =
            places.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            return Err(Failure::usage(format!(
                "elements are given by {}",
                given.join(" and by ")
            ))
            .remedy("give them in one place"));
        }
        if self.named && (self.range.is_some() || self.blob.is_some()) {
            return Err(Failure::usage(format!("--named: elements of {} have no text", given[0]))
                .remedy("leave --named away, or give the elements as lines"));
        }
        Ok(())
    }

    fn check_encoding(&self, words: &[String], encoding: Encoding) -> Result<(), Failure> {
        let refused = match encoding {
            Encoding::Json => None,
            Encoding::Bytes => {
                self.csv.as_ref().map(|_| "--csv").or(self.json_lines.then_some("--json-lines"))
            }
            Encoding::Rds | Encoding::Pickle => [
                ("arguments", !words.is_empty()),
                ("--glob", !self.glob.is_empty()),
                ("--csv", self.csv.is_some()),
                ("--json-lines", self.json_lines),
                ("--null", self.null),
                ("--named", self.named),
            ]
            .into_iter()
            .find_map(|(name, given)| given.then_some(name)),
        };
        match refused {
            Some(place) => Err(Failure::usage(format!(
                "{place} cannot hold elements of encoding {}",
                encoding.as_str()
            ))
            .remedy("give frames by --file, a --blob, or a --range; or leave --encoding json")),
            None => Ok(()),
        }
    }

    fn form(&self, encoding: Encoding) -> Form {
        match (encoding, self.json_lines) {
            (Encoding::Bytes, _) => Form::Bytes,
            (_, true) => Form::Json,
            (_, false) => Form::Text,
        }
    }

    fn read_frames(&self) -> Result<Elements, Failure> {
        let (name, mut input) = self.open_file()?;
        let mut frames = Vec::new();
        input.read_to_end(&mut frames).map_err(|error| cannot_read(&name, &error))?;
        Elements::of_frames(frames, &name)
    }

    fn open_file(&self) -> Result<(String, Box<dyn BufRead>), Failure> {
        match &self.file {
            Some(file) => open(file),
            None if io::stdin().is_terminal() => Err(Failure::usage("no elements").remedy(
                "give them as arguments, by --file, --glob, --csv or --range, or through a pipe: \
                 seq 10 | farrow map …",
            )),
            None => open(Path::new("-")),
        }
    }

    fn push_pieces(
        &self,
        mut input: impl BufRead,
        name: &str,
        list: &mut ElementList,
    ) -> Result<(), Failure> {
        let end = if self.null { 0 } else { b'\n' };
        let mut piece = Vec::new();
        for number in 1_u64.. {
            piece.clear();
            if input.read_until(end, &mut piece).map_err(|error| cannot_read(name, &error))? == 0 {
                break;
            }
            let text = piece.strip_suffix(&[end]).unwrap_or(&piece);
            let text = if self.null { text } else { text.strip_suffix(b"\r").unwrap_or(text) };
            if self.json_lines && text.trim_ascii().is_empty() {
                continue;
            }
            let what = if self.null { "element" } else { "line" };
            list.push(text)
                .map_err(|error| at_fault(&format!("{name}, {what} {number}"), &error))?;
        }
        Ok(())
    }
}

/// The reference to a blob, as it stands in a submission.
pub fn blob_reference(digest: &Digest) -> Box<RawValue> {
    raw(format!("{{\"blob\":\"{digest}\"}}"))
}

/// Text that is JSON because of how it was made.
pub fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn open(file: &Path) -> Result<(String, Box<dyn BufRead>), Failure> {
    if file == Path::new("-") {
        return Ok(("standard input".to_owned(), Box::new(io::stdin().lock())));
    }
    let name = file.display().to_string();
    let opened = File::open(file).map_err(|error| cannot_read(&name, &error))?;
    Ok((name, Box::new(BufReader::new(opened))))
}

fn at_fault(place: &str, error: &str) -> Failure {
    Failure::usage(format!("{place}: {error}"))
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        elements: ElementArgs,
    }

    fn parse(flags: &str) -> ElementArgs {
        let words = std::iter::once("x").chain(flags.split_whitespace());
        Line::try_parse_from(words).unwrap().elements
    }

    fn pieces(flags: &str, input: &[u8]) -> Result<String, Failure> {
        let args = parse(flags);
        let mut list = ElementList::new(args.form(Encoding::Json), args.named);
        args.push_pieces(input, "input", &mut list)?;
        Ok(list.finish().inline().to_owned())
    }

    #[test]
    fn a_line_is_a_string_whatever_it_holds() {
        let text = pieces("", b"1\n\nsay \"hi\"\r\nlast").unwrap();
        assert_eq!(text, r#"["1","","say \"hi\"","last"]"#);
        assert_eq!(pieces("", b"").unwrap(), "[]");
    }

    #[test]
    fn zero_bytes_end_elements_that_hold_line_ends() {
        assert_eq!(pieces("-0", b"a\nb\r\0c\0").unwrap(), "[\"a\\nb\\r\",\"c\"]");
        let failure = format!("{:?}", pieces("--null", b"a\0\xff\0").unwrap_err());
        assert!(failure.contains("input, element 2: is not UTF-8"), "{failure}");
    }

    #[test]
    fn json_lines_keep_their_digits_and_skip_empty_lines() {
        let text = pieces("--json-lines", b"0.1000000000000000055\n\n {\"a\": 1} \n").unwrap();
        assert_eq!(text, r#"[0.1000000000000000055,{"a": 1}]"#);
    }

    #[test]
    fn a_line_at_fault_is_named() {
        let failure = format!("{:?}", pieces("--json-lines", b"1\nnope\n").unwrap_err());
        assert!(failure.contains("input, line 2: is not JSON"), "{failure}");
        let failure = format!("{:?}", pieces("", b"a\n\xff\n").unwrap_err());
        assert!(failure.contains("input, line 2: is not UTF-8"), "{failure}");
    }

    #[test]
    fn elements_come_from_one_place_and_fit_their_encoding() {
        let words = ["a".to_owned()];
        let refused = |flags: &str, words: &[String], encoding| {
            format!("{:?}", parse(flags).read(words, encoding).unwrap_err())
        };
        let failure = refused("--range 0..3", &words, Encoding::Json);
        assert!(failure.contains("arguments and by --range"), "{failure}");
        let failure = refused("--range 0..3 --named", &[], Encoding::Json);
        assert!(failure.contains("--named"), "{failure}");
        let failure = refused("", &words, Encoding::Rds);
        assert!(failure.contains("arguments cannot hold elements of encoding rds"), "{failure}");
        let failure = refused("--csv x.csv", &[], Encoding::Bytes);
        assert!(failure.contains("--csv cannot hold"), "{failure}");
        let range = parse("--range 0..3").read(&[], Encoding::Rds).unwrap();
        assert_eq!(range.inline(), r#"{"range":[0,3]}"#);
    }
}
