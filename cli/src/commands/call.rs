//! `farrow call`: one call, without elements, whose value is bare.

use clap::Args;
use protocol::job::Options;

use crate::client::Client;
use crate::connection::Connection;
use crate::delivery::OUTPUT_HELP;
use crate::failure::{EXIT_CODES, Failure};
use crate::submission::{SubmissionArgs, Work};
use crate::waiting::WaitingArgs;

const EXAMPLES: &str = r#"Examples:
  farrow call --runtime python '6 * 7'
  farrow call --runtime r --arg n=3 'function(n) rnorm(n)' --seed 42
  farrow call --runtime r --encoding rds --out m.rds --arg d=@cars.rds 'function(d) lm(y ~ x, d)'
  farrow call --runtime command --files . --slots all -- make -j4 report.pdf
"#;

/// Run a function once and print its value
#[derive(Args, Debug)]
#[command(
    after_help = format!("{EXAMPLES}\n{OUTPUT_HELP}\n{EXIT_CODES}"),
    override_usage = "farrow call --runtime <r|python> [OPTIONS] <FUNCTION>\n       \
                      farrow call --runtime command [OPTIONS] -- <PROGRAM> [ARGUMENTS]..."
)]
pub struct Call {
    /// Source, or @FILE. When its value can be called, it is called with the arguments of --arg;
    /// else it is the value
    #[arg(value_name = "FUNCTION")]
    words: Vec<String>,
    /// Of runtime command: the program and its arguments
    #[arg(last = true, value_name = "PROGRAM ARGUMENTS")]
    command: Vec<String>,
    #[command(flatten)]
    submission: SubmissionArgs,
    #[command(flatten)]
    waiting: WaitingArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Call {
    /// Submits the call; waits for its value and delivers it, unless it is to be left alone.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        self.waiting.check(self.submission.encoding())?;
        let work = Work::of_words(self.submission.runtime, self.words, self.command)?;
        let function = work.without_elements()?;
        let screen = self.waiting.screen();
        let submission = self.submission;
        let submitted =
            submission.submit(function, None, Options::default(), &client, &screen).await?;
        self.waiting.finish(&submitted, &client, &screen).await
    }
}
