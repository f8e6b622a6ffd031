//! `farrow cancel`: end jobs before they end by themselves.

use clap::Args;
use protocol::JobId;
use protocol::job::{JobState, JobStatus};

use crate::arguments::job_id;
use crate::client::{CallError, Client};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

const EXAMPLES: &str = "\
Examples:
  farrow cancel 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow jobs --json --state queued --limit 100000 | jq -r '.[].id' | xargs -r farrow cancel

Outcomes there are stay readable by `farrow outcomes`; `farrow retry` runs what is missing.
";

/// Cancel jobs: what runs is stopped within a second
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Cancel {
    /// The jobs
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<JobId>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Cancel {
    /// Cancels each job and prints what became of it.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut cancelled = Vec::new();
        for &id in &self.ids {
            let asked = persist(&screen, Patience::Brief, async || cancel(&client, id).await);
            cancelled.push(asked.await?);
        }
        self.output.print(&cancelled, |cancelled| cancelled.iter().map(line).collect())
    }
}

/// Cancels a job. One that has ended cannot be cancelled, which is no failure: its status tells.
async fn cancel(client: &Client, id: JobId) -> Result<JobStatus, CallError> {
    match client.cancel(id).await {
        Err(CallError::Refused(problem)) if problem.status == 409 => client.status(id).await,
        answer => answer,
    }
}

fn line(status: &JobStatus) -> String {
    match status.state {
        JobState::Cancelled => format!("{}  cancelled\n", status.id),
        state => format!("{}  {}: had ended before\n", status.id, state.as_str()),
    }
}
