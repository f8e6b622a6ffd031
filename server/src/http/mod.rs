//! The HTTP side: every URL on one page. Handlers parse, ask and answer; no SQL, no policy.

mod admission;
mod agent_api;
mod agents;
mod arriving;
mod audit;
pub mod auth;
mod blobs;
pub mod caller;
mod docs;
mod endings;
mod entrance;
mod events;
mod extract;
mod follow;
mod health;
mod jobs;
mod logs;
#[cfg(test)]
mod lone_agent;
mod metrics;
mod ndjson;
mod openapi;
mod outcomes;
mod page;
mod problems;
#[cfg(test)]
mod rights_tests;
mod status;
mod submit;
mod tokens;
mod value;
pub mod wait;
mod waiting;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[cfg(feature = "fuzzing")]
pub mod fuzzed {
    //! Queries and reports, as the handlers read them.

    pub use super::agent_api::read_pieces;
    pub use super::agents::ListAgents;
    pub use super::audit::ReadAudit;
    pub use super::events::rank_of;
    pub use super::extract::read_query;
    pub use super::jobs::ListJobs;
    pub use super::logs::ReadLogs;
    pub use super::outcomes::ReadOutcomes;
    pub use super::tokens::ListTokens;
}

use crate::listening::{Names, client_address};
use crate::state::AppState;
use entrance::Entrance;
use protocol::rights::Role;

/// Every route, in the order in which a reader meets them.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Api::openapi())
        // For clients.
        .routes(routes!(submit::submit, jobs::list))
        .routes(routes!(submit::submit_batch))
        .routes(routes!(jobs::find, endings::delete))
        .routes(routes!(value::value))
        .routes(routes!(outcomes::outcomes))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(endings::cancel))
        .routes(routes!(endings::retry))
        .routes(routes!(blobs::put, blobs::head, blobs::get))
        .routes(routes!(agents::list, agent_api::register))
        .routes(routes!(agents::drain))
        // For agents.
        .routes(routes!(agent_api::leave))
        .routes(routes!(agent_api::lease))
        .routes(routes!(agent_api::report))
        .routes(routes!(logs::add))
        .routes(routes!(agent_api::heartbeat))
        .routes(routes!(agent_api::release))
        // For administrators and operators.
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(audit::read))
        .routes(routes!(metrics::metrics))
        // For everybody, without a token.
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::openapi))
        .routes(routes!(docs::page))
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everybody, without a token.
    Public,
    /// Whoever has a token.
    AnyToken,
    /// Whoever has a token of one of these roles, and administrators, who may call all.
    Only(&'static [Role]),
}

const SUBMIT: Access = Access::Only(&[Role::Submit]);
const AGENT: Access = Access::Only(&[Role::Agent]);
const SUBMIT_OR_AGENT: Access = Access::Only(&[Role::Submit, Role::Agent]);
const ADMIN: Access = Access::Only(&[]);

/// Who may call which route. What a caller then sees is a matter of the route: a submitter its own
/// jobs and blobs ([`Scope`](crate::store::tokens::Scope)), an agent's token its own agents
/// ([`caller::OwnAgent`]).
#[rustfmt::skip]
const ACCESS: &[(&str, &str, Access)] = &[
    ("POST", "/v1/jobs", SUBMIT),
    ("GET", "/v1/jobs", SUBMIT),
    ("POST", "/v1/jobs:batch", SUBMIT),
    ("GET", "/v1/jobs/{id}", SUBMIT),
    ("DELETE", "/v1/jobs/{id}", SUBMIT),
    ("GET", "/v1/jobs/{id}/value", SUBMIT),
    ("GET", "/v1/jobs/{id}/outcomes", SUBMIT),
    ("GET", "/v1/jobs/{id}/events", SUBMIT),
    ("GET", "/v1/jobs/{id}/logs", SUBMIT),
    ("POST", "/v1/jobs/{id}/cancel", SUBMIT),
    ("POST", "/v1/jobs/{id}/retry", SUBMIT),
    ("PUT", "/v1/blobs/{digest}", SUBMIT_OR_AGENT),
    ("HEAD", "/v1/blobs/{digest}", SUBMIT_OR_AGENT),
    ("GET", "/v1/blobs/{digest}", SUBMIT_OR_AGENT),
    // What jobs wait for is said in terms of agents, and labels are chosen among theirs.
    ("GET", "/v1/agents", SUBMIT),
    ("POST", "/v1/agents", AGENT),
    ("POST", "/v1/agents/{id}/drain", ADMIN),
    ("DELETE", "/v1/agents/{id}", AGENT),
    ("POST", "/v1/agents/{id}/lease", AGENT),
    ("POST", "/v1/agents/{id}/report", AGENT),
    ("POST", "/v1/agents/{id}/logs", AGENT),
    ("POST", "/v1/agents/{id}/heartbeat", AGENT),
    ("POST", "/v1/agents/{id}/release", AGENT),
    ("POST", "/v1/tokens", ADMIN),
    ("GET", "/v1/tokens", ADMIN),
    ("DELETE", "/v1/tokens/{id}", ADMIN),
    ("GET", "/v1/audit", ADMIN),
    // Sums alone; whoever collects them needs no right to anything else.
    ("GET", "/metrics", Access::AnyToken),
    ("GET", "/healthz", Access::Public),
    ("GET", "/readyz", Access::Public),
    ("GET", "/openapi.json", Access::Public),
    ("GET", "/docs", Access::Public),
];

