//! Many serializations joined into one, and one taken apart into many.
//!
//! A call of R's `serialize()` or `unserialize()` takes microseconds, however little it is given;
//! an object more in the same call takes some tens of nanoseconds. So a worker is given the
//! elements of a frame as one list, and gives its values as one.
//!
//! What is joined are trees: vectors and lists of them, with attributes. Everything else
//! (environments, functions, calls, compact sequences) stays a serialization by itself, which
//! stands in the list as a raw vector; so does a raw vector, to be told from those. Names are what
//! trees refer to by number, and here they get the numbers of the list.

use super::writer::Writer;
use super::{DEPTH_LIMIT, tag};

/// Bytes of a serialization's header that name an encoding, at the most (R's `R_CODESET_MAX`).
const LONGEST_ENCODING: usize = 63;
/// Names that a list's trees may have among them: each is looked up among all.
const MOST_NAMES: usize = 100;

/// Writes what `serialization` holds as the next item of a list. `false` if it is no tree that R
/// can be relied on to read, or a raw vector: then nothing is written.
pub fn splice(writer: &mut Writer, serialization: &[u8]) -> bool {
    let mark = writer.mark();
    let spliced = Tree::open(serialization, writer).and_then(|mut tree| tree.top());
    if spliced.is_none() {
        writer.rewind(mark);
    }
    spliced.is_some()
}

/// The serialization of each item of a list that `serialize(values, NULL, xdr = FALSE)` wrote: of
/// a raw vector its bytes, of any other vector, which must have no attributes, what R would have
/// written of it alone. `None` if it holds anything else.
pub fn take_apart(list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut source = Source::open(list)?;
    if source.order != Order::Little {
        return None;
    }
    let header = &list[..list.len() - source.rest.len()];
    if source.word()? != tag::LIST {
        return None;
    }
    let mut items = Vec::new();
    for _ in 0..source.length()? {
        let object = source.bare_vector()?;
        items.push(match object.strip_prefix(&tag::RAW.to_le_bytes()) {
            Some(raw) => raw[4..].to_vec(),
            None => [header, object].concat(),
        });
    }
    Some(items)
}

/// The order of the bytes of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// A serialization that is read: the bytes that are left.
struct Source<'a> {
    rest: &'a [u8],
    order: Order,
    /// Whether strings whose encoding is not told are UTF-8.
    is_utf8: bool,
}

impl<'a> Source<'a> {
    /// Reads what stands before the object.
    fn open(serialization: &'a [u8]) -> Option<Self> {
        let (order, rest) = match serialization {
            [b'B', b'\n', rest @ ..] => (Order::Little, rest),
            [b'X', b'\n', rest @ ..] => (Order::Big, rest),
            _ => return None,
        };
        let mut source = Self { rest, order, is_utf8: false };
        let version = source.word()?;
        // The versions of R that wrote it and that can read it.
        source.bytes(8)?;
        match version {
            2 => {}
            3 => {
                let length = source.length().filter(|length| *length <= LONGEST_ENCODING)?;
                source.is_utf8 = source.bytes(length)? == b"UTF-8";
            }
            _ => return None,
        }
        Some(source)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn word(&mut self) -> Option<u32> {
        let bytes = *self.bytes(4)?.first_chunk()?;
        Some(match self.order {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        })
    }

    /// A length below 2^31; longer vectors are not worth joining.
    fn length(&mut self) -> Option<usize> {
        usize::try_from(i32::try_from(self.word()?).ok()?).ok()
    }

    /// A length, and so many numbers of `size` bytes.
    fn numbers(&mut self, size: usize) -> Option<(usize, &'a [u8])> {
        let length = self.length()?;
        Some((length, self.bytes(length.checked_mul(size)?)?))
    }

    /// An item of a character vector: the word before it, and its bytes; `None` inside is `NA`.
    fn string(&mut self) -> Option<(u32, Option<&'a [u8]>)> {
        let flags = self.word()?;
        if flags & 0xFF != tag::STRING {
            return None;
        }
        if let [0xFF, 0xFF, 0xFF, 0xFF, rest @ ..] = self.rest {
            self.rest = rest;
            return Some((flags, None));
        }
        let length = self.length()?;
        Some((flags, Some(self.bytes(length)?)))
    }

    /// All bytes of a vector without attributes.
    fn bare_vector(&mut self) -> Option<&'a [u8]> {
        let whole = self.rest;
        let flags = self.word()?;
        match flags & (0xFF | tag::HAS_ATTRIBUTES) {
            tag::NULL => {}
            tag::CHARACTER => {
                for _ in 0..self.length()? {
                    self.string()?;
                }
            }
            kind => {
                self.numbers(size_of_number(kind)?)?;
            }
        }
        Some(&whole[..whole.len() - self.rest.len()])
    }
}

