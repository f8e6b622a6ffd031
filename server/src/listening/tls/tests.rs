use std::process::Command;

use axum::serve::Listener;
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::listening::Door;

/// A folder with `cert.pem` and `key.pem`, signed by itself.
struct Pair(TempDir);

impl Pair {
    fn new() -> Self {
        let pair = Self(tempfile::tempdir().unwrap());
        pair.make();
        pair
    }

    /// Makes a new certificate and key over those that are there.
    fn make(&self) {
        self.make_of("CA:FALSE");
    }

    fn make_of(&self, constraints: &str) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=farrow"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", &format!("basicConstraints=critical,{constraints}")])
            .arg("-keyout")
            .arg(self.key())
            .arg("-out")
            .arg(self.cert())
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn cert(&self) -> PathBuf {
        self.0.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(&self.cert(), &self.key())
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.cert()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

#[test]
fn a_certificate_that_signs_others_is_told_from_a_servers() {
    let pair = Pair::new();
    let first = || CertificateDer::from_pem_file(pair.cert()).unwrap();
    assert!(!is_an_authority(&first()));
    pair.make_of("CA:TRUE");
    assert!(is_an_authority(&first()));
}

#[test]
fn what_cannot_be_used_is_named_with_what_is_wrong_with_it() {
    let (pair, other) = (Pair::new(), Pair::new());
    let (cert, key) = (pair.cert(), pair.key());
    let none = pair.0.path().join("none.pem");
    let empty = pair.0.path().join("empty.pem");
    fs::write(&empty, "not a certificate\n").unwrap();
    for (cert, key, says) in [
        (&none, &key, ["--tls-cert", "none.pem", "cannot be read"]),
        (&cert, &none, ["--tls-key", "none.pem", "cannot be read"]),
        (&empty, &key, ["--tls-cert", "empty.pem", "no certificate"]),
        (&cert, &empty, ["--tls-key", "empty.pem", "no private key"]),
        (&key, &cert, ["--tls-cert", "key.pem", "no certificate"]),
        (&cert, &other.key(), ["the key in", "cert.pem", "is not that of"]),
    ] {
        let refusal = Tls::load(cert, key).unwrap_err().to_string();
        for part in says {
            assert!(refusal.contains(part), "no {part:?} in {refusal}");
        }
    }
}

#[test]
fn a_new_pair_is_taken_once_it_is_whole_and_a_broken_one_never() {
    let (pair, other) = (Pair::new(), Pair::new());
    let tls = pair.load().unwrap();
    let in_use = || Arc::as_ptr(&tls.current.read().unwrap().config);
    let (first, mut seen) = (in_use(), tls.read_at());
    let mut look = || seen = tls.look(seen);
    look();
    look();
    assert_eq!(in_use(), first);

    // One file after the other, and long between them.
    fs::copy(other.cert(), pair.cert()).unwrap();
    look();
    look();
    assert_eq!(in_use(), first, "a certificate without its key was taken");
    fs::copy(other.key(), pair.key()).unwrap();
    look();
    assert_eq!(in_use(), first, "it was read while it may still be written");
    look();
    let second = in_use();
    assert_ne!(second, first);

    fs::remove_file(pair.key()).unwrap();
    look();
    look();
    assert_eq!(in_use(), second);
    // As tools do it that put another file in the place of the one before.
    pair.make();
    look();
    look();
    assert_ne!(in_use(), second);
}

/// A door with TLS, and where it is.
async fn door(pair: &Pair) -> (Door, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (
        Door::new(listener.into(), Some(Arc::new(pair.load().unwrap())), CancellationToken::new()),
        address,
    )
}

#[tokio::test]
async fn one_who_says_nothing_holds_up_nobody() {
    let pair = Pair::new();
    let (mut door, address) = door(&pair).await;
    let silent: Vec<_> = futures::future::join_all((0..20).map(|_| TcpStream::connect(address)))
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let asking = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = pair.connector().connect(name, stream).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream
    };
    let ((mut connection, _), _asked) = tokio::join!(door.accept(), asking);
    let mut said = [0; 5];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    assert!(matches!(connection.stream(), Stream::Tls(_)));
    drop(silent);
}

#[tokio::test]
async fn one_who_speaks_plain_http_is_told_so() {
    let pair = Pair::new();
    let (mut door, address) = door(&pair).await;
    let asking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::select! {
        answer = asking => answer,
        _ = door.accept() => panic!("it was let in"),
    };
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
}

#[tokio::test]
async fn this_process_needs_no_tls() {
    let pair = Pair::new();
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (public, local) = (bind().await.unwrap(), bind().await.unwrap());
    let address = local.local_addr().unwrap();
    let listeners = crate::Listeners { public, local: Some(local) };
    let mut door =
        Door::new(listeners, Some(Arc::new(pair.load().unwrap())), CancellationToken::new());
    let (accepted, _stream) = tokio::join!(door.accept(), TcpStream::connect(address));
    assert!(matches!(accepted.0.stream(), Stream::Plain(_)));
}
