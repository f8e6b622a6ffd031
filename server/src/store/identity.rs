//! Which database this is.

use protocol::DatabaseId;

use super::StoreError;
use super::db::{Tx, args};

/// The database's id, which is made when it is first asked for and never changes.
///
/// # Errors
/// The database's.
pub async fn database_id(tx: &mut Tx<'_>) -> Result<DatabaseId, StoreError> {
    if let Some(id) = known(tx).await? {
        return Ok(id);
    }
    // Of several servers that start together one is the first.
    tx.execute(
        "insert into meta (key, value) values ('database_id', $1) on conflict (key) do nothing",
        args![DatabaseId::new().to_string()],
    )
    .await?;
    known(tx).await?.ok_or_else(|| StoreError::corrupt("meta.value", "no id of the database"))
}

async fn known(tx: &mut Tx<'_>) -> Result<Option<DatabaseId>, StoreError> {
    let row = tx.first("select value from meta where key = 'database_id'", args![]).await?;
    row.map(|row| row.id("value")).transpose()
}
