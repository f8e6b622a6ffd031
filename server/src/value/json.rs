//! A value as one JSON text: an array, an object if elements have names, nested as the elements
//! were; of a call the bare value.

use bytes::Bytes;

use super::parts::{Part, Payload};
use super::written::Written;
use crate::store::jobs::Shape;
use crate::store::outcomes::Extent;

/// What stands before an error; behind it stands a brace.
const ERROR: &[u8] = b"{\"error\":";

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

    /// How many bytes outcomes take, without names and groups.
    pub fn n_bytes(&self, extent: Extent) -> u64 {
        let around = if self.shape.is_call { 0 } else { 2 };
        let commas = extent.n.saturating_sub(1);
        let of_errors = (ERROR.len() + 1) as u64 * extent.n_errors;
        around + commas + of_errors + extent.n_bytes
    }

    /// Writes what stands before all parts.
    pub fn start(&self, written: &mut Written) {
        self.outermost(b'[', b'{', written.text());
    }

    /// Writes what stands behind all parts.
    pub fn end(&self, written: &mut Written) {
        self.outermost(b']', b'}', written.text());
    }

    fn outermost(&self, array: u8, object: u8, text: &mut Vec<u8>) {
        let named = if self.shape.nested { self.shape.outer_named } else { self.shape.named };
        if !self.shape.is_call {
            text.push(if named { object } else { array });
        }
    }

    /// Writes a part.
    pub fn write(&mut self, part: Part, written: &mut Written) {
        match part {
            Part::Group { n, name } => {
                self.begin_outermost(name.as_ref(), written.text());
                written.text().extend_from_slice(if n == 0 { b"[]" } else { b"[" });
                self.in_group = n;
            }
            Part::Outcome { payload, is_error, .. } if self.shape.nested => {
                write_outcome(payload, is_error, written);
                self.in_group -= 1;
                written.text().push(if self.in_group > 0 { b',' } else { b']' });
            }
            Part::Outcome { name, payload, is_error } => {
                self.begin_outermost(name.as_ref(), written.text());
                write_outcome(payload, is_error, written);
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

fn write_outcome(payload: Payload, is_error: bool, written: &mut Written) {
    if is_error {
        written.text().extend_from_slice(ERROR);
    }
    written.payload(payload);
    if is_error {
        written.text().push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shape: Shape, parts: impl IntoIterator<Item = Part>) -> String {
        let mut writer = JsonWriter::new(shape);
        let mut written = Written::default();
        writer.start(&mut written);
        parts.into_iter().for_each(|part| writer.write(part, &mut written));
        writer.end(&mut written);
        String::from_utf8(std::mem::take(written.text())).unwrap()
    }

    fn outcome(name: Option<&'static str>, payload: &'static str) -> Part {
        Part::Outcome {
            name: name.map(Bytes::from),
            payload: payload.as_bytes().to_vec().into(),
            is_error: false,
        }
    }

    #[test]
    fn the_length_is_known_before_it_is_written() {
        let call = Shape { is_call: true, ..Shape::default() };
        for (shape, n) in
            [(Shape::default(), 0), (Shape::default(), 1), (Shape::default(), 3), (call, 1)]
        {
            for n_errors in 0..=n {
                let payload = |i| if i < n_errors { "{}" } else { "1.5" };
                let part = |i| Part::Outcome {
                    name: None,
                    payload: payload(i).as_bytes().to_vec().into(),
                    is_error: i < n_errors,
                };
                let n_bytes = (0..n).map(|i| payload(i).len() as u64).sum();
                let extent = Extent { n, n_errors, n_bytes };
                let written = text(shape, (0..n).map(part));
                assert_eq!(
                    JsonWriter::new(shape).n_bytes(extent),
                    written.len() as u64,
                    "{written}"
                );
            }
        }
    }

    #[test]
    fn values_have_the_shape_of_their_elements() {
        let failed = || {
            let payload = b"{}".to_vec().into();
            Part::Outcome { name: None, payload, is_error: true }
        };
        let flat = Shape::default();
        assert_eq!(text(flat, []), "[]");
        assert_eq!(text(flat, [outcome(None, "1"), failed()]), r#"[1,{"error":{}}]"#);
        let named = Shape { named: true, ..flat };
        let parts = [outcome(Some("\"a\""), "1"), outcome(Some("\"b\""), "2")];
        assert_eq!(text(named, parts), r#"{"a":1,"b":2}"#);
        let call = Shape { is_call: true, ..flat };
        assert_eq!(text(call, [outcome(None, "[7]")]), "[7]");
        assert_eq!(text(call, [failed()]), r#"{"error":{}}"#);
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
        assert_eq!(text(nested, parts), r#"{"a":[1,2],"b":[],"c":[3]}"#);
    }
}
