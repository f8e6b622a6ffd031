//! Which database this is.

use protocol::DatabaseId;

use super::db::Tx;
use super::{StoreError, settle};

/// The database's id, which is made when it is first asked for and never changes.
///
/// # Errors
/// The database's.
pub async fn database_id(tx: &mut Tx<'_>) -> Result<DatabaseId, StoreError> {
    let id = settle(tx, "database_id", DatabaseId::new().to_string()).await?;
    id.parse().map_err(|_| StoreError::corrupt("meta.value", &id))
}
