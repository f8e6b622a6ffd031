//! Who may call: bearer tokens and their roles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use protocol::AgentId;
use protocol::rights::{Role, TokenState};

use super::caller::Caller;
use super::{Access, access, is_public};
use crate::clock::{Clock, Millis, rfc3339};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::agents::{self, Holder};
use crate::store::tokens::{self, Identity, Known};
use crate::store::{Store, StoreError};
use crate::token;

/// For how long what the database says of a token is believed. Another server may revoke it.
const TRUST: Duration = Duration::from_secs(1);

/// Tokens that are remembered at the most.
const MAX_KNOWN: usize = 10_000;

/// Agents that are remembered at the most: more than are at one server, for when there are more all are forgotten,
/// and each is looked up again.
const MAX_AGENTS: usize = 100_000;

/// What the database said of a token, and when it was asked. Held while it is asked, so that of many
/// requests with the same token one asks.
type Entry = tokio::sync::Mutex<Option<(Known, Duration)>>;

/// What is remembered of tokens. Looking a hash up in a table takes the same time whether the secret
/// is nearly right or not at all.
#[derive(Debug, Default)]
pub struct Tokens {
    /// By their SHA-256.
    known: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    /// When tokens, by their ids, were used since it was last written down.
    used: Mutex<HashMap<String, Millis>>,
    /// Which token registered an agent: that does not change while the agent is known.
    holders: Mutex<HashMap<AgentId, String>>,
}

impl Tokens {
    /// What is known of the token whose SHA-256 is `hash`; `None`: there is no such token.
    ///
    /// # Errors
    /// The database's.
    async fn find(
        &self,
        store: &Store,
        clock: &Clock,
        hash: &Arc<str>,
    ) -> Result<Option<Known>, StoreError> {
        let entry = self.entry(hash);
        let mut entry = entry.lock().await;
        let asked_at = clock.uptime();
        if let Some((known, at)) = &*entry
            && asked_at.saturating_sub(*at) < TRUST
        {
            return Ok(Some(known.clone()));
        }
        let wanted = Arc::clone(hash);
        let found =
            store.read(|tx| Box::pin(async move { tokens::find(tx, &wanted).await })).await?;
        match &found {
            Some(known) => *entry = Some((known.clone(), asked_at)),
            // Whoever tries tokens must not fill the memory.
            None => self.forget(hash),
        }
        Ok(found)
    }

    fn entry(&self, hash: &Arc<str>) -> Arc<Entry> {
        let mut known = locked(&self.known);
        if known.len() >= MAX_KNOWN && !known.contains_key(hash) {
            known.clear();
        }
        Arc::clone(known.entry(Arc::clone(hash)).or_default())
    }

    /// Believes nothing of the token any more that it was told before.
    pub fn forget(&self, hash: &str) {
        locked(&self.known).remove(hash);
    }

    /// Who the caller is whose token has the SHA-256 `hash`.
    ///
    /// # Errors
    /// 401 when the token is not known, was revoked, or has expired.
    pub async fn identify(
        &self,
        store: &Store,
        clock: &Clock,
        hash: &Arc<str>,
    ) -> Result<Identity, ApiError> {
        let known = self.find(store, clock, hash).await?.ok_or_else(unknown)?;
        // By the time now: an entry may be older than the end of its token.
        let now = clock.now();
        match known.state(now) {
            TokenState::Live => {}
            TokenState::Expired | TokenState::Revoked => return Err(not_good(&known, now)),
        }
        locked(&self.used).insert(known.identity.owner.clone(), now);
        Ok(known.identity)
    }

    /// When tokens were used since this was asked last.
    pub fn take_used(&self) -> Vec<(String, Millis)> {
        locked(&self.used).drain().collect()
    }

    /// To whom an agent belongs.
    ///
    /// # Errors
    /// The database's.
    pub async fn holder(&self, store: &Store, agent: AgentId) -> Result<Holder, StoreError> {
        if let Some(token) = locked(&self.holders).get(&agent) {
            return Ok(Holder::Token(token.clone()));
        }
        let holder =
            store.read(|tx| Box::pin(async move { agents::holder(tx, agent).await })).await?;
        if let Holder::Token(token) = &holder {
            self.belongs(agent, token);
        }
        Ok(holder)
    }

    /// Remembers to which token an agent belongs.
    pub fn belongs(&self, agent: AgentId, token: &str) {
        let mut holders = locked(&self.holders);
        if holders.len() >= MAX_AGENTS {
            holders.clear();
        }
        holders.insert(agent, token.to_owned());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a request's path is public, or its token is good and of a role that may call the route; says to
/// the handler who calls.
///
/// # Errors
/// 401 when there is no token or it is not good, 403 when its role is another.
pub async fn require_token(state: &AppState, request: &mut Request) -> Result<(), ApiError> {
    if is_public(request.uri().path()) {
        return Ok(());
    }
    let hash: Arc<str> = token::hash(bearer(request.headers())?).into();
    let identity = state.tokens.identify(&state.store, &state.clock, &hash).await?;
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // What is no route is told to anybody who has a token.
    let access = path.and_then(|path| access(request.method().as_str(), path));
    if let (Some(Access::Only(roles)), Some(path)) = (access, path) {
        check_role(&identity, roles, request.method().as_str(), path)?;
    }
    let caller = Caller::new(identity, hash, request, state.config.settings.reach.behind_proxy);
    request.extensions_mut().insert(caller);
    Ok(())
}

/// Whether the caller's token is still as good as when the request came.
///
/// # Errors
/// 401 when it is not.
pub async fn still_good(state: &AppState, caller: &Caller) -> Result<(), ApiError> {
    state.tokens.identify(&state.store, &state.clock, &caller.hash).await.map(drop)
}

fn check_role(
    identity: &Identity,
    roles: &[Role],
    method: &str,
    path: &str,
) -> Result<(), ApiError> {
    if identity.role == Role::Admin || roles.contains(&identity.role) {
        return Ok(());
    }
    let needed = roles.iter().copied().chain([Role::Admin]);
    let needed = needed.map(|role| format!("`{role}`")).collect::<Vec<_>>().join(" or ");
    let role = roles.first().copied().unwrap_or(Role::Admin);
    Err(ApiError::Forbidden(format!(
        "the token {:?} has the role `{}`, and {method} {path} needs the role {needed}: use another \
         token, which an administrator makes by `farrow token create --role {role}`",
        identity.name, identity.role
    )))
}

fn unknown() -> ApiError {
    ApiError::Unauthorized(
        "this token is not known: see whether it was copied whole, and is this server's. An \
         administrator makes tokens by `farrow token create`; the first administrator's is the \
         FARROW_TOKEN with which the server was started, or in the file admin.token of its data folder"
            .to_owned(),
    )
}

fn not_good(known: &Known, now: Millis) -> ApiError {
    let end = match known.revoked_at {
        Some(at) => format!("was revoked at {}", rfc3339(at)),
        None => format!("has expired at {}", rfc3339(known.expires_at.unwrap_or(now))),
    };
    ApiError::Unauthorized(format!(
        "the token {:?} {end}: ask an administrator for another one, made by `farrow token create \
         --role {}`",
        known.identity.name, known.identity.role
    ))
}

fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(ApiError::Unauthorized(
            "the request has no token: send the header `Authorization: Bearer TOKEN`".to_owned(),
        ));
    };
    value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| {
            ApiError::Unauthorized(
                "the header Authorization holds no token: it must be `Authorization: Bearer TOKEN`"
                    .to_owned(),
            )
        })
}
