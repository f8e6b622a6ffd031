//! A body that is read as it arrives: what is large in it need not stand in memory whole.

use axum::body::{self, HttpBody as _};
use axum::extract::{FromRequest, Request};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::stream::{self, Stream};
use http_body_util::{BodyExt as _, Limited};
use protocol::envelope;
use serde::de::DeserializeOwned;

use super::extract::{self, Body};
use crate::error::ApiError;
use crate::state::AppState;

/// Bytes for which room is made before they are there: whoever announces them may not send them.
const MOST_ROOM: usize = 1 << 20;

/// A body, up to the limit that the server was started with, of which a part may have been read.
pub struct Arriving {
    /// What has arrived and was not read.
    here: Bytes,
    /// What follows; `None`: nothing.
    rest: Option<Limited<body::Body>>,
    limit: usize,
    n_read: usize,
    /// Why `rest` could not be read.
    failure: Option<ApiError>,
}

impl FromRequest<AppState> for Arriving {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        if extract::is_gzip(request.headers()) {
            return Body::from_request(request, state).await.map(|Body(whole)| whole.into());
        }
        Self::within(state.config.settings.max_body, request.into_body()).await
    }
}

impl From<Bytes> for Arriving {
    /// One that has arrived.
    fn from(whole: Bytes) -> Self {
        Self { limit: whole.len(), here: whole, rest: None, n_read: 0, failure: None }
    }
}

impl Arriving {
    /// A body of at most `limit` bytes.
    ///
    /// # Errors
    /// When it says that it has more; then so many were read, for who still sends may not read the answer.
    async fn within(limit: usize, body: body::Body) -> Result<Self, ApiError> {
        let is_too_large = body.size_hint().lower() > limit as u64;
        let rest = Some(Limited::new(body, limit));
        let mut arriving = Self { here: Bytes::new(), rest, limit, n_read: 0, failure: None };
        if is_too_large {
            arriving.drain().await;
            return Err(ApiError::TooLarge(limit));
        }
        Ok(arriving)
    }

    /// How many bytes of it were read.
    pub fn n_read(&self) -> usize {
        self.n_read
    }

    /// How many bytes were not, if that is known before they are.
    pub fn n_left(&self) -> Option<u64> {
        let rest = self.rest.as_ref().map_or(Some(0), |rest| rest.size_hint().exact())?;
        Some(self.here.len() as u64 + rest)
    }

