//! `farrow delete`: forget jobs and their values.

use clap::Args;
use protocol::JobId;
use serde::Serialize;

use crate::arguments::job_id;
use crate::client::{CallError, Client};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

const EXAMPLES: &str = "\
Examples:
  farrow delete 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow jobs --json --state cancelled --limit 100000 | jq -r '.[].id' | xargs -r farrow delete

A job that goes on is refused: cancel it first. One that is not there counts as deleted.
";

/// Delete jobs that have ended, with their values
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    /// The jobs
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<JobId>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// A job that is not there any more.
#[derive(Serialize)]
struct Deleted {
    id: JobId,
    deleted: bool,
}

impl Delete {
    /// Deletes one job after the other; stops at the first that cannot be deleted.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut deleted = Vec::new();
        let mut refused = None;
        for &id in &self.ids {
            match persist(&screen, Patience::Brief, async || client.delete(id).await).await {
                Ok(()) => deleted.push(Deleted { id, deleted: true }),
                Err(error) => {
                    refused = Some(refusal(error, id));
                    break;
                }
            }
        }
        self.output.print(&deleted, |deleted| {
            deleted.iter().map(|deleted| format!("{}  deleted\n", deleted.id)).collect()
        })?;
        refused.map_or(Ok(()), Err)
    }
}

fn refusal(error: CallError, id: JobId) -> Failure {
    let status = error.status();
    let failure = Failure::from(error);
    match status {
        Some(409) => failure.remedy(format!("end it before: farrow cancel {id}")),
        _ => failure,
    }
}
