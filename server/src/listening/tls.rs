//! TLS: a certificate and its key, read again when their files change.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Stream;

/// Between two looks at the files.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// For how long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The first byte of a TLS connection: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 22;

/// A certificate and its key, as they are now.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// What the files looked like when they were read last, whether or not they were good.
    read_at: Stamps,
}

/// What tells that a file was changed or replaced, for the certificate and its key.
type Stamps = [Option<Stamp>; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    inode: u64,
    size: u64,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{flag} {}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of the certificate has none.
    #[error(
        "--tls-cert {}: holds no certificate: it must be PEM, the server's own certificate first, then \
         those between it and its authority", file.display()
    )]
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
    /// The file of the key has none.
    #[error(
        "--tls-key {}: holds no private key: it must be PEM and not encrypted (`openssl pkey` decrypts \
         one)", file.display()
    )]
    NoKey {
        /// Which.
        file: PathBuf,
    },
    /// They do not belong together.
    #[error(
        "the key in {} is not that of the first certificate in {}: give the two that were made \
         together, the server's own certificate first", key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// They are of a kind that cannot be used.
    #[error("the certificate in {} and its key cannot be used: {source}", cert.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        warn_if_others_may_read(key);
        warn_of_an_authority(cert);
        // Looked at before they are read: what changes meanwhile is read once more.
        let read_at = stamps(cert, key);
        let config = read(cert, key)?;
        let current = RwLock::new(Current { config, read_at });
        Ok(Self { cert: cert.to_owned(), key: key.to_owned(), current })
    }

    /// Reads the files again whenever they change, for ever. While they cannot be used, what was
    /// read before is.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut before = self.read_at();
        loop {
            sleep(BETWEEN_LOOKS).await;
            let tls = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || tls.look(before));
            before = look.await.unwrap_or(before);
        }
    }

    /// Reads the files if they have changed, but not before they stay as they were `before`: whoever
    /// replaces them writes one after the other. Returns how they look now.
    fn look(&self, before: Stamps) -> Stamps {
        let now = stamps(&self.cert, &self.key);
        if now != before || now == self.read_at() {
            return now;
        }
        match read(&self.cert, &self.key) {
            Ok(config) => {
                warn_if_others_may_read(&self.key);
                tracing::info!(certificate = %self.cert.display(), "the certificate was read again");
                self.change(|current| current.config = config);
            }
            Err(error) => {
                tracing::error!(%error, "the certificate was changed; the one from before stays in use");
            }
        }
        self.change(|current| current.read_at = now);
        now
    }

    fn read_at(&self) -> Stamps {
        self.current.read().unwrap_or_else(PoisonError::into_inner).read_at
    }

    fn change(&self, change: impl FnOnce(&mut Current)) {
        change(&mut self.current.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes a connection out of what a client opened; nothing when it does not speak TLS, or not
    /// in time.
    pub fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = Option<(Stream, SocketAddr)>> + Send + 'static {
        let config = self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone();
        async move {
            let shaking = shake_hands(TlsAcceptor::from(config), stream);
            match timeout(HANDSHAKE_LIMIT, shaking).await {
                Ok(Ok(stream)) => Some((stream, peer)),
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "a TLS handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!(%peer, "a TLS handshake took too long");
                    None
                }
            }
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Stream> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
        return refuse_plain(stream).await;
    }
    Ok(Stream::Tls(Box::new(acceptor.accept(stream).await?)))
}

/// Tells one who speaks plain HTTP what to speak.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<Stream> {
    let problem = json!({
        "type": "urn:farrow:tls-required",
        "title": "This port speaks TLS",
        "status": 400,
        "detail": "the server takes requests over TLS only: write its address with https://",
    });
    let body = problem.to_string();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        protocol::problem::MEDIA_TYPE,
        body.len()
    );
    // A connection that is closed before all that came was read takes its last words with it.
    stream.try_read(&mut [0; 1 << 14])?;
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await?;
    Err(io::Error::other("it speaks no TLS"))
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let bytes = |flag, file: &Path| {
        fs::read(file).map_err(|source| TlsError::Unreadable {
            flag,
            file: file.to_owned(),
            source,
        })
    };
    let no_certificate = || TlsError::NoCertificate { file: cert.to_owned() };
    let no_key = || TlsError::NoKey { file: key.to_owned() };
    let (cert_pem, key_pem) = (bytes("--tls-cert", cert)?, bytes("--tls-key", key)?);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert_pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(no_certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| no_key())?;
    let unusable = |source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        source => TlsError::Unusable { cert: cert.to_owned(), source },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn stamps(cert: &Path, key: &Path) -> Stamps {
    [cert, key].map(|file| {
        let metadata = fs::metadata(file).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Stamp { modified, inode: metadata.ino(), size: metadata.size() })
    })
}

/// Warns of what works with some clients only.
fn warn_of_an_authority(cert: &Path) {
    let first = fs::read(cert).ok().and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
    if first.is_some_and(|first| is_an_authority(&first)) {
        tracing::warn!(
            cert = %cert.display(),
            "the first certificate is an authority's (CA:TRUE): farrow's agents and commands, and \
             others, refuse a server with it; give the server's own, as docs/tls.md makes it"
        );
    }
}

/// Whether clients refuse a certificate as a server's because it is one that signs others: then they
/// do whatever they trust, so that it can be asked with the certificate itself as all that is trusted.
fn is_an_authority(certificate: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    let Ok(()) = roots.add(certificate.clone()) else { return false };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let Ok(verifier) = verifier else { return false };
    let Ok(name) = ServerName::try_from("localhost") else { return false };
    let verified = verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
    // The cause has no name in rustls' own errors.
    verified.is_err_and(|error| format!("{error:?}").contains("CaUsedAsEndEntity"))
}

fn warn_if_others_may_read(key: &Path) {
    if fs::metadata(key).is_ok_and(|metadata| metadata.mode() & 0o007 != 0) {
        tracing::warn!(key = %key.display(), "every user of this machine may read the key: chmod o= it");
    }
}

#[cfg(test)]
mod tests;
