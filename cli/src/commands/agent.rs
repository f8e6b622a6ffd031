//! `farrow agent`: runs elements on this machine.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::connection::{TokenSource, parse_url};
use crate::failure::{Exit, Failure};
use crate::logging;
use crate::output::print_text;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow agent --server http://10.0.0.5:3277
  farrow agent --server http://10.0.0.5:3277 --slots 4 --name box --label zone=a

SIGTERM or Ctrl-C drains the agent: it takes nothing new, finishes what it runs for as long as
--grace allows, and leaves. Once more ends it at once. What it had not finished runs elsewhere.
";

/// Run an agent, which lends this machine's cores to a server
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Agent {
    /// The server's address
    #[arg(long, env = "FARROW_URL", value_name = "URL", value_parser = parse_url)]
    server: String,
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
        let token = self.token.token()?;
        if self.json {
            let place = serde_json::json!({ "server": self.server, "name": self.settings.name() });
            print_text(&format!("{place}\n"))?;
        }
        let stop = signals::stop_token("draining: what runs is finished, nothing new is taken")?;
        let config = agent::Config::new(self.server, token, self.settings);
        agent::run(config, stop).await.map_err(|error| failure(&error))
    }
}

/// The agent could not go on.
pub fn failure(error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("the agent cannot go on: {error}"))
}
