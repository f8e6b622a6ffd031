//! Requests about tokens, and about what was done by which.

use protocol::TokenId;
use protocol::job::Page;
use protocol::rights::{AuditEntry, CreateToken, CreatedToken, TokenStatus};
use reqwest::Method;

use super::{CallError, Client};

impl Client {
    /// Makes a token.
    pub async fn create_token(&self, token: &CreateToken) -> Result<CreatedToken, CallError> {
        self.get_json(self.request(Method::POST, "/v1/tokens").json(token)).await
    }

    /// A page of the tokens, the oldest first; of all, or of those that are called so.
    pub async fn tokens(
        &self,
        name: Option<&str>,
        after: Option<&str>,
    ) -> Result<Page<TokenStatus>, CallError> {
        let query = [("name", name), ("after", after)];
        let query: Vec<_> = query.into_iter().filter(|(_, value)| value.is_some()).collect();
        self.get_json(self.request(Method::GET, "/v1/tokens").query(&query)).await
    }

    /// Revokes a token; one that was revoked before stays so.
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), CallError> {
        self.send(self.request(Method::DELETE, &format!("/v1/tokens/{id}"))).await.map(drop)
    }

    /// A page of the audit log, the newest first; of all, or of what was done to `object`.
    pub async fn audit(
        &self,
        object: Option<&str>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<AuditEntry>, CallError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(object.map(|object| ("object", object.to_owned())));
        query.extend(after.map(|after| ("after", after.to_owned())));
        self.get_json(self.request(Method::GET, "/v1/audit").query(&query)).await
    }
}
