//! A server inside this process, as `farrow server` and `farrow up` run it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use server::{BlobsAt, HostName, Listeners, ServeError};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::connection::{TokenSource, default_url};
use crate::data_folder;
use crate::failure::{Exit, Failure};
use crate::output::{print_text, remark};

/// A server that answers.
pub struct Serving {
    url: String,
    /// Where this process reaches it.
    own_url: String,
    data: PathBuf,
    /// The token that the server was given, unless it has its own in the data folder.
    given_token: Option<String>,
    /// The file that it was given in, if not by the variable FARROW_TOKEN.
    given_file: Option<PathBuf>,
    /// The PostgreSQL database, without a password; `None`: SQLite in the data folder.
    database: Option<String>,
    /// Where the blobs are, if not in the data folder.
    blobs: Option<String>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Serving {
    /// Starts a server and returns once it answers.
    pub async fn start(
        settings: server::Settings,
        token: &TokenSource,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let public = listen(&settings).await?;
        Self::start_on(public.into(), settings, token, shutdown).await
    }

    /// Starts a server for an agent in this process, which needs no TLS to reach it.
    pub async fn start_for_agent(
        settings: server::Settings,
        token: &TokenSource,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let public = listen(&settings).await?;
        let local = match settings.reach.has_tls() {
            true => Some(bind((Ipv4Addr::LOCALHOST, 0).into()).await?),
            false => None,
        };
        Self::start_on(Listeners { public, local }, settings, token, shutdown).await
    }

    async fn start_on(
        listeners: Listeners,
        settings: server::Settings,
        token: &TokenSource,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let data = settings
            .data
            .clone()
            .or_else(data_folder::of_this_user)
            .ok_or_else(data_folder::none)?;
        let data = std::path::absolute(&data).unwrap_or(data);
        let given_token = token.given()?;
        let given_file = token
            .token_file
            .as_ref()
            .map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()));
        check_database_url(settings.database_url.as_deref())?;
        check_blobs(settings.blobs.as_ref(), settings.database_url.as_deref())?;
        let database = settings.database_url.as_deref().map(without_password);
        let blobs = settings.blobs.as_ref().map(ToString::to_string);
        let address_of = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| cannot_listen(settings.listen, &error))
        };
        let address = address_of(&listeners.public)?;
        let own_url = match &listeners.local {
            Some(local) => format!("http://{}", address_of(local)?),
            None => url(&settings, address, &[]),
        };
        let url = url(&settings, address, &settings.reach.hosts);
        let config =
            server::Config { settings, data: data.clone(), admin_token: given_token.clone() };
        let task = tokio::spawn(server::serve(listeners, config, shutdown));
        let mut serving =
            Self { url, own_url, data, given_token, given_file, database, blobs, task };
        serving.answers().await?;
        Ok(serving)
    }

    /// Where this process reaches it.
    pub fn own_url(&self) -> String {
        self.own_url.clone()
    }

    /// The administrator's token.
    pub fn token(&self) -> Result<String, Failure> {
        match &self.given_token {
            Some(token) => Ok(token.clone()),
            None => TokenSource::in_file(data_folder::token_file(&self.data)).token_for(&[]),
        }
    }

    /// The file that the administrator's token is in; `None`: it was given by a variable.
    fn token_file(&self) -> Option<PathBuf> {
        let own_file = || self.given_token.is_none().then(|| data_folder::token_file(&self.data));
        self.given_file.clone().or_else(own_file)
    }

    /// Says where it listens, and where its data and its token are.
    pub fn announce(&self, json: bool) -> Result<(), Failure> {
        let token_file = self.token_file();
        if json {
            let place = serde_json::json!({
                "url": self.url, "data": self.data.to_string_lossy(), "database": self.database,
                "blobs": self.blobs, "token_file": token_file.as_ref().map(|file| file.to_string_lossy())
            });
            return print_text(&format!("{place}\n"));
        }
        let token = token_file
            .as_ref()
            .map_or("as FARROW_TOKEN says".to_owned(), |file| format!("in {}", file.display()));
        let place = |name: &str, place: &str| format!("  {name:6} {place}\n");
        let mut lines = format!("farrow {} listens on {}\n", env!("CARGO_PKG_VERSION"), self.url);
        lines += &place("data", &self.data.display().to_string());
        if let Some(database) = &self.database {
            lines += &place("jobs", &format!("in {database}"));
        }
        if let Some(blobs) = &self.blobs {
            lines += &place("blobs", &format!("in {blobs}"));
        }
        lines += &place("token", &token);
        let variables = self.variables(token_file);
        if !variables.is_empty() {
            lines += &format!("for other commands: export {}\n", variables.join(" "));
        }
        remark(&lines);
        Ok(())
    }

    /// What other commands of this machine need to find the server and its token, where they would look elsewhere by
    /// themselves.
    fn variables(&self, token_file: Option<PathBuf>) -> Vec<String> {
        let url = (self.url != default_url()).then(|| format!("FARROW_URL={}", self.url));
        let usual_file = data_folder::of_this_user().map(|folder| data_folder::token_file(&folder));
        let token_file = token_file
            // Of a pipe, such as a shell's `<(…)`, others would read nothing.
            .filter(|file| usual_file.as_ref() != Some(file) && file.is_file())
            .map(|file| format!("FARROW_TOKEN_FILE={}", quoted(&file.display().to_string())));
        url.into_iter().chain(token_file).collect()
    }

    /// Waits until the server has ended, by itself or because it was asked to.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        ending((&mut self.task).await)
    }

    /// Waits until the server answers: the listener queues the request until then.
    async fn answers(&mut self) -> Result<(), Failure> {
        let health = format!("{}/healthz", self.own_url);
        // It is asked by its address and told no secret; for which names its certificate is good is
        // for its clients to see.
        let http =
            reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build();
        let http = http
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot set up HTTP: {error}")))?;
        tokio::select! {
            ended = &mut self.task => stopped_early(ended),
            answer = http.get(health).send() => match answer {
                Ok(_) => Ok(()),
                // The connection broke because the server ended: it says why.
                Err(_) => stopped_early((&mut self.task).await),
            }
        }
    }
}

