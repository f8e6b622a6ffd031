//! From the body of a submission to a job that can be stored.
//!
//! * [`read`]: bodies of JSON.
//! * [`checks`]: which fields cannot be, and what would be right.
//! * [`constants`]: `args`, `globals` and `files`, which may be blobs.
//!
//! The elements are taken apart by [`elements`].

mod checks;
mod constants;
mod read;

use protocol::FieldError;
use protocol::JobId;
use protocol::agent::JobSpec;
use protocol::job::{Options, Seed, SubmitJob};
use serde_json::value::RawValue;

use crate::blobs::Blobs;
use crate::elements::{self, Draft, Shelf, Wanted};
use crate::error::ApiError;
use crate::plan;
use crate::store::jobs::NewJob;

pub use constants::fault_of as fault_of_blob;
pub use read::{heavy, read_json, read_submission};

/// Jobs of one batch at the most.
const MAX_BATCH: usize = 1000;

/// Entries of `after` in all of a batch together at the most: each is a row that the one writer
/// writes, and takes away again.
const MAX_AFTER_OF_ALL: usize = 100_000;

/// What is wrong with a submission so far.
#[derive(Debug, Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), message: message.into() });
    }

    fn unless(&mut self, fine: bool, field: &str, message: impl Into<String>) {
        if !fine {
            self.push(field, message);
        }
    }
}

/// Checks a submission and stores its large parts. Its `elements` stand beside it, so that there is one copy
/// of them; `draft` takes them if they are many.
///
/// # Errors
/// Every field at fault at once.
pub async fn prepare(
    submission: SubmitJob,
    elements: Option<&RawValue>,
    owner: String,
    blobs: &Blobs,
    draft: Option<&mut Draft>,
) -> Result<NewJob, ApiError> {
    let mut faults = Faults::default();
    checks::check(&submission, elements.is_none(), &mut faults);
    let args = constants::check(&submission, "args", &submission.args, blobs, &mut faults).await?;
    let globals =
        constants::check(&submission, "globals", &submission.globals, blobs, &mut faults).await?;
    let files = constants::files(&submission, blobs, &mut faults).await?;
    let wanted = Wanted {
        nested: plan::is_nested(&submission.plan).unwrap_or_default(),
        encoding: submission.options.encoding,
        variant: submission.options.variant,
    };
    let source = match elements {
        Some(text) => heavy(text.get().len(), || elements::parse(text, wanted)),
        None => Ok(elements::Source::Call),
    };
    let source = match source {
        Ok(source) if faults.0.is_empty() => source,
        Ok(_) => return Err(ApiError::Invalid(faults.0)),
        Err(fault) => {
            faults.0.push(fault);
            return Err(ApiError::Invalid(faults.0));
        }
    };
    let id = draft.as_ref().map_or_else(JobId::new, |draft| draft.job);
    let elements = elements::store(source, wanted, blobs, Shelf::new(draft)).await?;
    let options = with_seed(submission.options)?;
    let spec = JobSpec {
        id,
        owner: owner.clone(),
        runtime: submission.runtime,
        is_call: elements.shape.is_call,
        function: submission.function,
        args: constants::store(args, blobs).await?,
        globals: constants::store(globals, blobs).await?,
        packages: submission.packages,
        prepare: submission.prepare,
        setup: submission.setup,
        files,
        workdir: submission.workdir,
        options: options.clone(),
    };
    let (name, plan, after) = (submission.name, submission.plan, submission.after);
    let idempotency_key = None;
    Ok(NewJob { id, owner, name, plan, options, after, idempotency_key, elements, spec })
}

/// Checks the submissions of a batch and stores their large parts.
///
/// # Errors
/// Every field at fault in all of them at once.
pub async fn prepare_all(
    submissions: Vec<SubmitJob>,
    owner: &str,
    blobs: &Blobs,
) -> Result<Vec<NewJob>, ApiError> {
    let n = submissions.len();
    if !(1..=MAX_BATCH).contains(&n) {
        let message = format!("holds {n} submissions, must hold 1 to {MAX_BATCH}");
        return Err(ApiError::field("jobs", message));
    }
    let n_after: usize = submissions.iter().map(|submission| submission.after.len()).sum();
    if n_after > MAX_AFTER_OF_ALL {
        let message = format!(
            "name {n_after} jobs in `after`, at most {MAX_AFTER_OF_ALL} are allowed in all: let an \
             empty map come after those jobs, and these after it"
        );
        return Err(ApiError::field("jobs", message));
    }
    let (mut jobs, mut faults) = (Vec::with_capacity(n), Vec::new());
    for (i, mut submission) in submissions.into_iter().enumerate() {
        let elements = submission.elements.take();
        match prepare(submission, elements.as_deref(), owner.to_owned(), blobs, None).await {
            Ok(job) => jobs.push(job),
            Err(ApiError::Invalid(of_job)) => faults.extend(of_job.into_iter().map(|fault| {
                FieldError { field: format!("jobs[{i}].{}", fault.field), message: fault.message }
            })),
            Err(error) => return Err(error),
        }
    }
    if faults.is_empty() { Ok(jobs) } else { Err(ApiError::Invalid(faults)) }
}

/// The options with a number in the place of `seed: true`, and no seed for `seed: false`.
fn with_seed(mut options: Options) -> Result<Options, ApiError> {
    options.seed = match options.seed {
        Some(Seed::Drawn(false)) => None,
        Some(Seed::Drawn(true)) => Some(Seed::Number(drawn_seed()?)),
        seed => seed,
    };
    Ok(options)
}

/// A number that every runtime takes as a seed.
fn drawn_seed() -> std::io::Result<i64> {
    let [a, b, c, d] = crate::token::random_bytes::<4>()?;
    Ok(i64::from(u32::from_le_bytes([a, b, c, d]) >> 1))
}

#[cfg(test)]
mod tests;
