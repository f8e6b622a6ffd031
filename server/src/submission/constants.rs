//! `args`, `globals` and `files`: values that are the same for every element, and may be blobs.

use std::collections::BTreeMap;
use std::io;

use protocol::agent::Constant;
use protocol::job::{Encoding, SubmitJob};
use serde_json::value::RawValue;

use super::{Faults, checks};
use crate::blobs::{Blobs, parse_digest};
use crate::block;
use crate::error::ApiError;

/// A reference to a blob, if `value` is one: an object of exactly `blob` and perhaps `encoding`,
/// whose `blob` starts as a digest does. Everything else is a value itself.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    blob: String,
    encoding: Option<String>,
}

impl Reference {
    fn read(value: &RawValue) -> Option<Self> {
        // An array of two texts is a value, though serde would take it for the fields in order.
        if !value.get().starts_with('{') {
            return None;
        }
        let reference: Self = serde_json::from_str(value.get()).ok()?;
        reference.blob.starts_with("sha256:").then_some(reference)
    }
}

/// Reads `args` or `globals`: blobs must be there and of an encoding that the runtime reads.
///
/// # Errors
/// When the folder of the blobs cannot be read. What is at fault in a field goes to `faults`.
pub async fn check(
    submission: &SubmitJob,
    field: &str,
    values: &BTreeMap<String, Box<RawValue>>,
    blobs: &Blobs,
    faults: &mut Faults,
) -> Result<BTreeMap<String, Constant>, ApiError> {
    let mut constants = BTreeMap::new();
    for (name, value) in values {
        let Some(reference) = Reference::read(value) else {
            constants.insert(name.clone(), Constant::Json(value.clone()));
            continue;
        };
        let field = format!("{field}.{name}");
        let encoding = match reference.encoding.as_deref().map(parse_encoding) {
            None => Encoding::Json,
            Some(Some(encoding)) => encoding,
            Some(None) => {
                faults.push(
                    format!("{field}.encoding"),
                    "is not known: must be json, rds, pickle or bytes",
                );
                continue;
            }
        };
        if let Err(message) = checks::encoding_of(submission.runtime, encoding) {
            faults.push(format!("{field}.encoding"), message);
        }
        check_there(&field, &reference.blob, blobs, faults).await?;
        constants.insert(name.clone(), Constant::Blob { digest: reference.blob, encoding });
    }
    Ok(constants)
}

fn parse_encoding(name: &str) -> Option<Encoding> {
    [Encoding::Json, Encoding::Rds, Encoding::Pickle, Encoding::Bytes]
        .into_iter()
        .find(|encoding| encoding.as_str() == name)
}

async fn check_there(
    field: &str,
    digest: &str,
    blobs: &Blobs,
    faults: &mut Faults,
) -> Result<(), ApiError> {
    if let Some(message) = fault_of(digest, blobs).await? {
        faults.push(field, message);
    }
    Ok(())
}

/// What is wrong with a reference to the blob `digest`, if something is.
///
/// # Errors
/// When the folder of the blobs cannot be read.
pub async fn fault_of(digest: &str, blobs: &Blobs) -> io::Result<Option<String>> {
    if parse_digest(digest).is_none() {
        let message = format!(
            "{digest:?} is not a digest: must be `sha256:` and the 64 hex digits, in lower case, \
             of the blob's SHA-256"
        );
        return Ok(Some(message));
    }
    let missing = || format!("there is no blob {digest}; upload it by PUT /v1/blobs/{digest}");
    Ok(if blobs.find(digest).await?.is_some() { None } else { Some(missing()) })
}

/// Reads `files`: the digest of a blob that is there.
///
/// # Errors
/// When the folder of the blobs cannot be read. What is at fault in the field goes to `faults`.
pub async fn files(
    submission: &SubmitJob,
    blobs: &Blobs,
    faults: &mut Faults,
) -> Result<Option<String>, ApiError> {
    let Some(files) = &submission.files else { return Ok(None) };
    faults.unless(
        matches!(files.encoding, None | Some(Encoding::Bytes)),
        "files.encoding",
        "must be left out: the files are a tar.gz",
    );
    check_there("files.blob", &files.blob, blobs, faults).await?;
    Ok(Some(files.blob.clone()))
}

/// Stores large values as blobs.
///
/// # Errors
/// When a blob cannot be written.
pub async fn store(
    constants: BTreeMap<String, Constant>,
    blobs: &Blobs,
) -> Result<BTreeMap<String, Constant>, ApiError> {
    let mut stored = BTreeMap::new();
    for (name, constant) in constants {
        let constant = match constant {
            Constant::Json(value) if value.get().len() > block::MAX_INLINE => {
                let digest = blobs.put(String::from(Box::<str>::from(value)).into()).await?;
                Constant::Blob { digest, encoding: Encoding::Json }
            }
            constant => constant,
        };
        stored.insert(name, constant);
    }
    Ok(stored)
}
