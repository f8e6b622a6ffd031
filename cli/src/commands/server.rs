//! `farrow server`: keeps jobs, leases their elements, gives their values.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::connection::TokenSource;
use crate::failure::Failure;
use crate::logging;
use crate::serving::Serving;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow server
  farrow server --listen 0.0.0.0:3277 --tls-cert cert.pem --tls-key key.pem --data /var/lib/farrow
  farrow server --behind-proxy --host farrow.example.org        (nginx or Caddy in front does TLS)

Beyond this machine it listens with TLS only, or with --behind-proxy; docs/tls.md tells how.

The administrator's token is FARROW_TOKEN, or the content of --token-file; without either the server
makes one at its first start and keeps it in admin.token in the data folder. FARROW_LOG sets what is
logged: `debug`, `warn,server=debug`. SIGTERM or Ctrl-C ends the server; jobs go on when it is back.
";

/// Run a server
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Server {
    #[command(flatten)]
    settings: server::Settings,
    #[command(flatten)]
    token: TokenSource,
    /// Print the address, the data folder and the token file as a line of JSON
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Server {
    /// Serves until a signal says stop.
    pub async fn run(self) -> Result<(), Failure> {
        logging::start()?;
        let stop = signals::stop_token("stopping: open requests are finished")?;
        let mut serving = Serving::start(self.settings, &self.token, stop).await?;
        serving.announce(self.json)?;
        serving.ended().await
    }
}
