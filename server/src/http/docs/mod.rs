//! The page `/docs`: the description of the API, to be read and tried. It is made of files inside
//! this program alone and asks no other host for anything; `README.md` beside this file says where
//! they are from.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

use crate::state::AppState;

/// The version of Scalar's API reference; in its path, so that it may be cached for good.
#[cfg(test)]
const VERSION: &str = "1.46.4";

/// What the page may do: run and ask for what is of this server. Scalar writes styles into the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("index.html");
const START: &str = include_str!("start.js");
const SCALAR: &[u8] = include_bytes!("scalar.js.gz");

/// The paths under which the page and its parts are.
pub const PATHS: [&str; 3] = ["/docs", "/docs/start.js", "/docs/scalar-1.46.4.js"];

/// What the page loads.
pub fn parts() -> Router<AppState> {
    Router::new().route(PATHS[1], get(start)).route(PATHS[2], get(scalar))
}

/// The description of the API as a page.
#[utoipa::path(get, path = "/docs", tag = "server", security(()),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html",
        example = "<!doctype html>…")))]
pub async fn page() -> impl IntoResponse {
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE))
}

async fn start() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, "no-cache")], START)
}

async fn scalar() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (CONTENT_ENCODING, "gzip"),
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, SCALAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_same_everywhere() {
        assert!(PATHS[2].ends_with(&format!("scalar-{VERSION}.js")));
        assert!(PAGE.contains(PATHS[2].trim_start_matches('/')));
        assert!(include_str!("README.md").contains(&format!("`@scalar/api-reference` {VERSION},")));
    }
}
