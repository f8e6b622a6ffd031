//! Parts of a request, refused with problems.

use std::str::FromStr;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::AppState;
use crate::submission;

/// The id in the path.
pub struct Id<T>(pub T);

impl<T: FromStr + Send> FromRequestParts<AppState> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::BadRequest(e.body_text()))?;
        text.parse().map(Self).map_err(|_| {
            ApiError::field("id", format!("{text:?} in the path is not an id, which is a UUID"))
        })
    }
}

/// The query, each field checked.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Query(params) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::field("query", e.body_text()))?;
        Ok(Self(params))
    }
}

/// The body, up to the limit that the server was started with.
pub struct Body(pub Bytes);

impl FromRequest<AppState> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let limit = state.config.settings.max_body;
        // The limit is ours alone: the one that axum's extractors default to is far below it.
        let body = Limited::new(request.into_body(), limit);
        match body.collect().await {
            Ok(collected) => Ok(Self(collected.to_bytes())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(ApiError::TooLarge(limit))
            }
            Err(error) => Err(ApiError::BadRequest(format!("the body ends early: {error}"))),
        }
    }
}

/// A body that is JSON.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let Body(body) = Body::from_request(request, state).await?;
        submission::read_json(&body).map(Self)
    }
}
