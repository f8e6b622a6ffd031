//! What is common to all operations of the API's description: the failures that any of them may
//! come to, and the list of all types of problems.

use axum::http::StatusCode;
use protocol::rights::Role;
use protocol::{frames, problem};
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::{
    Content, ContentBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Schema,
};

use super::{Access, access, is_public};

/// A type of problem: its slug, its status, and when it comes.
struct ProblemType(&'static str, StatusCode, &'static str);

/// Every type of problem that there is.
const PROBLEM_TYPES: &[ProblemType] = &[
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
    ProblemType(
        "unauthorized",
        StatusCode::UNAUTHORIZED,
        "There is no token, or it is not known, was revoked, or has expired.",
    ),
    ProblemType(
        "forbidden",
        StatusCode::FORBIDDEN,
        "The token's role does not let you do this; `detail` says which role does.",
    ),
    ProblemType(
        "forbidden-host",
        StatusCode::FORBIDDEN,
        "The request asks for a host that is not this server; `--host` gives it a name.",
    ),
    ProblemType(
        "forbidden-origin",
        StatusCode::FORBIDDEN,
        "A page of another site sent the request.",
    ),
    ProblemType(
        "tls-required",
        StatusCode::BAD_REQUEST,
        "The request came without TLS to a server that speaks TLS.",
    ),
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
        "too-large",
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is larger than the server takes.",
    ),
    ProblemType(
        "rate-limited",
        StatusCode::TOO_MANY_REQUESTS,
        "The token asks or submits too often, or too many requests wait; ask again after `Retry-After` seconds.",
    ),
    ProblemType(
        "conflict",
        StatusCode::CONFLICT,
        "The request contradicts what is, such as cancelling a job that is resolved.",
    ),
    ProblemType(
        "protocol-version",
        StatusCode::CONFLICT,
        "Agent and server speak different versions of the protocol.",
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
        "database-unavailable",
        StatusCode::SERVICE_UNAVAILABLE,
        "The server cannot reach its database; ask again after `Retry-After` seconds.",
    ),
    ProblemType(
        "insufficient-storage",
        StatusCode::INSUFFICIENT_STORAGE,
        "The server's disk is full; ask again when there is room, after `Retry-After` seconds.",
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
        for (method, operation) in operations(item) {
            let access = access(method, path).unwrap_or(Access::AnyToken);
            say_who(operation, access);
            add_failures(path, operation, matches!(access, Access::Only(_)));
            show_failures(path, operation);
            describe_bytes(operation);
        }
        without_bodies(item.head.as_mut());
    }
    list_problem_types(api);
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, head, .. } = item;
    let all = [("GET", get), ("PUT", put), ("POST", post), ("DELETE", delete), ("HEAD", head)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Says in an operation's description which tokens may call it.
fn say_who(operation: &mut Operation, access: Access) {
    let roles: Vec<_> = match access {
        Access::Public => return,
        Access::AnyToken => Role::ALL.map(|role| format!("`{role}`")).into(),
        Access::Only(roles) => {
            roles.iter().copied().chain([Role::Admin]).map(|role| format!("`{role}`")).collect()
        }
    };
    let text = operation.description.get_or_insert_default();
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    *text += &format!("For tokens of the role {}.", roles.join(" or "));
}

/// Shows a problem of its kind wherever a failure is told of without an example.
fn show_failures(path: &str, operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let kind = likeliest(status, path);
        let content = response.content.get_mut(problem::MEDIA_TYPE);
        if let (Some(kind), Some(RefOr::T(content))) = (kind, content)
            && content.example.is_none()
        {
            content.example = Some(example(kind, path, &response.description));
        }
    }
}

/// The type of problem that an answer of this status most likely is.
fn likeliest(status: &str, path: &str) -> Option<&'static ProblemType> {
    let action = path.rsplit('/').next();
    let slug = match (status, action) {
        ("409", Some("value")) => Some("job-failed"),
        ("409", Some("agents")) => Some("protocol-version"),
        ("404", Some("lease" | "heartbeat")) => Some("unknown-agent"),
        ("404", Some("logs")) if path.starts_with("/v1/agents/") => Some("unknown-agent"),
        _ => None,
    };
    PROBLEM_TYPES.iter().find(|kind| match slug {
        Some(slug) => kind.0 == slug,
        None => kind.1.as_str() == status,
    })
}

/// Bodies of bytes are bytes, not arrays of numbers.
fn describe_bytes(operation: &mut Operation) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.content.iter_mut().for_each(describe_content);
    }
    for answer in operation.responses.responses.values_mut() {
        if let RefOr::T(answer) = answer {
            answer.content.iter_mut().for_each(describe_content);
        }
    }
}

fn describe_content((media_type, content): (&String, &mut RefOr<Content>)) {
    let is_bytes = ["application/octet-stream", frames::MEDIA_TYPE].contains(&media_type.as_str());
    if let (true, RefOr::T(content)) = (is_bytes, content) {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        let bytes = ObjectBuilder::new().schema_type(Type::String).format(Some(format));
        content.schema = Some(RefOr::T(bytes.build().into()));
    }
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
fn add_failures(path: &str, operation: &mut Operation, needs_role: bool) {
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
    add(needs_role, "forbidden");
    add(true, "forbidden-origin");
    add(has_body || has_id, "bad-request");
    add(has_body, "too-large");
    add(has_body || has_id, "invalid-field");
    add(!is_open, "internal");
    add(!is_open, "rate-limited");
    add(has_body, "insufficient-storage");
    add(!is_open, "stopping");
}

fn failure(kind: &ProblemType, path: &str) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .example(Some(example(kind, path, kind.2)))
        .build();
    ResponseBuilder::new().description(kind.2).content(problem::MEDIA_TYPE, content).build()
}

fn example(&ProblemType(slug, status, _): &ProblemType, path: &str, detail: &str) -> Value {
    json!({
        "type": format!("urn:farrow:{slug}"),
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
        "instance": path,
    })
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
    for ProblemType(slug, status, when) in PROBLEM_TYPES {
        text += &format!("| `urn:farrow:{slug}` | {} | {when} |\n", status.as_u16());
    }
    kind.description = Some(text);
}

#[cfg(test)]
mod tests;
