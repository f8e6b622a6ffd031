//! Which servers are trusted over TLS, and why one is not.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, InvalidMessage, RootCertStore};
use thiserror::Error;

/// The authorities whose word for a server's name is taken, beside those that the system trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    authorities: Vec<Certificate>,
}

/// A file of authorities that cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("--ca-file {}: cannot be read: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no certificate that can be used.
    #[error(
        "--ca-file {}: holds no certificate of an authority: it must be PEM, with lines `-----BEGIN \
         CERTIFICATE-----`", file.display()
    )]
    NoCertificate {
        /// Which.
        file: PathBuf,
    },
}

impl Trust {
    /// The authorities in a file (PEM), if one is given, beside the system's.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn new(file: Option<&Path>) -> Result<Self, TrustError> {
        let Some(file) = file else { return Ok(Self::default()) };
        let pem = fs::read(file)
            .map_err(|source| TrustError::Unreadable { file: file.to_owned(), source })?;
        let unusable = || TrustError::NoCertificate { file: file.to_owned() };
        let mut store = RootCertStore::empty();
        let mut authorities = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|_| unusable())?;
            authorities.push(Certificate::from_der(&certificate).map_err(|_| unusable())?);
            store.add(certificate).map_err(|_| unusable())?;
        }
        if authorities.is_empty() { Err(unusable()) } else { Ok(Self { authorities }) }
    }

    /// Makes an HTTP client that trusts them. On a machine that trusts nobody it is good for plain
    /// HTTP, and over TLS says of every server that nobody vouches for it.
    ///
    /// # Errors
    /// When it cannot be set up.
    pub fn client(&self, builder: impl Fn() -> ClientBuilder) -> reqwest::Result<reqwest::Client> {
        let client = builder().tls_certs_merge(self.authorities.clone()).build();
        client.or_else(|_| builder().tls_certs_only(self.authorities.clone()).build())
    }
}

/// What is wrong with the TLS of a server, in words that say what to do; nothing when the request
/// failed for another reason.
pub fn complaint(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(error) = tls_error(current) {
            return explain(error);
        }
        cause = current.source();
    }
    None
}

/// The error of TLS that this is, or that an error of I/O is made of: that one is not its source.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref().or_else(|| {
        let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
        tls_error(inner)
    })
}

fn explain(error: &rustls::Error) -> Option<String> {
    let certificate = match error {
        rustls::Error::InvalidCertificate(certificate) => certificate,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some("it does not speak TLS: write its address with http://".to_owned());
        }
        _ => return None,
    };
    Some(match certificate {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody who is trusted here vouches for its certificate: give the certificate of its \
             authority with --ca-file or FARROW_CA_FILE"
                .to_owned()
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name: ask for it by a name that the certificate has"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names = presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none" } else { &names };
            format!(
                "its certificate is for another name: ask for it by one that the certificate has \
                 ({names}), or give it a certificate for this one"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: it needs a new one, unless this machine's clock is wrong"
                .to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority: a server needs one of its own, which the \
             authority has signed"
                .to_owned()
        }
        other => format!("its certificate is not good: {other}"),
    })
}

/// `DnsName("farrow.example.org")` as `farrow.example.org`.
fn plain(presented: &str) -> &str {
    let inner = presented.split_once('(').map_or(presented, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let refusal = |file: &Path| Trust::new(Some(file)).unwrap_err().to_string();
        assert!(refusal(&file).contains("ca.pem: cannot be read"), "{}", refusal(&file));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "no certificate", broken] {
            fs::write(&file, text).unwrap();
            assert!(refusal(&file).contains("PEM"), "{}", refusal(&file));
        }
        assert!(Trust::new(None).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_with_what_to_do() {
        let of = |error| explain(&rustls::Error::InvalidCertificate(error)).unwrap();
        assert!(of(CertificateError::UnknownIssuer).contains("--ca-file"));
        assert!(of(CertificateError::Expired).contains("has expired"));
        assert!(of(CertificateError::NotValidYet).contains("clock"));
        assert!(of(CertificateError::NotValidForName).contains("another name"));
        assert!(of(CertificateError::Revoked).contains("not good"));
        assert_eq!(explain(&rustls::Error::HandshakeNotComplete), None);
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        assert_eq!(plain("DnsName(\"farrow.example.org\")"), "farrow.example.org");
        assert_eq!(plain("IpAddress(10.0.0.5)"), "10.0.0.5");
        assert_eq!(plain("localhost"), "localhost");
    }
}
