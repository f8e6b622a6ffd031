//! Elements that are being gathered, in the form in which they will travel.

use std::collections::HashSet;

use protocol::frames;
use protocol::job::Encoding;
use serde_json::value::RawValue;

use super::raw;
use crate::failure::Failure;

/// Elements of more bytes than this are uploaded as a blob: the submission stays small, and when
/// it has to be sent again they have not.
const INLINE: usize = 4 << 20;

/// The elements of a map.
#[derive(Debug)]
pub enum Elements {
    /// They stand in the submission.
    Inline(Box<RawValue>),
    /// They are uploaded: lines of JSON, or frames.
    Upload(Vec<u8>),
}

impl Elements {
    /// Elements that are frames already, read from a file of that name.
    pub fn of_frames(body: Vec<u8>, name: &str) -> Result<Self, Failure> {
        for frame in frames::iterate(&body) {
            let wrong = match frame {
                Err(at) => format!("is cut off, or not frames, at byte {at}"),
                Ok(frame) if frame.kind == frames::kind::ERROR => {
                    "holds an error in the place of an \
                    element: it is the value of a job that collected errors"
                        .to_owned()
                }
                Ok(_) => continue,
            };
            return Err(Failure::usage(format!("{name} {wrong}"))
                .remedy("frames are what `farrow value --out FILE` writes of such a job"));
        }
        Ok(match body.is_empty() {
            true => Self::Inline(raw("[]".to_owned())),
            false => Self::Upload(body),
        })
    }

    /// Whether the first is a string that would be a number as JSON, such as `"3"`.
    pub fn begin_with_a_number_in_quotes(&self) -> bool {
        let (open, rest) = match self {
            Self::Inline(json) => ("[\"", json.get().as_bytes()),
            Self::Upload(lines) => ("\"", lines.as_slice()),
        };
        let text =
            rest.strip_prefix(open.as_bytes()).and_then(|rest| rest.split(|&b| b == b'"').next());
        text.and_then(|text| str::from_utf8(text).ok())
            .is_some_and(|text| serde_json::from_str::<serde_json::Number>(text.trim()).is_ok())
    }

    /// The JSON of elements that stand in the submission.
    #[cfg(test)]
    pub fn inline(&self) -> &str {
        match self {
            Self::Inline(json) => json.get(),
            Self::Upload(_) => panic!("the elements are uploaded"),
        }
    }
}

/// What the text of an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// JSON.
    Json,
    /// Bytes, for encoding `bytes`.
    Bytes,
}

/// Elements that are being gathered.
#[derive(Debug)]
pub struct ElementList {
    form: Form,
    /// Lines of JSON; for bytes, frames.
    body: Vec<u8>,
    /// Their names, if they have names.
    names: Option<Names>,
}

#[derive(Debug, Default)]
struct Names {
    in_order: Vec<String>,
    seen: HashSet<String>,
}

impl ElementList {
    /// An empty list.
    pub fn new(form: Form, named: bool) -> Self {
        Self { form, body: Vec::new(), names: named.then(Names::default) }
    }

    /// Appends an element, whose name is its own text.
    pub fn push(&mut self, element: &[u8]) -> Result<(), String> {
        match self.form {
            Form::Bytes => self.push_frame(element),
            Form::Text => {
                let text = utf8(element)?;
                self.push_json(text, &serde_json::Value::from(text).to_string())
            }
            Form::Json => {
                let json = json(utf8(element)?)?.get();
                let name = serde_json::from_str(json).unwrap_or_else(|_| json.to_owned());
                self.push_json(&name, json)
            }
        }
    }

    /// Appends an element that is JSON, with a name to use if elements have names.
    pub fn push_json(&mut self, name: &str, json: &str) -> Result<(), String> {
        self.push_name(name)?;
        // Within JSON a line's end can only stand between tokens.
        self.body.extend(
            json.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }),
        );
        self.body.push(b'\n');
        Ok(())
    }

    /// The elements, ready to travel.
    pub fn finish(self) -> Elements {
        match self.names {
            _ if self.body.is_empty() => Elements::Inline(raw("[]".to_owned())),
            // Bytes travel in frames only.
            _ if self.form == Form::Bytes => Elements::Upload(self.body),
            Some(names) => Elements::Inline(raw(object(&names.in_order, &self.body))),
            None if self.body.len() > INLINE => Elements::Upload(self.body),
            None => Elements::Inline(raw(array(&self.body))),
        }
    }

    fn push_frame(&mut self, element: &[u8]) -> Result<(), String> {
        if self.names.is_some() {
            let name = utf8(element).map_err(|_| "is not UTF-8, so it cannot be a name")?;
            self.push_name(name)?;
            frames::push(&mut self.body, frames::kind::KEY, name.as_bytes());
        }
        match frames::push(&mut self.body, frames::kind::VALUE, element) {
            true => Ok(()),
            false => Err("is longer than 4 GiB".to_owned()),
        }
    }

    fn push_name(&mut self, name: &str) -> Result<(), String> {
        let Some(names) = &mut self.names else { return Ok(()) };
        if !names.seen.insert(name.to_owned()) {
            return Err(format!(
                "with --named each element needs another name; {name:?} is there twice"
            ));
        }
        names.in_order.push(name.to_owned());
        Ok(())
    }
}

