//! How a job is run: the flags that become options.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::{Encoding, Options, Output, Seed, Slots, ValueType};
use protocol::{JobId, size};

use crate::arguments;

/// How the job is run.
#[derive(Args, Debug)]
#[command(next_help_heading = "How the job is run")]
pub struct How {
    /// A name for people
    #[arg(long, env = "FARROW_JOB_NAME")]
    pub name: Option<String>,
    /// What each value must be, as in purrr's `map_dbl()` and its like
    #[arg(long = "type", env = "FARROW_JOB_TYPE", value_name = "TYPE", default_value = "list",
          value_parser = arguments::one_of::<ValueType>(&["list", "chr", "dbl", "int", "lgl"]))]
    value_type: ValueType,
    /// How elements and values are written: rds for r, pickle for python, bytes for all. Values of
    /// another encoding than json are written as they are, to --out or where standard output goes
    #[arg(long, env = "FARROW_JOB_ENCODING", default_value = "json",
          value_parser = arguments::one_of::<Encoding>(&["json", "rds", "pickle", "bytes"]))]
    encoding: Encoding,
    /// What a command's standard output is: text, or a JSON document
    #[arg(long, env = "FARROW_JOB_OUTPUT", default_value = "text",
          value_parser = arguments::one_of::<Output>(&["text", "json"]))]
    output: Output,
    /// Give each element the same random numbers on every run; `true` draws a seed and `farrow
    /// status` shows it. Of R also a `.Random.seed` of seven numbers, in brackets
    #[arg(long, env = "FARROW_JOB_SEED", value_name = "N|true", allow_hyphen_values = true,
          value_parser = arguments::seed)]
    seed: Option<Seed>,
    /// Slots that one element occupies, or `all` of an agent's
    #[arg(long, env = "FARROW_JOB_SLOTS", value_name = "N|all", default_value = "1", value_parser = arguments::slots)]
    slots: Slots,
    /// Memory that a worker may use, such as 2GiB: it is killed above, and an agent runs no more
    /// elements at once than it has memory for [default: any]
    #[arg(long, env = "FARROW_JOB_MEMORY", value_name = "BYTES", value_parser = size::within::<u64>(1..=size::MAX))]
    memory: Option<u64>,
    /// Seconds that an element may run [default: any time]
    #[arg(long, env = "FARROW_JOB_TIMEOUT", value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = arguments::seconds)]
    timeout: Option<f64>,
    /// How often an element is run again after its worker died or its time was over
    #[arg(long, env = "FARROW_JOB_RETRIES", value_name = "N", default_value_t = Options::default().retries)]
    retries: u32,
    /// Run an element again also after an error of its own
    #[arg(long, env = "FARROW_JOB_RETRY_ON_ERROR", value_parser = FalseyValueParser::new())]
    retry_on_error: bool,
    /// A job that must be resolved before; may be repeated
    #[arg(long, env = "FARROW_JOB_AFTER", value_name = "ID", value_delimiter = ',',
          value_parser = arguments::job_id)]
    pub after: Vec<JobId>,
    /// Do not keep what elements print
    #[arg(long, env = "FARROW_JOB_NO_STDOUT", value_parser = FalseyValueParser::new())]
    no_stdout: bool,
    /// Do not keep messages and warnings
    #[arg(long, env = "FARROW_JOB_NO_CONDITIONS", value_parser = FalseyValueParser::new())]
    no_conditions: bool,
    /// Keep the files that elements write to the folder named by FARROW_ARTIFACTS: `farrow artifacts`
    /// fetches them
    #[arg(long, env = "FARROW_JOB_ARTIFACTS", value_parser = FalseyValueParser::new())]
    artifacts: bool,
    /// Jobs of higher priority go first, from -100 to 100
    #[arg(
        long,
        env = "FARROW_JOB_PRIORITY",
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    priority: i32,
    /// Only agents that carry this label run the job; may be repeated
    #[arg(long, env = "FARROW_JOB_LABEL", value_name = "NAME=VALUE", value_parser = arguments::name_and_text)]
    label: Vec<(String, String)>,
}

impl How {
    /// How elements and values are written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// All options, of which `others` gives those that only a map has.
    pub fn options(self, others: &Options) -> Options {
        Options {
            value_type: self.value_type,
            encoding: self.encoding,
            output: self.output,
            seed: self.seed,
            slots: self.slots,
            memory: self.memory,
            timeout: self.timeout,
            retries: self.retries,
            retry_on_error: self.retry_on_error,
            stdout: !self.no_stdout,
            conditions: !self.no_conditions,
            artifacts: self.artifacts,
            priority: self.priority,
            labels: self.label.into_iter().collect(),
            ..*others
        }
    }
}
