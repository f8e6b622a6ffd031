//! Where this user's own server keeps its data, and so its token.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The data folder: `FARROW_DATA`, else `farrow` in `XDG_DATA_HOME`, else `~/.local/share/farrow`.
pub fn of_this_user() -> Option<PathBuf> {
    let variable =
        |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("FARROW_DATA")
        .or_else(|| variable("XDG_DATA_HOME").map(|folder| folder.join("farrow")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".local/share/farrow")))
}

/// The file in a data folder that a server writes its admin token to.
pub fn token_file(folder: &Path) -> PathBuf {
    folder.join("admin.token")
}

/// There is no folder to keep data in.
pub fn none() -> Failure {
    Failure::usage("no folder to keep data in: neither XDG_DATA_HOME nor HOME is set")
        .remedy("give one with --data or FARROW_DATA")
}
