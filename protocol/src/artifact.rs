//! Artifacts: files that an element leaves behind, kept as blobs and listed in its outcome.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Artifacts of one element at the most.
pub const MOST_ARTIFACTS: usize = 1000;

/// Bytes of an artifact's name at the most.
const LONGEST_NAME: usize = 1024;

/// A file that an element left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "plots/fit.png", "bytes": 20_480,
    "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}))]
pub struct Artifact {
    /// Its path in the element's folder, with `/`.
    #[schema(example = "plots/fit.png")]
    pub name: String,
    /// `sha256:` and the digest of its bytes; `GET /v1/blobs/{digest}`.
    #[schema(example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    pub digest: String,
    /// How many bytes it has.
    #[schema(example = 20_480)]
    pub bytes: u64,
}

/// Whether a name leads to a place below any folder that it is put into, and to one place only.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && !name.contains('\0')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_a_place_below() {
        for name in ["a", "plots/fit 1.png", "..a", "a..", ".hidden/é", "a\\b"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(LONGEST_NAME + 1);
        for name in ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
