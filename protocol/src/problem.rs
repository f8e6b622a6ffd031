//! The one shape of every failure: RFC 9457 `application/problem+json`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::outcome::ElementError;

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, to what, and what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "type": "urn:farrow:invalid-field", "title": "The request has fields that cannot be",
    "status": 422, "detail": "function: is empty; give the source of a function",
    "instance": "/v1/jobs",
    "errors": [{"field": "function", "message": "is empty; give the source of a function"}]
}))]
pub struct Problem {
    /// A stable name for the kind of problem: `urn:farrow:` and a slug.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words; the same for every problem of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// The request's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The fields at fault, if fields are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The element that failed the job, if one did: its `index` (from 0), its `name` if it has one,
    /// `message`, `traceback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<FailedElement>)]
    pub element: Option<Value>,
}

/// The element that failed a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "index": 7, "name": "gear 4", "nested": [1, 3], "type": "simpleError",
    "message": "object 'y' not found", "call": "f(.x)", "traceback": ["f(.x)"]
}))]
pub struct FailedElement {
    /// Its index, from 0, counted through all levels of the plan.
    #[schema(example = 7)]
    pub index: u64,
    /// Its name, if elements have names; under a nested plan that of its outer element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "gear 4")]
    pub name: Option<String>,
    /// Under a nested plan the indexes of its outer element and within it, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([1, 3]))]
    pub nested: Option<[u64; 2]>,
    /// Its error.
    #[serde(flatten)]
    pub error: ElementError,
}

impl FailedElement {
    /// The element `index`, of which no more is known than its error.
    pub fn new(index: u64, error: ElementError) -> Self {
        Self { index, name: None, nested: None, error }
    }
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "field": "function", "message": "is empty; give the source of a function"
}))]
pub struct FieldError {
    /// Where, as a path: `options.slots`, `elements[3]`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl Problem {
    /// The slug of [`Problem::kind`]: what comes behind `urn:farrow:`.
    pub fn slug(&self) -> &str {
        self.kind.strip_prefix("urn:farrow:").unwrap_or(&self.kind)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

impl std::error::Error for Problem {}
