//! Which server a client command talks to, and by what right.

use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::data_folder;
use crate::failure::Failure;

/// Where the servers are and where the token is. A token is never an argument: every user of a
/// machine can read every process's arguments.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The server's address; may be repeated, for servers of one database: when one does not answer
    /// the next is asked
    #[arg(long, env = "FARROW_URL", value_name = "URL", value_delimiter = ',',
          value_parser = parse_url, default_values_t = [default_url()])]
    pub url: Vec<String>,
    /// Certificates of authorities (PEM) whose word for a server's certificate is taken, beside those
    /// that the system trusts
    #[arg(long, env = "FARROW_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub token: TokenSource,
}

/// Where the token is.
#[derive(Args, Clone, Debug, Default)]
pub struct TokenSource {
    /// A file that holds the token. Without it: the variable FARROW_TOKEN, else, for a server on this
    /// machine, the file admin.token in the data folder of this user's own server
    #[arg(long, env = "FARROW_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenSource {
    /// The token in that file.
    pub fn in_file(file: PathBuf) -> Self {
        Self { token_file: Some(file) }
    }

    /// The token that the user gave: in the file named, else in `FARROW_TOKEN`.
    pub fn given(&self) -> Result<Option<String>, Failure> {
        match &self.token_file {
            Some(file) => read_token(file).map(Some),
            None => Ok(token_variable()),
        }
    }

    /// The token that the user gave; else the one in the data folder, if all servers are on this machine: it is no
    /// other server's, and who has it can run code here.
    pub fn token_for(&self, servers: &[String]) -> Result<String, Failure> {
        if let Some(token) = self.given()? {
            return Ok(token);
        }
        if let Some(elsewhere) = servers.iter().find(|server| !is_on_this_machine(server)) {
            return Err(no_token(&format!(", and {elsewhere} is not on this machine")).remedy(
                "set FARROW_TOKEN, or give --token-file: a token of that server, which `farrow token create` makes there",
            ));
        }
        let file = data_folder::of_this_user().map(|folder| data_folder::token_file(&folder));
        match file {
            Some(file) if file.exists() => read_token(&file),
            Some(file) => Err(no_token(&format!(", and there is no {}", file.display())).remedy(
                "start a server here with `farrow up`; or set FARROW_TOKEN, or give --token-file: a server says \
                 at its start where its token is",
            )),
            None => Err(no_token("").remedy("set FARROW_TOKEN, or give --token-file")),
        }
    }
}

/// Whether a server's address is one that does not leave this machine.
pub fn is_on_this_machine(url: &str) -> bool {
    let Some(url) = agent::parse_url(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// `FARROW_TOKEN`, unless it is empty.
fn token_variable() -> Option<String> {
    env::var("FARROW_TOKEN")
        .ok()
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
}

/// Checks the address of a server and takes a slash from its end.
pub fn parse_url(text: &str) -> Result<String, String> {
    match agent::parse_url(text) {
        Some(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
        None => Err(format!("not an address such as {}", default_url())),
    }
}

/// The address at which a server listens that is told nothing else.
pub fn default_url() -> String {
    format!("http://127.0.0.1:{}", protocol::DEFAULT_PORT)
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("cannot read the token file {}: {error}", file.display()))
            .remedy("name a file that you may read with --token-file, or set FARROW_TOKEN")
    })?;
    match text.trim() {
        "" => Err(Failure::usage(format!("the token file {} is empty", file.display()))
            .remedy("put the server's token into it")),
        token => Ok(token.to_owned()),
    }
}

fn no_token(where_else: &str) -> Failure {
    Failure::usage(format!("no token: FARROW_TOKEN is not set{where_else}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_scheme_and_a_host() {
        assert_eq!(parse_url("http://box:3277/"), Ok("http://box:3277".to_owned()));
        assert_eq!(parse_url("https://box/farrow"), Ok("https://box/farrow".to_owned()));
        assert!(parse_url("127.0.0.1:3277").is_err());
        assert!(parse_url("ftp://box").is_err());
    }

    #[test]
    fn what_is_on_this_machine_is_told_by_its_address() {
        for near in ["http://127.0.0.1:3277", "https://localhost", "http://[::1]:3277/x"] {
            assert!(is_on_this_machine(near), "{near}");
        }
        for far in
            ["http://10.0.0.5:3277", "https://127.example.org", "http://localhost.example.org"]
        {
            assert!(!is_on_this_machine(far), "{far}");
        }
    }
}
