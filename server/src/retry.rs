//! Works out a retry: which values a job has, and which elements are to run again.
//!
//! The outcomes of a job that has ended do not change, so that all is read and cut before the
//! transaction that writes the new job.

use protocol::agent::Note;
use protocol::rights::Action;
use protocol::{JobId, Range};

use crate::blobs::Blobs;
use crate::clock::Millis;
use crate::error::ApiError;
use crate::scheduler::retry::{Missing, rows, rows_by_group, value_runs};
use crate::store::Store;
use crate::store::audit::{self, Actor};
use crate::store::blocks::{Placing, StoredBlock};
use crate::store::db::Tx;
use crate::store::jobs::JobRow;
use crate::store::outcomes::{self, Outcomes};
use crate::store::retries::{self, Cut, Retried, Retry};
use crate::store::{StoreError, drafts};

/// Rows that one read takes.
const ROWS: u32 = 1000;

/// Rows that one transaction writes.
const SLICE: u32 = 500;

/// Works out what a retry of `job`, which has ended, takes over and what it runs.
///
/// # Errors
/// When the database or a blob cannot be read or written.
pub async fn work_out(store: &Store, blobs: &Blobs, job: &JobRow) -> Result<Retry, ApiError> {
    let mut n_rows = 0;
    let (mut missing, mut next, mut micros, mut n_kept) = (Missing::default(), 0, 0, 0);
    let (mut cut, mut placing) = (Vec::new(), Placing::default());
    loop {
        let (id, from) = (job.id, next);
        let pieces = store
            .read(|tx| Box::pin(async move { retries::survey(tx, id, from, ROWS).await }))
            .await?;
        let Some(last) = pieces.last() else { break };
        next = last.first + last.n;
        n_rows += pieces.len() as u64;
        for piece in pieces {
            let n_values = piece.n - piece.errors.len() as u64;
            missing.outcomes(piece.first, piece.n, &piece.errors);
            n_kept += n_values;
            micros += share(piece.micros, n_values, piece.n);
            if !piece.errors.is_empty() && n_values > 0 {
                cut.extend(cut_out(store, blobs, &mut placing, id, piece.first).await?);
            }
        }
    }
    let missing = missing.finish(job.counts.total);
    let rows = if job.shape.nested {
        let groups = groups(store, job.id).await?;
        n_rows += groups.len() as u64;
        rows_by_group(&missing, groups)
    } else {
        rows(&missing)
    };
    Ok(Retry {
        of: job.id,
        id: JobId::new(),
        is_complete: rows.is_empty(),
        n_rows,
        n_kept,
        micros,
        cut,
        rows,
    })
}

/// Writes a retry down: in one transaction, or, if that would hold others up, in slices of which the
/// last makes it a job.
///
/// # Errors
/// When the database fails; then there is no new job.
pub async fn write(
    store: &Store,
    retry: Retry,
    actor: Actor,
    now: Millis,
) -> Result<Retried, StoreError> {
    let n_rows = retry.n_rows + (retry.cut.len() + retry.rows.len()) as u64;
    if n_rows > u64::from(SLICE) {
        return write_in_slices(store, retry, SLICE, actor, now).await;
    }
    let (of, id) = (retry.of, retry.id);
    store
        .write(move |tx| {
            Box::pin(async move {
                let retried = retries::insert(tx, retry, now).await?;
                record(tx, &retried, of, id, &actor, now).await?;
                Ok(retried)
            })
        })
        .await
}

/// Writes down who has retried job `of` as job `id`, if it was retried now.
async fn record(
    tx: &mut Tx<'_>,
    retried: &Retried,
    of: JobId,
    id: JobId,
    actor: &Actor,
    now: Millis,
) -> Result<(), StoreError> {
    if *retried != Retried::Now {
        return Ok(());
    }
    audit::record(tx, actor, Action::JobRetried, &[of], now).await?;
    audit::record(tx, actor, Action::JobSubmitted, &[id], now).await
}

/// Writes a retry down in slices of so many rows.
///
/// # Errors
/// When the database fails; then there is no new job.
pub async fn write_in_slices(
    store: &Store,
    retry: Retry,
    slice: u32,
    actor: Actor,
    now: Millis,
) -> Result<Retried, StoreError> {
    let (id, of) = (retry.id, retry.of);
    store
        .write(move |tx| Box::pin(async move { drafts::open(tx, id, Some(of), now).await }))
        .await?;
    let retried = write_draft(store, retry, slice, actor, now).await;
    if !matches!(retried, Ok(Retried::Now)) {
        store.write(move |tx| Box::pin(async move { drafts::discard(tx, id).await })).await?;
    }
    retried
}

