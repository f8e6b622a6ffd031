//! R's serialization (version 3, binary, little endian), read and written: JSON to R and back.
//!
//! The agent translates, so that a worker needs base R only, doubles keep all of their bits, and
//! R's own C code (`serialize`, `unserialize`) does the work on the other side.
//!
//! # JSON to R ([`write_json`])
//!
//! | JSON | R |
//! | --- | --- |
//! | `null` | `NULL` |
//! | `true` | logical |
//! | `1`, within 32 bits | integer, as jsonlite has it |
//! | `1.0`, `1e3`, `3000000000` | double |
//! | `"a"` | character, marked UTF-8 |
//! | `[1, null, 2.5]`: scalars of one kind | a vector; integers and doubles together are doubles, `null` is `NA` |
//! | `[{"a": 1}, {"b": 2}]` | data frame: columns in the order they appear, what is missing is `NA` (in a list column `NULL`) |
//! | any other array, `[]` too | list |
//! | object | named list |
//!
//! # R to JSON ([`write_value`])
//!
//! | R | JSON |
//! | --- | --- |
//! | `NULL`, `NA` | `null` |
//! | vector of length 1, without names and `I()` | scalar |
//! | vector, list | array |
//! | vector or list with names | object; an empty name is the position, a repeated one gets `.1` |
//! | matrix, array | arrays of arrays, row by row |
//! | data frame | array of one object a row |
//! | factor | strings |
//! | `Date`, `POSIXct` | `"2026-08-01"`, `"2026-08-01T09:30:00Z"` |
//! | `NaN`, `Inf`, functions, environments, complex, raw, every other class | [`Untranslatable`] |
//!
//! Doubles are written as the shortest text that reads back as the same bits, with a `.0` when they
//! are whole: what was a double comes back as one.
//!
//! # Neither
//!
//! What stays R's serialization is joined for a worker ([`splice()`]) and taken apart again
//! ([`take_apart`]) by its bytes.

mod bytecode;
mod calendar;
mod data_frame;
mod from_json;
mod json;
mod reader;
mod splice;
mod to_json;
mod value;
mod writer;

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod tests;

pub use from_json::{write_arguments, write_json};
pub use reader::read;
pub use splice::{splice, take_apart};
pub use to_json::write_value;
pub use value::{Data, Text, Value};
pub use writer::Writer;

use std::fmt;

/// How deeply values may be nested, either way. It bounds the stack of the translation.
pub const DEPTH_LIMIT: usize = 256;

/// Why a value cannot be said on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untranslatable {
    /// What it is, as the end of a sentence about it: `is NaN, which JSON does not have`.
    what: String,
    /// Where it is, innermost step first.
    path: Vec<String>,
}

impl Untranslatable {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), path: Vec::new() }
    }

    /// Adds the step that leads from the value around to where the fault is.
    #[must_use]
    fn within(mut self, step: String) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for Untranslatable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.what);
        }
        f.write_str("at `")?;
        for step in self.path.iter().rev() {
            f.write_str(step)?;
        }
        write!(f, "` {}", self.what)
    }
}

impl std::error::Error for Untranslatable {}

/// Types of R's objects, and the marks that stand for some of them in a serialization
/// (R's `Rinternals.h` and `serialize.c`).
mod tag {
    pub(super) const SYMBOL: u32 = 1;
    pub(super) const PAIRLIST: u32 = 2;
    pub(super) const CLOSURE: u32 = 3;
    pub(super) const ENVIRONMENT: u32 = 4;
    pub(super) const PROMISE: u32 = 5;
    pub(super) const LANGUAGE: u32 = 6;
    pub(super) const SPECIAL: u32 = 7;
    pub(super) const BUILTIN: u32 = 8;
    pub(super) const STRING: u32 = 9;
    pub(super) const LOGICAL: u32 = 10;
    pub(super) const INTEGER: u32 = 13;
    pub(super) const DOUBLE: u32 = 14;
    pub(super) const COMPLEX: u32 = 15;
    pub(super) const CHARACTER: u32 = 16;
    pub(super) const DOTS: u32 = 17;
    pub(super) const LIST: u32 = 19;
    pub(super) const EXPRESSION: u32 = 20;
    pub(super) const BYTE_CODE: u32 = 21;
    pub(super) const EXTERNAL_POINTER: u32 = 22;
    pub(super) const WEAK_REFERENCE: u32 = 23;
    pub(super) const RAW: u32 = 24;
    pub(super) const S4: u32 = 25;
    pub(super) const ALTREP: u32 = 238;
    pub(super) const ATTRIBUTE_PAIRLIST: u32 = 239;
    pub(super) const ATTRIBUTE_LANGUAGE: u32 = 240;
    pub(super) const BASE_ENVIRONMENT: u32 = 241;
    pub(super) const EMPTY_ENVIRONMENT: u32 = 242;
    pub(super) const PERSISTENT: u32 = 247;
    pub(super) const PACKAGE: u32 = 248;
    pub(super) const NAMESPACE: u32 = 249;
    pub(super) const BASE_NAMESPACE: u32 = 250;
    pub(super) const MISSING_ARGUMENT: u32 = 251;
    pub(super) const UNBOUND: u32 = 252;
    pub(super) const GLOBAL_ENVIRONMENT: u32 = 253;
    pub(super) const NULL: u32 = 254;
    pub(super) const REFERENCE: u32 = 255;

    /// Of the word before an object: it is of a class, has attributes, has a tag.
    pub(super) const IS_OBJECT: u32 = 1 << 8;
    pub(super) const HAS_ATTRIBUTES: u32 = 1 << 9;
    pub(super) const HAS_TAG: u32 = 1 << 10;
    /// Encodings of a string.
    pub(super) const BYTES: u32 = 1 << 13;
    pub(super) const LATIN1: u32 = 1 << 14;
    pub(super) const UTF8: u32 = 1 << 15;
    pub(super) const ASCII: u32 = 1 << 18;
}

/// R's `NA_integer_`, also the `NA` of logicals.
const NA_INTEGER: i32 = i32::MIN;
/// The bits of R's `NA_real_`: a NaN whose lower word is 1954.
const NA_DOUBLE: u64 = 0x7FF0_0000_0000_07A2;
