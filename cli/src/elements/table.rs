//! Elements that are the rows of a table (CSV), each an object by the heading.

use std::io::Read;

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::Number;

use super::at_fault;
use super::list::ElementList;
use crate::failure::Failure;

/// Up to here a double, which is R's and JSON's usual number, holds each whole number.
const LARGEST_WHOLE: u64 = 1 << 53;

/// Pushes each row of the table in `input` as an object.
pub fn read(
    input: impl Read,
    name: &str,
    tabs: bool,
    all_text: bool,
    list: &mut ElementList,
) -> Result<(), Failure> {
    let mut reader = ReaderBuilder::new()
        .trim(Trim::Headers)
        .delimiter(if tabs { b'\t' } else { b',' })
        .from_reader(input);
    let wrong = |error: csv::Error| at_fault(name, &error.to_string());
    let heading = heading(reader.headers().map_err(wrong)?, name)?;
    let rows: Vec<StringRecord> = reader.into_records().collect::<Result<_, _>>().map_err(wrong)?;
    let cells: Vec<Cell> = (0..heading.len())
        .map(|column| match all_text {
            true => Cell::Text,
            false => Cell::of_column(&rows, column),
        })
        .collect();
    for row in &rows {
        let object = object(&heading, &cells, row);
        let at =
            || format!("{name}, row on line {}", row.position().map_or(0, csv::Position::line));
        list.push_json(row.get(0).unwrap_or_default(), &object)
            .map_err(|error| at_fault(&at(), &error))?;
    }
    Ok(())
}

/// The names of the columns, as JSON strings.
fn heading(names: &StringRecord, file: &str) -> Result<Vec<String>, Failure> {
    let mut seen = std::collections::HashSet::new();
    let wrong = |what: String| {
        at_fault(file, &what).remedy("its first line must name the columns, each by another name")
    };
    for (column, name) in (1..).zip(names) {
        if name.is_empty() {
            return Err(wrong(format!("column {column} has no name")));
        }
        if !seen.insert(name) {
            return Err(wrong(format!("two columns are named {name:?}")));
        }
    }
    Ok(names
        .iter()
        .map(|name| serde_json::Value::from(name.trim_start_matches('\u{feff}')).to_string())
        .collect())
}

/// How the cells of a column are read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Text,
    Number,
}

impl Cell {
    /// By whole columns, so that all rows hold the same kind of thing: a column of `1`, `2` and `x3`
    /// is text, as is `007`, which as a number would be another text.
    fn of_column(rows: &[StringRecord], column: usize) -> Self {
        let mut cells = rows.iter().filter_map(|row| row.get(column));
        match cells.all(|cell| cell.is_empty() || is_missing(cell) || is_number(cell)) {
            true => Self::Number,
            false => Self::Text,
        }
    }

    fn write(self, cell: &str) -> String {
        match self {
            _ if cell.is_empty() => "null".to_owned(),
            Self::Number if is_missing(cell) => "null".to_owned(),
            Self::Number => cell.trim().to_owned(),
            Self::Text => serde_json::Value::from(cell).to_string(),
        }
    }
}

/// Whether a cell among numbers says that there is none, as R's `write.csv` does.
fn is_missing(cell: &str) -> bool {
    cell.trim() == "NA"
}

/// Whether a cell can stand in JSON as a number, from which a function has the number that the cell
/// says: a large id would lose its last digits.
fn is_number(cell: &str) -> bool {
    let cell = cell.trim();
    let is_exact = || cell.parse::<i64>().is_ok_and(|n| n.unsigned_abs() <= LARGEST_WHOLE);
    serde_json::from_str::<Number>(cell).is_ok() && (!is_whole(cell) || is_exact())
}

fn is_whole(cell: &str) -> bool {
    cell.strip_prefix('-').unwrap_or(cell).bytes().all(|byte| byte.is_ascii_digit())
}

fn object(heading: &[String], cells: &[Cell], row: &StringRecord) -> String {
    let members = heading
        .iter()
        .zip(cells)
        .zip(row)
        .map(|((name, kind), cell)| format!("{name}:{}", kind.write(cell)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::super::list::Form;
    use super::*;

    fn rows(table: &str, all_text: bool) -> Result<String, Failure> {
        let mut list = ElementList::new(Form::Text, false);
        read(table.as_bytes(), "t.csv", false, all_text, &mut list)?;
        Ok(list.finish().inline().to_owned())
    }

    #[test]
    fn rows_are_objects_and_columns_of_numbers_are_numbers() {
        let table = "\u{feff}n, zip,mixed\n1.50,007,1\n-2e3,,x\n,\"a \"\"b\"\"\n\",\n";
        assert_eq!(
            rows(table, false).unwrap(),
            r#"[{"n":1.50,"zip":"007","mixed":"1"},{"n":-2e3,"zip":null,"mixed":"x"},{"n":null,"zip":"a \"b\"\n","mixed":null}]"#
        );
        assert_eq!(rows("n\n1\n", true).unwrap(), r#"[{"n":"1"}]"#);
        assert_eq!(rows("a,b\n", false).unwrap(), "[]");
    }

    #[test]
    fn whole_numbers_that_a_double_cannot_hold_are_text() {
        let table = "id,least,edge,real\n1,-9007199254740993,9007199254740992,0.123456789\n\
                     92233720368547758070,1,-9007199254740992,1e300\n";
        assert_eq!(
            rows(table, false).unwrap(),
            r#"[{"id":"1","least":"-9007199254740993","edge":9007199254740992,"real":0.123456789},{"id":"92233720368547758070","least":"1","edge":-9007199254740992,"real":1e300}]"#
        );
    }

    #[test]
    fn na_among_numbers_is_null_and_among_texts_a_text() {
        assert_eq!(
            rows("n,country\n1,NA\nNA,DE\n", false).unwrap(),
            r#"[{"n":1,"country":"NA"},{"n":null,"country":"DE"}]"#
        );
        assert_eq!(rows("n\nNA\n", true).unwrap(), r#"[{"n":"NA"}]"#);
    }

    #[test]
    fn a_table_at_fault_is_named_with_its_line() {
        for (table, says) in
            [("a,b\n1,2\n3\n", "line: 3"), ("a,a\n1,2\n", "two columns"), ("a,\n1,2\n", "column 2")]
        {
            let failure = format!("{:?}", rows(table, false).unwrap_err());
            assert!(failure.contains("t.csv") && failure.contains(says), "{failure}");
        }
    }

    #[test]
    fn the_first_column_names_the_rows() {
        let mut list = ElementList::new(Form::Text, true);
        read(&b"id\tx\na\t1\nb\t2\n"[..], "t.tsv", true, false, &mut list).unwrap();
        let elements = list.finish();
        assert_eq!(elements.inline(), r#"{"a":{"id":"a","x":1},"b":{"id":"b","x":2}}"#);
    }
}
