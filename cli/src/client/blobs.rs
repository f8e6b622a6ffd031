//! Requests about blobs.

use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;

use super::{Body, CallError, Client};
use crate::blob::Blob;
use crate::digest::Digest;

impl Client {
    /// Whether the server has a blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, CallError> {
        // The answer to HEAD has no body that could say more than its status does.
        let sent = self.send(self.request(Method::HEAD, &format!("/v1/blobs/{digest}"))).await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob.
    pub async fn put_blob(&self, blob: &Blob) -> Result<(), CallError> {
        let request = self
            .request(Method::PUT, &format!("/v1/blobs/{}", blob.digest))
            .header(CONTENT_LENGTH, blob.size)
            .body(blob.body().await.map_err(CallError::Unreadable)?);
        self.send_large(blob.size, request).await.map(drop)
    }

    /// The bytes of a blob.
    pub async fn blob(&self, digest: &Digest) -> Result<Body, CallError> {
        let request = self.request(Method::GET, &format!("/v1/blobs/{digest}"));
        Ok(self.body(self.send(request).await?))
    }
}
