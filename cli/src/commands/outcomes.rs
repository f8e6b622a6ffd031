//! `farrow outcomes`: what became of each element, also of failed and cancelled jobs.

use clap::Args;
use clap::ValueEnum;
use clap::builder::{FalseyValueParser, PossibleValue};
use protocol::JobId;
use protocol::job::Outcome;

use crate::arguments::job_id;
use crate::client::{CallError, Client, Order, OutcomeQuery};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::outcome_text;
use crate::output::{OutputArgs, write_text};
use crate::rounds::Rounds;
use crate::screen::Screen;
use crate::wait::unless_interrupted;

const EXAMPLES: &str = "\
Examples:
  farrow outcomes 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow outcomes --failed 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow outcomes --follow --json 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42 | jq .seconds

A line an element: its index, from 0, how long it ran, how often, where, and its value or error.
With --failed each error is told at length, with what the element printed. With --json each outcome
is a JSON document on a line of its own, with all that is known.
";

/// Show what became of each element of a job
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Outcomes {
    /// The job
    #[arg(value_parser = job_id)]
    id: JobId,
    /// Only elements with an error, told at length
    #[arg(long, env = "FARROW_FAILED", value_parser = FalseyValueParser::new())]
    failed: bool,
    /// In order of elements, or as they were finished
    #[arg(long, env = "FARROW_ORDER")]
    order: Option<Order>,
    /// Stay, and show more as elements are finished, until the job has ended
    #[arg(short, long, env = "FARROW_FOLLOW", value_parser = FalseyValueParser::new())]
    follow: bool,
    /// At most so many
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    limit: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl ValueEnum for Order {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Index, Self::Completion]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Index => "index",
            Self::Completion => "completion",
        }))
    }
}

impl Outcomes {
    /// Prints the outcomes as they come.
    pub async fn run(self) -> Result<(), Failure> {
        let order = self.order()?;
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut reader = Reader {
            client: &client,
            id: self.id,
            json: self.output.json,
            n_printed: 0,
            query: OutcomeQuery {
                failed: self.failed,
                order,
                limit: self.limit,
                ..OutcomeQuery::default()
            },
        };
        let rounds = Rounds { client: &client, id: self.id, screen: &screen, follow: self.follow };
        let read = rounds.read(async |wait| reader.read(wait).await);
        unless_interrupted(read, &screen, "the job goes on").await?;
        if reader.n_printed == 0 && !self.output.json {
            screen.note(if self.failed { "no element has failed" } else { "no outcomes yet" });
        }
        Ok(())
    }

    /// What is followed comes as it is finished.
    fn order(&self) -> Result<Order, Failure> {
        match (self.order, self.follow) {
            (Some(Order::Index), true) => Err(Failure::usage(
                "--follow shows outcomes as they are finished, not by --order index",
            )
            .remedy("leave --order away")),
            (_, true) => Ok(Order::Completion),
            (order, false) => Ok(order.unwrap_or_default()),
        }
    }
}

struct Reader<'a> {
    client: &'a Client,
    id: JobId,
    json: bool,
    n_printed: u64,
    query: OutcomeQuery,
}

impl Reader<'_> {
    /// Prints what is behind the last outcome printed, and what is finished in the next seconds.
    async fn read(&mut self, wait: Option<u32>) -> Result<(), CallError> {
        if self.query.limit == Some(0) {
            return Ok(());
        }
        let mut lines = self.client.outcomes(self.id, OutcomeQuery { wait, ..self.query }).await?;
        while let Some(line) = lines.next().await? {
            let Ok(outcome) = serde_json::from_str::<Outcome>(&line) else { continue };
            write_text(&self.text(line, &outcome)).map_err(CallError::Unwritable)?;
            self.n_printed += 1;
            self.query.after = Some(match self.query.order {
                Order::Index => outcome.index,
                Order::Completion => outcome.rank,
            });
            self.query.limit = self.query.limit.map(|limit| limit.saturating_sub(1));
        }
        Ok(())
    }

    fn text(&self, line: String, outcome: &Outcome) -> String {
        match (self.json, self.query.failed) {
            (true, _) => line + "\n",
            (false, true) => outcome_text::at_length(outcome),
            (false, false) if self.n_printed == 0 => {
                outcome_text::heading() + &outcome_text::row(outcome)
            }
            (false, false) => outcome_text::row(outcome),
        }
    }
}
