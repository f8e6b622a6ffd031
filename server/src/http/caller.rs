//! Who calls, by which request, and for which agent.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use protocol::AgentId;
use protocol::rights::Role;

use super::extract::Id;
use crate::error::ApiError;
use crate::listening::client_address;
use crate::state::AppState;
use crate::store::agents::Holder;
use crate::store::audit::Actor;
use crate::store::tokens::{Identity, Scope};

/// Names a request in its answer, in the log and in the audit log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request; younger ones are larger.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// Gives a request an id.
pub fn number(request: &mut Request) -> RequestId {
    // As any other: of version 7, so that they sort by time.
    let id = RequestId(protocol::JobId::new().to_string().into());
    request.extensions_mut().insert(id.clone());
    id
}

/// Tells the id of a request in its answer.
pub fn tell_number(response: &mut Response, RequestId(id): &RequestId) {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

/// Who calls. Put into the request by [`super::auth::require_token`].
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose token it is.
    pub identity: Identity,
    /// The SHA-256 of the token, by which it is looked up again.
    pub hash: Arc<str>,
    address: Option<IpAddr>,
    request: Arc<str>,
}

impl Caller {
    /// Whoever sent `request` by the token of `identity`.
    pub fn new(identity: Identity, hash: Arc<str>, request: &Request, behind_proxy: bool) -> Self {
        let id = request.extensions().get::<RequestId>();
        Self {
            identity,
            hash,
            address: client_address(request, behind_proxy),
            request: id.map_or_else(|| Arc::from(""), |RequestId(id)| Arc::clone(id)),
        }
    }

    /// The administrator whose token is `token`, as if by a request, for tests.
    #[cfg(test)]
    pub fn admin(token: &str) -> Self {
        let (owner, name) = ("ada".to_owned(), "ada's laptop".to_owned());
        let identity = Identity { owner, name, role: Role::Admin };
        let hash = crate::token::hash(token).into();
        Self { identity, hash, address: None, request: "".into() }
    }

    /// Whose jobs it may see.
    pub fn scope(&self) -> Scope {
        self.identity.scope()
    }

    /// Whose blobs it may read: agents run everybody's jobs.
    pub fn blob_scope(&self) -> Scope {
        if self.identity.role == Role::Agent { Scope::All } else { self.scope() }
    }

    /// Who it is to the audit log.
    pub fn actor(&self) -> Actor {
        Actor {
            token: self.identity.owner.clone(),
            name: self.identity.name.clone(),
            address: self.address.map(|address| address.to_string()),
            request: self.request.to_string(),
        }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        // Only a public route has none.
        caller.ok_or_else(|| ApiError::Internal("a request without a caller".to_owned()))
    }
}

/// The agent that the path names. It is the caller's own: registered by this token, or by nobody;
/// an administrator may speak for any.
pub struct OwnAgent(pub AgentId);

impl FromRequestParts<AppState> for OwnAgent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Id(agent) = Id::from_request_parts(parts, state).await?;
        let caller = Caller::from_request_parts(parts, state).await?;
        if caller.identity.role == Role::Admin {
            return Ok(Self(agent));
        }
        let holder = state.tokens.holder(&state.store, agent).await?;
        if may_speak(&caller.identity, &holder) { Ok(Self(agent)) } else { Err(foreign(agent)) }
    }
}

/// Whether the holder of the token may register the agent anew and speak for it.
pub fn may_speak(identity: &Identity, holder: &Holder) -> bool {
    match holder {
        Holder::Nobody => true,
        Holder::Token(token) => identity.role == Role::Admin || *token == identity.owner,
        Holder::Admins => identity.role == Role::Admin,
    }
}

/// The refusal to who speaks for an agent of another token.
pub fn foreign(agent: AgentId) -> ApiError {
    ApiError::Forbidden(format!(
        "agent {agent} was registered with another token, and only that one may speak for it: use \
         that token, or start another agent, which has an id of its own"
    ))
}
