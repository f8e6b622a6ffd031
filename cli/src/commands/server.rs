//! `farrow server`: keeps jobs, leases their elements, gives their values; and what is done to its data.

mod backup;
mod check;
mod compact;

use std::env;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};

use crate::connection::TokenSource;
use crate::data_folder;
use crate::failure::Failure;
use crate::logging;
use crate::serving::Serving;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow server
  farrow server --listen 0.0.0.0:3277 --tls-cert cert.pem --tls-key key.pem --keep 30d
  farrow server --behind-proxy --host farrow.example.org        (nginx or Caddy in front does TLS)
  farrow server backup /srv/backups/monday
  farrow server check

Beyond this machine it listens with TLS only, or with --behind-proxy; docs/tls.md tells how.

The administrator's token is FARROW_TOKEN, or the content of --token-file; without either the server
makes one at its first start and keeps it in admin.token in the data folder. FARROW_LOG sets what is
logged: `debug`, `warn,server=debug`. SIGTERM or Ctrl-C ends the server; jobs go on when it is back.
";

/// Run a server, or look after its data
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(disable_help_subcommand = true)]
pub struct Server {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    run: Run,
}

/// What is done to the data of a server, which may be running.
#[derive(Subcommand, Debug)]
enum Task {
    Backup(backup::Backup),
    Check(check::Check),
    Compact(compact::Compact),
}

/// A server that runs.
#[derive(Args, Debug)]
struct Run {
    #[command(flatten)]
    settings: server::Settings,
    #[command(flatten)]
    token: TokenSource,
    /// Print the address, the data folder and the token file as a line of JSON
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

/// Which server's data.
#[derive(Args, Debug)]
struct Data {
    /// The server's data folder [default: farrow in the user's data folder]
    #[arg(long, env = "FARROW_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Data {
    /// The data folder of a server that keeps its jobs in a file there, for what PostgreSQL does by its
    /// own means: without `--data`, whoever has named a database means that one.
    fn folder_of_a_file(&self, task: &str) -> Result<PathBuf, Failure> {
        let names_database = env::var_os("FARROW_DATABASE_URL").is_some_and(|url| !url.is_empty());
        if names_database && self.data.is_none() {
            return Err(Failure::usage(format!(
                "FARROW_DATABASE_URL is set, and `farrow server {task}` is for databases in a file"
            ))
            .remedy(
                "PostgreSQL has its own means, as docs/operations.md tells; for a database in a file, \
                 name its folder by --data",
            ));
        }
        self.folder()
    }

    /// The data folder.
    fn folder(&self) -> Result<PathBuf, Failure> {
        self.data.clone().or_else(data_folder::of_this_user).ok_or_else(data_folder::none)
    }
}

impl Server {
    /// Serves until a signal says stop, or does what is to be done to the data.
    pub async fn run(self) -> Result<(), Failure> {
        match self.task {
            None => self.run.run().await,
            Some(Task::Backup(backup)) => backup.run().await,
            Some(Task::Check(check)) => check.run().await,
            Some(Task::Compact(compact)) => compact.run().await,
        }
    }
}

impl Run {
    async fn run(self) -> Result<(), Failure> {
        logging::start()?;
        let stop = signals::stop_token("stopping: open requests are finished")?;
        let mut serving = Serving::start(self.settings, &self.token, stop).await?;
        serving.announce(self.json)?;
        serving.ended().await
    }
}
