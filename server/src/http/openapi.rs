//! What is common to all operations of the API's description: the failures that any of them may
//! come to, and the list of all types of problems.

use axum::http::StatusCode;
use protocol::problem;
use serde_json::json;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema};

use super::is_public;

/// A type of problem: its slug, its status, and when it comes.
struct ProblemType(&'static str, StatusCode, &'static str);

/// Every type of problem that there is.
const PROBLEM_TYPES: [ProblemType; 15] = [
    ProblemType(
        "bad-request",
        StatusCode::BAD_REQUEST,
        "The request is not what the route takes: not JSON, not UTF-8, cut off.",
    ),
    ProblemType(
        "invalid-field",
        StatusCode::UNPROCESSABLE_ENTITY,
        "Fields or parameters cannot be; `errors` names each and says what would be right.",
    ),
    ProblemType(
        "idempotency-key-reused",
        StatusCode::UNPROCESSABLE_ENTITY,
        "The `Idempotency-Key` came before with another body.",
    ),
    ProblemType("unauthorized", StatusCode::UNAUTHORIZED, "There is no token, or it is not known."),
    ProblemType("not-found", StatusCode::NOT_FOUND, "There is no such job, agent, blob or route."),
    ProblemType(
        "unknown-agent",
        StatusCode::NOT_FOUND,
        "The agent is not registered, or was away for too long: it must register again.",
    ),
    ProblemType(
        "method-not-allowed",
        StatusCode::METHOD_NOT_ALLOWED,
        "The route does not take the method.",
    ),
    ProblemType(
        "protocol-version",
        StatusCode::CONFLICT,
        "Agent and server speak different versions of the protocol.",
    ),
    ProblemType(
        "too-large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is larger than the server takes.",
    ),
    ProblemType(
        "conflict",
        StatusCode::CONFLICT,
        "The request contradicts what is, such as cancelling a job that is resolved.",
    ),
    ProblemType(
        "job-failed",
        StatusCode::CONFLICT,
        "The job has failed; `element` says which element did and why.",
    ),
    ProblemType(
        "dependency-failed",
        StatusCode::CONFLICT,
        "The job has failed because a job that it comes after was not resolved.",
    ),
    ProblemType("job-cancelled", StatusCode::GONE, "The job was cancelled, so it has no value."),
    ProblemType(
        "stopping",
        StatusCode::SERVICE_UNAVAILABLE,
        "The server is stopping; ask again after `Retry-After` seconds.",
    ),
    ProblemType(
        "internal",
        StatusCode::INTERNAL_SERVER_ERROR,
        "The server has failed; its log says why.",
    ),
];

/// Completes a description that was collected from the routes.
pub fn complete(api: &mut OpenApi) {
    for (path, item) in &mut api.paths.paths {
        for operation in operations(item) {
            add_failures(path, operation);
        }
        without_bodies(item.head.as_mut());
    }
    list_problem_types(api);
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, head, .. } = item;
    [get, put, post, delete, head].into_iter().filter_map(Option::as_mut)
}

/// An answer to `HEAD` has no body.
fn without_bodies(head: Option<&mut Operation>) {
    for response in head.into_iter().flat_map(|head| head.responses.responses.values_mut()) {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
}

/// Adds the failures that every such operation may come to and that it does not tell of itself.
fn add_failures(path: &str, operation: &mut Operation) {
    let has_body = operation.request_body.is_some();
    let has_id = path.contains('{');
    let mut add = |applies: bool, slug: &str| {
        if let Some(kind) = PROBLEM_TYPES.iter().find(|kind| applies && kind.0 == slug) {
            let status = kind.1.as_str().to_owned();
            let failure = || RefOr::T(failure(kind, path));
            operation.responses.responses.entry(status).or_insert_with(failure);
        }
    };
    let is_open = is_public(path);
    add(!is_open, "unauthorized");
    add(has_body || has_id, "bad-request");
    add(has_body, "too-large");
    add(has_body || has_id, "invalid-field");
    add(!is_open, "internal");
    add(!is_open, "stopping");
}

fn failure(&ProblemType(slug, status, when): &ProblemType, path: &str) -> Response {
    let example = json!({
        "type": format!("urn:farrow:{slug}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": when,
        "instance": path,
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .example(Some(example))
        .build();
    ResponseBuilder::new().description(when).content(problem::MEDIA_TYPE, content).build()
}

/// Says in the schema of problems which types there are.
fn list_problem_types(api: &mut OpenApi) {
    let schemas = api.components.as_mut().map(|components| &mut components.schemas);
    let Some(RefOr::T(Schema::Object(problem))) = schemas.and_then(|s| s.get_mut("Problem")) else {
        return;
    };
    let Some(RefOr::T(Schema::Object(kind))) = problem.properties.get_mut("type") else { return };
    let mut text = kind.description.take().unwrap_or_default();
    text += "\n\n| type | status | when |\n| --- | --- | --- |\n";
    for ProblemType(slug, status, when) in &PROBLEM_TYPES {
        text += &format!("| `urn:farrow:{slug}` | {} | {when} |\n", status.as_u16());
    }
    kind.description = Some(text);
}

#[cfg(test)]
mod tests;