/// Who may call the route of this method and path, if it is one.
fn access(method: &str, path: &str) -> Option<Access> {
    let of = |method: &str| {
        let route = ACCESS.iter().find(|route| (route.0, route.1) == (method, path));
        route.map(|route| route.2)
    };
    // `HEAD` is answered wherever `GET` is.
    of(method).or_else(|| if method == "HEAD" { of("GET") } else { None })
}

/// Whether a path answers without a token.
fn is_public(path: &str) -> bool {
    access("GET", path) == Some(Access::Public) || docs::PATHS.contains(&path)
}

/// The whole service.
pub fn router(state: AppState) -> Router {
    let settings = &state.config.settings;
    let names = Arc::new(Names::new(&settings.reach, settings.listen.ip()));
    let entrance = Entrance { state: state.clone(), names };
    let behind_proxy = settings.reach.behind_proxy;
    let (router, _) = routes().split_for_parts();
    router
        .merge(docs::parts())
        .fallback(problems::no_such_route)
        .method_not_allowed_fallback(problems::method_not_allowed)
        .layer(
            ServiceBuilder::new()
                .layer(middleware::from_fn_with_state(state.clone(), entrance::receive))
                .layer(
                    TraceLayer::new_for_http()
                        .make_span_with(move |request: &Request| span(request, behind_proxy)),
                )
                .layer(CatchPanicLayer::custom(problems::panicked))
                .layer(middleware::from_fn_with_state(entrance, entrance::admit)),
        )
        .with_state(state)
}

fn span(request: &Request, behind_proxy: bool) -> tracing::Span {
    let client = client_address(request, behind_proxy).map(tracing::field::display);
    let (method, path) = (request.method(), request.uri().path());
    let id = request.extensions().get::<caller::RequestId>().map(|id| &*id.0);
    tracing::debug_span!("request", client, %method, path, id)
}

/// The description of the API, as pretty JSON.
pub fn openapi_json() -> String {
    let (_, mut api) = routes().split_for_parts();
    openapi::complete(&mut api);
    // Writing a description that was built from plain data does not fail; `make openapi` would show it.
    api.to_pretty_json().unwrap_or_default() + "\n"
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "farrow",
        description = "A map over many machines as a future: submit, come back, get the value.\n\n\
            `POST /v1/jobs` answers at once; `GET /v1/jobs/{id}/value` says 202 until the value is \
            there. Failures are RFC 9457 problems with stable types.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "jobs", description = "Submit maps and get their values"),
        (name = "agents", description = "The machines that run them"),
        (name = "agent protocol", description = "What agents say to the server; see `protocol::agent`"),
        (name = "rights", description = "Tokens, and what was done by which"),
        (name = "server", description = "Whether it is there, and this description")
    ),
    components(schemas(protocol::job::Accepted)),
    security(("token" = [])),
    modifiers(&BearerToken)
)]
struct Api;

struct BearerToken;

impl utoipa::Modify for BearerToken {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{Method, StatusCode};
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;
    use crate::state::tests::opened;

    /// What a client says of media types refuses it nothing: neither 415 nor 406 is ever answered.
    #[tokio::test]
    async fn no_media_type_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let token = std::fs::read_to_string(folder.path().join(crate::TOKEN_FILE)).unwrap();
        let description: Value = serde_json::from_str(&openapi_json()).unwrap();
        for (path, operations) in description["paths"].as_object().unwrap() {
            let uri = path.replace("{id}", "019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42");
            let uri = uri.replace("{digest}", &"0".repeat(64));
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
                let request = Request::builder()
                    .method(&method)
                    .uri(&uri)
                    .header("authorization", format!("Bearer {}", token.trim()))
                    .header("content-type", "image/png")
                    .header("content-encoding", "br")
                    .header("accept", "image/png")
                    .body(axum::body::Body::from("{}"))
                    .unwrap();
                let status = router(state.clone()).oneshot(request).await.unwrap().status();
                let is_there = operations.get(method.as_str().to_lowercase()).is_some();
                assert_eq!(status == StatusCode::METHOD_NOT_ALLOWED, !is_there, "{method} {path}");
                let of_media = [StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::NOT_ACCEPTABLE];
                assert!(!of_media.contains(&status), "{method} {path}: {status}");
                assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    }
}
