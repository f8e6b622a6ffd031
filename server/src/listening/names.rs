//! What a page in a browser may not do. A page of another site can send requests to a server that
//! its browser reaches: to this machine's 127.0.0.1, to an address of a private network. It can also
//! give its own name to that address (DNS rebinding), so that the browser takes the server for a
//! part of the page's site. The first is told by `Origin` and `Sec-Fetch-Site`, which no page can
//! change; the second by `Host`, which then is a name of the page and not of the server.

use std::net::IpAddr;
use std::str::FromStr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};

use super::Reach;
use crate::error::ApiError;

/// A name or an address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// A name, in lower case, without a dot at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !name.is_empty() && name.bytes().all(is_plain) {
            Ok(Self::Name(name))
        } else {
            Err("give a host's name alone, such as farrow.example.org".to_owned())
        }
    }
}

/// The names that a server has, and what that means for requests.
#[derive(Clone, Debug)]
pub struct Names {
    hosts: Vec<HostName>,
    listens_on: IpAddr,
    has_tls: bool,
    behind_proxy: bool,
}

/// A host and a port.
struct Place {
    host: HostName,
    port: Option<u16>,
}

impl Names {
    /// Of a server that listens on an address.
    pub fn new(reach: &Reach, listens_on: IpAddr) -> Self {
        let listens_on = listens_on.to_canonical();
        let (has_tls, behind_proxy) = (reach.has_tls(), reach.behind_proxy);
        Self { hosts: reach.hosts.clone(), listens_on, has_tls, behind_proxy }
    }

    /// Refuses what a page of another site may have sent. Whoever is no browser sends no `Origin`
    /// and asks by a name of the server.
    ///
    /// # Errors
    /// Which name it was, and what to do if it is one of the server's.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut asked = None;
        let in_line = uri.authority().map(Authority::as_str);
        for text in in_line.into_iter().chain(headers.get_all(HOST).iter().map(text_of)) {
            let place = place(text).filter(|place| self.is_own(&place.host));
            asked = Some(place.ok_or_else(|| ApiError::ForbiddenHost(shown(text)))?);
        }
        for origin in headers.get_all(ORIGIN).iter().map(text_of) {
            if !self.is_same_site(origin, asked.as_ref()) {
                return Err(ApiError::ForbiddenOrigin(shown(origin)));
            }
        }
        let mut sites = headers.get_all("sec-fetch-site").iter();
        if !method.is_safe() && sites.any(|site| site == "cross-site") {
            return Err(ApiError::ForbiddenOrigin("another site".to_owned()));
        }
        Ok(())
    }

    /// Whether a request may ask for this host.
    ///
    /// A page has a name, and rebinding gives that name another address: addresses are nobody's to
    /// give. Behind TLS a browser has seen a certificate for the name before it sent anything, so
    /// that there any name will do unless names are given.
    fn is_own(&self, host: &HostName) -> bool {
        if self.hosts.contains(host) || (self.has_tls && self.hosts.is_empty()) {
            return true;
        }
        match host {
            HostName::Name(name) => name == "localhost",
            HostName::Address(address) => {
                let is_near = address.is_loopback() || *address == self.listens_on;
                is_near || !self.listens_on.is_loopback()
            }
        }
    }

    /// Whether a page of this origin is one of the server itself: its origin is what the request
    /// asks for, or a name that was given, at its usual port; a proxy may have changed `Host`.
    fn is_same_site(&self, origin: &str, asked: Option<&Place>) -> bool {
        let Some((scheme, rest)) = origin.split_once("://") else { return false };
        let default_port = match (scheme, self.has_tls, self.behind_proxy) {
            ("https", true, _) | ("https", _, true) => 443,
            ("http", false, _) => 80,
            _ => return false,
        };
        let Some(from) = place(rest) else { return false };
        let port = from.port.unwrap_or(default_port);
        let asked_port = asked.map(|asked| asked.port.unwrap_or(default_port));
        let is_asked = asked.is_some_and(|asked| asked.host == from.host);
        let is_given = self.hosts.contains(&from.host);
        (is_asked && asked_port == Some(port))
            || (is_given && (port == default_port || asked_port == Some(port)))
    }
}

fn place(text: &str) -> Option<Place> {
    let authority: Authority = text.parse().ok().filter(|_| !text.contains('@'))?;
    let host = authority.host().parse().ok()?;
    Some(Place { host, port: authority.port_u16() })
}

fn text_of(value: &HeaderValue) -> &str {
    // What is no text is no name either.
    value.to_str().unwrap_or("?")
}

/// The beginning of what was sent.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
