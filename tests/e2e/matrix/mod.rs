//! The kill matrix: whatever is killed, stopped or cut off in mid-map, every value is delivered, what
//! was finished and reported does not run again, and a client that waits is not told of a value that
//! is not there.
//!
//! In `make test` each cell gets one blow at a drawn moment; `make kill-matrix` gives each ten, on
//! longer maps, and prints what came of it. CONTRIBUTING.md says how to repeat a cell.

mod blow;
mod cell;
mod table;

use std::sync::Arc;

use tests::{Chance, chance};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use cell::{Cell, Row, Size};

/// Cells at once. They mostly sleep; but each is some fifteen processes that start.
const AT_ONCE: usize = 4;
/// How often a cell of `make test` is tried on a machine that is too slow for it.
const N_TRIES: usize = 3;

/// For those of `make test`.
const SMALL: Size = Size { n_elements: 24, seconds: 0.2 };
/// For those of `make kill-matrix`.
const LARGE: Size = Size { n_elements: 24, seconds: 1.0 };
/// Moments a cell of `make kill-matrix`.
const N_MOMENTS: usize = 10;

/// Runs cells, some at once, each with a seed of its own, and gives what came of each, in order.
async fn run(cells: Vec<Cell>, size: Size, seed: u64) -> Vec<Row> {
    LocalSet::new().run_until(run_all(cells, size, seed)).await
}

async fn run_all(cells: Vec<Cell>, size: Size, seed: u64) -> Vec<Row> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (idx, cell) in cells.into_iter().enumerate() {
        let places = Arc::clone(&places);
        running.spawn_local(async move {
            let _place = places.acquire().await.expect("the places stay");
            let name = format!("{cell} {}", cell.moment);
            eprintln!("begins: {name}");
            let row = cell.run(size, Chance::new(seed, &name)).await;
            eprintln!("done: {name}");
            (idx, row)
        });
    }
    let mut rows = Vec::new();
    while let Some(row) = running.join_next().await {
        match row {
            Ok(row) => rows.push(row),
            // Where it failed has been printed by the panic; the rest ends with it.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    rows.sort_by_key(|(idx, _)| *idx);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[tokio::test]
async fn each_is_killed_stopped_and_cut_off_in_mid_map_and_nothing_is_lost() -> Result<(), String> {
    let seed = chance::seed();
    let mut rows = run(Cell::chosen(1), SMALL, seed).await;
    for _ in 1..N_TRIES {
        let (void, told): (Vec<_>, Vec<_>) = rows.into_iter().partition(Row::is_void);
        rows = told;
        table::print(&void);
        // At another moment: that of before may have been too late.
        let again: Vec<Cell> =
            void.iter().map(|row| Cell { moment: row.cell.moment + 1, ..row.cell }).collect();
        rows.extend(run(again, SMALL, seed).await);
    }
    table::print(&rows);
    table::verdict(seed, rows.iter())
}

#[tokio::test]
#[ignore = "takes long: make kill-matrix"]
async fn the_whole_kill_matrix() -> Result<(), String> {
    let seed = chance::seed();
    let rows = run(Cell::chosen(N_MOMENTS), LARGE, seed).await;
    table::print(&rows);
    table::print_json(&rows);
    let disturbed = rows.iter().filter(|row| row.is_disturbed()).count();
    println!("{disturbed} of {} ran on a machine that was too slow for their terms", rows.len());
    table::verdict(seed, rows.iter().filter(|row| !row.is_disturbed()))
}
