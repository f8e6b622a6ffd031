//! Elements that are the rows of a table (CSV), each an object by the heading.

use std::io::Read;

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::Number;

use super::at_fault;
use super::list::ElementList;
use crate::failure::Failure;

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
        let mut cells =
            rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty());
        match cells.all(is_number) {
            true => Self::Number,
            false => Self::Text,
        }
    }

    fn write(self, cell: &str) -> String {
        match self {
            _ if cell.is_empty() => "null".to_owned(),
            Self::Number => cell.trim().to_owned(),
            Self::Text => serde_json::Value::from(cell).to_string(),
        }
    }
}

/// Whether a cell can stand in JSON as a number with the digits that it has.
fn is_number(cell: &str) -> bool {
    serde_json::from_str::<Number>(cell.trim()).is_ok()
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
