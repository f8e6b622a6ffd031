//! Parts of a request, refused with problems.

use std::io::Read as _;
use std::str::FromStr;

use axum::body::HttpBody;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::AppState;
use crate::submission;

/// The one part of the path that a route leaves open, as text.
pub struct Segment(pub String);

impl FromRequestParts<AppState> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        segment.map(|Path(text)| Self(text)).map_err(|e| ApiError::BadRequest(e.body_text()))
    }
}

/// The id in the path.
pub struct Id<T>(pub T);

impl<T: FromStr + Send> FromRequestParts<AppState> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        text.parse().map(Self).map_err(|_| {
            ApiError::field("id", format!("{text:?} in the path is not an id, which is a UUID"))
        })
    }
}

/// The query, each parameter checked.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query; a name may come several times where a list is taken.
///
/// # Errors
/// Which parameter cannot be.
pub fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    // No id, name or cursor holds one, and not every database can be asked for it.
    if query.contains("%00") || query.contains('\0') {
        return Err(ApiError::field("query", "holds a NUL character"));
    }
    let pairs = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let name = error.path().to_string();
        let message = in_plain_words(&error.into_inner().to_string());
        ApiError::field(if name == "." { "query".to_owned() } else { name }, message)
    })
}

/// What is said of a parameter, where that speaks of Rust.
fn in_plain_words(message: &str) -> String {
    let plain = match message {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number"
        }
        "invalid float literal" | "cannot parse float from empty string" => "must be a number",
        "number too large to fit in target type" => "is too large",
        _ => return message.replace("unknown variant `", "unknown value `"),
    };
    plain.to_owned()
}

/// The body, up to the limit that the server was started with.
pub struct Body(pub Bytes);

impl FromRequest<AppState> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let limit = state.config.settings.max_body;
        let is_compressed = is_gzip(request.headers());
        // The limit is ours alone: the one that axum's extractors default to is far below it.
        let body = Limited::new(request.into_body(), limit);
        match collected(body).await {
            Ok(body) if is_compressed => {
                inflate(body, state.config.settings.limits.max_inflated_body).await
            }
            Ok(body) => Ok(Self(body)),
            Err(error) => Err(unread(limit, &*error)),
        }
    }
}

/// Why a body of at most `limit` bytes cannot be read.
pub fn unread(limit: usize, error: &(dyn std::error::Error + Send + Sync + 'static)) -> ApiError {
    if error.is::<http_body_util::LengthLimitError>() {
        return ApiError::TooLarge(limit);
    }
    ApiError::BadRequest(format!("the body ends early: {error}"))
}

/// All of a body, of which there is one copy at any time.
async fn collected<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, B::Error> {
    let mut all: Option<Bytes> = None;
    let mut longer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        match all.take() {
            // Most bodies are one piece.
            None if longer.is_empty() => all = Some(data),
            None => longer.extend_from_slice(&data),
            Some(first) => {
                longer.extend_from_slice(&first);
                longer.extend_from_slice(&data);
            }
        }
    }
    Ok(all.unwrap_or_else(|| longer.freeze()))
}

/// Whether the body is compressed as we can read. Another encoding is taken for none, as it often is.
pub fn is_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"gzip"))
}

async fn inflate(body: Bytes, limit: usize) -> Result<Body, ApiError> {
    let inflating = tokio::task::spawn_blocking(move || {
        let mut inflated = Vec::new();
        // One byte more than may be tells that there is more.
        let most = (limit as u64).saturating_add(1);
        MultiGzDecoder::new(&body[..]).take(most).read_to_end(&mut inflated).map(|_| inflated)
    });
    match inflating.await.map_err(|error| ApiError::Internal(error.to_string()))? {
        Ok(inflated) if inflated.len() > limit => Err(ApiError::InflatedTooLarge(limit)),
        Ok(inflated) => Ok(Body(inflated.into())),
        Err(error) => Err(ApiError::BadRequest(format!(
            "Content-Encoding says gzip, but the body cannot be inflated: {error}"
        ))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Asked {
        id: Vec<u32>,
        limit: Option<u32>,
    }

    #[test]
    fn a_name_may_come_several_times_where_a_list_is_taken() {
        let read = |query| read_query::<Asked>(query).unwrap();
        assert_eq!(read(""), Asked::default());
        assert_eq!(read("id=1&limit=5&id=2"), Asked { id: vec![1, 2], limit: Some(5) });
        assert_eq!(read("id=7").id, [7]);
    }

    #[tokio::test]
    async fn a_compressed_body_is_inflated_up_to_its_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![b' '; 1 << 20]).unwrap();
        let bomb = Bytes::from(encoder.finish().unwrap());
        assert!(bomb.len() < 2000);
        assert_eq!(inflate(bomb.clone(), 1 << 20).await.unwrap().0.len(), 1 << 20);
        let refused = inflate(bomb, (1 << 20) - 1).await.map(|body| body.0);
        assert!(matches!(refused, Err(ApiError::InflatedTooLarge(_))));
        let refused = inflate(Bytes::from_static(b"{}"), 10).await.map(|body| body.0);
        assert!(matches!(refused, Err(ApiError::BadRequest(_))));
    }

    #[test]
    fn the_parameter_at_fault_is_named() {
        for (query, wanted) in [
            ("limit=x", "limit: must be a whole number"),
            ("limit=1&limit=2", "limit"),
            ("id=1&id=x", "id"),
            ("no=1", "no"),
        ] {
            let Err(ApiError::Invalid(errors)) = read_query::<Asked>(query) else {
                panic!("{query} is taken")
            };
            let said = format!("{}: {}", errors[0].field, errors[0].message);
            assert!(said.contains(wanted), "{query}: {said}");
        }
    }
}
