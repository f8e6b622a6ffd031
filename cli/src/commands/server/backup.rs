//! `farrow server backup`: a copy of a server's data, made while it runs.

use std::path::PathBuf;

use clap::Args;
use protocol::size;

use super::Data;
use crate::failure::{Exit, Failure};
use crate::output::OutputArgs;
use crate::serving::check_blobs;
use crate::signals;

const EXAMPLES: &str = "\
Examples:
  farrow server backup /srv/backups/monday
  farrow server backup --data /var/lib/farrow --link --json /var/lib/farrow-backup
  farrow server backup --blobs s3://lab-data/farrow /srv/backups/monday

The server may be running. The folder must be new or empty; it is there when the backup is whole. To
restore: stop the server, and start one with `--data` on a copy of the folder. admin.token is not in
it: a server that is started on it makes a new one, and all tokens that were made before go on being
good. docs/operations.md tells more.
";

/// Copy a server's data, while it runs
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Backup {
    /// Where to: a folder that is new or empty
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Link large values to the server's own files instead of copying them, where both are on one file
    /// system
    #[arg(long)]
    link: bool,
    /// Where the blobs are: s3://BUCKET/PREFIX, from which they are copied [default: blobs in the
    /// data folder]
    #[arg(long, env = "FARROW_BLOBS", value_name = "PLACE")]
    blobs: Option<server::BlobsAt>,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    output: OutputArgs,
}

impl Backup {
    /// Makes the backup and says what is in it.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let data = self.data.folder_of_a_file("backup")?;
        check_blobs(self.blobs.as_ref(), None)?;
        let stop = signals::stop_token("stopping: what is there of the backup is removed")?;
        let (target, link, blobs) = (self.target, self.link, self.blobs);
        let made = tokio::select! {
            made = server::backup(server::BackupOptions { data, target, link, blobs }) => made,
            () = stop.cancelled() => {
                return Err(Failure::new(Exit::Interrupted, "there is no backup: it was stopped"));
            }
        };
        let made = made.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        self.output.print(&made, text)?;
        if made.damaged.is_empty() {
            return Ok(());
        }
        let n = made.damaged.len();
        Err(Failure::new(
            Exit::Failed,
            format!("{n} blobs are not in the backup: the server's own are missing or damaged"),
        )
        .remedy("see which jobs need them: farrow server check --deep"))
    }
}

fn text(made: &server::Backup) -> String {
    let links = match made.linked {
        0 => String::new(),
        n => format!(", {n} of them links"),
    };
    let damaged: String =
        made.damaged.iter().map(|blob| format!("  {}  {}\n", blob.digest, blob.why)).collect();
    format!(
        "{}\n  of        {}\n  database  {}\n  blobs     {} ({}{links})\n{damaged}",
        made.folder.display(),
        made.of.display(),
        size::of(made.database_bytes),
        made.blobs,
        size::of(made.blob_bytes),
    )
}
