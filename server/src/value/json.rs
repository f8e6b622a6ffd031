//! A value as one JSON text: an array, an object if elements have names, nested as the elements
//! were; of a call the bare value.

use bytes::Bytes;

use super::parts::Part;
use crate::store::jobs::Shape;

/// Writes the parts of a value, each behind the one before.
pub struct JsonWriter {
    shape: Shape,
    /// Entries of the outermost array or object that were begun.
    n_outermost: u64,
    /// Elements still to come in the inner array that is open.
    in_group: u64,
}

impl JsonWriter {
    /// A writer of a value of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { shape, n_outermost: 0, in_group: 0 }
    }

    /// Writes what stands before all parts.
    pub fn start(&self, text: &mut Vec<u8>) {
        self.outermost(b'[', b'{', text);
    }

    /// Writes what stands behind all parts.
    pub fn end(&self, text: &mut Vec<u8>) {
        self.outermost(b']', b'}', text);
    }

    fn outermost(&self, array: u8, object: u8, text: &mut Vec<u8>) {
        let named = if self.shape.nested { self.shape.outer_named } else { self.shape.named };
        if !self.shape.is_call {
            text.push(if named { object } else { array });
        }
    }

    /// Writes a part.
    pub fn write(&mut self, part: &Part, text: &mut Vec<u8>) {
        match part {
            Part::Group { n, name } => {
                self.begin_outermost(name.as_ref(), text);
                text.extend_from_slice(if *n == 0 { b"[]" } else { b"[" });
                self.in_group = *n;
            }
            Part::Outcome { payload, is_error, .. } if self.shape.nested => {
                write_outcome(payload, *is_error, text);
                self.in_group -= 1;
                text.push(if self.in_group > 0 { b',' } else { b']' });
            }
            Part::Outcome { name, payload, is_error } => {
                self.begin_outermost(name.as_ref(), text);
                write_outcome(payload, *is_error, text);
            }
        }
    }

    fn begin_outermost(&mut self, name: Option<&Bytes>, text: &mut Vec<u8>) {
        if self.n_outermost > 0 {
            text.push(b',');
        }
        self.n_outermost += 1;
        if let Some(name) = name {
            text.extend_from_slice(name);
            text.push(b':');
        }
    }
}

fn write_outcome(payload: &[u8], is_error: bool, text: &mut Vec<u8>) {
    if is_error {
        text.extend_from_slice(b"{\"error\":");
    }
    text.extend_from_slice(payload);
    if is_error {
        text.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shape: Shape, parts: &[Part]) -> String {
        let mut writer = JsonWriter::new(shape);
        let mut text = Vec::new();
        writer.start(&mut text);
        parts.iter().for_each(|part| writer.write(part, &mut text));
        writer.end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn outcome(name: Option<&'static str>, payload: &'static str) -> Part {
        Part::Outcome { name: name.map(Bytes::from), payload: payload.into(), is_error: false }
    }

    #[test]
    fn values_have_the_shape_of_their_elements() {
        let failed = Part::Outcome { name: None, payload: "{}".into(), is_error: true };
        let flat = Shape::default();
        assert_eq!(text(flat, &[]), "[]");
        assert_eq!(text(flat, &[outcome(None, "1"), failed.clone()]), r#"[1,{"error":{}}]"#);
        let named = Shape { named: true, ..flat };
        let parts = [outcome(Some("\"a\""), "1"), outcome(Some("\"b\""), "2")];
        assert_eq!(text(named, &parts), r#"{"a":1,"b":2}"#);
        let call = Shape { is_call: true, ..flat };
        assert_eq!(text(call, &[outcome(None, "[7]")]), "[7]");
        assert_eq!(text(call, &[failed]), r#"{"error":{}}"#);
        let nested = Shape { nested: true, outer_named: true, ..flat };
        let group = |n, name| Part::Group { n, name: Some(Bytes::from(name)) };
        let parts = [
            group(2, "\"a\""),
            outcome(None, "1"),
            outcome(None, "2"),
            group(0, "\"b\""),
            group(1, "\"c\""),
            outcome(None, "3"),
        ];
        assert_eq!(text(nested, &parts), r#"{"a":[1,2],"b":[],"c":[3]}"#);
    }
}
