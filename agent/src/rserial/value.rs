//! R values as they were read: views into the serialization's bytes.

use std::borrow::Cow;

use super::{DEPTH_LIMIT, NA_INTEGER, Untranslatable};

/// An R value.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    /// What it holds.
    pub data: Data<'a>,
    /// Those of its attributes that have a meaning here; most values have none.
    pub(super) attributes: Option<Box<Attributes<'a>>>,
}

/// What an R value holds.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// `NULL`.
    Null,
    /// Logicals.
    Logical(Integers<'a>),
    /// Integers.
    Integer(Integers<'a>),
    /// Doubles.
    Double(Doubles<'a>),
    /// Character strings.
    Character(Vec<Text<'a>>),
    /// Values.
    List(Vec<Value<'a>>),
    /// Bytes.
    Raw(&'a [u8]),
    /// A pairlist; only attributes and the state of compact vectors are.
    Pairlist(Vec<(Option<Cow<'a, str>>, Value<'a>)>),
    /// A name, as code has them.
    Symbol(Cow<'a, str>),
    /// What has no likeness in JSON; R's word for it.
    Other(Cow<'a, str>),
}

/// A string of a character vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// `NA`.
    Na,
    /// Text.
    Known(Cow<'a, str>),
    /// Bytes that are no text.
    Bytes,
}

impl Text<'_> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Known(text) => Some(text),
            Self::Na | Self::Bytes => None,
        }
    }
}

/// Integers or logicals, in the bytes or as a sequence.
#[derive(Clone, Debug)]
pub enum Integers<'a> {
    /// Four bytes each.
    Bytes(&'a [u8]),
    /// `1:n` and the like, which R keeps as three numbers.
    Sequence(Sequence),
}

/// Doubles, in the bytes or as a sequence.
#[derive(Clone, Debug)]
pub enum Doubles<'a> {
    /// Eight bytes each.
    Bytes(&'a [u8]),
    /// A sequence.
    Sequence(Sequence),
}

/// An arithmetic sequence.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// How many.
    pub length: usize,
    /// The first.
    pub first: f64,
    /// What is added, 1 or -1.
    pub step: f64,
}

impl Sequence {
    #[expect(clippy::cast_precision_loss, reason = "R itself holds the length as a double")]
    fn get(&self, index: usize) -> f64 {
        self.first + self.step * index as f64
    }
}

impl Integers<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len() / 4,
            Self::Sequence(sequence) => sequence.length,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at `index`; `None` is `NA`.
    #[expect(clippy::cast_possible_truncation, reason = "R's compact integers are integers")]
    pub fn get(&self, index: usize) -> Option<i32> {
        let value = match self {
            Self::Bytes(bytes) => {
                i32::from_le_bytes(*bytes[4 * index..].first_chunk().unwrap_or(&[0; 4]))
            }
            Self::Sequence(sequence) => sequence.get(index) as i32,
        };
        (value != NA_INTEGER).then_some(value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Option<i32>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }
}

impl Doubles<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len() / 8,
            Self::Sequence(sequence) => sequence.length,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at `index`; `None` is `NA`, which is a NaN of its own.
    pub fn get(&self, index: usize) -> Option<f64> {
        let value = match self {
            Self::Bytes(bytes) => {
                f64::from_le_bytes(*bytes[8 * index..].first_chunk().unwrap_or(&[0; 8]))
            }
            Self::Sequence(sequence) => sequence.get(index),
        };
        let is_na = value.is_nan() && value.to_bits() & 0xFFFF_FFFF == 1954;
        (!is_na).then_some(value)
    }
}

/// The attributes that decide what becomes of a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes<'a> {
    pub(super) names: Option<Value<'a>>,
    pub(super) class: Vec<Text<'a>>,
    pub(super) dim: Vec<usize>,
    pub(super) levels: Vec<Text<'a>>,
    pub(super) row_names: Option<Value<'a>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn gather(attributes: Vec<(Option<Cow<'a, str>>, Value<'a>)>) -> Self {
        let mut gathered = Self::default();
        for (name, value) in attributes {
            match (name.as_deref(), value.data) {
                (Some("names"), data) => gathered.names = Some(Value::plain(data)),
                (Some("row.names"), data) => gathered.row_names = Some(Value::plain(data)),
                (Some("class"), Data::Character(class)) => gathered.class = class,
                (Some("levels"), Data::Character(levels)) => gathered.levels = levels,
                (Some("dim"), Data::Integer(dim)) => {
                    // More than can be written shows that there are too many.
                    let sizes = dim.iter().take(DEPTH_LIMIT + 1).map(|size| size.unwrap_or(0));
                    gathered.dim = sizes.map(|size| usize::try_from(size).unwrap_or(0)).collect();
                }
                _ => {}
            }
        }
        gathered
    }
}

impl<'a> Value<'a> {
    pub(super) fn plain(data: Data<'a>) -> Self {
        Self { data, attributes: None }
    }

    /// A list without names.
    pub fn list(items: Vec<Self>) -> Self {
        Self::plain(Data::List(items))
    }

    /// How many items it has.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Logical(values) | Data::Integer(values) => values.len(),
            Data::Double(values) => values.len(),
            Data::Character(texts) => texts.len(),
            Data::List(values) => values.len(),
            Data::Raw(bytes) => bytes.len(),
            Data::Pairlist(pairs) => pairs.len(),
            Data::Null => 0,
            Data::Symbol(_) | Data::Other(_) => 1,
        }
    }

    pub(super) fn class(&self) -> &[Text<'a>] {
        self.attributes.as_ref().map_or(&[], |attributes| &attributes.class)
    }

    pub(super) fn inherits(&self, class: &str) -> bool {
        self.class().iter().any(|own| own.as_str() == Some(class))
    }

    pub(super) fn dim(&self) -> &[usize] {
        self.attributes.as_ref().map_or(&[], |attributes| &attributes.dim)
    }

    pub(super) fn names(&self) -> Option<&[Text<'a>]> {
        match &self.attributes.as_ref()?.names.as_ref()?.data {
            Data::Character(names) => Some(names),
            _ => None,
        }
    }

    /// Its items, if it is a list.
    pub fn into_list(self) -> Option<Vec<Self>> {
        match self.data {
            Data::List(items) => Some(items),
            _ => None,
        }
    }

    /// Its strings, if it is a character vector.
    pub fn texts(&self) -> Option<&[Text<'a>]> {
        match &self.data {
            Data::Character(texts) => Some(texts),
            _ => None,
        }
    }

    /// Its text, if it is one string.
    pub fn as_str(&self) -> Option<&str> {
        match self.texts()? {
            [text] => text.as_str(),
            _ => None,
        }
    }

    /// Its number, if it is one integer.
    pub fn as_integer(&self) -> Option<i32> {
        match &self.data {
            Data::Integer(values) if values.len() == 1 => values.get(0),
            _ => None,
        }
    }

    /// What R would call it in a message.
    pub(super) fn describe(&self) -> String {
        if let Some(class) = self.class().first().and_then(Text::as_str) {
            return format!("is of class `{class}`");
        }
        match &self.data {
            Data::Other(what) => format!("is of type `{what}`"),
            Data::Symbol(_) => "is of type `name`".into(),
            Data::Pairlist(_) => "is of type `pairlist`".into(),
            Data::Raw(_) => "is of type `raw`".into(),
            _ => "is of a type unknown here".into(),
        }
    }

    pub(super) fn fault(&self) -> Untranslatable {
        Untranslatable::new(format!("{}, for which JSON has no likeness", self.describe()))
    }
}
