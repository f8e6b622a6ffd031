//! Who may read which blob: who has uploaded it, and whose job it is an artifact of. To know a digest
//! gives no right to the bytes: whoever has sent them had them before.

use super::StoreError;
use super::db::{Tx, args, json_text};
use crate::clock::Millis;

/// Writes down that `owner` has sent all bytes of the blob `digest`. Says whether it had not
/// before.
///
/// # Errors
/// The database's.
pub async fn add(
    tx: &mut Tx<'_>,
    owner: &str,
    digest: &str,
    now: Millis,
) -> Result<bool, StoreError> {
    let had = has(tx, owner, digest).await?;
    tx.execute(
        "insert into uploads (owner, digest, uploaded_at) values ($1, $2, $3)
         on conflict (owner, digest) do update set uploaded_at = excluded.uploaded_at",
        args![owner, digest, now],
    )
    .await?;
    Ok(!had)
}

/// Forgets who has sent the blobs `digests`, which are gone.
///
/// # Errors
/// The database's.
pub async fn forget(tx: &mut Tx<'_>, digests: &[String]) -> Result<(), StoreError> {
    tx.execute(
        "delete from uploads where digest in (select value from json_each($1))",
        args![json_text(&digests)?],
    )
    .await?;
    Ok(())
}

pub(super) const HAS: &str = "
    select 1 from uploads where owner = $1 and digest = $2
    union all select 1 from artifacts a join jobs j on j.id = a.job_id
    where a.digest = $2 and j.owner = $1 limit 1";

/// Whether `owner` has uploaded the blob `digest`, or has a job of which it is an artifact.
///
/// # Errors
/// The database's.
pub async fn has(tx: &mut Tx<'_>, owner: &str, digest: &str) -> Result<bool, StoreError> {
    let row = tx.first(HAS, args![owner, digest]).await?;
    Ok(row.is_some())
}
