//! From the body of a submission to a job that can be stored: read, checked, packed.

use std::collections::BTreeMap;

use protocol::agent::{Constant, JobSpec};
use protocol::job::{Encoding, Function, Options, Slots, SubmitJob};
use protocol::{FieldError, JobId};
use serde::de::DeserializeOwned;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::blobs::Blobs;
use crate::block;
use crate::elements::{self, Elements};
use crate::error::ApiError;
use crate::plan;
use crate::store::blocks::StoredBlock;
use crate::store::jobs::NewJob;

/// Characters of a name at the most.
const MAX_NAME: usize = 200;

/// Seconds of a timeout at the most: a year.
const MAX_TIMEOUT: f64 = 366.0 * 24.0 * 3600.0;

/// How often an element may be run again at the most.
const MAX_RETRIES: u32 = 1000;

/// Bytes from which on work on them is done where it holds up no other request.
const HEAVY: usize = 1 << 20;

/// Does `work` on `n_bytes`: much work is moved out of the way of the other tasks of this thread.
fn heavy<T>(n_bytes: usize, work: impl FnOnce() -> T) -> T {
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
const WORDS: [(&str, &str); 10] = [
    ("f64", "a number"),
    ("u32", "a whole number from 0"),
    ("u64", "a whole number from 0"),
    ("i32", "a whole number"),
    ("a map", "an object"),
    ("a sequence", "an array"),
    ("struct SubmitJob", "an object"),
    ("struct Options", "an object"),
    ("struct Level", "an object such as {\"strategy\": \"cluster\"}"),
    ("any valid JSON value", "a value"),
];

fn in_json_words(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    let message =
        message.replace("type: sequence", "type: array").replace("type: map", "type: object");
    match message.rsplit_once("expected ") {
        Some((found, expected)) => {
            let word = WORDS.iter().find(|(rust, _)| *rust == expected);
            format!("{found}expected {}", word.map_or(expected, |(_, json)| json))
        }
        None => message,
    }
}

/// Checks a submission and stores its large parts.
///
/// # Errors
/// Every field at fault at once.
pub async fn prepare(
    submission: SubmitJob,
    owner: String,
    blobs: &Blobs,
) -> Result<NewJob, ApiError> {
    let mut faults = Faults::default();
    check(&submission, &mut faults);
    let nested = plan::is_nested(&submission.plan).unwrap_or_default();
    let elements = match submission.elements.as_deref() {
        Some(elements) => heavy(elements.get().len(), || elements::parse(elements, nested)),
        None => Err(FieldError {
            field: "elements".to_owned(),
            message: "is missing: give an array, an object, or {\"range\": [from, to]}".to_owned(),
        }),
    };
    let elements = match elements {
        Ok(elements) if faults.0.is_empty() => elements,
        Ok(_) => return Err(ApiError::Invalid(faults.0)),
        Err(fault) => {
            faults.0.push(fault);
            return Err(ApiError::Invalid(faults.0));
        }
    };
    let (id, total, shape) = (JobId::new(), elements.total, elements.shape);
    let Elements { payloads, names, outer_names, groups, .. } = elements;
    let input_bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
    Ok(NewJob {
        id,
        owner: owner.clone(),
        name: submission.name.clone(),
        total,
        input_bytes,
        shape,
        plan: submission.plan.clone(),
        options: submission.options.clone(),
        elements: store_all(&payloads, blobs).await?,
        names: store_all(&names, blobs).await?,
        outer_names: store_all(&outer_names, blobs).await?,
        groups,
        spec: spec(id, owner, &submission, blobs).await?,
    })
}

async fn store_all<P: AsRef<[u8]>>(
    payloads: &[P],
    blobs: &Blobs,
) -> Result<Vec<StoredBlock>, ApiError> {
    let n_bytes = payloads.iter().map(|payload| payload.as_ref().len()).sum();
    let blocks = heavy(n_bytes, || block::pack(payloads));
    let mut stored = Vec::with_capacity(blocks.len());
    for block in blocks {
        stored.push(StoredBlock::of(block, blobs).await?);
    }
    Ok(stored)
}

async fn spec(
    id: JobId,
    owner: String,
    submission: &SubmitJob,
    blobs: &Blobs,
) -> Result<JobSpec, ApiError> {
    Ok(JobSpec {
        id,
        owner,
        runtime: submission.runtime,
        function: submission.function.clone(),
        args: constants(&submission.args, blobs).await?,
        globals: constants(&submission.globals, blobs).await?,
        packages: submission.packages.clone(),
        prepare: submission.prepare.clone(),
        is_call: false,
        setup: submission.setup.clone(),
        files: None,
        options: submission.options.clone(),
    })
}

async fn constants(
    values: &BTreeMap<String, Box<RawValue>>,
    blobs: &Blobs,
) -> Result<BTreeMap<String, Constant>, ApiError> {
    let mut constants = BTreeMap::new();
    for (name, value) in values {
        let text = value.get();
        let constant = if text.len() > block::MAX_INLINE {
            let digest = blobs.put(text.as_bytes().to_vec().into()).await?;
            Constant::Blob { digest, encoding: Encoding::Json }
        } else {
            Constant::Json(value.clone())
        };
        constants.insert(name.clone(), constant);
    }
    Ok(constants)
}

/// What is wrong with a submission so far.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn unless(&mut self, fine: bool, field: &str, message: impl Into<String>) {
        if !fine {
            self.0.push(FieldError { field: field.to_owned(), message: message.into() });
        }
    }
}

