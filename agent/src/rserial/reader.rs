//! Reading R's serialization.
//!
//! What has no likeness in JSON is read all the same: it may stand in an attribute that does not
//! matter, such as the formula and its environment in a model frame. Byte code is in
//! [`super::bytecode`].

use std::borrow::Cow;

use super::value::{Attributes, Data, Doubles, Integers, Sequence, Text, Value};
use super::{DEPTH_LIMIT, Untranslatable, tag};

/// Reads what `serialize(value, NULL, xdr = FALSE, version = 3)` wrote.
///
/// # Errors
/// When it is something else, or holds a package's own kind of vector.
pub fn read(bytes: &[u8]) -> Result<Value<'_>, Untranslatable> {
    let rest = bytes.strip_prefix(b"B\n").ok_or_else(|| broken("it has no header"))?;
    let mut reader = Reader { rest, references: Vec::new(), depth: 0, spelling: MOST_SPELLED_OUT };
    let version = reader.word()?;
    if version != 3 {
        return Err(broken(format!("it is of version {version}, not 3")));
    }
    // The versions of R that wrote it and that can read it; then the native encoding, which the
    // worker sees to be UTF-8.
    reader.word()?;
    reader.word()?;
    reader.counted_bytes(1)?;
    reader.item()
}

pub(super) fn broken(why: impl Into<String>) -> Untranslatable {
    Untranslatable::new(format!("cannot be read from R's serialization: {}", why.into()))
}

/// How deeply what is read may be nested: a value that is as deep as can be written stands in the lists
/// of a frame, and its attributes stand deeper than it does.
const DEEPEST: usize = DEPTH_LIMIT + 8;

/// Numbers of sequences that are spelled out, in all of a serialization: R keeps three for any number.
const MOST_SPELLED_OUT: usize = if cfg!(feature = "fuzzing") { 50_000 } else { 10_000_000 };

/// Items for which room is made before they are read: lists within lists may all say that they are long.
const ROOM: usize = 4096;

