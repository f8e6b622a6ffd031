//! `farrow up`: a server and an agent in one process, for a laptop.

use clap::Args;
use clap::builder::FalseyValueParser;
use tokio_util::sync::CancellationToken;

use crate::commands::agent::failure;
use crate::connection::TokenSource;
use crate::failure::Failure;
use crate::logging;
use crate::serving::Serving;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow up
  seq 100 | farrow map --runtime python 'lambda x: int(x) ** 2'      (in another terminal)
  farrow up --slots 4 --data /tmp/farrow      (says where the token is, for other terminals)

Ctrl-C drains: what runs is finished, nothing new is taken. Once more ends at once.
";

/// Run a server and an agent in one process
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Up {
    #[command(flatten)]
    server: server::Settings,
    #[command(flatten)]
    token: TokenSource,
    #[command(flatten)]
    agent: agent::Settings,
    /// Print the address, the data folder and the token file as a line of JSON
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Up {
    /// Runs both until a signal says stop: then the agent drains, and the server ends after it. An
    /// agent that was drained through the API leaves the server running.
    pub async fn run(self) -> Result<(), Failure> {
        logging::start()?;
        let stop = signals::stop_token("draining: what runs is finished, nothing new is taken")?;
        let stop_server = CancellationToken::new();
        let mut serving =
            Serving::start_for_agent(self.server, &self.token, stop_server.clone()).await?;
        serving.announce(self.json)?;
        let config = agent::Config::new(vec![serving.own_url()], serving.token()?, self.agent);
        let agent_ended = tokio::select! {
            ended = agent::run(config, stop.clone()) => ended.map_err(|error| failure(&error)),
            ended = serving.ended() => return ended,
        };
        if agent_ended.is_ok() && !stop.is_cancelled() {
            tracing::info!("the agent was drained and has left; the server goes on");
            tokio::select! {
                () = stop.cancelled() => {}
                ended = serving.ended() => return ended,
            }
        }
        stop_server.cancel();
        agent_ended.and(serving.ended().await)
    }
}
