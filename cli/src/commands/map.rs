//! `farrow map`: a function over a list, submitted, waited for, delivered.

use clap::Args;
use protocol::job::{Level, OnError, Options, Runtime, Variant};

use crate::arguments;
use crate::client::Client;
use crate::connection::Connection;
use crate::delivery::OUTPUT_HELP;
use crate::elements::ElementArgs;
use crate::failure::{EXIT_CODES, Failure};
use crate::submission::{Spread, SubmissionArgs, Work};
use crate::waiting::WaitingArgs;

const EXAMPLES: &str = r#"Examples:
  seq 100 | farrow map --runtime python 'lambda x: int(x) ** 2'
  farrow map --runtime r '~ nchar(.x)' one two three
  farrow map --runtime python @model.py --csv cases.csv --seed 42 --out value.txt
  farrow map --runtime r --json-lines --arg digits=2 'round' 3.14159 2.71828
  farrow map --runtime r --range 0..1000 --files . --prepare @install.sh 'source("f.R"); fit'
  farrow map --runtime r --plan cluster,multisession --json-lines '~ .x + 1' '[1,2,3]' '[4,5,6]'

As with GNU parallel (there is no shell; {} {.} {/} {//} {/.} {#} are filled in):
  farrow map --runtime command --glob 'img/*.png' -- convert {} {.}.jpg
  farrow map --runtime command -- wc -l {} ::: a.txt b.txt
  find . -name '*.log' -print0 | farrow map --runtime command -0 -- gzip -9 {}
  farrow map --runtime command --csv cases.csv --variant pmap -- ./fit --rate {rate} --seed {seed}
  farrow map --runtime command --glob '*.txt' -- sh -c 'sort "$1" | head -n 1' sh {}
The element is also on the command's standard input, as JSON: without a placeholder only there.
"#;

/// Run a function over elements and print its value
#[derive(Args, Debug)]
#[command(
    after_help = format!("{EXAMPLES}\n{OUTPUT_HELP}\n{EXIT_CODES}"),
    override_usage = "farrow map --runtime <r|python> [OPTIONS] <FUNCTION> [[:::] ELEMENTS...]\n       \
                      farrow map --runtime command [OPTIONS] -- <PROGRAM> [ARGUMENTS]... [::: ELEMENTS...]"
)]
pub struct Map {
    /// The function's source, or @FILE, and its elements, each a string. R: `function(x) …` or
    /// `~ .x + 1`. Python: a module whose last expression, else last `def`, is the function
    #[arg(value_name = "FUNCTION ELEMENTS")]
    words: Vec<String>,
    /// Of runtime command: the program and its arguments, and behind `:::` elements
    #[arg(last = true, value_name = "PROGRAM ARGUMENTS")]
    command: Vec<String>,
    #[command(flatten)]
    submission: SubmissionArgs,
    #[command(flatten)]
    spread: SpreadArgs,
    #[command(flatten)]
    elements: ElementArgs,
    #[command(flatten)]
    waiting: WaitingArgs,
    #[command(flatten)]
    connection: Connection,
}

/// How the elements are spread.
#[derive(Args, Debug)]
#[command(next_help_heading = "How the function is mapped")]
struct SpreadArgs {
    /// How the function is called: with the element (map, walk); with the items of the element as
    /// arguments (pmap); with the element and its name or index (imap). A walk drops the values
    #[arg(long, env = "FARROW_MAP_VARIANT", default_value = "map",
          value_parser = arguments::one_of::<Variant>(&["map", "pmap", "imap", "walk"]))]
    variant: Variant,
    /// The topology, outer level first, each perhaps with a bound: `cluster,multisession=4`
    #[arg(long, env = "FARROW_MAP_PLAN", value_name = "LEVELS", value_delimiter = ',',
          default_value = "cluster", value_parser = arguments::level)]
    plan: Vec<Level>,
    /// What an error does: fail the job at once, or stand in its element's place
    #[arg(long, env = "FARROW_MAP_ON_ERROR", value_name = "WHAT", default_value = "stop",
          value_parser = arguments::one_of::<OnError>(&["stop", "collect"]))]
    on_error: OnError,
    /// Elements a chunk [default: learnt while running]
    #[arg(long, env = "FARROW_MAP_CHUNK_SIZE", value_name = "N")]
    chunk_size: Option<u64>,
    /// Chunks a slot, as furrr's `scheduling`
    #[arg(long, env = "FARROW_MAP_SCHEDULING", value_name = "X", allow_negative_numbers = true,
          value_parser = arguments::scheduling)]
    scheduling: Option<f64>,
}

impl Map {
    /// Submits the map; waits for its value and delivers it, unless it is to be left alone.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let encoding = self.submission.encoding();
        self.waiting.check(encoding)?;
        let work = Work::of_words(self.submission.runtime, self.words, self.command)?;
        let elements = self.elements.read(&work.elements, encoding)?;
        // A command is given all as words.
        let remedy = match self.submission.runtime {
            Runtime::R | Runtime::Python => self.elements.remedy(&elements),
            Runtime::Command => None,
        };
        let options = Options {
            variant: self.spread.variant,
            on_error: self.spread.on_error,
            chunk_size: self.spread.chunk_size,
            scheduling: self.spread.scheduling,
            ..Options::default()
        };
        let spread = Spread { elements, plan: self.spread.plan };
        let screen = self.waiting.screen();
        if work.ignores_elements() {
            screen.note(
                "no placeholder such as {} in the command: elements are on its standard input",
            );
        }
        let submission = self.submission;
        let submitted =
            submission.submit(work.function, Some(spread), options, &client, &screen).await?;
        let finished = self.waiting.finish(&submitted, &client, &screen).await;
        finished.map_err(|failure| match remedy {
            Some(remedy) if failure.is_of_code() => failure.remedy(remedy),
            _ => failure,
        })
    }
}