/// How many bytes each number of a vector takes.
fn size_of_number(kind: u32) -> Option<usize> {
    match kind {
        tag::LOGICAL | tag::INTEGER => Some(4),
        tag::DOUBLE => Some(8),
        tag::COMPLEX => Some(16),
        tag::RAW => Some(1),
        _ => None,
    }
}

/// A tree on its way from one serialization to another. What R would refuse must not arrive there,
/// since that would cost all items of the list: so words are what R writes, or nothing is.
struct Tree<'a, 'w> {
    source: Source<'a>,
    writer: &'w mut Writer,
    /// Names as the source numbers them.
    names: Vec<&'a str>,
    depth: usize,
}

impl<'a, 'w> Tree<'a, 'w> {
    fn open(serialization: &'a [u8], writer: &'w mut Writer) -> Option<Self> {
        Some(Self { source: Source::open(serialization)?, writer, names: Vec::new(), depth: 0 })
    }

    fn top(&mut self) -> Option<()> {
        match self.source.word()? {
            flags if flags & 0xFF == tag::RAW => None,
            flags => self.vector(flags),
        }
    }

    fn item(&mut self) -> Option<()> {
        let flags = self.source.word()?;
        self.vector(flags)
    }

    fn vector(&mut self, flags: u32) -> Option<()> {
        if flags & !(0xFF | tag::IS_OBJECT | tag::HAS_ATTRIBUTES) != 0 || self.depth > DEPTH_LIMIT {
            return None;
        }
        self.writer.word(flags);
        self.depth += 1;
        match flags & 0xFF {
            tag::NULL if flags == tag::NULL => {}
            tag::CHARACTER => self.many(Self::string)?,
            tag::LIST => self.many(Self::item)?,
            kind => self.numbers(size_of_number(kind)?)?,
        }
        if flags & tag::HAS_ATTRIBUTES != 0 {
            self.attributes()?;
        }
        self.depth -= 1;
        Some(())
    }

    fn many(&mut self, one: fn(&mut Self) -> Option<()>) -> Option<()> {
        let length = self.source.length()?;
        self.writer.length(length);
        for _ in 0..length {
            one(self)?;
        }
        Some(())
    }

    fn numbers(&mut self, size: usize) -> Option<()> {
        let (length, bytes) = self.source.numbers(size)?;
        self.writer.length(length);
        match (self.source.order, size) {
            (Order::Little, _) | (Order::Big, 1) => self.writer.bytes(bytes),
            (Order::Big, 4) => self.writer.turned::<4>(bytes),
            // A complex number is two numbers.
            (Order::Big, _) => self.writer.turned::<8>(bytes),
        }
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let (flags, text) = self.source.string()?;
        self.writer.word(flags);
        let Some(text) = text else {
            self.writer.word(u32::MAX);
            return (flags == tag::STRING).then_some(());
        };
        let is_sound = match flags & !0xFF {
            tag::ASCII => text.is_ascii(),
            tag::UTF8 | tag::LATIN1 | tag::BYTES => true,
            0 => self.source.is_utf8,
            _ => false,
        };
        self.writer.length(text.len());
        self.writer.bytes(text);
        (is_sound && !text.contains(&0)).then_some(())
    }

