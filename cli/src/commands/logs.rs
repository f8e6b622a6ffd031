//! `farrow logs`: what a job has printed and signalled.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::JobId;
use protocol::job::{LogLine, LogSource};

use crate::arguments;
use crate::arguments::job_id;
use crate::client::{CallError, Client, LogQuery};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::{OutputArgs, print_text, write_text};
use crate::rounds::Rounds;
use crate::screen::Screen;
use crate::tagged::Tagger;
use crate::wait::unless_interrupted;

const EXAMPLES: &str = "\
Examples:
  farrow logs 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow logs --follow --source prepare 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow logs --element 3 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42

Each line has a tag that says who said it: the element's index, from 0, or `prepare` or `setup` and
the agent. With --json each piece is a JSON document on a line of its own, with its time.
";

/// Show what a job has printed and signalled
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// The job
    #[arg(value_parser = job_id)]
    id: JobId,
    /// Stay, and show more as it is said, until the job has ended
    #[arg(short, long, env = "FARROW_FOLLOW", value_parser = FalseyValueParser::new())]
    follow: bool,
    /// Only what this element said; the first is 0
    #[arg(long, value_name = "INDEX")]
    element: Option<u64>,
    /// Only what this part of the job said
    #[arg(long, value_parser = arguments::one_of::<LogSource>(&["prepare", "setup", "element"]))]
    source: Option<LogSource>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Logs {
    /// Prints what was said, as it comes.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut reader = Reader {
            client: &client,
            id: self.id,
            json: self.output.json,
            query: LogQuery { element: self.element, source: self.source, ..LogQuery::default() },
            tagger: Tagger::default(),
        };
        let (id, follow) = (self.id, self.follow);
        let rounds = Rounds { client: &client, id, screen: &screen, follow };
        let read = rounds.read(async |wait| reader.read(wait).await);
        unless_interrupted(read, &screen, "the job goes on").await?;
        print_text(&as_lines(&reader.tagger.finish()))
    }
}

struct Reader<'a> {
    client: &'a Client,
    id: JobId,
    json: bool,
    query: LogQuery,
    tagger: Tagger,
}

impl Reader<'_> {
    /// Prints what is behind the cursor, and what is said in the next seconds.
    async fn read(&mut self, wait: Option<u32>) -> Result<(), CallError> {
        let mut lines = self.client.logs(self.id, LogQuery { wait, ..self.query }).await?;
        while let Some(line) = lines.next().await? {
            let Ok(said) = serde_json::from_str::<LogLine>(&line) else { continue };
            let text = match self.json {
                true => line + "\n",
                false => as_lines(&self.tagger.push(&said)),
            };
            write_text(&text).map_err(CallError::Unwritable)?;
            self.query.after = Some(said.cursor);
        }
        Ok(())
    }
}

fn as_lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}