    /// Reads the header of an envelope: what is left are its payloads.
    ///
    /// # Errors
    /// When there is none, or the body is too large or breaks off.
    pub async fn header<T: DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        self.gather(4).await?;
        if let Some(length) = self.here.first_chunk::<4>() {
            self.gather(4 + u32::from_le_bytes(*length) as usize).await?;
        }
        let (header, start) = envelope::open::<T>(&self.here)
            .map_err(|error| ApiError::BadRequest(error.to_string()))?;
        self.here.advance(start);
        self.n_read += start;
        Ok(header)
    }

    /// Reads the next `n` bytes; fewer only at the end of the body.
    ///
    /// # Errors
    /// When the body is too large or breaks off.
    pub async fn take(&mut self, n: usize) -> Result<Bytes, ApiError> {
        self.gather(n).await?;
        Ok(self.split(n))
    }

    /// Reads the next `n` bytes as they arrive. When that fails, [`failure`](Self::failure) says why.
    pub fn parts(&mut self, n: usize) -> impl Stream<Item = Result<Bytes, &'static str>> {
        stream::try_unfold((self, n), async |(body, left)| {
            if left == 0 {
                return Ok(None);
            }
            if body.here.is_empty() {
                body.here = match body.more().await {
                    Ok(Some(more)) => more,
                    Ok(None) => return Err("the body ends early"),
                    Err(error) => {
                        body.failure = Some(error);
                        return Err("the body cannot be read");
                    }
                };
            }
            let part = body.split(left);
            let left = left - part.len();
            Ok(Some((part, (body, left))))
        })
    }

    /// Why [`parts`](Self::parts) failed; `otherwise`, if it did not by itself.
    pub fn failure(&mut self, otherwise: &str) -> ApiError {
        self.failure.take().unwrap_or_else(|| ApiError::BadRequest(otherwise.to_owned()))
    }

    /// Reads to the end what nobody wants: who is refused while it still sends may not read the answer.
    pub async fn drain(&mut self) {
        while matches!(self.more().await, Ok(Some(_))) {}
    }

    /// Sees to it that `n` bytes are here, if the body has so many.
    async fn gather(&mut self, n: usize) -> Result<(), ApiError> {
        if self.here.len() >= n {
            return Ok(());
        }
        let first = std::mem::take(&mut self.here);
        let first = if first.is_empty() { self.more().await?.unwrap_or_default() } else { first };
        // Most bodies are one piece.
        if first.len() >= n {
            self.here = first;
            return Ok(());
        }
        let mut gathered = BytesMut::with_capacity(n.min(MOST_ROOM));
        gathered.extend_from_slice(&first);
        while gathered.len() < n {
            let Some(more) = self.more().await? else { break };
            gathered.extend_from_slice(&more);
        }
        self.here = gathered.freeze();
        Ok(())
    }

    fn split(&mut self, n: usize) -> Bytes {
        let part = self.here.split_to(n.min(self.here.len()));
        self.n_read += part.len();
        part
    }

    async fn more(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Some(rest) = &mut self.rest else { return Ok(None) };
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|error| extract::unread(self.limit, &*error))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    fn arriving(parts: &[&'static str], limit: usize) -> Arriving {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok::<_, std::io::Error>(Bytes::from(*part))).collect();
        let rest = Some(Limited::new(body::Body::from_stream(stream::iter(parts)), limit));
        Arriving { here: Bytes::new(), rest, limit, n_read: 0, failure: None }
    }

    fn envelope() -> [&'static str; 5] {
        ["\u{5}\0", "\0\0[1,", "2]abc", "", "defghi"]
    }

    #[tokio::test]
    async fn what_is_read_is_the_same_however_it_arrives() {
        let whole = Bytes::from(envelope().concat());
        for mut body in [arriving(&envelope(), 18), whole.into()] {
            assert_eq!(body.header::<Vec<u32>>().await.unwrap(), [1, 2]);
            assert_eq!(body.take(1).await.unwrap(), "a");
            let parts: Vec<Bytes> = body.parts(4).try_collect().await.unwrap();
            assert_eq!(parts.concat(), b"bcde");
            assert_eq!((body.n_read(), body.take(9).await.unwrap()), (14, "fghi".into()));
            assert!(body.parts(1).try_collect::<Vec<_>>().await.is_err());
            assert!(matches!(body.failure("the body ends early"), ApiError::BadRequest(_)));
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_wherever_that_shows() {
        let mut body = arriving(&envelope(), 14);
        assert_eq!(body.header::<Vec<u32>>().await.unwrap(), [1, 2]);
        assert!(body.parts(9).try_collect::<Vec<_>>().await.is_err());
        assert!(matches!(body.failure("the body ends early"), ApiError::TooLarge(14)));
        let taken = arriving(&envelope(), 3).header::<Vec<u32>>().await;
        assert!(matches!(taken, Err(ApiError::TooLarge(3))));
    }

    #[tokio::test]
    async fn what_says_that_it_is_too_large_is_refused_at_once() {
        let whole = || body::Body::from(envelope().concat());
        assert!(matches!(Arriving::within(17, whole()).await, Err(ApiError::TooLarge(17))));
        let mut body = Arriving::within(18, whole()).await.unwrap();
        assert_eq!(body.n_left(), Some(18));
        assert_eq!(body.header::<Vec<u32>>().await.unwrap(), [1, 2]);
        assert_eq!((body.n_left(), arriving(&envelope(), 99).n_left()), (Some(9), None));
    }

    #[tokio::test]
    async fn a_header_that_is_cut_off_is_refused() {
        for parts in [&["\u{5}\0"][..], &["\u{5}\0\0\0[1"], &["\u{1}\0\0\0x"]] {
            let refused = arriving(parts, 99).header::<Vec<u32>>().await;
            assert!(matches!(refused, Err(ApiError::BadRequest(_))), "{parts:?}");
        }
    }
}