/// Checks that a text is one JSON document.
pub fn json(text: &str) -> Result<&RawValue, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("is not JSON ({error}): {}", shortened(text)))
}

fn utf8(element: &[u8]) -> Result<&str, String> {
    str::from_utf8(element).map_err(|_| {
        format!(
            "is not UTF-8 text; with --encoding {} it may be anything",
            Encoding::Bytes.as_str()
        )
    })
}

/// An array of the JSON on each line.
fn array(lines: &[u8]) -> String {
    let mut text = Vec::with_capacity(lines.len() + 2);
    text.push(b'[');
    text.extend(lines.iter().map(|&byte| if byte == b'\n' { b',' } else { byte }));
    if text.last() == Some(&b',') {
        text.pop();
    }
    text.push(b']');
    String::from_utf8_lossy(&text).into_owned()
}

/// An object of the JSON on each line.
fn object(names: &[String], lines: &[u8]) -> String {
    let lines = String::from_utf8_lossy(lines);
    let members = names.iter().zip(lines.lines());
    let members =
        members.map(|(name, json)| format!("{}:{json}", serde_json::Value::from(name.as_str())));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_quotes_are_told_from_other_elements() {
        let begin = |form, elements: &[&str]| {
            list(form, false, elements).unwrap().finish().begin_with_a_number_in_quotes()
        };
        let many = vec!["17"; INLINE / 4];
        for numbers in [&["1", "x"][..], &["-2.5e3"], &[" 4"], &many] {
            assert!(begin(Form::Text, numbers), "{}", numbers[0]);
        }
        for others in [&["x", "1"][..], &["1\"2"], &["1 2"], &["007"], &["nan"], &[""], &[]] {
            assert!(!begin(Form::Text, others), "{others:?}");
        }
        assert!(!begin(Form::Json, &["1", "2"]));
        assert!(!begin(Form::Bytes, &["1", "2"]));
    }

    fn list(form: Form, named: bool, elements: &[&str]) -> Result<ElementList, String> {
        let mut list = ElementList::new(form, named);
        elements.iter().try_for_each(|element| list.push(element.as_bytes()))?;
        Ok(list)
    }

    #[test]
    fn few_elements_stand_in_the_submission_and_many_are_lines_of_a_blob() {
        let elements = list(Form::Json, false, &["[1,\n2]", "\"a,b\""]).unwrap().finish();
        assert_eq!(elements.inline(), "[[1, 2],\"a,b\"]");
        let long = "x".repeat(INLINE);
        let Elements::Upload(body) = list(Form::Text, false, &["a", &long]).unwrap().finish()
        else {
            panic!("the elements stand in the submission");
        };
        assert_eq!(body, format!("\"a\"\n\"{long}\"\n").as_bytes());
    }

    #[test]
    fn the_name_of_an_element_is_its_text() {
        let named = list(Form::Text, true, &["a", "b \"c\""]).unwrap().finish();
        assert_eq!(named.inline(), r#"{"a":"a","b \"c\"":"b \"c\""}"#);
        let named = list(Form::Json, true, &["\"a\"", "[1]"]).unwrap().finish();
        assert_eq!(named.inline(), r#"{"a":"a","[1]":[1]}"#);
        assert!(list(Form::Text, true, &["a", "a"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn bytes_travel_in_frames() {
        let mut list = ElementList::new(Form::Bytes, true);
        list.push(b"ab").unwrap();
        assert!(list.push(b"\xff").unwrap_err().contains("name"));
        let Elements::Upload(body) = list.finish() else { panic!("bytes are inline") };
        let frames: Vec<_> = frames::iterate(&body).map(Result::unwrap).collect();
        let frames: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.payload)).collect();
        assert_eq!(frames, [(b'k', &b"ab"[..]), (b'v', b"ab")]);
        let empty = ElementList::new(Form::Bytes, false).finish();
        assert_eq!(empty.inline(), "[]");
    }

    #[test]
    fn a_file_that_is_not_frames_is_refused() {
        let mut body = Vec::new();
        frames::push(&mut body, frames::kind::VALUE, b"x");
        assert!(matches!(Elements::of_frames(body.clone(), "f"), Ok(Elements::Upload(_))));
        frames::push(&mut body, frames::kind::ERROR, b"{}");
        for (body, says) in [(body, "an error in the place"), (b"abc".to_vec(), "at byte 0")] {
            let failure = format!("{:?}", Elements::of_frames(body, "f").unwrap_err());
            assert!(failure.contains(says), "{failure}");
        }
    }
}