type Pairs<'a> = Vec<(Option<Cow<'a, str>>, Value<'a>)>;

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// What later parts may refer to by number: names, and things that are not values.
    references: Vec<Data<'a>>,
    depth: usize,
    /// Numbers of sequences that may still be spelled out.
    spelling: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Untranslatable> {
        let (bytes, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| broken("it ends early"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32, Untranslatable> {
        let bytes = self.bytes(4)?.first_chunk().copied().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    /// A length: one word, or, from 2^31 on, two words behind a -1.
    pub(super) fn length(&mut self) -> Result<usize, Untranslatable> {
        let word = self.word()?;
        let length = if word == u32::MAX {
            u64::from(self.word()?) << 32 | u64::from(self.word()?)
        } else {
            u64::from(word)
        };
        usize::try_from(length).map_err(|_| broken("a length is beyond memory"))
    }

    /// A length, and so many items of `size` bytes.
    fn counted_bytes(&mut self, size: usize) -> Result<&'a [u8], Untranslatable> {
        let length = self.length()?;
        self.bytes(length.checked_mul(size).ok_or_else(|| broken("a length is beyond memory"))?)
    }

    pub(super) fn item(&mut self) -> Result<Value<'a>, Untranslatable> {
        let flags = self.word()?;
        self.item_with(flags)
    }

    fn item_with(&mut self, flags: u32) -> Result<Value<'a>, Untranslatable> {
        self.deeper(|reader| reader.item_inside(flags))
    }

    /// Goes one level down, unless that is too deep.
    pub(super) fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Untranslatable>,
    ) -> Result<T, Untranslatable> {
        if self.depth > DEEPEST {
            return Err(Untranslatable::new(format!("is nested more than {DEPTH_LIMIT} deep")));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn item_inside(&mut self, flags: u32) -> Result<Value<'a>, Untranslatable> {
        let data = match flags & 0xFF {
            tag::NULL => Data::Null,
            tag::REFERENCE => self.reference(flags)?,
            tag::SYMBOL => self.symbol()?,
            tag::PAIRLIST | tag::ATTRIBUTE_PAIRLIST => Data::Pairlist(self.pairlist(flags)?),
            kind @ (tag::LANGUAGE
            | tag::ATTRIBUTE_LANGUAGE
            | tag::CLOSURE
            | tag::PROMISE
            | tag::DOTS) => return self.code(kind, flags),
            tag::ALTREP => return self.alternative(),
            tag::BYTE_CODE => {
                self.byte_code()?;
                Data::Other("bytecode".into())
            }
            tag::S4 => Data::Other("S4".into()),
            tag::ENVIRONMENT => return self.environment(),
            tag::EXTERNAL_POINTER => self.external_pointer()?,
            tag::WEAK_REFERENCE => self.refer("weakref"),
            tag::PERSISTENT | tag::PACKAGE | tag::NAMESPACE => self.named_environment()?,
            tag::GLOBAL_ENVIRONMENT
            | tag::BASE_ENVIRONMENT
            | tag::EMPTY_ENVIRONMENT
            | tag::BASE_NAMESPACE => Data::Other("environment".into()),
            tag::MISSING_ARGUMENT | tag::UNBOUND => Data::Symbol("".into()),
            kind => self.vector(kind)?,
        };
        let attributes = match flags & 0xFF {
            tag::PAIRLIST | tag::ATTRIBUTE_PAIRLIST | tag::REFERENCE => None,
            _ if flags & tag::HAS_ATTRIBUTES == 0 => None,
            _ => self.attributes()?,
        };
        Ok(Value { data, attributes })
    }

    fn attributes(&mut self) -> Result<Option<Box<Attributes<'a>>>, Untranslatable> {
        match self.item()?.data {
            Data::Pairlist(pairs) => Ok(Some(Box::new(Attributes::gather(pairs)))),
            Data::Null => Ok(None),
            _ => Err(broken("attributes are not a pairlist")),
        }
    }

    fn vector(&mut self, kind: u32) -> Result<Data<'a>, Untranslatable> {
        Ok(match kind {
            tag::LOGICAL => Data::Logical(Integers::Bytes(self.counted_bytes(4)?)),
            tag::INTEGER => Data::Integer(Integers::Bytes(self.counted_bytes(4)?)),
            tag::DOUBLE => Data::Double(Doubles::Bytes(self.counted_bytes(8)?)),
            tag::RAW => Data::Raw(self.counted_bytes(1)?),
            tag::CHARACTER => Data::Character(self.many(Self::string)?),
            tag::LIST => Data::List(self.many(Self::item)?),
            tag::EXPRESSION => {
                self.many(Self::item)?;
                Data::Other("expression".into())
            }
            tag::COMPLEX => {
                self.counted_bytes(16)?;
                Data::Other("complex".into())
            }
            tag::BUILTIN | tag::SPECIAL => {
                self.counted_bytes(1)?;
                Data::Other("function".into())
            }
            other => return Err(broken(format!("it holds an object of type {other}"))),
        })
    }

    fn many<T>(
        &mut self,
        one: fn(&mut Self) -> Result<T, Untranslatable>,
    ) -> Result<Vec<T>, Untranslatable> {
        let length = self.length()?;
        // A length that lies must not take all memory.
        let mut items = Vec::with_capacity(length.min(ROOM));
        for _ in 0..length {
            items.push(one(self)?);
        }
        Ok(items)
    }

    fn string(&mut self) -> Result<Text<'a>, Untranslatable> {
        let flags = self.word()?;
        if flags & 0xFF != tag::STRING {
            return Err(broken("an item of a character vector is no string"));
        }
        let length = self.word()?;
        if length == u32::MAX {
            return Ok(Text::Na);
        }
        let bytes = self.bytes(length as usize)?;
        if flags & tag::LATIN1 != 0 && !bytes.is_ascii() {
            return Ok(Text::Known(bytes.iter().copied().map(char::from).collect()));
        }
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) => Text::Known(Cow::Borrowed(text)),
            Err(_) => Text::Bytes,
        })
    }

    fn symbol(&mut self) -> Result<Data<'a>, Untranslatable> {
        // A reference to it is four bytes and must be little more here. Names that were made of Latin 1
        // mean nothing to us, and would have to be copied.
        let name = match self.string()? {
            Text::Known(Cow::Borrowed(name)) => name,
            Text::Known(Cow::Owned(_)) | Text::Na | Text::Bytes => "NA",
        };
        self.references.push(Data::Symbol(name.into()));
        Ok(Data::Symbol(name.into()))
    }

    fn refer(&mut self, what: &'static str) -> Data<'a> {
        self.references.push(Data::Other(what.into()));
        Data::Other(what.into())
    }

    fn reference(&mut self, flags: u32) -> Result<Data<'a>, Untranslatable> {
        let index = match flags >> 8 {
            0 => self.word()?,
            index => index,
        };
        let known = (index as usize).checked_sub(1).and_then(|index| self.references.get(index));
        known.cloned().ok_or_else(|| broken("it refers to what it does not hold"))
    }

    /// A pairlist, whose links stand one behind the other.
    fn pairlist(&mut self, flags: u32) -> Result<Pairs<'a>, Untranslatable> {
        let mut pairs = Vec::new();
        let mut flags = flags;
        loop {
            if flags & tag::HAS_ATTRIBUTES != 0 {
                self.item()?;
            }
            let name = match flags & tag::HAS_TAG {
                0 => None,
                _ => match self.item()?.data {
                    Data::Symbol(name) => Some(name),
                    _ => None,
                },
            };
            pairs.push((name, self.item()?));
            flags = self.word()?;
            if flags & 0xFF != tag::PAIRLIST {
                // A NULL at the end; or, in code, anything.
                self.item_with(flags)?;
                return Ok(pairs);
            }
        }
    }

    /// Calls, formulas and functions: a class is all that is kept of them.
    fn code(&mut self, kind: u32, flags: u32) -> Result<Value<'a>, Untranslatable> {
        let attributes = if flags & tag::HAS_ATTRIBUTES != 0 { self.attributes()? } else { None };
        if flags & tag::HAS_TAG != 0 {
            self.item()?;
        }
        self.item()?;
        self.item()?;
        let what = if kind == tag::CLOSURE { "function" } else { "language" };
        Ok(Value { data: Data::Other(what.into()), attributes })
    }

    fn environment(&mut self) -> Result<Value<'a>, Untranslatable> {
        let data = self.refer("environment");
        self.word()?;
        // What it is enclosed by, its variables in two forms, its attributes.
        for _ in 0..3 {
            self.item()?;
        }
        let attributes = self.attributes()?;
        Ok(Value { data, attributes })
    }

    fn named_environment(&mut self) -> Result<Data<'a>, Untranslatable> {
        self.word()?;
        self.many(Self::string)?;
        Ok(self.refer("environment"))
    }

    fn external_pointer(&mut self) -> Result<Data<'a>, Untranslatable> {
        let data = self.refer("externalptr");
        self.item()?;
        self.item()?;
        Ok(data)
    }

    /// A vector in another form than memory's: its class, what it is made from, its attributes.
    fn alternative(&mut self) -> Result<Value<'a>, Untranslatable> {
        let class = match self.item()?.data {
            Data::Pairlist(pairs) => pairs.into_iter().next().map(|(_, class)| class.data),
            _ => None,
        };
        let Some(Data::Symbol(class)) = class else {
            return Err(broken("a compact vector has no class"));
        };
        let state = self.item()?;
        let attributes = self.attributes()?;
        let data = match &*class {
            "compact_intseq" => Data::Integer(Integers::Sequence(sequence(&state)?)),
            "compact_realseq" => Data::Double(Doubles::Sequence(sequence(&state)?)),
            "deferred_string" => self.deferred_strings(&first(state)?)?,
            wrapped if wrapped.starts_with("wrap_") => first(state)?.data,
            other => {
                let what = format!("is a vector of the kind `{other}`, which a package defines");
                return Err(Untranslatable::new(what));
            }
        };
        Ok(Value { data, attributes })
    }
}

