//! `farrow server check`: is all of a server's data as it must be?

use clap::Args;

use super::Data;
use crate::failure::{Exit, Failure};
use crate::output::OutputArgs;
use crate::serving::{check_blobs, check_database_url};

const EXAMPLES: &str = "\
Examples:
  farrow server check
  farrow server check --data /srv/backups/monday --deep
  FARROW_DATABASE_URL=postgres://farrow@db/farrow farrow server check --blobs /mnt/blobs
  farrow server check --blobs s3://lab-data/farrow
  farrow server check --json | jq -r '.findings[].text'

The server may be running, and nothing is changed. Exits 1 when something is wrong.
";

/// Check that a server's data is whole
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Read large values to the last byte
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    data: Data,
    /// The PostgreSQL database, instead of SQLite in the data folder. A password belongs into the
    /// variable, or into ~/.pgpass
    #[arg(long, env = "FARROW_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Where the blobs are: a folder, or s3://BUCKET/PREFIX [default: blobs in the data folder]
    #[arg(long, env = "FARROW_BLOBS", value_name = "PLACE")]
    blobs: Option<server::BlobsAt>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Check {
    /// Checks, and says what is wrong.
    pub(super) async fn run(self) -> Result<(), Failure> {
        check_database_url(self.database_url.as_deref())?;
        check_blobs(self.blobs.as_ref(), self.database_url.as_deref())?;
        let data = self.data.folder()?;
        let place = match &self.database_url {
            // It may hold a password.
            Some(_) => String::new(),
            None => format!(", in {}", data.display()),
        };
        let options = server::CheckOptions {
            data,
            database_url: self.database_url,
            blobs: self.blobs,
            deep: self.deep,
        };
        let report = server::check(options)
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        self.output.print(&report, |report| text(report, &place))?;
        match report.n_findings {
            0 => Ok(()),
            1 => Err(wrong("one thing is wrong with this data".to_owned())),
            n => Err(wrong(format!("{n} things are wrong with this data"))),
        }
    }
}

fn wrong(what: String) -> Failure {
    Failure::new(Exit::Failed, what)
        .remedy("restore a backup, or ask for help with this list: docs/operations.md")
}

fn text(report: &server::Report, place: &str) -> String {
    let line = |finding: &server::Finding| {
        let job = finding.job.map(|job| format!("job {job}: ")).unwrap_or_default();
        format!("{:<12}  {job}{}\n", finding.kind.as_str(), finding.text)
    };
    let mut text: String = report.findings.iter().map(line).collect();
    let more = report.n_findings - report.findings.len() as u64;
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    let verdict = if report.n_findings == 0 { "all is well" } else { "not all is well" };
    if report.jobs + report.outcomes + report.blobs == 0 && report.n_findings > 0 {
        return text + verdict + place + "\n";
    }
    text + &format!(
        "{verdict}: {} jobs, {} outcomes, {} references to blobs{place}\n",
        report.jobs, report.outcomes, report.blobs
    )
}
