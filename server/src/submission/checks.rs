//! Which fields of a submission cannot be, and what would be right.

use protocol::job::{
    Encoding, Function, Options, Output, Runtime, Seed, Slots, SubmitJob, ValueType, Variant,
};

use super::Faults;
use crate::plan;

/// Characters of a name at the most.
const MAX_NAME: usize = 200;

/// Seconds of a timeout at the most: a year.
const MAX_TIMEOUT: f64 = 366.0 * 24.0 * 3600.0;

/// How often an element may be run again at the most.
const MAX_RETRIES: u32 = 1000;

/// Less memory, in bytes, no worker starts with: whoever asks for it meant another unit.
const MIN_MEMORY: u64 = 1 << 20;

/// Jobs that one may wait for at the most.
const MAX_AFTER: usize = 1000;

/// What `.Random.seed` begins with for L'Ecuyer-CMRG, inversion and rejection.
const LECUYER: i64 = 10407;

/// Adds every field of `submission` that cannot be, except for what is in elements and blobs.
pub fn check(submission: &SubmitJob, is_call: bool, faults: &mut Faults) {
    let name_length = submission.name.as_deref().map_or(0, |name| name.chars().count());
    faults.unless(
        name_length <= MAX_NAME,
        "name",
        format!("has {name_length} characters, at most {MAX_NAME} are allowed"),
    );
    faults.unless(
        !submission.name.as_deref().unwrap_or_default().chars().any(char::is_control),
        "name",
        "holds a control character".to_owned(),
    );
    check_function(submission, faults);
    check_packages(submission, faults);
    for (field, values) in [("args", &submission.args), ("globals", &submission.globals)] {
        faults.unless(!values.contains_key(""), field, "holds a value without a name");
    }
    let n_after = submission.after.len();
    faults.unless(
        n_after <= MAX_AFTER,
        "after",
        format!("names {n_after} jobs, at most {MAX_AFTER} are allowed"),
    );
    check_workdir(submission, faults);
    check_plan(submission, faults);
    check_options(&submission.options, faults);
    check_semantics(submission, faults);
    check_seed(submission, faults);
    if is_call {
        check_call(submission, faults);
    }
}

fn check_workdir(submission: &SubmitJob, faults: &mut Faults) {
    let Some(workdir) = &submission.workdir else { return };
    faults.unless(
        workdir.starts_with('/') && !workdir.contains('\0'),
        "workdir",
        format!("{workdir:?} is not an absolute path: give one such as \"/srv/project\""),
    );
    faults.unless(
        submission.files.is_none(),
        "workdir",
        "cannot be together with `files`, which are a working directory of their own: give one of \
         them",
    );
}

fn check_function(submission: &SubmitJob, faults: &mut Faults) {
    let runtime = submission.runtime.as_str();
    match (&submission.function, submission.runtime) {
        (Function::Source(_), Runtime::Command) => faults.push(
            "function",
            "is a string, must be an array of the program and its arguments for runtime command, \
             such as [\"gzip\", \"-k\", \"{}\"]; there is no shell unless you name one: [\"sh\", \
             \"-c\", \"…\"]",
        ),
        (Function::Command(_), Runtime::R | Runtime::Python) => faults.push(
            "function",
            format!("is an array, must be a string, source text, for runtime {runtime}"),
        ),
        (Function::Source(text), _) => faults.unless(
            !text.trim().is_empty(),
            "function",
            "is empty: give the source of a function, such as \"function(.x) .x + 1\" (r) or \
             \"lambda x: x + 1\" (python)",
        ),
        (Function::Command(argv), Runtime::Command) => {
            faults.unless(
                argv.first().is_some_and(|program| !program.is_empty()),
                "function",
                "is empty: give a program and its arguments, such as [\"gzip\", \"-k\", \"{}\"]",
            );
            faults.unless(
                argv.iter().all(|item| !item.contains('\0')),
                "function",
                "holds a NUL character, which no argument of a program can",
            );
        }
    }
}

