//! An authority that signs certificates, made with `openssl` as docs/tls.md has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority of a test's own.
#[derive(Debug)]
pub struct Authority(TempDir);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// When `openssl` cannot make it.
    pub fn new() -> Self {
        let authority = Self(TempDir::with_prefix("farrow-ca-").expect("a folder can be made"));
        openssl(
            authority.0.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
             -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// The file of its own certificate: what who trusts it is given.
    pub fn file(&self) -> String {
        self.0.path().join("ca.pem").display().to_string()
    }

    /// A certificate for names, such as `DNS:localhost`, in files called `name`.
    ///
    /// # Panics
    /// When `openssl` cannot make it.
    pub fn certificate(&self, name: &str, names: &str) -> Certificate {
        let folder = self.0.path();
        let extensions = format!("subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n");
        fs::write(folder.join("extensions"), extensions).expect("a file can be written");
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=farrow -keyout \
                 {name}.key -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile \
                 extensions -out {name}.pem"
            ),
        );
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Certificate { cert: file("pem"), key: file("key") }
    }
}

impl Certificate {
    /// The flags by which a server has it.
    ///
    /// # Panics
    /// When a path is no text.
    pub fn flags(&self) -> [&str; 4] {
        let [cert, key] = [&self.cert, &self.key].map(|file| file.to_str().expect("a path"));
        ["--tls-cert", cert, "--tls-key", key]
    }

    /// Puts itself in the place of another, one file after the other.
    ///
    /// # Panics
    /// When it cannot.
    pub fn replace(&self, other: &Self) {
        fs::copy(&self.cert, &other.cert).expect("a file can be copied");
        fs::copy(&self.key, &other.key).expect("a file can be copied");
    }
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let made = command.current_dir(folder).args(words.split_whitespace()).output();
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
}
