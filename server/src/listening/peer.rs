//! Who is at the other end, for the log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::HeaderMap;
use axum::serve::IncomingStream;

use super::Door;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    has_asked: Arc<AtomicBool>,
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self { address: *stream.remote_addr(), has_asked: stream.io().has_asked() }
    }
}

/// Notes on the connection of a request that one has come.
pub fn note_request(request: &Request) {
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<Peer>>() {
        peer.has_asked.store(true, Ordering::Relaxed);
    }
}

/// Where a request comes from, as far as that can be known: with a proxy in front it is what the
/// proxy says. For the log alone: nothing is allowed or refused by it.
pub fn client_address(request: &Request, behind_proxy: bool) -> Option<IpAddr> {
    let told = behind_proxy.then(|| forwarded_for(request.headers())).flatten();
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    told.or_else(|| peer.map(|ConnectInfo(peer)| peer.address.ip().to_canonical()))
}

/// The last address of `X-Forwarded-For`: that is what the proxy in front has seen; those before it
/// are what it was told.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let text = last.rsplit(',').next()?.trim();
    let address = text.parse::<SocketAddr>().map(|address| address.ip());
    address.or_else(|_| text.trim_matches(['[', ']']).parse()).ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn of(forwarded: &[&str], behind_proxy: bool) -> Option<String> {
        let mut request = Request::builder();
        for value in forwarded {
            request = request.header("x-forwarded-for", *value);
        }
        let peer = Peer { address: ([10, 0, 0, 1], 5).into(), has_asked: Arc::default() };
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        client_address(&request, behind_proxy).map(|address| address.to_string())
    }

    #[test]
    fn a_proxy_is_believed_only_where_there_is_one_and_only_its_own_word() {
        let told = ["6.6.6.6, 7.7.7.7", "8.8.8.8, 9.9.9.9"];
        assert_eq!(of(&told, false).as_deref(), Some("10.0.0.1"));
        assert_eq!(of(&told, true).as_deref(), Some("9.9.9.9"));
        assert_eq!(of(&["[2001:db8::1]:443"], true).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["[2001:db8::1]"], true).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["unknown"], true).as_deref(), Some("10.0.0.1"));
        assert_eq!(of(&[], true).as_deref(), Some("10.0.0.1"));
    }
}