fn check_packages(submission: &SubmitJob, faults: &mut Faults) {
    if submission.runtime == Runtime::Command {
        faults.unless(
            submission.packages.is_empty(),
            "packages",
            "must be empty for runtime command, which loads none; install what it needs by \
             `prepare`",
        );
        return;
    }
    for (i, package) in submission.packages.iter().enumerate() {
        let is_name = !package.is_empty()
            && package.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
        faults.unless(
            is_name,
            &format!("packages[{i}]"),
            format!("{package:?} is not the name of a package"),
        );
    }
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
        options.memory.is_none_or(|bytes| bytes >= MIN_MEMORY && i64::try_from(bytes).is_ok()),
        "options.memory",
        format!("must be a number of bytes, at least {MIN_MEMORY} (1 MiB; workers need some tens), or null for no bound"),
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

/// Encoding, output and type, which not every runtime has in every combination.
fn check_semantics(submission: &SubmitJob, faults: &mut Faults) {
    let (runtime, options) = (submission.runtime, &submission.options);
    let encoding = options.encoding;
    if let Err(message) = encoding_of(runtime, encoding) {
        faults.push("options.encoding", message);
    }
    let is_command = runtime == Runtime::Command;
    faults.unless(
        options.output == Output::Text || (is_command && encoding == Encoding::Json),
        "options.output",
        "is json, which only runtime command with encoding json has; leave it out",
    );
    let is_typed = !matches!(options.value_type, ValueType::List);
    faults.unless(
        !is_typed || encoding != Encoding::Bytes,
        "options.type",
        "must be list with encoding bytes, whose values are bytes",
    );
    faults.unless(
        !is_command
            || options.output == Output::Json
            || matches!(options.value_type, ValueType::List | ValueType::Chr),
        "options.type",
        "must be list or chr for runtime command, whose output is text; give \"output\": \"json\" \
         for a command that prints JSON",
    );
    faults.unless(
        options.variant != Variant::Pmap || encoding != Encoding::Bytes,
        "options.variant",
        "is pmap, which spreads arrays and objects; with encoding bytes elements are neither: give \
         map",
    );
}

/// Whether a runtime reads and writes an encoding.
///
/// # Errors
/// Which it does.
pub fn encoding_of(runtime: Runtime, encoding: Encoding) -> Result<(), String> {
    let (fine, own) = match runtime {
        Runtime::R => (encoding != Encoding::Pickle, "json, rds or bytes"),
        Runtime::Python => (encoding != Encoding::Rds, "json, pickle or bytes"),
        Runtime::Command => (matches!(encoding, Encoding::Json | Encoding::Bytes), "json or bytes"),
    };
    if fine {
        return Ok(());
    }
    Err(format!("is {}, must be {own} for runtime {}", encoding.as_str(), runtime.as_str()))
}

fn check_seed(submission: &SubmitJob, faults: &mut Faults) {
    let is_r = submission.runtime == Runtime::R;
    match &submission.options.seed {
        Some(Seed::State(state)) => faults.unless(
            is_r && is_random_seed(state),
            "options.seed",
            if is_r {
                "is an array that is no `.Random.seed` of kind L'Ecuyer-CMRG: must be 10407 and six \
                 whole numbers of 32 bits, neither the first nor the last three of them all 0"
            } else {
                "is an array, which only runtime r takes; must be a whole number, or true for one \
                 that the server draws"
            },
        ),
        Some(Seed::Number(seed)) => faults.unless(
            !is_r || seed.unsigned_abs() <= i32::MAX.unsigned_abs().into(),
            "options.seed",
            format!("is {seed}, must be from -2147483647 to 2147483647 for runtime r, as set.seed() takes"),
        ),
        Some(Seed::Drawn(_)) | None => {}
    }
}

fn is_random_seed(state: &[i64]) -> bool {
    let [LECUYER, a @ .., b, c, d] = state else { return false };
    // R's integers: the smallest of 32 bits is its NA.
    let is_integer = |n: &i64| n.unsigned_abs() <= i32::MAX.unsigned_abs().into();
    a.len() == 3
        && state.iter().all(is_integer)
        && a.iter().any(|&n| n != 0)
        && [b, c, d].iter().any(|&&n| n != 0)
}

fn check_call(submission: &SubmitJob, faults: &mut Faults) {
    faults.unless(
        matches!(submission.options.variant, Variant::Map | Variant::Walk),
        "options.variant",
        "must be map or walk for a call, which has no elements; give `elements` to spread or to \
         index them",
    );
    faults.unless(
        plan::is_nested(&submission.plan) != Some(true),
        "plan",
        "must have one level for a call, which has no elements; give `elements`, an array of \
         arrays, to nest them",
    );
}