async fn write_draft(
    store: &Store,
    mut retry: Retry,
    slice: u32,
    actor: Actor,
    now: Millis,
) -> Result<Retried, StoreError> {
    let (of, id) = (retry.of, retry.id);
    let mut position = 0;
    while store
        .write(move |tx| {
            Box::pin(async move {
                drafts::must_be_there(tx, id).await?;
                drafts::copy_groups(tx, of, id, position, slice).await
            })
        })
        .await?
    {
        position += u64::from(slice);
    }
    let mut next = Some(0);
    while let Some(first) = next {
        next = store
            .write(move |tx| {
                Box::pin(async move {
                    drafts::must_be_there(tx, id).await?;
                    drafts::copy_outcomes(tx, of, id, first, slice).await
                })
            })
            .await?;
    }
    for cuts in slices(std::mem::take(&mut retry.cut), slice) {
        store
            .write(move |tx| {
                Box::pin(async move {
                    drafts::must_be_there(tx, id).await?;
                    drafts::insert_cuts(tx, of, id, &cuts).await
                })
            })
            .await?;
    }
    for rows in slices(std::mem::take(&mut retry.rows), slice) {
        store
            .write(move |tx| {
                Box::pin(async move {
                    drafts::must_be_there(tx, id).await?;
                    drafts::return_all(tx, id, &rows, now).await
                })
            })
            .await?;
    }
    store
        .write(move |tx| {
            Box::pin(async move {
                let retried = retries::publish(tx, &retry, now).await?;
                record(tx, &retried, of, id, &actor, now).await?;
                Ok(retried)
            })
        })
        .await
}

fn slices<T>(all: Vec<T>, slice: u32) -> impl Iterator<Item = Vec<T>> {
    let mut all = all.into_iter();
    std::iter::from_fn(move || {
        let slice: Vec<T> = all.by_ref().take(slice as usize).collect();
        (!slice.is_empty()).then_some(slice)
    })
}

/// The part of `micros` that falls to `n` of `total`.
fn share(micros: u64, n: u64, total: u64) -> u64 {
    (u128::from(micros) * u128::from(n) / u128::from(total.max(1))) as u64
}

async fn groups(store: &Store, job: JobId) -> Result<Vec<Range>, ApiError> {
    let mut groups: Vec<Range> = Vec::new();
    loop {
        let from = groups.len() as u64;
        let some = store
            .read(|tx| Box::pin(async move { retries::groups(tx, job, from, ROWS).await }))
            .await?;
        if some.is_empty() {
            return Ok(groups);
        }
        groups.extend(some);
    }
}

/// The values of the outcomes that begin at `first`, without the errors between them.
async fn cut_out(
    store: &Store,
    blobs: &Blobs,
    placing: &mut Placing,
    job: JobId,
    first: u64,
) -> Result<Vec<Cut>, ApiError> {
    let mut read =
        store.read(|tx| Box::pin(async move { outcomes::read(tx, job, first, 1).await })).await?;
    let Some(outcomes) = (!read.is_empty()).then(|| read.swap_remove(0)) else {
        return Ok(Vec::new());
    };
    let n = outcomes.block.lengths.len() as u64;
    let runs = value_runs(n, &outcomes.errors);
    let block = outcomes.block.clone().load(blobs).await?;
    let mut values = Vec::with_capacity(runs.len());
    for run in runs {
        let (from, to) = (block.first + run.0, block.first + run.1);
        let (span, lengths) = outcomes.block.slice(from, to);
        if span.end > block.data.len() {
            return Err(ApiError::Internal("a block is shorter than its lengths".to_owned()));
        }
        let place = placing.place(&block.data.slice(span), blobs).await?;
        values.push(Cut {
            of: block.first,
            block: StoredBlock { first: from, lengths: lengths.to_vec(), place },
            notes: notes_of(&outcomes, run),
            micros: share(outcomes.micros, run.len(), n),
        });
    }
    Ok(values)
}

/// What is to say of the elements of `run`, by their positions in it.
fn notes_of(outcomes: &Outcomes, run: Range) -> Vec<Note> {
    let inside = |note: &&Note| run.contains(note.position.into());
    let moved = |note: &Note| Note {
        position: note.position - u32::try_from(run.0).unwrap_or(note.position),
        ..note.clone()
    };
    outcomes.notes.iter().filter(inside).map(moved).collect()
}
