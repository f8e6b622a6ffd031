//! Blobs in a bucket: which object holds each, how old it is, and which objects are to go.
//!
//! The row of a blob in `objects` is the blob. It is written when its object is whole, and taken away
//! in the transaction that finds the blob old and sees that nothing refers to it. Transactions that write
//! follow one another, so whoever puts or finds a blob comes before that one, and the blob is young; or
//! behind it, and the blob is gone.
//!
//! An object is written down in `loose_objects` before it is sent, and again when its blob is gone, until
//! it is removed. So every object that may be in the bucket is in one of the two tables, whatever is
//! killed and whenever.

use super::StoreError;
use super::db::{Tx, args, json_text};
use super::{references, uploads};
use crate::blobs::Removed;
use crate::clock::Millis;

/// What holds a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
}

/// An object that holds no blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loose {
    /// Its name.
    pub name: String,
    /// The multipart upload that was to make it, if one was.
    pub upload: Option<String>,
}

/// What became of an object that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It holds the blob, which was not there before.
    Now,
    /// Another object held it already, so this one is doomed.
    Before,
    /// It took so long that it was taken for broken off, and is doomed.
    TooLate,
}

/// Writes down that the object `name` is about to be sent, by a multipart upload if it is one.
///
/// # Errors
/// The database's.
pub async fn begin(
    tx: &mut Tx<'_>,
    name: &str,
    upload: Option<&str>,
    now: Millis,
) -> Result<(), StoreError> {
    tx.execute(
        "insert into loose_objects (name, upload, doomed, since) values ($1, $2, false, $3)",
        args![name, upload.map(str::to_owned), now],
    )
    .await?;
    Ok(())
}

/// Finds the blob `digest`, as [`find`] does; or writes down that the object `name` is about to be sent
/// to hold it.
///
/// # Errors
/// The database's.
pub async fn find_or_begin(
    tx: &mut Tx<'_>,
    digest: &str,
    name: &str,
    now: Millis,
) -> Result<Option<u64>, StoreError> {
    let found = find(tx, digest, now).await?;
    if found.is_none() {
        begin(tx, name, None, now).await?;
    }
    Ok(found)
}

/// Lets the object `name`, which is whole, hold the blob `digest` of so many bytes; or makes the blob
/// young if there is one.
///
/// # Errors
/// The database's.
pub async fn keep(
    tx: &mut Tx<'_>,
    name: &str,
    digest: &str,
    bytes: u64,
    now: Millis,
) -> Result<Kept, StoreError> {
    // Whoever has doomed it may be removing it at this moment.
    let was_begun =
        tx.execute("delete from loose_objects where name = $1 and not doomed", args![name]).await?;
    if was_begun == 0 {
        return Ok(Kept::TooLate);
    }
    if find(tx, digest, now).await?.is_some() {
        tx.execute(
            "insert into loose_objects (name, upload, doomed, since) values ($1, null, true, $2)",
            args![name, now],
        )
        .await?;
        return Ok(Kept::Before);
    }
    tx.execute(
        "insert into objects (digest, name, bytes, found_at) values ($1, $2, $3, $4)",
        args![digest, name, bytes, now],
    )
    .await?;
    Ok(Kept::Now)
}

/// Dooms the object `name`, whose upload has failed, to be removed from `since` on.
///
/// # Errors
/// The database's.
pub async fn give_up(tx: &mut Tx<'_>, name: &str, since: Millis) -> Result<(), StoreError> {
    tx.execute(
        "update loose_objects set doomed = true, since = $2 where name = $1",
        args![name, since],
    )
    .await?;
    Ok(())
}

/// Finds the blob `digest` for something that is to refer to it, and so makes it young. Gives its
/// size; `None`: there is none.
///
/// # Errors
/// The database's.
pub async fn find(tx: &mut Tx<'_>, digest: &str, now: Millis) -> Result<Option<u64>, StoreError> {
    // Another server's clock may be ahead by a little.
    let there = tx
        .execute(
            "update objects set found_at = case when found_at > $2 then found_at else $2 end
             where digest = $1",
            args![digest, now],
        )
        .await?;
    if there == 0 {
        return Ok(None);
    }
    Ok(get(tx, digest).await?.map(|object| object.bytes))
}

pub(super) const GET: &str = "select name, bytes from objects where digest = $1";