fn check(submission: &SubmitJob, faults: &mut Faults) {
    let name_length = submission.name.as_deref().map_or(0, |name| name.chars().count());
    faults.unless(
        name_length <= MAX_NAME,
        "name",
        format!("has {name_length} characters, at most {MAX_NAME} are allowed"),
    );
    faults.unless(
        match &submission.function {
            Function::Source(text) => !text.trim().is_empty(),
            Function::Command(argv) => !argv.is_empty(),
        },
        "function",
        "is empty: give the source of a function, such as \"function(.x) .x + 1\" (r) or \
         \"lambda x: x + 1\" (python)",
    );
    for (i, package) in submission.packages.iter().enumerate() {
        let is_name = !package.is_empty()
            && package.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
        faults.unless(
            is_name,
            &format!("packages[{i}]"),
            format!("{package:?} is not the name of a package"),
        );
    }
    for (field, values) in [("args", &submission.args), ("globals", &submission.globals)] {
        faults.unless(!values.contains_key(""), field, "holds a value without a name");
    }
    check_plan(submission, faults);
    check_options(&submission.options, faults);
}

fn check_plan(submission: &SubmitJob, faults: &mut Faults) {
    faults.unless(
        plan::is_nested(&submission.plan).is_some(),
        "plan",
        format!("is not a topology that can be run: give {}", plan::SUPPORTED),
    );
    for (i, level) in submission.plan.iter().enumerate() {
        faults.unless(
            level.workers != Some(0),
            &format!("plan[{i}].workers"),
            "is 0, must be at least 1, or null for no bound",
        );
    }
}

fn check_options(options: &Options, faults: &mut Faults) {
    faults.unless(
        options.chunk_size != Some(0),
        "options.chunk_size",
        "is 0, must be at least 1, or null to be measured",
    );
    faults.unless(
        options.scheduling.is_none_or(|chunks| chunks > 0.0 && chunks.is_finite()),
        "options.scheduling",
        "must be greater than 0: the number of chunks a slot, as furrr's; or null to be measured",
    );
    faults.unless(
        options.slots != Slots::Count(0),
        "options.slots",
        "is 0, must be at least 1, or \"all\"",
    );
    faults.unless(
        options.timeout.is_none_or(|seconds| seconds > 0.0 && seconds <= MAX_TIMEOUT),
        "options.timeout",
        format!("must be greater than 0 and at most {MAX_TIMEOUT} seconds, or null for no bound"),
    );
    faults.unless(
        options.retries <= MAX_RETRIES,
        "options.retries",
        format!("is {}, at most {MAX_RETRIES} are allowed", options.retries),
    );
    faults.unless(
        (-100..=100).contains(&options.priority),
        "options.priority",
        format!("is {}, must be from -100 to 100", options.priority),
    );
}