impl Reader<'_> {
    /// What `as.character()` has not made yet: the numbers' text.
    fn deferred_strings<'a>(&mut self, numbers: &Value<'_>) -> Result<Data<'a>, Untranslatable> {
        if let Data::Integer(Integers::Sequence(_)) | Data::Double(Doubles::Sequence(_)) =
            &numbers.data
        {
            match self.spelling.checked_sub(numbers.len()) {
                Some(left) => self.spelling = left,
                None => {
                    return Ok(Data::Other(format!("text of {} numbers", numbers.len()).into()));
                }
            }
        }
        deferred_strings(numbers)
    }
}

/// Length, first, step.
fn sequence(state: &Value<'_>) -> Result<Sequence, Untranslatable> {
    if let Data::Double(numbers) = &state.data
        && numbers.len() == 3
        && let (Some(length), Some(first), Some(step)) =
            (numbers.get(0), numbers.get(1), numbers.get(2))
    {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length")]
        let length = length as usize;
        return Ok(Sequence { length, first, step });
    }
    Err(broken("a compact sequence is not three numbers"))
}

fn first(state: Value<'_>) -> Result<Value<'_>, Untranslatable> {
    let first = match state.data {
        Data::Pairlist(pairs) => pairs.into_iter().next().map(|(_, value)| value),
        Data::List(items) => items.into_iter().next(),
        _ => None,
    };
    first.ok_or_else(|| broken("a compact vector has no content"))
}

fn deferred_strings<'a>(numbers: &Value<'_>) -> Result<Data<'a>, Untranslatable> {
    let known = |text: Option<String>| text.map_or(Text::Na, |text| Text::Known(text.into()));
    let texts = match &numbers.data {
        Data::Integer(integers) => {
            integers.iter().map(|value| known(value.map(|value| value.to_string()))).collect()
        }
        Data::Double(doubles) => {
            (0..doubles.len()).map(|index| known(doubles.get(index).map(double_text))).collect()
        }
        _ => return Err(broken("a deferred string is made of no numbers")),
    };
    Ok(Data::Character(texts))
}

