//! `farrow value`: a job's value, from any machine, as often as it is wanted.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::JobId;

use crate::arguments::job_id;
use crate::client::Client;
use crate::connection::Connection;
use crate::delivery::{Delivery, OUTPUT_HELP};
use crate::failure::{EXIT_CODES, Failure};
use crate::persistence::Patience;
use crate::screen::{Screen, ScreenArgs};
use crate::wait::{Waiting, not_yet, unless_interrupted};

const EXAMPLES: &str = "\
Examples:
  farrow value 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow value --json 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42 > value.json
  farrow value --out model.rds 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
";

/// Wait for a job and print its value
#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n{OUTPUT_HELP}\n{EXIT_CODES}"))]
pub struct Value {
    /// The job
    #[arg(value_parser = job_id)]
    id: JobId,
    /// Do not wait: exit with code 5 if the value is not there yet
    #[arg(long, env = "FARROW_NO_WAIT", value_parser = FalseyValueParser::new())]
    no_wait: bool,
    #[command(flatten)]
    delivery: Delivery,
    #[command(flatten)]
    screen: ScreenArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Value {
    /// Writes the value, once it is there.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::new(self.screen);
        let waiting =
            Waiting { client: &client, screen: &screen, delivery: &self.delivery, live: false };
        if !self.no_wait {
            return waiting.for_value(self.id, Patience::Brief).await;
        }
        let fetching = async {
            let status = client.status(self.id).await?;
            match status.state.is_final() {
                true => waiting.deliver(&status).await,
                false => Err(not_yet(&status)),
            }
        };
        unless_interrupted(fetching, &screen, "the value can be fetched again").await
    }
}
