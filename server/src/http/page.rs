//! Pages of lists.

use std::fmt::Display;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::job::Page;
use serde::{Deserialize, Deserializer, de};

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

/// Where a list goes on: behind the entry of this id. On the wire it means nothing to anybody, so
/// that a list may come to be ordered otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor<T>(pub T);

/// What a cursor's text begins with once it is decoded.
const MARK: &str = "after:";

impl<T: Display> Cursor<T> {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{MARK}{}", self.0))
    }
}

#[cfg(feature = "fuzzing")]
impl<T: Display> serde::Serialize for Cursor<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Cursor<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let decoded = URL_SAFE_NO_PAD.decode(&text).ok().and_then(|b| String::from_utf8(b).ok());
        // Not every database can be asked for a NUL character.
        let decoded = decoded.filter(|text| !text.contains('\0'));
        let id = decoded.as_deref().and_then(|text| text.strip_prefix(MARK)?.parse().ok());
        id.map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not the `next` of a page; leave it out to begin"
            ))
        })
    }
}

/// Cuts a page from `items`, of which one more than `limit` was read.
pub fn cut<T, I: Display>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> I) -> Page<T> {
    let limit = limit as usize;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(|last| Cursor(id(last)).encode());
    Page { items, next }
}

#[cfg(test)]
mod tests {
    use protocol::JobId;

    use super::*;
    use crate::store::audit::Place;

    fn read(text: &str) -> Result<Cursor<JobId>, serde_json::Error> {
        serde_json::from_value(text.into())
    }

    #[test]
    fn a_cursor_that_no_database_can_be_asked_for_is_refused() {
        let text = URL_SAFE_NO_PAD.encode("after:a\0/b");
        let read = serde_json::from_value::<Cursor<Place>>(text.into());
        assert!(read.unwrap_err().to_string().contains("`next`"));
    }

    #[test]
    fn a_cursor_comes_back_and_anything_else_is_refused() {
        let id = JobId::new();
        assert_eq!(read(&Cursor(id).encode()).unwrap(), Cursor(id));
        for text in ["", "x", &id.to_string(), &URL_SAFE_NO_PAD.encode("after:1"), "ÿ"] {
            assert!(read(text).unwrap_err().to_string().contains("`next`"), "{text}");
        }
    }
}