/// As R's `as.character()` has it: at most 15 digits, fixed unless the other form is shorter.
fn double_text(value: f64) -> String {
    if !value.is_finite() {
        let text = if value.is_nan() { "NaN" } else { "Inf" };
        return if value < 0.0 { format!("-{text}") } else { text.into() };
    }
    let scientific = format!("{value:.14e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let decimals = i32::try_from(digits).unwrap_or(15) - 1 - exponent;
    let fixed = format!("{value:.*}", usize::try_from(decimals).unwrap_or(0));
    let sign = if exponent < 0 { '-' } else { '+' };
    let scientific = format!("{mantissa}e{sign}{:02}", exponent.abs());
    if fixed.len() <= scientific.len() { fixed } else { scientific }
}

#[cfg(test)]
mod tests {
    use super::double_text;

    #[test]
    fn doubles_have_the_text_that_r_gives_them() {
        let cases = [
            (1.0, "1"),
            (0.1, "0.1"),
            (1e5, "1e+05"),
            (123_456.0, "123456"),
            (1e15, "1e+15"),
            (0.0001, "1e-04"),
            (0.000_123, "0.000123"),
            (-1.5, "-1.5"),
            (0.1 + 0.2, "0.3"),
            (1.0 / 3.0, "0.333333333333333"),
            (0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(double_text(value), text);
        }
    }
}
