//! `farrow server compact`: writes the database anew.

use clap::Args;
use protocol::size;
use serde_json::json;

use super::Data;
use crate::failure::{Exit, Failure};
use crate::output::OutputArgs;

const EXAMPLES: &str = "\
Examples:
  farrow server compact --data /var/lib/farrow

Needed once for a large database that an earlier farrow has made: the server's
log says so. The server must be stopped, and the disk have room for a second copy meanwhile.
";

/// Write a stopped server's database anew, without gaps
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Compact {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    output: OutputArgs,
}

impl Compact {
    /// Does so, and says how large it was and is.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let compacted = server::compact(&self.data.folder_of_a_file("compact")?)
            .await
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let (before, after) = (compacted.before, compacted.after);
        self.output.print(&json!({ "bytes_before": before, "bytes": after }), |_| {
            format!("{} before, {} now\n", size::of(before), size::of(after))
        })
    }
}
