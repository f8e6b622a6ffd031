//! JSON text, read from left to right without a tree.

use std::borrow::Cow;

use super::{DEPTH_LIMIT, Untranslatable};

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// A value that holds no others.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Integer(i32),
    Double(f64),
    Text(Cow<'a, str>),
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Result<Self, Untranslatable> {
        let text = std::str::from_utf8(text)
            .map_err(|error| Untranslatable::new(format!("the JSON is not UTF-8: {error}")))?;
        Ok(Self { text, at: 0 })
    }

    /// The first byte of what comes next, or 0 at the end.
    pub(super) fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Steps over `byte` if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Untranslatable> {
        if self.take(byte) { Ok(()) } else { Err(self.fault()) }
    }

    pub(super) fn end(&mut self) -> Result<(), Untranslatable> {
        if self.peek() == 0 && self.at >= self.text.len() { Ok(()) } else { Err(self.fault()) }
    }

    fn fault(&self) -> Untranslatable {
        Untranslatable::new(format!("it is not JSON at byte {}", self.at))
    }

    /// Whether an array or object goes on after an item; steps over the comma or `close`.
    pub(super) fn more(&mut self, close: u8) -> Result<bool, Untranslatable> {
        if self.take(b',') {
            return Ok(true);
        }
        self.expect(close)?;
        Ok(false)
    }

    /// The key of an object's member, and the colon.
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, Untranslatable> {
        if self.peek() != b'"' {
            return Err(self.fault());
        }
        let key = self.text()?;
        self.expect(b':')?;
        Ok(key)
    }

    pub(super) fn scalar(&mut self) -> Result<Scalar<'a>, Untranslatable> {
        match self.peek() {
            b'"' => Ok(Scalar::Text(self.text()?)),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word("true", Scalar::Bool(true)),
            b'f' => self.word("false", Scalar::Bool(false)),
            b'n' => self.word("null", Scalar::Null),
            _ => Err(self.fault()),
        }
    }

    fn word(&mut self, word: &str, scalar: Scalar<'a>) -> Result<Scalar<'a>, Untranslatable> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.fault());
        }
        self.at += word.len();
        Ok(scalar)
    }

    /// Rust's parser of doubles rounds correctly; serde_json's does not by default.
    fn number(&mut self) -> Result<Scalar<'a>, Untranslatable> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if !is_plain_number(digits.as_bytes()) {
            return Err(self.fault());
        }
        if digits != "-0"
            && let Ok(integer) = digits.parse::<i32>()
            && integer != super::NA_INTEGER
        {
            return Ok(Scalar::Integer(integer));
        }
        match digits.parse::<f64>() {
            Ok(double) if double.is_finite() => Ok(Scalar::Double(double)),
            Ok(_) => Err(Untranslatable::new(format!("{digits} is too large for a double"))),
            Err(_) => Err(self.fault()),
        }
    }

    fn text(&mut self) -> Result<Cow<'a, str>, Untranslatable> {
        let start = self.at;
        let escaped = self.skip_text()?;
        let quoted = &self.text[start..self.at];
        if !escaped {
            return Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]));
        }
        let text: String = serde_json::from_str(quoted).map_err(|error| {
            Untranslatable::new(format!("a string at byte {start} is not Unicode text: {error}"))
        })?;
        if text.contains('\0') {
            let what = format!("a string at byte {start} holds \\u0000, which R's cannot");
            return Err(Untranslatable::new(what));
        }
        Ok(Cow::Owned(text))
    }

    /// Steps over a string; says whether it holds escapes.
    fn skip_text(&mut self) -> Result<bool, Untranslatable> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..0x20) | None => return Err(self.fault()),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(escaped)
    }

    /// Steps over a value and gives its text. What is inside is looked at when it is read.
    pub(super) fn skip(&mut self) -> Result<&'a [u8], Untranslatable> {
        self.peek();
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                b'"' => {
                    self.skip_text()?;
                }
                b'[' | b'{' => {
                    depth += 1;
                    self.at += 1;
                }
                b']' | b'}' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    self.scalar()?;
                }
            }
            if depth == 0 {
                return Ok(&self.text.as_bytes()[start..self.at]);
            }
        }
    }
}

/// Rules out what Rust's parser takes and JSON does not: `01`, `-.5`, `1.`.
fn is_plain_number(digits: &[u8]) -> bool {
    let unsigned = digits.strip_prefix(b"-").unwrap_or(digits);
    let starts_well = match unsigned {
        [b'0', next, ..] => !next.is_ascii_digit(),
        [first, ..] => first.is_ascii_digit(),
        [] => false,
    };
    let point = unsigned.iter().position(|byte| *byte == b'.');
    let goes_on = point.is_none_or(|at| unsigned.get(at + 1).is_some_and(u8::is_ascii_digit));
    starts_well && goes_on
}

/// Refuses what is nested too deeply.
pub(super) fn check_depth(depth: usize) -> Result<(), Untranslatable> {
    if depth > DEPTH_LIMIT {
        return Err(Untranslatable::new(format!("it is nested more than {DEPTH_LIMIT} deep")));
    }
    Ok(())
}