/// A word as a shell is to read it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The address of a database as it may be shown.
fn without_password(url: &str) -> String {
    reqwest::Url::parse(url).map_or_else(
        |_| "PostgreSQL".to_owned(),
        |mut url| {
            // Also what may stand in the query is nobody's business.
            let _ = url.set_password(None);
            url.set_query(None);
            url.to_string()
        },
    )
}

/// Refuses a password that every user of this machine can read.
pub fn check_database_url(url: Option<&str>) -> Result<(), Failure> {
    let Some(password) =
        url.and_then(|url| reqwest::Url::parse(url).ok()?.password().map(str::to_owned))
    else {
        return Ok(());
    };
    let written = format!(":{password}@");
    if std::env::args_os().all(|argument| !argument.to_string_lossy().contains(&written)) {
        return Ok(());
    }
    Err(Failure::usage("the password in --database-url can be read by every user of this machine")
        .remedy("give the address by the variable FARROW_DATABASE_URL, or keep the password in ~/.pgpass"))
}

/// Refuses a folder of blobs for a database in a file, which has its own beside it.
pub fn check_blobs(blobs: Option<&BlobsAt>, database_url: Option<&str>) -> Result<(), Failure> {
    match (blobs, database_url) {
        (Some(BlobsAt::Folder(_)), None) => Err(Failure::usage(
            "--blobs names a folder, and without --database-url blobs are in the data folder",
        )
        .remedy("give that database, another --data, or a bucket: --blobs s3://BUCKET/PREFIX")),
        _ => Ok(()),
    }
}

/// The server ended before it had answered once.
fn stopped_early(ended: Result<Result<(), ServeError>, JoinError>) -> Result<(), Failure> {
    ending(ended).and(Err(Failure::new(Exit::Interrupted, "stopped before the server had started")))
}

fn ending(ended: Result<Result<(), ServeError>, JoinError>) -> Result<(), Failure> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::new(Exit::Failed, error.to_string())),
        Err(error) => Err(Failure::new(Exit::Failed, format!("the server broke off: {error}"))),
    }
}

async fn listen(settings: &server::Settings) -> Result<TcpListener, Failure> {
    settings.reach.check(settings.listen).map_err(|error| Failure::usage(error.to_string()))?;
    bind(settings.listen).await
}

/// The address of a server as clients write it: by its first name where a certificate has names, else
/// by its address; that of this machine where it listens on all.
fn url(settings: &server::Settings, address: SocketAddr, names: &[HostName]) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let place = SocketAddr::new(ip, address.port());
    match (settings.reach.has_tls(), names) {
        (true, [HostName::Name(name), ..]) => format!("https://{name}:{}", address.port()),
        (true, _) => format!("https://{place}"),
        (false, _) => format!("http://{place}"),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let failure =
        |why: &str| Failure::new(Exit::Failed, format!("cannot listen on {address}: {why}"));
    match error.kind() {
        ErrorKind::AddrInUse => failure("another program listens there")
            .remedy("stop that one, or give another address, such as --listen 127.0.0.1:3278"),
        ErrorKind::PermissionDenied => failure("this user may not")
            .remedy("ports below 1024 are root's; give another address with --listen"),
        ErrorKind::AddrNotAvailable => failure("this machine does not have that address")
            .remedy("127.0.0.1 is this machine alone, 0.0.0.0 every address it has"),
        _ => failure(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(quoted("/home/jane/é.token"), "/home/jane/é.token");
        assert_eq!(quoted("/home/Jane's files"), r"'/home/Jane'\''s files'");
    }
}
