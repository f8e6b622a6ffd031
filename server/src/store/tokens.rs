//! Who may call. A token itself is nowhere kept: only its SHA-256.

use super::StoreError;
use super::db::{Tx, args};
use crate::clock::Millis;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's id: the owner of what it submits.
    pub owner: String,
    /// What it may do.
    pub role: String,
}

/// Finds the token whose SHA-256 is `hash`, in hex.
///
/// # Errors
/// The database's.
pub async fn find(tx: &mut Tx<'_>, hash: &str) -> Result<Option<Identity>, StoreError> {
    let row = tx.first("select id, role from tokens where hash = $1", args![hash]).await?;
    row.map(|row| Ok(Identity { owner: row.text("id")?, role: row.text("role")? })).transpose()
}

/// Makes the token whose SHA-256 is `hash` an administrator's, if it is not known.
///
/// # Errors
/// The database's.
pub async fn ensure_admin(tx: &mut Tx<'_>, hash: &str, now: Millis) -> Result<(), StoreError> {
    tx.execute(
        "insert into tokens (id, hash, role, name, created_at) values ($1, $2, 'admin', $3, $4)
         on conflict (hash) do nothing",
        // An owner is known to agents by this id, so it must not be the hash.
        args![protocol::JobId::new(), hash, "first administrator", now],
    )
    .await?;
    Ok(())
}
