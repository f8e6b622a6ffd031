//! JSON text to R, in one pass where its shape allows.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::IgnoredAny;

use super::json::{Cursor, Scalar, check_depth};
use super::writer::Writer;
use super::{NA_INTEGER, Untranslatable, tag};

/// Writes the R value of a JSON text.
///
/// # Errors
/// When it is not JSON, or R has no such value. What was written of it is taken back.
pub fn write_json(writer: &mut Writer, json: &[u8]) -> Result<(), Untranslatable> {
    write_by(writer, json, value)
}

/// Writes a JSON text that holds the arguments of a call: as [`write_json`], but an array is a list
/// whatever is in it, since each of its items is an argument by itself.
///
/// # Errors
/// As [`write_json`].
pub fn write_arguments(writer: &mut Writer, json: &[u8]) -> Result<(), Untranslatable> {
    write_by(writer, json, |writer, cursor, depth| match cursor.peek() {
        b'[' => list(writer, cursor, depth),
        _ => value(writer, cursor, depth),
    })
}

fn write_by(
    writer: &mut Writer,
    json: &[u8],
    write: impl FnOnce(&mut Writer, &mut Cursor<'_>, usize) -> Result<(), Untranslatable>,
) -> Result<(), Untranslatable> {
    let mark = writer.mark();
    let mut cursor = Cursor::new(json)?;
    let written = write(writer, &mut cursor, 0).and_then(|()| cursor.end());
    if written.is_err() {
        writer.rewind(mark);
    }
    written
}

fn value(writer: &mut Writer, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Untranslatable> {
    check_depth(depth)?;
    match cursor.peek() {
        b'[' => array(writer, cursor, depth),
        b'{' => object(writer, cursor, depth),
        _ => {
            scalar(writer, &cursor.scalar()?);
            Ok(())
        }
    }
}

fn scalar(writer: &mut Writer, scalar: &Scalar<'_>) {
    match scalar {
        Scalar::Null => writer.null(),
        Scalar::Bool(value) => writer.logical(*value),
        Scalar::Integer(value) => writer.integer(*value),
        Scalar::Double(value) => writer.doubles(&[Some(*value)]),
        Scalar::Text(text) => writer.characters(&[text]),
    }
}

/// What an array becomes shows only at its end. So it is read as what its first item suggests, and
/// from the start again, as a list, when a later item does not fit.
fn array(writer: &mut Writer, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Untranslatable> {
    let mut ahead = cursor.clone();
    ahead.expect(b'[')?;
    let fits = match ahead.peek() {
        b'[' | b']' => false,
        b'{' => data_frame(writer, &mut ahead, depth)?,
        _ => vector(writer, &mut ahead)?,
    };
    if fits {
        *cursor = ahead;
        return Ok(());
    }
    list(writer, cursor, depth)
}

fn list(writer: &mut Writer, cursor: &mut Cursor<'_>, depth: usize) -> Result<(), Untranslatable> {
    cursor.expect(b'[')?;
    let mut list = writer.open_list(0);
    if !cursor.take(b']') {
        loop {
            value(writer, cursor, depth + 1)?;
            list.count_one();
            if !cursor.more(b']')? {
                break;
            }
        }
    }
    writer.close_list(&list);
    Ok(())
}

fn object(
    writer: &mut Writer,
    cursor: &mut Cursor<'_>,
    depth: usize,
) -> Result<(), Untranslatable> {
    cursor.expect(b'{')?;
    let mut list = writer.open_list(tag::HAS_ATTRIBUTES);
    let mut names = Vec::new();
    if !cursor.take(b'}') {
        loop {
            names.push(cursor.key()?);
            value(writer, cursor, depth + 1)?;
            list.count_one();
            if !cursor.more(b'}')? {
                break;
            }
        }
    }
    writer.close_list(&list);
    writer.names(&names);
    Ok(())
}

/// Writes an array of scalars of one kind; `false` if it is none. The cursor is behind its `[`.
fn vector(writer: &mut Writer, cursor: &mut Cursor<'_>) -> Result<bool, Untranslatable> {
    let mut column = Column::Nulls(0);
    loop {
        if matches!(cursor.peek(), b'[' | b'{') || !column.push(cursor.scalar()?) {
            return Ok(false);
        }
        if !cursor.more(b']')? {
            column.write(writer);
            return Ok(true);
        }
    }
}

/// Scalars of one kind.
enum Column<'a> {
    Nulls(usize),
    Bools(Vec<i32>),
    Integers(Vec<i32>),
    Doubles(Vec<Option<f64>>),
    Texts(Vec<Option<Cow<'a, str>>>),
}

impl<'a> Column<'a> {
    /// Adds a scalar; `false` if it is of another kind.
    fn push(&mut self, scalar: Scalar<'a>) -> bool {
        match (&mut *self, scalar) {
            (Self::Nulls(count), Scalar::Null) => *count += 1,
            (Self::Nulls(count), scalar) => {
                *self = Self::starting_with(*count, scalar);
            }
            (Self::Bools(values) | Self::Integers(values), Scalar::Null) => values.push(NA_INTEGER),
            (Self::Doubles(values), Scalar::Null) => values.push(None),
            (Self::Texts(values), Scalar::Null) => values.push(None),
            (Self::Bools(values), Scalar::Bool(value)) => values.push(i32::from(value)),
            (Self::Integers(values), Scalar::Integer(value)) => values.push(value),
            (Self::Integers(values), Scalar::Double(value)) => {
                let mut doubles: Vec<_> = values
                    .iter()
                    .map(|value| (*value != NA_INTEGER).then_some(f64::from(*value)))
                    .collect();
                doubles.push(Some(value));
                *self = Self::Doubles(doubles);
            }
            (Self::Doubles(values), Scalar::Integer(value)) => values.push(Some(f64::from(value))),
            (Self::Doubles(values), Scalar::Double(value)) => values.push(Some(value)),
            (Self::Texts(values), Scalar::Text(text)) => values.push(Some(text)),
            _ => return false,
        }
        true
    }

    fn starting_with(nulls: usize, scalar: Scalar<'a>) -> Self {
        fn after<T: Clone>(nulls: usize, null: T, value: T) -> Vec<T> {
            let mut values = vec![null; nulls];
            values.push(value);
            values
        }
        match scalar {
            Scalar::Null => Self::Nulls(nulls + 1),
            Scalar::Bool(value) => Self::Bools(after(nulls, NA_INTEGER, i32::from(value))),
            Scalar::Integer(value) => Self::Integers(after(nulls, NA_INTEGER, value)),
            Scalar::Double(value) => Self::Doubles(after(nulls, None, Some(value))),
            Scalar::Text(text) => Self::Texts(after(nulls, None, Some(text))),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            // As jsonlite has it, and R, whose NA is logical.
            Self::Nulls(count) => writer.logicals(&vec![NA_INTEGER; *count]),
            Self::Bools(values) => writer.logicals(values),
            Self::Integers(values) => writer.integers(values),
            Self::Doubles(values) => writer.doubles(values),
            Self::Texts(values) => {
                writer.open_characters(values.len());
                for value in values {
                    match value {
                        Some(text) => writer.string(text),
                        None => writer.na_string(),
                    }
                }
            }
        }
    }
}

/// Cells that a data frame may miss: objects that have each their own keys, a few bytes a row, must not
/// become all of memory.
const MOST_MISSING: usize = if cfg!(feature = "fuzzing") { 50_000 } else { 10_000_000 };

/// The cells of a data frame, column by column.
#[derive(Default)]
struct Table<'a> {
    names: Vec<Cow<'a, str>>,
    columns: Vec<Vec<Option<&'a [u8]>>>,
    rows: usize,
    /// Cells that rows have.
    given: usize,
    /// Filled when rows have their keys in another order than the first.
    index: HashMap<Cow<'a, str>, usize>,
}

impl<'a> Table<'a> {
    /// The column of that name, which is probably the one `expected`.
    fn column(&mut self, name: Cow<'a, str>, expected: usize) -> Result<usize, Untranslatable> {
        if self.names.get(expected) == Some(&name) {
            return Ok(expected);
        }
        if self.index.len() < self.names.len() {
            let known = self.names.iter().enumerate();
            self.index = known.map(|(at, name)| (name.clone(), at)).collect();
        }
        if let Some(at) = self.index.get(&name) {
            return Ok(*at);
        }
        let at = self.names.len();
        // Before memory is taken for it: one row may have a million keys behind a million rows without any.
        check_missing(self.rows + 1, at + 1, self.given + 1)?;
        self.index.insert(name.clone(), at);
        self.names.push(name);
        self.columns.push(vec![None; self.rows]);
        Ok(at)
    }

    fn push_row(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Untranslatable> {
        cursor.expect(b'{')?;
        let mut expected = 0;
        if !cursor.take(b'}') {
            loop {
                let at = self.column(cursor.key()?, expected)?;
                let cell = cursor.skip()?;
                self.given += 1;
                let column = &mut self.columns[at];
                if let Some(Some(earlier)) = column.get(self.rows) {
                    // The last one counts, but all of it must be JSON.
                    check(earlier)?;
                }
                column.truncate(self.rows);
                column.push(Some(cell));
                expected = at + 1;
                if !cursor.more(b'}')? {
                    break;
                }
            }
        }
        self.rows += 1;
        check_missing(self.rows, self.columns.len(), self.given)?;
        for column in &mut self.columns {
            column.resize(self.rows, None);
        }
        Ok(())
    }
}

/// Refuses a table of so many rows and columns of whose cells too few are given.
fn check_missing(rows: usize, columns: usize, given: usize) -> Result<(), Untranslatable> {
    if rows.saturating_mul(columns).saturating_sub(given) <= MOST_MISSING {
        return Ok(());
    }
    Err(Untranslatable::new(format!(
        "an array of objects would be a data frame of {rows} rows and {columns} columns, most of whose cells are \
         missing: more than {MOST_MISSING}"
    )))
}

/// Whether what was only stepped over is JSON.
fn check(json: &[u8]) -> Result<(), Untranslatable> {
    let read = serde_json::from_slice::<IgnoredAny>(json);
    read.map(drop).map_err(|error| Untranslatable::new(format!("it is not JSON: {error}")))
}

/// Writes an array of objects; `false` if it is none. The cursor is behind its `[`.
fn data_frame(
    writer: &mut Writer,
    cursor: &mut Cursor<'_>,
    depth: usize,
) -> Result<bool, Untranslatable> {
    let mut table = Table::default();
    loop {
        if cursor.peek() != b'{' {
            return Ok(false);
        }
        table.push_row(cursor)?;
        if !cursor.more(b']')? {
            break;
        }
    }
    let mut list = writer.open_list(tag::HAS_ATTRIBUTES | tag::IS_OBJECT);
    for (name, cells) in table.names.iter().zip(&table.columns) {
        write_column(writer, cells, depth + 1)
            .map_err(|error| Untranslatable::new(format!("in `{name}`, {error}")))?;
        list.count_one();
    }
    writer.close_list(&list);
    writer.attribute("names");
    writer.characters(&table.names);
    writer.attribute("class");
    writer.characters(&["data.frame"]);
    writer.row_count(table.rows);
    writer.end_attributes();
    Ok(true)
}

/// A vector if all cells are scalars of one kind, else a list.
fn write_column(
    writer: &mut Writer,
    cells: &[Option<&[u8]>],
    depth: usize,
) -> Result<(), Untranslatable> {
    let mut column = Column::Nulls(0);
    for cell in cells {
        let scalar = match cell {
            None => Scalar::Null,
            Some([b'[' | b'{', ..]) => return write_list_column(writer, cells, depth),
            Some(json) => Cursor::new(json)?.scalar()?,
        };
        if !column.push(scalar) {
            return write_list_column(writer, cells, depth);
        }
    }
    column.write(writer);
    Ok(())
}

fn write_list_column(
    writer: &mut Writer,
    cells: &[Option<&[u8]>],
    depth: usize,
) -> Result<(), Untranslatable> {
    writer.list(cells.len());
    for cell in cells {
        match cell {
            None => writer.null(),
            Some(json) => value(writer, &mut Cursor::new(json)?, depth + 1)?,
        }
    }
    Ok(())
}
