//! `farrow agent`: runs elements on this machine.

use std::path::PathBuf;

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::connection::{TokenSource, parse_url};
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::print_text;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow agent --server https://10.0.0.5:3277
  farrow agent --server https://10.0.0.5:3277 --slots 4 --name box --label zone=a
  farrow agent --server https://a.example.org,https://b.example.org --ca-file /etc/farrow/ca.pem
  farrow agent --server https://10.0.0.5:3277 --spool /var/lib/farrow/spool

SIGTERM or Ctrl-C drains the agent: it takes nothing new, finishes what it runs for as long as
--grace allows, and leaves. Once more ends it at once. What it had not finished runs elsewhere.
What it had finished while no server was there stays in the folder of --spool, and the next agent
with that folder delivers it.
";

/// Run an agent, which lends this machine's cores to a server
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Agent {
    /// The server's address; may be repeated, for servers of one database: when one does not answer
    /// the next is asked
    #[arg(long = "server", env = "FARROW_URL", value_name = "URL", value_delimiter = ',',
          value_parser = parse_url, required = true)]
    servers: Vec<String>,
    /// Certificates of authorities (PEM) whose word for a server's certificate is taken, beside those
    /// that the system trusts
    #[arg(long, env = "FARROW_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    token: TokenSource,
    #[command(flatten)]
    settings: agent::Settings,
    /// Print the server and the agent's name as a line of JSON
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Agent {
    /// Runs until a signal says stop.
    pub async fn run(self) -> Result<(), Failure> {
        logging::start()?;
        let token = self.token.token_for(&self.servers)?;
        if self.json {
            let place = serde_json::json!({ "server": self.servers.join(","), "name": self.settings.name() });
            print_text(&format!("{place}\n"))?;
        }
        let stop = signals::stop_token("draining: what runs is finished, nothing new is taken")?;
        let mut config = agent::Config::new(self.servers, token, self.settings);
        config.ca_file = self.ca_file;
        agent::run(config, stop).await.map_err(|error| failure(&error))
    }
}

/// The agent could not go on.
pub fn failure(error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the agent cannot go on: {error}"))
}
