//! Writing R's serialization, object by object.

use super::{NA_DOUBLE, NA_INTEGER, tag};

/// A serialization that is being written. Objects follow one another as R reads them: a vector's
/// length before its items, its attributes after them.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    /// Names that were written, in order: R numbers them, and later ones are said by number.
    symbols: Vec<String>,
}

/// Where the length of a list stands that is not known yet.
#[derive(Debug)]
#[must_use = "the list needs its length"]
pub(super) struct OpenList {
    at: usize,
    length: i32,
}

impl OpenList {
    pub(super) fn count_one(&mut self) {
        self.length += 1;
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Starts with what stands before every serialization.
    pub fn new() -> Self {
        let mut writer = Self { bytes: Vec::with_capacity(256), symbols: Vec::new() };
        writer.bytes.extend_from_slice(b"B\n");
        // The format's version, the R that writes (4.0.0), and the least that can read it (3.5.0).
        for word in [3, 0x0004_0000, 0x0003_0500] {
            writer.word(word);
        }
        writer.length(5);
        writer.bytes.extend_from_slice(b"UTF-8");
        writer
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// `NULL`.
    pub fn null(&mut self) {
        self.word(tag::NULL);
    }

    /// The start of a list of `length` items without attributes: the items follow.
    pub fn list(&mut self, length: usize) {
        self.word(tag::LIST);
        self.length(length);
    }

    /// The start of a list with names: the items follow, then [`Writer::names`].
    pub fn named_list(&mut self, length: usize) {
        self.word(tag::LIST | tag::HAS_ATTRIBUTES);
        self.length(length);
    }

    /// The end of a list that has names and no other attributes.
    pub fn names<S: AsRef<str>>(&mut self, names: &[S]) {
        self.attribute("names");
        self.characters(names);
        self.end_attributes();
    }

    /// A character vector.
    pub fn characters<S: AsRef<str>>(&mut self, texts: &[S]) {
        self.word(tag::CHARACTER);
        self.length(texts.len());
        for text in texts {
            self.string(text.as_ref());
        }
    }

    /// A double vector.
    pub fn numbers(&mut self, values: &[f64]) {
        self.vector(tag::DOUBLE, values, f64::to_le_bytes);
    }

    /// A logical vector of length 1.
    pub fn logical(&mut self, value: bool) {
        self.logicals(&[i32::from(value)]);
    }

    /// An integer vector of length 1.
    pub fn integer(&mut self, value: i32) {
        self.integers(&[value]);
    }

    pub(super) fn logicals(&mut self, values: &[i32]) {
        self.vector(tag::LOGICAL, values, |value| value.to_le_bytes());
    }

    /// An integer vector; `i32::MIN` is `NA`.
    pub fn integers(&mut self, values: &[i32]) {
        self.vector(tag::INTEGER, values, |value| value.to_le_bytes());
    }

    /// `None` is `NA`.
    pub(super) fn doubles(&mut self, values: &[Option<f64>]) {
        let bits = |value: Option<f64>| value.map_or(NA_DOUBLE, f64::to_bits).to_le_bytes();
        self.vector(tag::DOUBLE, values, bits);
    }

    fn vector<T: Copy, const N: usize>(
        &mut self,
        kind: u32,
        values: &[T],
        bytes: impl Fn(T) -> [u8; N],
    ) {
        self.word(kind);
        self.length(values.len());
        self.bytes.reserve(values.len() * N);
        for value in values {
            self.bytes.extend_from_slice(&bytes(*value));
        }
    }

    /// A raw vector.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.word(tag::RAW);
        self.length(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// The start of a character vector: `length` times [`Writer::string`] or [`Writer::na_string`]
    /// follow.
    pub(super) fn open_characters(&mut self, length: usize) {
        self.word(tag::CHARACTER);
        self.length(length);
    }

    /// An item of a character vector.
    pub(super) fn string(&mut self, text: &str) {
        self.word(tag::STRING | if text.is_ascii() { tag::ASCII } else { tag::UTF8 });
        self.length(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn na_string(&mut self) {
        self.word(tag::STRING);
        self.bytes.extend_from_slice(&(-1_i32).to_le_bytes());
    }

    /// The start of a list whose length is found out while its items are written. `flags` say what
    /// else follows it.
    pub(super) fn open_list(&mut self, flags: u32) -> OpenList {
        self.word(tag::LIST | flags);
        let at = self.bytes.len();
        self.length(0);
        OpenList { at, length: 0 }
    }

    pub(super) fn close_list(&mut self, list: &OpenList) {
        self.bytes[list.at..list.at + 4].copy_from_slice(&list.length.to_le_bytes());
    }

    /// The name of an attribute; its value follows.
    pub(super) fn attribute(&mut self, name: &'static str) {
        self.word(tag::PAIRLIST | tag::HAS_TAG);
        // There are few of ours.
        let _ = self.symbol(name, usize::MAX);
    }

    /// A name, unless it is not known yet and so many are.
    pub(super) fn symbol(&mut self, name: &str, most: usize) -> Option<()> {
        if let Some(index) = self.symbols.iter().position(|known| known == name) {
            let index = u32::try_from(index + 1).unwrap_or(u32::MAX);
            self.word(tag::REFERENCE | index << 8);
            return Some(());
        }
        if self.symbols.len() >= most {
            return None;
        }
        self.symbols.push(name.to_owned());
        self.word(tag::SYMBOL);
        self.string(name);
        Some(())
    }

    pub(super) fn end_attributes(&mut self) {
        self.null();
    }

    /// The `row.names` of a data frame that has none: R keeps only their number.
    pub(super) fn row_count(&mut self, rows: usize) {
        self.attribute("row.names");
        let rows = i32::try_from(rows).unwrap_or(i32::MAX);
        self.integers(&[NA_INTEGER, -rows]);
    }

    /// Takes back what was written after `length` bytes, but for symbols: R has not seen them.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.symbols.truncate(mark.symbols);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), symbols: self.symbols.len() }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Numbers of so many bytes, which stand there in the other order.
    pub(super) fn turned<const SIZE: usize>(&mut self, bytes: &[u8]) {
        self.bytes.reserve(bytes.len());
        for number in bytes.as_chunks::<SIZE>().0 {
            let mut number = *number;
            number.reverse();
            self.bytes.extend_from_slice(&number);
        }
    }

    pub(super) fn word(&mut self, word: u32) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    /// Lengths are below 2^31: frames hold 4 GiB, and no item takes less than two bytes of JSON.
    pub(super) fn length(&mut self, length: usize) {
        self.word(u32::try_from(length).unwrap_or(u32::MAX));
    }
}

/// A place to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    bytes: usize,
    symbols: usize,
}
