//! `farrow value`: a job's value, from any machine, as often as it is wanted.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::JobId;

use crate::client::Client;
use crate::connection::Connection;
use crate::failure::{EXIT_CODES, Failure};
use crate::persistence::Patience;
use crate::printer::Format;
use crate::screen::{ProgressArgs, Screen};
use crate::wait;

const EXAMPLES: &str = "\
Examples:
  farrow value 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow value --json 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42 > value.json

Output:
  Each element's value is printed as JSON on a line of its own, in the order of the elements. The
  value of a job whose elements have names is printed as lines NAME<TAB>JSON. With --json the whole
  value is one JSON document.
";

/// Wait for a job and print its value
#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub struct Value {
    /// The job
    id: JobId,
    /// Do not wait: exit with code 5 if the value is not there yet
    #[arg(long, env = "FARROW_NO_WAIT", value_parser = FalseyValueParser::new())]
    no_wait: bool,
    /// Print the whole value as one JSON document
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Value {
    /// Prints the value, once it is there.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let format = if self.json { Format::Json } else { Format::Lines };
        let screen = Screen::new(self.progress);
        match self.no_wait {
            true => value_now(&client, self.id, &screen, format).await,
            false => wait::for_value(&client, self.id, &screen, Patience::Brief, format).await,
        }
    }
}

async fn value_now(
    client: &Client,
    id: JobId,
    screen: &Screen,
    format: Format,
) -> Result<(), Failure> {
    let status = client.status(id).await?;
    match status.state.is_final() {
        true => wait::print_value(client, id, screen, format).await,
        false => Err(wait::not_yet(&status)),
    }
}
