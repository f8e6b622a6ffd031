//! What came of the cells, for people and for programs.

use serde_json::json;

use super::cell::Row;

/// Prints a line a cell: over all its moments, the sums, and the largest time beside that of the
/// undisturbed run.
pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    println!(
        "{:<48} {:>7} {:>9} {:>9} {:>6} {:>9} {:>8} {:>8} {:>5} {:>8}",
        "cell",
        "moments",
        "delivered",
        "run again",
        "twice",
        "in flight",
        "seconds",
        "against",
        "late",
        "given up"
    );
    let mut rest = rows;
    let mut undisturbed = None;
    while let Some(first) = rest.first() {
        let name = first.cell.to_string();
        let n = rest.iter().take_while(|row| row.cell.to_string() == name).count();
        let (rows, behind) = rest.split_at(n);
        rest = behind;
        let sum = |of: fn(&Row) -> usize| rows.iter().map(of).sum::<usize>();
        let seconds = mean(rows);
        if first.cell.strike.is_none() {
            undisturbed = Some(seconds);
        }
        let against = undisturbed.map_or("-".to_owned(), |base| format!("{:+.1}", seconds - base));
        println!(
            "{name:<48} {n:>7} {:>9} {:>9} {:>6} {:>9} {seconds:>8.1} {against:>8} {:>5} {:>8}",
            sum(|row| row.n_delivered),
            sum(|row| row.run_again.len()),
            sum(|row| row.twice.len()),
            sum(|row| row.n_in_flight),
            sum(|row| row.late.len()),
            sum(|row| row.n_given_up),
        );
    }
}

/// Prints a line of JSON a cell and moment.
pub fn print_json(rows: &[Row]) {
    for row in rows {
        let line = json!({
            "cell": row.cell.to_string(), "moment": row.cell.moment,
            "delivered": row.n_delivered, "run_again": row.run_again.len(),
            "twice": row.twice.len(), "in_flight": row.n_in_flight,
            "late": row.late.len(), "given_up": row.n_given_up,
            "twice_without_reason": row.twice_without_reason.len(), "seconds": row.seconds,
            "load": row.load, "stall_seconds": row.stall.as_secs_f64(),
        });
        println!("{line}");
    }
}

/// The rows in which something went wrong, each in a line with all that is known of it; an error, so that it
/// stands by itself at the end of what a test prints.
pub fn verdict<'a>(seed: u64, rows: impl Iterator<Item = &'a Row>) -> Result<(), String> {
    let faulty: Vec<&Row> = rows.filter(|row| !row.faults().is_empty()).collect();
    for row in &faulty {
        println!("{row:?}");
    }
    let told = |row: &&Row| {
        let (cell, faults) = (row.cell, row.faults().join(", "));
        format!("{cell}, moment {} of seed {seed}: {faults}", cell.moment)
    };
    let faults: Vec<String> = faulty.iter().map(told).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn mean(rows: &[Row]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "there are few rows")]
    let n = rows.len() as f64;
    rows.iter().map(|row| row.seconds).sum::<f64>() / n
}
