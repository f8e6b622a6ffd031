//! `farrow jobs`: what was submitted, and what became of it.

use std::num::NonZeroUsize;

use clap::Args;
use protocol::job::{JobState, JobStatus};

use crate::arguments;
use crate::client::Client;
use crate::clock;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::human;
use crate::output::OutputArgs;
use crate::screen::Screen;
use crate::table;

/// Jobs asked of the server at a time.
const PAGE: usize = 100;

const EXAMPLES: &str = "\
Examples:
  farrow jobs
  farrow jobs --state running
  farrow jobs --json --limit 1 | jq -r '.[].id'
";

/// List jobs, the newest first
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Jobs {
    /// Only jobs in this state
    #[arg(long, env = "FARROW_STATE", value_parser = state, value_name = "queued|running|resolved|failed|cancelled")]
    state: Option<JobState>,
    /// At most so many
    #[arg(long, env = "FARROW_LIMIT", default_value = "50", value_parser = arguments::at_least_one,
          value_name = "N")]
    limit: NonZeroUsize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Jobs {
    /// Prints the list.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let (jobs, is_all) = self.fetch(&client).await?;
        let nothing = match self.state {
            Some(state) => format!("no job is {}\n", state.as_str()),
            None => "no jobs yet; `farrow map --help` shows how to submit one\n".to_owned(),
        };
        self.output.print(&jobs, |jobs| if jobs.is_empty() { nothing } else { list(jobs) })?;
        if !is_all {
            let n = self.limit;
            Screen::plain().note(&format!("these are the latest {n}, and there are more: --limit"));
        }
        Ok(())
    }

    /// Jobs, and whether these are all.
    async fn fetch(&self, client: &Client) -> Result<(Vec<JobStatus>, bool), Failure> {
        let mut jobs = Vec::new();
        let mut after = None;
        while jobs.len() < self.limit.get() {
            let size = PAGE.min(self.limit.get() - jobs.len());
            let page = client.jobs(self.state, size, after.as_deref()).await?;
            jobs.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        jobs.truncate(self.limit.get());
        Ok((jobs, after.is_none()))
    }
}

fn list(jobs: &[JobStatus]) -> String {
    let now = clock::now();
    let row = |job: &JobStatus| {
        vec![
            job.id.to_string(),
            job.state.as_str().to_owned(),
            format!("{}/{}", job.elements.done, job.elements.total),
            job.elements.failed.to_string(),
            job.runtime.as_str().to_owned(),
            human::ago(&job.submitted_at, now),
            job.name.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    table::with_heading(&["JOB", "STATE", "DONE", "FAILED", "RUNTIME", "SUBMITTED", "NAME"], &rows)
}

fn state(text: &str) -> Result<JobState, String> {
    JobState::parse(text).ok_or_else(|| "not the name of a state".to_owned())
}
