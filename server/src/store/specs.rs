//! What agents must know of a job, read from its row: as this program writes it, and as versions
//! before 0.2 did, whose jobs outlive an upgrade.

use std::collections::BTreeMap;

use protocol::JobId;
use protocol::agent::{Constant, JobSpec};
use protocol::job::{Encoding, Function, Options, Runtime};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::StoreError;
use super::db::Row;

/// Reads the columns `spec` and `options`.
///
/// # Errors
/// When `spec` is of neither form.
pub(super) fn spec(row: &Row) -> Result<JobSpec, StoreError> {
    let text = row.text("spec")?;
    let error = match serde_json::from_str(&text) {
        Ok(spec) => return Ok(spec),
        Err(error) => error,
    };
    let before: SpecBefore =
        serde_json::from_str(&text).map_err(|_| StoreError::corrupt("spec", &error.to_string()))?;
    Ok(before.with_options(row.json("options")?))
}

/// The form before 0.2. Its few options stand in the job's `options` too, with all others.
#[derive(Deserialize)]
struct SpecBefore {
    id: JobId,
    owner: String,
    runtime: Runtime,
    function: String,
    args: BTreeMap<String, ConstantBefore>,
    globals: BTreeMap<String, ConstantBefore>,
    packages: Vec<String>,
    setup: String,
}

/// A constant before 0.2: blobs held JSON only.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConstantBefore {
    Json(Box<RawValue>),
    Blob(String),
}

impl SpecBefore {
    fn with_options(self, options: Options) -> JobSpec {
        JobSpec {
            id: self.id,
            owner: self.owner,
            runtime: self.runtime,
            is_call: false,
            function: Function::Source(self.function),
            args: constants(self.args),
            globals: constants(self.globals),
            packages: self.packages,
            prepare: String::new(),
            setup: self.setup,
            files: None,
            workdir: None,
            options,
        }
    }
}

fn constants(before: BTreeMap<String, ConstantBefore>) -> BTreeMap<String, Constant> {
    let constant = |constant| match constant {
        ConstantBefore::Json(json) => Constant::Json(json),
        ConstantBefore::Blob(digest) => Constant::Blob { digest, encoding: Encoding::Json },
    };
    before.into_iter().map(|(name, before)| (name, constant(before))).collect()
}
