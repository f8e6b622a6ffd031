//! Data frames to JSON: one object a row.

use std::borrow::Cow;

use super::Untranslatable;
use super::to_json::{Items, check_length, check_rows, check_size, dollar, keys, member};
use super::value::{Data, Value};

/// Appends the rows of a data frame.
pub(super) fn write_data_frame(out: &mut Vec<u8>, frame: &Value<'_>) -> Result<(), Untranslatable> {
    let rows = row_count(frame);
    check_rows(rows, frame.len())?;
    let columns = Columns::of(frame, rows)?;
    out.push(b'[');
    for row in 0..rows {
        if row > 0 {
            out.push(b',');
        }
        columns.write_row(out, row)?;
    }
    out.push(b']');
    Ok(())
}

/// The columns of a data frame, looked at once for all of its rows.
struct Columns<'v, 'a>(Vec<(Cow<'v, str>, Cells<'v, 'a>)>);

enum Cells<'v, 'a> {
    Items(Items<'v, 'a>),
    Frame(Columns<'v, 'a>),
}

impl<'v, 'a> Columns<'v, 'a> {
    fn of(frame: &'v Value<'a>, rows: usize) -> Result<Self, Untranslatable> {
        let Data::List(columns) = &frame.data else { return Err(frame.fault()) };
        check_length(Some(frame.names().unwrap_or_default().len()), columns.len())?;
        let named = keys(frame.names().unwrap_or_default()).into_iter().zip(columns);
        let cells = named.map(|(name, column)| {
            let cells = cells(column, rows).map_err(|fault| fault.within(dollar(&name)))?;
            Ok((name, cells))
        });
        cells.collect::<Result<_, _>>().map(Self)
    }

    fn write_row(&self, out: &mut Vec<u8>, row: usize) -> Result<(), Untranslatable> {
        check_size(out)?;
        out.push(b'{');
        for (index, (name, cells)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            member(out, name, |out| match cells {
                Cells::Frame(columns) => columns.write_row(out, row),
                Cells::Items(items) => {
                    items.write(out, row).map_err(|fault| fault.within(items.step(row)))
                }
            })?;
        }
        out.push(b'}');
        Ok(())
    }
}

fn cells<'v, 'a>(column: &'v Value<'a>, rows: usize) -> Result<Cells<'v, 'a>, Untranslatable> {
    if column.inherits("data.frame") {
        check_length(Some(rows), row_count(column))?;
        return Columns::of(column, rows).map(Cells::Frame);
    }
    if column.dim().len() > 1 {
        let what = "is a matrix inside a data frame, for which JSON has no likeness";
        return Err(Untranslatable::new(what));
    }
    check_length(Some(rows), column.len())?;
    Items::of(column).map(Cells::Items)
}

fn row_count(frame: &Value<'_>) -> usize {
    if let Data::List(columns) = &frame.data
        && let Some(column) = columns.first()
    {
        return match column.dim().first() {
            Some(rows) => *rows,
            None if column.inherits("data.frame") => row_count(column),
            None => column.len(),
        };
    }
    let names = frame.attributes.as_ref().and_then(|attributes| attributes.row_names.as_ref());
    match names.map(|names| &names.data) {
        // Row names that are only counted: NA and the number, or its negative.
        Some(Data::Integer(counted)) if counted.len() == 2 && counted.get(0).is_none() => {
            let count = counted.get(1).unwrap_or(0).unsigned_abs();
            usize::try_from(count).unwrap_or(0)
        }
        _ => names.map_or(0, Value::len),
    }
}
