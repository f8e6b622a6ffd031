//! What commands that submit do afterwards: leave, or wait and deliver.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::{Encoding, JobStatus};

use crate::client::Client;
use crate::delivery::Delivery;
use crate::failure::Failure;
use crate::output::print_text;
use crate::persistence::Patience;
use crate::screen::{Screen, ScreenArgs};
use crate::wait::Waiting;

/// Whether to wait for the job, and what to show meanwhile.
#[derive(Args, Debug)]
#[command(next_help_heading = "Waiting and output")]
pub struct WaitingArgs {
    /// Print only the job's id, or with --json its status, and leave
    #[arg(short, long, env = "FARROW_DETACH", value_parser = FalseyValueParser::new())]
    detach: bool,
    /// Do not show what elements print and signal while they run
    #[arg(long, env = "FARROW_NO_LIVE", value_parser = FalseyValueParser::new())]
    no_live: bool,
    #[command(flatten)]
    delivery: Delivery,
    #[command(flatten)]
    screen: ScreenArgs,
}

impl WaitingArgs {
    /// Refuses, before any work, what could not be delivered after it.
    pub fn check(&self, encoding: Encoding) -> Result<(), Failure> {
        match self.detach {
            true => Ok(()),
            false => self.delivery.check(encoding),
        }
    }

    /// Standard error, as the command line wants it.
    pub fn screen(&self) -> Screen {
        Screen::new(self.screen)
    }

    /// Leaves a job that was submitted, or waits for its value and delivers it.
    pub async fn finish(
        &self,
        submitted: &JobStatus,
        client: &Client,
        screen: &Screen,
    ) -> Result<(), Failure> {
        if self.detach && self.delivery.json {
            return print_text(&format!("{}\n", serde_json::json!(submitted)));
        }
        if self.detach {
            return print_text(&format!("{}\n", submitted.id));
        }
        // Whatever becomes of this process, the job can be come back to.
        screen.note(&format!("job {}", submitted.id));
        let live = !self.no_live && !self.screen.quiet;
        let waiting = Waiting { client, screen, delivery: &self.delivery, live };
        waiting.for_value(submitted.id, Patience::Endless).await
    }
}
