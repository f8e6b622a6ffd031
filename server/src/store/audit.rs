//! The audit log: what was done, and by whom. Each entry is written in the transaction of the act
//! itself, so that neither is there without the other.

use std::fmt;
use std::str::FromStr;

use protocol::rights::{Action, AuditEntry};
use serde::Serialize;

use super::StoreError;
use super::db::{Row, Tx, args, json_text};
use crate::clock::{Millis, rfc3339};

/// Who does something, by which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The id of the token.
    pub token: String,
    /// What the token is called.
    pub name: String,
    /// The address from which the request came, if it is known.
    pub address: Option<String>,
    /// The id of the request, younger ones larger.
    pub request: String,
}

/// Writes down that `actor` did something to each of `objects`, by their ids.
///
/// # Errors
/// The database's.
pub async fn record<T: Serialize + Sync>(
    tx: &mut Tx<'_>,
    actor: &Actor,
    action: Action,
    objects: &[T],
    now: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "insert into audit (id, object_id, at, action, token_id, token_name, address, request_id)
         select $1, value, $2, $3, $4, $5, $6, $1 from json_each($7) where true
         on conflict (id, object_id) do nothing",
        args![
            actor.request.as_str(),
            now,
            action.as_str(),
            actor.token.as_str(),
            actor.name.as_str(),
            actor.address.clone(),
            json_text(&objects)?
        ],
    )
    .await?;
    Ok(())
}

/// An entry's place in the order of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    id: String,
    object: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.object)
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (id, object) = text.split_once('/').ok_or(NoPlace)?;
        Ok(Self { id: id.to_owned(), object: object.to_owned() })
    }
}

/// A text that is not the place of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// Entries, the newest first, that come before `before`, at most `limit`; only those of `object`, if
/// it is given. Each with its place.
///
/// # Errors
/// The database's.
pub async fn list(
    tx: &mut Tx<'_>,
    before: Option<&Place>,
    object: Option<&str>,
    limit: u32,
) -> Result<Vec<(Place, AuditEntry)>, StoreError> {
    // "g" sorts behind every hex digit, so behind every id.
    let (id, last) = before.map_or(("g", ""), |place| (&place.id, &place.object));
    let rows = match object {
        None => tx.all(SELECT_PAGE, args![id, last, limit]).await?,
        Some(object) => tx.all(SELECT_PAGE_OF_OBJECT, args![id, object, limit]).await?,
    };
    rows.iter().map(entry).collect()
}

pub(super) const SELECT_PAGE: &str = "
    select id, object_id, at, action, token_id, token_name, address, request_id from audit
    where (id, object_id) < ($1, $2) order by id desc, object_id desc limit $3";

pub(super) const SELECT_PAGE_OF_OBJECT: &str = "
    select id, object_id, at, action, token_id, token_name, address, request_id from audit
    where object_id = $2 and id < $1 order by id desc limit $3";

fn entry(row: &Row) -> Result<(Place, AuditEntry), StoreError> {
    let (id, object, action) = (row.text("id")?, row.text("object_id")?, row.text("action")?);
    let entry = AuditEntry {
        at: rfc3339(row.int("at")?),
        action: Action::parse(&action).ok_or_else(|| StoreError::corrupt("action", &action))?,
        object: object.clone(),
        token: row.text("token_id")?,
        token_name: row.text("token_name")?,
        address: row.maybe_text("address")?,
        request: row.text("request_id")?,
    };
    Ok((Place { id, object }, entry))
}

/// Removes at most `limit` entries that are older than `before`. `false`: there are no more.
///
/// # Errors
/// The database's.
pub async fn forget(tx: &mut Tx<'_>, before: Millis, limit: u32) -> Result<bool, StoreError> {
    let removed = tx
        .execute(
            "delete from audit where (id, object_id) in (
                 select id, object_id from audit where at < $1 order by at limit $2)",
            args![before, limit],
        )
        .await?;
    Ok(removed == u64::from(limit))
}
