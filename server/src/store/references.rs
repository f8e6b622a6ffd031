//! Which blobs are referred to: by the rows of inputs, names and outcomes, by the specifications of
//! jobs, and as artifacts by the notes of outcomes.
//!
//! A row that refers to a blob is the reference: it comes and goes with the row, in the same
//! transaction, and an index finds it by the digest. Only what stands inside JSON has a row of its own:
//! of a specification in `job_blobs`, of a note in `artifacts`.

use std::collections::BTreeSet;

use protocol::JobId;
use protocol::agent::{Constant, JobSpec, Note};

use super::StoreError;
use super::db::{Tx, args, json_text};
use super::specs;

/// In `meta` while specifications of jobs that were submitted to earlier versions are not read yet.
const TO_BE_READ: &str = "job_blobs";

/// The blobs that a specification refers to.
pub fn digests_of(spec: &JobSpec) -> BTreeSet<&str> {
    let constants = spec.args.values().chain(spec.globals.values());
    let blobs = constants.filter_map(|constant| match constant {
        Constant::Blob { digest, .. } => Some(digest.as_str()),
        Constant::Json(_) => None,
    });
    blobs.chain(spec.files.as_deref()).collect()
}

/// Writes down what the specification of `job` refers to.
///
/// # Errors
/// The database's.
pub(super) async fn insert(tx: &mut Tx<'_>, job: JobId, spec: &JobSpec) -> Result<(), StoreError> {
    for digest in digests_of(spec) {
        tx.execute(
            "insert into job_blobs (job_id, digest) values ($1, $2) on conflict do nothing",
            args![job, digest],
        )
        .await?;
    }
    Ok(())
}

/// Takes away what the specification of a job referred to.
///
/// # Errors
/// The database's.
pub(super) async fn delete(tx: &mut Tx<'_>, job: JobId) -> Result<(), StoreError> {
    tx.execute("delete from job_blobs where job_id = $1", args![job]).await?;
    Ok(())
}

/// Writes down which blobs the notes of the outcomes from `first` on list as artifacts.
///
/// # Errors
/// The database's.
pub(super) async fn insert_artifacts(
    tx: &mut Tx<'_>,
    job: JobId,
    first: u64,
    notes: &[Note],
) -> Result<(), StoreError> {
    for note in notes.iter().filter(|note| !note.artifacts.is_empty()) {
        let digests: BTreeSet<&str> =
            note.artifacts.iter().map(|artifact| artifact.digest.as_str()).collect();
        tx.execute(
            "insert into artifacts (job_id, element, digest)
             select $1, $2, value from json_each($3) where true on conflict do nothing",
            args![job, first + u64::from(note.position), json_text(&digests)?],
        )
        .await?;
    }
    Ok(())
}

pub(super) const UNREFERENCED: &str = "
    select one.value as digest from json_each($1) as one
    where not exists (select 1 from blocks where digest = one.value)
        and not exists (select 1 from outcomes where digest = one.value)
        and not exists (select 1 from job_blobs where digest = one.value)
        and not exists (select 1 from artifacts where digest = one.value)";

/// Those of `digests` that nothing refers to.
///
/// # Errors
/// The database's.
pub async fn unreferenced(tx: &mut Tx<'_>, digests: &[String]) -> Result<Vec<String>, StoreError> {
    if digests.is_empty() || is_to_be_read(tx).await? {
        return Ok(Vec::new());
    }
    let rows = tx.all(UNREFERENCED, args![json_text(&digests)?]).await?;
    rows.iter().map(|row| row.text("digest")).collect()
}

pub(super) const REFERENCED: &str = "
    select digest from (
        select distinct digest from blocks where digest > $1 order by digest limit $2) as one
    union select digest from (
        select distinct digest from outcomes where digest > $1 order by digest limit $2) as two
    union select digest from (
        select distinct digest from job_blobs where digest > $1 order by digest limit $2) as three
    union select digest from (
        select distinct digest from artifacts where digest > $1 order by digest limit $2) as four
    order by digest limit $2";

/// The digests behind `after` that something refers to, each once, ascending, at most `limit`.
///
/// # Errors
/// The database's.
pub async fn referenced(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    let rows = tx.all(REFERENCED, args![after, limit]).await?;
    rows.iter().map(|row| row.text("digest")).collect()
}

/// Whether there are specifications that were not read yet: then nobody knows what they refer to.
///
/// # Errors
/// The database's.
pub async fn is_to_be_read(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let row = tx.first("select 1 from meta where key = $1", args![TO_BE_READ]).await?;
    Ok(row.is_some())
}

/// Reads the specifications of jobs behind the id `after`, at most `limit`, and writes down what
/// they refer to. Says where the next begin; `None`: all are read.
///
/// # Errors
/// The database's.
pub async fn read_earlier(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Option<String>, StoreError> {
    if !is_to_be_read(tx).await? {
        return Ok(None);
    }
    let rows = tx
        .all(
            "select id, spec, options from jobs where id > $1 order by id limit $2",
            args![after, limit],
        )
        .await?;
    for row in &rows {
        match specs::spec(row) {
            Ok(spec) => insert(tx, row.id("id")?, &spec).await?,
            // Nothing runs it either, and a server that does not start helps nobody.
            Err(error) => {
                tracing::error!(job = row.text("id")?, %error, "a specification cannot be read");
            }
        }
    }
    match rows.last() {
        Some(last) => last.text("id").map(Some),
        None => {
            tx.execute("delete from meta where key = $1", args![TO_BE_READ]).await?;
            Ok(None)
        }
    }
}