/// The object that holds the blob `digest`, which stays as old as it is.
///
/// # Errors
/// The database's.
pub async fn get(tx: &mut Tx<'_>, digest: &str) -> Result<Option<Object>, StoreError> {
    let row = tx.first(GET, args![digest]).await?;
    row.map(|row| Ok(Object { name: row.text("name")?, bytes: row.count("bytes")? })).transpose()
}

pub(super) const OLD: &str = "
    select digest, found_at from objects
    where found_at <= $1 and (found_at, digest) > ($2, $3)
    order by found_at, digest limit $4";

/// Where a walk through old blobs goes on: behind this time and digest.
pub type Place = (Millis, String);

/// Blobs that were last put or found at `until` or before, behind `after` in the order of their age, at
/// most `limit`; and where the next begin.
///
/// # Errors
/// The database's.
pub async fn old(
    tx: &mut Tx<'_>,
    until: Millis,
    after: &Place,
    limit: u32,
) -> Result<(Vec<String>, Option<Place>), StoreError> {
    let rows = tx.all(OLD, args![until, after.0, after.1.as_str(), limit]).await?;
    let next = match rows.last() {
        Some(last) => Some((last.int("found_at")?, last.text("digest")?)),
        None => None,
    };
    Ok((rows.iter().map(|row| row.text("digest")).collect::<Result<_, _>>()?, next))
}

/// Takes away those blobs of `digests` that are still as old as `until` and to which nothing refers,
/// and dooms their objects.
///
/// # Errors
/// The database's.
pub async fn doom_old(
    tx: &mut Tx<'_>,
    digests: &[String],
    until: Millis,
    now: Millis,
) -> Result<Removed, StoreError> {
    let digests = references::unreferenced(tx, digests).await?;
    let rows = tx
        .all(
            "select digest, bytes from objects
             where digest in (select value from json_each($1)) and found_at <= $2",
            args![json_text(&digests)?, until],
        )
        .await?;
    let mut removed = Removed::default();
    let mut gone: Vec<String> = Vec::new();
    for row in &rows {
        gone.push(row.text("digest")?);
        removed.n += 1;
        removed.bytes += row.count("bytes")?;
    }
    if gone.is_empty() {
        return Ok(removed);
    }
    let list = json_text(&gone)?;
    tx.execute(
        "insert into loose_objects (name, upload, doomed, since)
         select name, null, true, $2 from objects where digest in (select value from json_each($1))",
        args![list.as_str(), now],
    )
    .await?;
    tx.execute(
        "delete from objects where digest in (select value from json_each($1))",
        args![list],
    )
    .await?;
    uploads::forget(tx, &gone).await?;
    Ok(removed)
}

/// Dooms objects that have been on their way since `until` or before: who sent them is gone.
///
/// # Errors
/// The database's.
pub async fn doom_broken(tx: &mut Tx<'_>, until: Millis, now: Millis) -> Result<u64, StoreError> {
    tx.execute(
        "update loose_objects set doomed = true, since = $2 where not doomed and since <= $1",
        args![until, now],
    )
    .await
}

/// Objects that are to be removed at `now`, behind the name `after`, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn doomed(
    tx: &mut Tx<'_>,
    now: Millis,
    after: &str,
    limit: u32,
) -> Result<Vec<Loose>, StoreError> {
    let rows = tx
        .all(
            "select name, upload from loose_objects
             where doomed and since <= $1 and name > $2 order by name limit $3",
            args![now, after, limit],
        )
        .await?;
    rows.iter()
        .map(|row| Ok(Loose { name: row.text("name")?, upload: row.maybe_text("upload")? }))
        .collect()
}

/// Forgets doomed objects that have been removed.
///
/// # Errors
/// The database's.
pub async fn forget(tx: &mut Tx<'_>, names: &[String]) -> Result<(), StoreError> {
    tx.execute(
        "delete from loose_objects where doomed and name in (select value from json_each($1))",
        args![json_text(&names)?],
    )
    .await?;
    Ok(())
}

/// Forgets that blobs are in a bucket, in a copy of a database whose blobs are copied to a folder.
///
/// # Errors
/// The database's.
pub async fn clear(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    tx.execute("delete from objects", args![]).await?;
    tx.execute("delete from loose_objects", args![]).await?;
    tx.execute("delete from meta where key = $1", args![super::BLOBS_ID]).await?;
    Ok(())
}
