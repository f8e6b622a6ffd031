//! Tokens: 256 random bits, shown once, kept as SHA-256.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::blobs::hex_digest;
use crate::config::Config;

/// The file in the data folder that holds the administrator's token, for the same user's commands.
pub const TOKEN_FILE: &str = "admin.token";

/// Characters that a token given by the user must have.
const MIN_LENGTH: usize = 16;

/// The SHA-256 of a token, in hex: all that is kept of it.
pub fn hash(token: &str) -> String {
    hex_digest(token.as_bytes())
}

/// The administrator's token: the one given, else the one in [`TOKEN_FILE`], else a new one, which
/// is written there.
///
/// # Errors
/// When the token is too short to be a secret, or the file cannot be read or written.
pub fn admin_token(config: &Config) -> Result<String, TokenError> {
    if let Some(token) = &config.admin_token {
        return checked(token, None);
    }
    let path = config.data.join(TOKEN_FILE);
    let in_file = |source| TokenError::File { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => checked(text.trim(), Some(&path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = random().map_err(in_file)?;
            write_secret(&path, &token).map_err(in_file)?;
            Ok(token)
        }
        Err(error) => Err(in_file(error)),
    }
}

fn checked(token: &str, path: Option<&Path>) -> Result<String, TokenError> {
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() >= MIN_LENGTH && is_visible {
        return Ok(token.to_owned());
    }
    let place = path.map_or("FARROW_TOKEN".to_owned(), |path| path.display().to_string());
    Err(TokenError::Weak { place })
}

/// Random bytes from the kernel.
///
/// # Errors
/// When it gives none.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A new token.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random() -> io::Result<String> {
    let bytes = random_bytes::<32>()?;
    Ok(format!("farrow_{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// Writes the file whole or not at all.
fn write_secret(path: &Path, token: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Why there is no administrator's token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("the token file {} cannot be used: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The token is not a secret.
    #[error("the token in {place} is not one: at least 16 visible ASCII characters are needed")]
    Weak {
        /// Where it came from.
        place: String,
    },
}
