//! `farrow retry`: run again what failed or is missing of a job.

use clap::Args;
use protocol::JobId;

use crate::arguments::job_id;
use crate::client::Client;
use crate::connection::Connection;
use crate::delivery::OUTPUT_HELP;
use crate::failure::{EXIT_CODES, Failure};
use crate::persistence::{Patience, persist};
use crate::waiting::WaitingArgs;

const EXAMPLES: &str = "\
Examples:
  farrow retry 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow retry --detach 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42

A new job takes over the values that there are and runs the other elements again. A job has one
retry: asked for again, it is the same new job, which is waited for and can itself be retried.
";

/// Run again what failed or is missing of a job, and print the whole value
#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n{OUTPUT_HELP}\n{EXIT_CODES}"))]
pub struct Retry {
    /// The job, which has failed, was cancelled, or has collected errors
    #[arg(value_parser = job_id)]
    id: JobId,
    #[command(flatten)]
    waiting: WaitingArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Retry {
    /// Makes the new job; waits for its value and delivers it, unless it is to be left alone.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = self.waiting.screen();
        let retried = persist(&screen, Patience::Brief, async || client.retry(self.id).await);
        let retried = retried.await?;
        // The new job runs already: what cannot be delivered here can be fetched by its id.
        screen.note(&format!("a retry of {}", self.id));
        self.waiting.check(retried.options.encoding)?;
        self.waiting.finish(&retried, &client, &screen).await
    }
}
