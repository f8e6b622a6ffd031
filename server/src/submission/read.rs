//! Bodies of JSON, refused in words of JSON that name the field at fault.

use std::borrow::Cow;

use protocol::job::SubmitJob;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use crate::error::ApiError;

/// Bytes from which on work on them is done where it holds up no other request.
const HEAVY: usize = 1 << 20;

/// Does `work` on `n_bytes`: much work is moved out of the way of the other tasks of this thread.
pub fn heavy<T>(n_bytes: usize, work: impl FnOnce() -> T) -> T {
    if n_bytes < HEAVY { work() } else { tokio::task::block_in_place(work) }
}

/// Reads a body of JSON.
///
/// # Errors
/// What is wrong, naming the field at fault.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    heavy(body.len(), || {
        let mut json = serde_json::Deserializer::from_slice(body);
        let read =
            serde_path_to_error::deserialize(&mut json).map_err(|error| refused(error, body))?;
        json.end()
            .map_err(|e| ApiError::BadRequest(format!("the body goes on after its JSON: {e}")))?;
        Ok(read)
    })
}

/// Reads a submission, and apart from it the elements that stand in it, which are not copied: they may be
/// nearly all of the body.
///
/// # Errors
/// What is wrong, naming the field at fault.
pub fn read_submission(body: &[u8]) -> Result<(SubmitJob, Option<Cow<'_, RawValue>>), ApiError> {
    if body.len() >= HEAVY
        && let Some(apart) = heavy(body.len(), || apart(body))
    {
        return Ok(apart);
    }
    // What is wrong is told by where it stands in all of it.
    let mut submission: SubmitJob = read_json(body)?;
    let elements = submission.elements.take().map(Cow::Owned);
    Ok((submission, elements))
}

fn apart(body: &[u8]) -> Option<(SubmitJob, Option<Cow<'_, RawValue>>)> {
    #[derive(Deserialize)]
    struct Elements<'a> {
        #[serde(borrow)]
        elements: &'a RawValue,
    }
    let elements = serde_json::from_slice::<Elements<'_>>(body).ok()?.elements;
    let start = elements.get().as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    let end = start + elements.get().len();
    let rest = [body.get(..start)?, b"null", body.get(end..)?].concat();
    let submission = serde_json::from_slice(&rest).ok()?;
    Some((submission, (elements.get() != "null").then_some(Cow::Borrowed(elements))))
}

fn refused(error: serde_path_to_error::Error<serde_json::Error>, body: &[u8]) -> ApiError {
    let path = error.path().to_string();
    let field = if path == "." { "body".to_owned() } else { path };
    let inner = error.into_inner();
    if inner.is_data() {
        return ApiError::field(field, in_json_words(&inner.to_string()));
    }
    // What is no word where a word must be, serde_json calls a fault in the JSON itself.
    if serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        let message = format!("is of the wrong type, must be a word ({inner})");
        return ApiError::field(field, message);
    }
    ApiError::BadRequest(format!("the body is not JSON: {inner}"))
}

/// What serde says in Rust's words, in JSON's.
const WORDS: [(&str, &str); 12] = [
    ("f64", "a number"),
    ("u32", "a whole number from 0"),
    ("u64", "a whole number from 0"),
    ("i32", "a whole number"),
    ("a map", "an object"),
    ("a sequence", "an array"),
    ("struct SubmitJob", "an object"),
    ("struct SubmitJobs", "an object such as {\"jobs\": [...]}"),
    ("struct BlobRef", "an object such as {\"blob\": \"sha256:...\"}"),
    ("struct Options", "an object"),
    ("struct Level", "an object such as {\"strategy\": \"cluster\"}"),
    ("any valid JSON value", "a value"),
];

fn in_json_words(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message
        .replace("type: sequence", "type: array")
        .replace("type: map", "type: object")
        .replace("unknown variant `", "unknown value `");
    match message.rsplit_once("expected ") {
        Some((found, expected)) => {
            let word = WORDS.iter().find(|(rust, _)| *rust == expected);
            format!("{found}expected {}", word.map_or(expected, |(_, json)| json))
        }
        None => message,
    }
}
