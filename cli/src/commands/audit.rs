//! `farrow audit`: what was done, when and by whom.

use std::num::NonZeroUsize;

use clap::Args;
use protocol::JobId;
use protocol::rights::AuditEntry;

use crate::arguments;
use crate::client::Client;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::OutputArgs;
use crate::table;

/// Entries asked of the server at a time.
const PAGE: usize = 500;

const EXAMPLES: &str = "\
Examples:
  farrow audit
  farrow audit 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow audit --json --limit 1000 | jq -c '.[] | select(.token_name == \"ada\")'

It tells of jobs submitted, cancelled, retried and deleted, agents drained, tokens made and
revoked; the server keeps it for as long as its --audit-keep says. REQUEST is the X-Request-Id of
the answer, and stands in the server's log.
";

/// Show what was done, when and by whom, the newest first (needs an administrator's token)
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Audit {
    /// Only what was done to this job, agent or token
    #[arg(value_name = "ID")]
    object: Option<JobId>,
    /// At most so many entries
    #[arg(long, env = "FARROW_LIMIT", default_value = "50", value_parser = arguments::at_least_one,
          value_name = "N")]
    limit: NonZeroUsize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Audit {
    /// Prints the list.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let object = self.object.map(|id| id.to_string());
        let (mut entries, mut after) = (Vec::new(), None);
        while entries.len() < self.limit.get() {
            let size = PAGE.min(self.limit.get() - entries.len());
            let page = client.audit(object.as_deref(), size, after.as_deref()).await?;
            entries.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.output.print(&entries, |entries| match entries.is_empty() {
            true => "nothing was done that is told of here\n".to_owned(),
            false => list(entries),
        })
    }
}

fn list(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        vec![
            entry.at.clone(),
            entry.action.as_str().to_owned(),
            entry.object.clone(),
            entry.token_name.clone(),
            entry.address.clone().unwrap_or_else(|| "-".to_owned()),
            entry.request.clone(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    table::with_heading(&["TIME", "ACTION", "OBJECT", "BY", "FROM", "REQUEST"], &rows)
}
