//! How a server is reached: where it may listen, over TLS or not, and by what names it is asked.

mod connection;
mod names;
mod peer;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use connection::{Connection, Stream};
pub use names::{HostName, Names};
pub use peer::{Peer, client_address, note_request};
pub use tls::{Tls, TlsError};

/// The settings of how a server is reached.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "reach_settings")]
pub struct Reach {
    /// Certificate for TLS, with those between it and its authority (PEM); read again when it changes.
    #[arg(long, env = "FARROW_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM); read again when it changes.
    #[arg(long, env = "FARROW_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Listen beyond this machine without TLS: a proxy in front does TLS.
    #[arg(long, env = "FARROW_BEHIND_PROXY", value_parser = clap::builder::FalseyValueParser::new())]
    pub behind_proxy: bool,

    /// Name by which clients ask for this server; may be repeated. Addresses of this machine need
    /// none, nor do names where TLS is on and none is given.
    #[arg(long = "host", env = "FARROW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub hosts: Vec<HostName>,
}

/// A server may not listen there.
#[derive(Debug, thiserror::Error)]
#[error(
    "not listening on {0} without TLS: who has the token can run code, and there it would cross the \
     network for all to read; give --tls-cert and --tls-key, or --behind-proxy if a proxy in front \
     does TLS, or listen on 127.0.0.1 and reach it through ssh"
)]
pub struct Exposed(SocketAddr);

impl Reach {
    /// Whether there is TLS.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Refuses an address beyond this machine without TLS, unless a proxy in front is said to do it.
    ///
    /// # Errors
    /// What to do instead.
    pub fn check(&self, listen: SocketAddr) -> Result<(), Exposed> {
        let is_private = listen.ip().to_canonical().is_loopback();
        if is_private || self.has_tls() || self.behind_proxy {
            Ok(())
        } else {
            Err(Exposed(listen))
        }
    }

    /// The certificate and its key, if there is to be TLS.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn tls(&self) -> Result<Option<Arc<Tls>>, TlsError> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Tls::load(cert, key).map(|tls| Some(Arc::new(tls))),
            _ => Ok(None),
        }
    }
}

/// The sockets on which a server listens.
#[derive(Debug)]
pub struct Listeners {
    /// Where everybody reaches it.
    pub public: TcpListener,
    /// Where this process reaches it without TLS: a port of 127.0.0.1.
    pub local: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(public: TcpListener) -> Self {
        Self { public, local: None }
    }
}

/// Accepts connections, over TLS where there is a certificate.
///
/// Handshakes go on beside, each in a task, so that one who is slow holds up nobody; they end with
/// this.
#[derive(Debug)]
pub struct Door {
    listeners: Listeners,
    tls: Option<Arc<Tls>>,
    handshakes: JoinSet<Option<(Stream, SocketAddr)>>,
    shutdown: CancellationToken,
}

/// Handshakes that go on at once. Beyond it new connections wait in the system's queue, no longer
/// than handshakes may take.
const MOST_HANDSHAKES: usize = 500;

impl Door {
    /// A door at these sockets, of a server that is to stop when `shutdown` is cancelled.
    pub fn new(listeners: Listeners, tls: Option<Arc<Tls>>, shutdown: CancellationToken) -> Self {
        Self { listeners, tls, handshakes: JoinSet::new(), shutdown }
    }

    async fn open(&mut self) -> (Stream, SocketAddr) {
        let Self { listeners, tls, handshakes, .. } = self;
        loop {
            tokio::select! {
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(connected)) = done {
                        return connected;
                    }
                }
                (stream, peer) = Listener::accept(&mut listeners.public),
                    if handshakes.len() < MOST_HANDSHAKES =>
                {
                    do_not_delay(&stream);
                    match tls {
                        Some(tls) => drop(handshakes.spawn(tls.handshake(stream, peer))),
                        None => return (Stream::Plain(stream), peer),
                    }
                }
                (stream, peer) = accept_locally(&mut listeners.local) => {
                    do_not_delay(&stream);
                    return (Stream::Plain(stream), peer);
                }
            }
        }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = self.open().await;
        (Connection::new(stream, self.shutdown.clone()), peer)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listeners.public.local_addr()
    }
}

async fn accept_locally(listener: &mut Option<TcpListener>) -> (TcpStream, SocketAddr) {
    match listener {
        Some(listener) => Listener::accept(listener).await,
        None => std::future::pending().await,
    }
}

/// An answer is one small write after another: Nagle's algorithm would hold the last one back
/// until the client's delayed acknowledgement, some 40 ms.
fn do_not_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps Nagle's algorithm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_this_machine_there_is_tls_or_a_proxy() {
        let plain = Reach::default();
        let tls = Reach { tls_cert: Some("c".into()), tls_key: Some("k".into()), ..plain.clone() };
        let proxy = Reach { behind_proxy: true, ..plain.clone() };
        for (listen, is_private) in [
            ("127.0.0.1:3277", true),
            ("127.8.9.1:0", true),
            ("[::1]:3277", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:3277", false),
            ("[::]:3277", false),
            ("10.0.0.5:3277", false),
            ("[fe80::1]:3277", false),
        ] {
            let listen = listen.parse().unwrap();
            assert_eq!(plain.check(listen).is_ok(), is_private, "{listen}");
            assert!(tls.check(listen).is_ok() && proxy.check(listen).is_ok(), "{listen}");
        }
        let refusal = plain.check(([0, 0, 0, 0], 3277).into()).unwrap_err().to_string();
        for word in ["0.0.0.0:3277", "--tls-cert", "--tls-key", "--behind-proxy", "127.0.0.1"] {
            assert!(refusal.contains(word), "{refusal}");
        }
    }
}