    /// A pairlist with a name to each value.
    fn attributes(&mut self) -> Option<()> {
        self.depth += 1;
        loop {
            let flags = self.source.word()?;
            self.writer.word(flags);
            match flags {
                tag::NULL => break,
                PAIR => {}
                _ => return None,
            }
            let name = self.name()?;
            self.writer.symbol(name, MOST_NAMES)?;
            self.item()?;
        }
        self.depth -= 1;
        Some(())
    }

    /// A name, or the number of one that stood before. Others than ASCII depend on a locale.
    fn name(&mut self) -> Option<&'a str> {
        let flags = self.source.word()?;
        if flags & 0xFF == tag::REFERENCE {
            let number = usize::try_from(flags >> 8).ok()?;
            return self.names.get(number.checked_sub(1)?).copied();
        }
        if flags != tag::SYMBOL {
            return None;
        }
        let (flags, name) = self.source.string()?;
        let name = name.filter(|name| name.is_ascii() && !name.is_empty() && !name.contains(&0))?;
        if flags != tag::STRING | tag::ASCII {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        self.names.push(name);
        Some(name)
    }
}

/// The word before a pair of attributes.
const PAIR: u32 = tag::PAIRLIST | tag::HAS_TAG;

#[cfg(test)]
mod tests {
    use super::super::{read, write_json, write_value};
    use super::*;

    fn serialized(json: &str) -> Vec<u8> {
        let mut writer = Writer::new();
        write_json(&mut writer, json.as_bytes()).unwrap();
        writer.into_bytes()
    }

    /// What stands in `list`, as JSON.
    fn json(list: &[u8]) -> String {
        let mut json = Vec::new();
        write_value(&mut json, &read(list).unwrap()).unwrap();
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn trees_are_joined_and_their_names_numbered_anew() {
        let trees = [r#"{"a":1,"b":[]}"#, r#"["x",null]"#, r#"[{"a":1,"b":2.5}]"#, r#"{"a":2}"#];
        let mut writer = Writer::new();
        writer.list(trees.len());
        assert!(trees.iter().all(|tree| splice(&mut writer, &serialized(tree))));
        assert_eq!(json(&writer.into_bytes()), format!("[{}]", trees.join(",")));
    }

    #[test]
    fn what_is_cut_short_or_flagged_as_no_tree_is_leaves_nothing_behind() {
        let whole = serialized(r#"{"a":[1,"x"],"b":{"c":null}}"#);
        let mut writer = Writer::new();
        let empty = writer.mark();
        for end in 0..whole.len() {
            assert!(!splice(&mut writer, &whole[..end]));
            assert_eq!(writer.mark(), empty);
        }
        for flag in (8..32).filter(|flag| 1 << flag != tag::IS_OBJECT) {
            let mut broken = serialized("1");
            let at = broken.len() - 12 + flag / 8;
            broken[at] ^= 1 << (flag % 8);
            assert!(!splice(&mut writer, &broken), "bit {flag}");
        }
        assert_eq!(writer.mark(), empty);
    }

    #[test]
    fn a_list_is_taken_apart_into_what_r_would_have_written_of_each() {
        let items = ["null", "true", "[1,null]", "2.5", r#"["a","ä",null]"#];
        let mut writer = Writer::new();
        writer.list(items.len() + 1);
        items.iter().for_each(|item| write_json(&mut writer, item.as_bytes()).unwrap());
        writer.raw(b"as it is");
        let apart = take_apart(&writer.into_bytes()).unwrap();
        assert_eq!(apart[..items.len()], items.map(serialized));
        assert_eq!(apart[items.len()], b"as it is");
    }

    #[test]
    fn what_has_attributes_or_lies_about_its_length_is_not_taken_apart() {
        let lies = [&Writer::new().into_bytes()[..], &[tag::LIST as u8, 0, 0, 0], &[0xFF; 4]];
        for list in [serialized(r#"[1,{"a":1}]"#), serialized("1"), lies.concat(), Vec::new()] {
            assert_eq!(take_apart(&list), None);
        }
    }
}
