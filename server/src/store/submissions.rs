//! Submissions, each accepted once, whole or not at all, however often it is sent.

use std::collections::HashSet;

use protocol::JobId;

use super::StoreError;
use super::db::{Tx, args};
use super::ends::{self, Ending};
use super::jobs::{self, NewJob};
use super::tokens::Scope;
use crate::clock::Millis;

/// What makes a submission that is sent again known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The `Idempotency-Key`.
    pub key: String,
    /// Names the route and the body.
    pub digest: String,
}

/// What a submission came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is written down; of its jobs these have ended at once.
    Now(Ending),
    /// It was before, as these jobs.
    Before(Vec<JobId>),
    /// Its key was used with another body.
    KeyReused,
    /// A job that one of its jobs comes after is not there.
    NoSuchJob {
        /// Which of its jobs.
        job: usize,
        /// Which entry of that job's `after`.
        after: usize,
    },
}

/// Writes the jobs of one submission down, all of them or none. They may come after jobs that `scope`
/// means.
///
/// # Errors
/// The database's.
pub async fn accept(
    tx: &mut Tx<'_>,
    owner: &str,
    scope: &Scope,
    key: Option<Key>,
    submitted: Vec<NewJob>,
    now: Millis,
) -> Result<Accepted, StoreError> {
    if let Some(key) = &key
        && let Some(before) = known(tx, owner, key).await?
    {
        return Ok(before);
    }
    if let Some((job, after)) = missing(tx, &submitted, scope).await? {
        return Ok(Accepted::NoSuchJob { job, after });
    }
    if let Some(key) = &key {
        tx.execute(
            "insert into idempotency_keys (owner, key, digest) values ($1, $2, $3)",
            args![owner, key.key.as_str(), key.digest.as_str()],
        )
        .await?;
    }
    let mut ending = Ending::default();
    for mut job in submitted {
        job.idempotency_key = key.as_ref().map(|key| key.key.clone());
        ending.ended.extend(jobs::insert(tx, job, now).await?.ended);
    }
    Ok(Accepted::Now(ending))
}

/// Which entry of which `after` names a job that is not there, if one does.
async fn missing(
    tx: &mut Tx<'_>,
    submitted: &[NewJob],
    scope: &Scope,
) -> Result<Option<(usize, usize)>, StoreError> {
    // Often many come after the same: these are looked for once.
    let mut seen = HashSet::new();
    let entries = submitted.iter().flat_map(|job| &job.after);
    let distinct: Vec<JobId> = entries.filter(|&&on| seen.insert(on)).copied().collect();
    if distinct.is_empty() {
        return Ok(None);
    }
    let Some(missing) = ends::first_missing(tx, &distinct, scope).await? else { return Ok(None) };
    let entry = |job: &NewJob| job.after.iter().position(|&on| on == missing);
    Ok(submitted.iter().enumerate().find_map(|(job, new)| Some((job, entry(new)?))))
}

/// What a submission with `key` came to before; `None`: there was none.
///
/// # Errors
/// The database's.
pub async fn known(
    tx: &mut Tx<'_>,
    owner: &str,
    key: &Key,
) -> Result<Option<Accepted>, StoreError> {
    let row = tx
        .first(
            "select digest from idempotency_keys where owner = $1 and key = $2",
            args![owner, key.key.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.text("digest")? != key.digest {
        return Ok(Some(Accepted::KeyReused));
    }
    let rows = tx
        .all(
            // Ids ascend in the order in which the jobs were submitted.
            "select id from jobs where owner = $1 and idempotency_key = $2 order by id",
            args![owner, key.key.as_str()],
        )
        .await?;
    let jobs: Result<_, _> = rows.iter().map(|row| row.id("id")).collect();
    jobs.map(|jobs| Some(Accepted::Before(jobs)))
}
