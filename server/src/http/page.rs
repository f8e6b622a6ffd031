//! Pages of lists.

use protocol::job::Page;

use crate::error::ApiError;

/// Entries of a page unless asked for otherwise.
const DEFAULT_LIMIT: u32 = 100;

/// Entries of a page at the most.
const MAX_LIMIT: u32 = 1000;

/// The entries that a page is to hold.
///
/// # Errors
/// When `limit` is not from 1 to 1000.
pub fn checked_limit(limit: Option<u32>) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::field("limit", format!("is {limit}, must be from 1 to {MAX_LIMIT}")))
}

/// Cuts a page from `items`, of which one more than `limit` was read.
pub fn cut<T>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Page<T> {
    let limit = limit as usize;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(cursor);
    Page { items, next }
}
