//! A value, split into lines while its bytes arrive, so that it need not be held.

/// Splits one JSON document: an array into its elements' JSON, a line each; an object into
/// `name<TAB>JSON` lines; anything else is one line. White space between tokens is dropped, so
/// that every line is whole.
#[derive(Debug, Default)]
pub struct ValueLines {
    /// Whether elements that are strings are written as their text, as GNU parallel does: an
    /// element that printed nothing has no line.
    raw: bool,
    /// The bytes of a string that is to be written as its text, while it is being read.
    text: Option<Vec<u8>>,
    /// What the document is, once its first byte was seen.
    shape: Option<Shape>,
    /// How many brackets and braces are open.
    depth: usize,
    /// Whether we are inside a string, and whether the byte before was its backslash.
    string: Option<Escape>,
    /// The bytes of an object's name while it is being read.
    name: Option<Vec<u8>>,
    /// Whether the line being written has bytes.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Array,
    Object,
    Scalar,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Escape {
    None,
    Backslash,
}

impl ValueLines {
    /// Writes elements that are strings as their text.
    pub fn raw() -> Self {
        Self { raw: true, ..Self::default() }
    }

    /// Takes the next bytes of the document and appends what they complete to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        bytes.iter().for_each(|&byte| self.push_byte(byte, out));
    }

    /// Ends the last line of a document that is a scalar.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_line(out);
    }

    fn push_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if let Some(escape) = self.string {
            self.string = inside_string(byte, escape);
            self.write(byte, out);
            if self.string.is_none() {
                self.end_text(out);
            }
        } else if !byte.is_ascii_whitespace() {
            self.push_token_byte(byte, out);
        }
    }

    fn push_token_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        let Some(shape) = self.shape else {
            return self.open(byte, out);
        };
        let top = self.depth == 1 && shape != Shape::Scalar;
        match byte {
            b']' | b'}' if top => {
                self.depth = 0;
                self.end_line(out);
            }
            b',' if top => {
                self.end_line(out);
                self.name = (shape == Shape::Object).then(Vec::new);
            }
            b':' if top && self.name.is_some() => self.end_name(out),
            _ => self.push_inner(byte, out),
        }
    }

    fn open(&mut self, byte: u8, out: &mut Vec<u8>) {
        let shape = match byte {
            b'[' => Shape::Array,
            b'{' => Shape::Object,
            _ => Shape::Scalar,
        };
        self.shape = Some(shape);
        match shape {
            Shape::Scalar => self.push_inner(byte, out),
            Shape::Array => self.depth = 1,
            Shape::Object => {
                self.depth = 1;
                self.name = Some(Vec::new());
            }
        }
    }

    fn push_inner(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b'"' => self.begin_string(),
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => self.depth -= 1,
            _ => {}
        }
        self.write(byte, out);
    }

    fn begin_string(&mut self) {
        self.string = Some(Escape::None);
        let element = if self.shape == Some(Shape::Scalar) { 0 } else { 1 };
        if self.raw && self.name.is_none() && self.depth == element {
            self.text = Some(Vec::new());
        }
    }

    fn end_text(&mut self, out: &mut Vec<u8>) {
        let Some(text) = self.text.take() else { return };
        let text: String = serde_json::from_slice(&text).unwrap_or_default();
        self.begun |= !text.is_empty();
        out.extend_from_slice(text.as_bytes());
    }

    fn write(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (&mut self.name, &mut self.text) {
            (Some(name), _) => name.push(byte),
            (None, Some(text)) => text.push(byte),
            (None, None) => {
                self.begun = true;
                out.push(byte);
            }
        }
    }

    /// Writes the name before a tab. It stands without quotes; control characters stay escaped, so
    /// that a tab or a line's end in a name breaks no line.
    fn end_name(&mut self, out: &mut Vec<u8>) {
        let name = self.name.take().unwrap_or_default();
        let text: String = serde_json::from_slice(&name).unwrap_or_default();
        for character in text.chars() {
            match character.is_control() {
                true => out.extend(character.escape_default().to_string().bytes()),
                false => out.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        out.push(b'\t');
        self.begun = true;
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.begun) {
            out.push(b'\n');
        }
    }
}

fn inside_string(byte: u8, escape: Escape) -> Option<Escape> {
    match (escape, byte) {
        (Escape::None, b'"') => None,
        (Escape::None, b'\\') => Some(Escape::Backslash),
        _ => Some(Escape::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(document: &str, step: usize) -> String {
        let mut lines = ValueLines::default();
        let mut out = Vec::new();
        document.as_bytes().chunks(step).for_each(|bytes| lines.push(bytes, &mut out));
        lines.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_their_text_when_they_are_wanted_raw() {
        let document = r#"["a b", "tab\tline\nquote\"é", "", 1, ["x"], {"error": "y"}, "end"]"#;
        let named = r#"{"a": "x y", "b": ""}"#;
        for step in 1..document.len() {
            let raw = |document: &str| {
                let mut lines = ValueLines::raw();
                let mut out = Vec::new();
                document.as_bytes().chunks(step).for_each(|bytes| lines.push(bytes, &mut out));
                lines.finish(&mut out);
                String::from_utf8(out).unwrap()
            };
            assert_eq!(
                raw(document),
                "a b\ntab\tline\nquote\"é\n1\n[\"x\"]\n{\"error\":\"y\"}\nend\n"
            );
            assert_eq!(raw(named), "a\tx y\nb\t\n");
            assert_eq!(raw(r#""two\nlines""#), "two\nlines\n");
        }
    }

    #[test]
    fn each_element_is_a_line_however_the_bytes_arrive() {
        let document = "[1, \"a,]\\\"\\\\\", [2,\n {\"b\": \"x y\"}], null, {}]";
        for step in 1..document.len() {
            assert_eq!(
                lines(document, step),
                "1\n\"a,]\\\"\\\\\"\n[2,{\"b\":\"x y\"}]\nnull\n{}\n"
            );
        }
    }

    #[test]
    fn names_stand_before_a_tab() {
        let document = r#"{"a": 1, "b\tc,:\"": {"d": [2, 3]}, "é": "x"}"#;
        for step in 1..document.len() {
            assert_eq!(lines(document, step), "a\t1\nb\\tc,:\"\t{\"d\":[2,3]}\né\t\"x\"\n");
        }
    }

    #[test]
    fn an_empty_value_has_no_lines_and_a_scalar_has_one() {
        assert_eq!(lines("[]", 1), "");
        assert_eq!(lines("{ }", 1), "");
        assert_eq!(lines("\"a b\"", 2), "\"a b\"\n");
        assert_eq!(lines(" 12 ", 1), "12\n");
    }
}
