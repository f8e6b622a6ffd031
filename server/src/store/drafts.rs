//! Drafts: jobs that are written in slices, so that no transaction takes long, and that are not
//! there for anybody until the last one.
//!
//! A draft has rows in the large tables and one in `drafts`, but none in `jobs`. What is left of
//! one that came to nothing is cleared with the deleted jobs.

use protocol::{JobId, LeaseId, RangeSet};

use super::db::{Tx, args, json_text};
use super::retries::Cut;
use super::{StoreError, references};
use crate::block;
use crate::clock::Millis;

/// Stands for an agent where there is none: what is to run was never leased.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Begins a draft of a job; if it is a retry, of `source`, which is not deleted by age until it is done.
///
/// # Errors
/// The database's.
pub async fn open(
    tx: &mut Tx<'_>,
    job: JobId,
    source: Option<JobId>,
    now: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "insert into drafts (job_id, source, opened_at) values ($1, $2, $3)",
        args![job, source.map(|source| source.to_string()), now],
    )
    .await?;
    Ok(())
}

/// Ends a draft that is a job from now on. `false`: it was given up in the meantime.
///
/// # Errors
/// The database's.
pub(super) async fn close(tx: &mut Tx<'_>, job: JobId) -> Result<bool, StoreError> {
    Ok(tx.execute("delete from drafts where job_id = $1", args![job]).await? == 1)
}

/// Gives a draft up: what was written of it is left to be cleared.
///
/// # Errors
/// The database's.
pub async fn discard(tx: &mut Tx<'_>, job: JobId) -> Result<(), StoreError> {
    tx.execute(
        "insert into trash (job_id) select job_id from drafts where job_id = $1",
        args![job],
    )
    .await?;
    close(tx, job).await.map(drop)
}

/// Gives up what was opened at `until` or before and is unfinished: its server is gone.
///
/// # Errors
/// The database's.
pub async fn discard_old(tx: &mut Tx<'_>, until: Millis) -> Result<(), StoreError> {
    tx.execute(
        "insert into trash (job_id) select job_id from drafts where opened_at <= $1",
        args![until],
    )
    .await?;
    tx.execute("delete from drafts where opened_at <= $1", args![until]).await?;
    Ok(())
}

/// Fails if a draft was given up: what is written of it now would be cleared by nobody.
///
/// # Errors
/// That, and the database's.
pub async fn must_be_there(tx: &mut Tx<'_>, job: JobId) -> Result<(), StoreError> {
    match tx.first("select job_id from drafts where job_id = $1", args![job]).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::corrupt("drafts", "a draft was given up before its end")),
    }
}

/// Copies the outer elements of job `from` from `position` on, at most `limit`. Says whether there
/// may be more.
///
/// # Errors
/// The database's.
pub async fn copy_groups(
    tx: &mut Tx<'_>,
    from: JobId,
    to: JobId,
    position: u64,
    limit: u32,
) -> Result<bool, StoreError> {
    let copied = tx
        .execute(
            "insert into groups (job_id, position, first, n)
             select $2, position, first, n from groups
             where job_id = $1 and position >= $3 and position < $4",
            args![from, to, position, position + u64::from(limit)],
        )
        .await?;
    Ok(copied == u64::from(limit))
}

/// Copies, of the outcomes of job `from` from element `first` on, `limit` rows at most, those that
/// are all values, ranked in element order. Says where the next begins, if there is one.
///
/// # Errors
/// The database's.
pub async fn copy_outcomes(
    tx: &mut Tx<'_>,
    from: JobId,
    to: JobId,
    first: u64,
    limit: u32,
) -> Result<Option<u64>, StoreError> {
    let next = tx
        .first(
            "select first from outcomes where job_id = $1 and first >= $2
             order by first limit 1 offset $3",
            args![from, first, limit],
        )
        .await?;
    let next = next.map(|row| row.count("first")).transpose()?;
    let rank = next_rank(tx, to).await?;
    tx.execute(
        "insert into outcomes (job_id, first, n, lease_id, attempt, agent_id, agent_name, slot, pid,
             started_at, micros, errors, notes, lengths, data, digest, rank)
         select $2, first, n, lease_id, attempt, agent_id, agent_name, slot, pid,
             started_at, micros, errors, notes, lengths, data, digest,
             $5 + cast(sum(n) over (order by first) as bigint) - n
         from outcomes where job_id = $1 and errors = '[]' and first >= $3 and first < $4",
        args![from, to, first, next.unwrap_or(u64::MAX), rank],
    )
    .await?;
    tx.execute(
        "insert into artifacts (job_id, element, digest)
         select $2, a.element, a.digest
         from artifacts a join outcomes o on o.job_id = $1 and o.first = (
             select max(first) from outcomes where job_id = $1 and first <= a.element)
         where a.job_id = $1 and a.element >= $3 and a.element < $4 and o.errors = '[]'",
        args![from, to, first, next.unwrap_or(u64::MAX)],
    )
    .await?;
    Ok(next)
}

/// How many outcomes the draft has.
async fn next_rank(tx: &mut Tx<'_>, job: JobId) -> Result<u64, StoreError> {
    let row = tx
        .first(
            "select rank + n as next from outcomes where job_id = $1 order by rank desc limit 1",
            args![job],
        )
        .await?;
    row.map_or(Ok(0), |row| row.count("next"))
}

/// Writes values that were cut out of outcomes of job `from`, ranked behind those that are there.
///
/// # Errors
/// The database's.
pub async fn insert_cuts(
    tx: &mut Tx<'_>,
    from: JobId,
    to: JobId,
    cuts: &[Cut],
) -> Result<(), StoreError> {
    let mut rank = next_rank(tx, to).await?;
    for cut in cuts {
        insert_cut(tx, from, to, cut, rank).await?;
        rank += cut.block.lengths.len() as u64;
    }
    Ok(())
}

async fn insert_cut(
    tx: &mut Tx<'_>,
    from: JobId,
    to: JobId,
    cut: &Cut,
    rank: u64,
) -> Result<(), StoreError> {
    let (first, lengths) = (cut.block.first, &cut.block.lengths);
    let (data, digest) = cut.block.place.clone().into_columns();
    tx.execute(
        "insert into outcomes (job_id, first, n, lease_id, attempt, agent_id, agent_name, slot, pid,
             started_at, micros, errors, notes, lengths, data, digest, rank)
         select $3, $4, $5, lease_id, attempt, agent_id, agent_name, slot, pid,
             started_at, $6, '[]', $7, $8, $9, $10, $11
         from outcomes where job_id = $1 and first = $2",
        args![
            from,
            cut.of,
            to,
            first,
            lengths.len(),
            cut.micros,
            json_text(&cut.notes)?,
            block::encode_lengths(lengths),
            data,
            digest,
            rank
        ],
    )
    .await?;
    references::insert_artifacts(tx, to, first, &cut.notes).await
}

/// Writes what is to run as elements that came back without ever having been leased.
///
/// # Errors
/// The database's.
pub async fn return_all(
    tx: &mut Tx<'_>,
    job: JobId,
    rows: &[RangeSet],
    now: Millis,
) -> Result<(), StoreError> {
    for ranges in rows {
        tx.execute(
            "insert into leases (id, job_id, agent_id, state, ranges, remaining, slots, width,
                 attempt, lost, deaths, memory, granted_at, version)
             values ($1, $2, $3, 'released', $4, $5, 0, 0, 0, 0, '{}', 0, $6, 0)",
            args![LeaseId::new(), job, NOBODY, json_text(ranges)?, ranges.len(), now],
        )
        .await?;
    }
    Ok(())
}
