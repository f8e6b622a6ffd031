//! What a page in a browser may not do; [`Names`] says why and decides.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::listening::Names;

/// Lets a request through unless a page of another site may have sent it.
///
/// # Errors
/// 403 when it asks for a host that is not this server, or comes from such a page.
pub async fn refuse_other_sites(
    State(names): State<Arc<Names>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    names.check(request.method(), request.uri(), request.headers())?;
    Ok(next.run(request).await)
}
