//! Aligned tables for people.

/// Lays out rows under a heading, columns two spaces apart.
pub fn with_heading(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading = heading.iter().map(|&cell| cell.to_owned()).collect();
    aligned(std::iter::once(&heading).chain(rows))
}

/// Lays out a name and a text on each line.
pub fn of_pairs(pairs: &[(&str, String)]) -> String {
    let rows: Vec<_> = pairs.iter().flat_map(|(name, text)| lines(name, text)).collect();
    aligned(rows.iter())
}

/// A row for each line of a text, of which the first has the name.
fn lines(name: &str, text: &str) -> Vec<Vec<String>> {
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    let rows = names.zip(text.lines());
    rows.map(|(name, line)| vec![name.to_owned(), line.to_owned()]).collect()
}

fn aligned<'a>(rows: impl Iterator<Item = &'a Vec<String>> + Clone) -> String {
    let columns = rows.clone().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.clone().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            vec![vec!["one".to_owned(), "é".to_owned()], vec!["three".to_owned(), "x".to_owned()]];
        assert_eq!(with_heading(&["NAME", "X"], &rows), "NAME   X\none    é\nthree  x\n");
    }

    #[test]
    fn pairs_have_no_heading() {
        let pairs = [("job", "1".to_owned()), ("state", "queued".to_owned())];
        assert_eq!(of_pairs(&pairs), "job    1\nstate  queued\n");
        let lines = [("error", "first\nsecond".to_owned())];
        assert_eq!(of_pairs(&lines), "error  first\n       second\n");
    }
}
