//! `farrow map`: a function over a list, submitted, waited for, printed.

use bytes::Bytes;
use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::{Function, JobStatus, Level, OnError, Options, Runtime, Slots, SubmitJob};
use serde_json::value::RawValue;

use crate::arguments;
use crate::client::{CallError, Client};
use crate::connection::Connection;
use crate::elements::ElementArgs;
use crate::failure::{EXIT_CODES, Exit, Failure};
use crate::output::print_text;
use crate::persistence::{Patience, persist};
use crate::printer::Format;
use crate::screen::{ProgressArgs, Screen};
use crate::wait;

const EXAMPLES: &str = r#"Examples:
  seq 100 | farrow map --runtime python 'lambda x: int(x) ** 2'
  farrow map --runtime r '~ nchar(.x)' one two three
  farrow map --runtime r --json-lines --arg 'digits=2' 'function(x, digits) round(x, digits)' 3.14159 2.71828
  farrow map --runtime python @model.py --file inputs.jsonl --json-lines --detach
  farrow map --runtime r --plan cluster,multisession --json-lines '~ Sys.getpid()' '[1,2,3,4]' '[5,6,7,8]'

Output:
  Each element's value is printed as JSON on a line of its own, in the order of the elements; with
  --json the whole value is one JSON document. Progress and messages go to standard error.
"#;

/// Run a function over elements and print its value
#[derive(Args, Debug)]
#[command(after_help = format!("{EXAMPLES}\n{EXIT_CODES}"))]
pub struct Map {
    /// What runs the function
    #[arg(long, env = "FARROW_MAP_RUNTIME", value_parser = runtime, value_name = "r|python")]
    runtime: Runtime,
    /// The function's source, or @FILE. R: `function(x) …` or `~ .x + 1`. Python: a module whose
    /// last expression, else last `def`, is the function
    #[arg(value_parser = arguments::text_or_file)]
    function: String,
    #[command(flatten)]
    elements: ElementArgs,
    /// Print only the job's id, and leave
    #[arg(long, env = "FARROW_MAP_DETACH", value_parser = FalseyValueParser::new())]
    detach: bool,
    /// Print the whole value as one JSON document; with --detach, the job's status
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    connection: Connection,
}

/// What the function finds where it runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "What the function finds")]
struct Surroundings {
    /// A further argument of the function, the same for every element; may be repeated
    #[arg(long, env = "FARROW_MAP_ARG", value_name = "NAME=JSON", value_parser = arguments::name_and_json)]
    arg: Vec<(String, Box<RawValue>)>,
    /// A global variable; may be repeated
    #[arg(long, env = "FARROW_MAP_GLOBAL", value_name = "NAME=JSON", value_parser = arguments::name_and_json)]
    global: Vec<(String, Box<RawValue>)>,
    /// A package to load before the function; may be repeated
    #[arg(long, env = "FARROW_MAP_PACKAGE", value_name = "NAME", value_delimiter = ',')]
    package: Vec<String>,
    /// A script, or @FILE, that each worker runs before its first element
    #[arg(long, env = "FARROW_MAP_SETUP", value_name = "SOURCE", default_value = "", hide_default_value = true,
          value_parser = arguments::text_or_file)]
    setup: String,
}

/// How the map is run.
#[derive(Args, Debug)]
#[command(next_help_heading = "How the map is run")]
struct How {
    /// A name for people
    #[arg(long, env = "FARROW_MAP_NAME")]
    name: Option<String>,
    /// The topology, outer level first, each perhaps with a bound: `cluster,multisession=4`
    #[arg(long, env = "FARROW_MAP_PLAN", value_name = "LEVELS", value_delimiter = ',',
          default_value = "cluster", value_parser = arguments::level)]
    plan: Vec<Level>,
    /// What an error does: fail the job at once, or stand in its element's place
    #[arg(long, env = "FARROW_MAP_ON_ERROR", default_value = "stop", value_parser = on_error, value_name = "stop|collect")]
    on_error: OnError,
    /// Elements a chunk [default: learnt while running]
    #[arg(long, env = "FARROW_MAP_CHUNK_SIZE", value_name = "N")]
    chunk_size: Option<u64>,
    /// Chunks a slot, as furrr's `scheduling`
    #[arg(long, env = "FARROW_MAP_SCHEDULING", value_name = "X")]
    scheduling: Option<f64>,
    /// Slots that one element occupies, or `all` of an agent's
    #[arg(long, env = "FARROW_MAP_SLOTS", value_name = "N|all", default_value = "1", value_parser = arguments::slots)]
    slots: Slots,
    /// Seconds that an element may run [default: any time]
    #[arg(long, env = "FARROW_MAP_TIMEOUT", value_name = "SECONDS")]
    timeout: Option<f64>,
    /// How often an element is run again after its worker died or its time was over
    #[arg(long, env = "FARROW_MAP_RETRIES", value_name = "N", default_value_t = Options::default().retries)]
    retries: u32,
    /// Jobs of higher priority go first, from -100 to 100
    #[arg(
        long,
        env = "FARROW_MAP_PRIORITY",
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    priority: i32,
    /// Only agents that carry this label run the job; may be repeated
    #[arg(long, env = "FARROW_MAP_LABEL", value_name = "NAME=VALUE", value_parser = arguments::name_and_text)]
    label: Vec<(String, String)>,
}

impl Map {
    /// Submits the map; waits for its value and prints it, unless it is to be left alone.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::new(self.progress);
        let (detach, json) = (self.detach, self.json);
        let body = self.into_body()?;
        let submitted = submit(&client, &screen, &body).await?;
        if detach && json {
            return print_text(&format!("{}\n", serde_json::json!(submitted)));
        }
        if detach {
            return print_text(&format!("{}\n", submitted.id));
        }
        // Whatever becomes of this process, the job can be come back to.
        screen.note(&format!("job {}", submitted.id));
        let format = if json { Format::Json } else { Format::Lines };
        wait::for_value(&client, submitted.id, &screen, Patience::Endless, format).await
    }

    fn into_body(self) -> Result<Bytes, Failure> {
        let job = SubmitJob {
            name: self.how.name,
            runtime: self.runtime,
            function: Function::Source(self.function),
            elements: Some(self.elements.read()?),
            args: self.surroundings.arg.into_iter().collect(),
            globals: self.surroundings.global.into_iter().collect(),
            packages: self.surroundings.package,
            prepare: String::new(),
            setup: self.surroundings.setup,
            files: None,
            after: Vec::new(),
            plan: self.how.plan,
            options: Options {
                on_error: self.how.on_error,
                chunk_size: self.how.chunk_size,
                scheduling: self.how.scheduling,
                slots: self.how.slots,
                timeout: self.how.timeout,
                retries: self.how.retries,
                priority: self.how.priority,
                labels: self.how.label.into_iter().collect(),
                ..Options::default()
            },
        };
        serde_json::to_vec(&job).map(Bytes::from).map_err(|error| {
            Failure::usage(format!("cannot write the submission as JSON: {error}"))
        })
    }
}

/// Submits a job. It is tried again only while no connection could be made: a submission whose
/// answer was lost may have arrived, and a second one would run everything twice.
async fn submit(client: &Client, screen: &Screen, body: &Bytes) -> Result<JobStatus, Failure> {
    let may_repeat = |error: &CallError| matches!(error, CallError::Unreachable { .. });
    let submitted = async {
        let call = persist(screen, Patience::Brief, may_repeat, async || {
            client.submit(body.clone()).await
        });
        call.await.map_err(|error| match error {
            CallError::Lost { .. } => Failure::new(Exit::Server, error.to_string()).remedy(
                "the job may have been accepted: look with `farrow jobs` before submitting again",
            ),
            error => error.into(),
        })
    };
    let unsure = "the job may have been accepted: `farrow jobs` shows it";
    wait::unless_interrupted(submitted, screen, unsure).await
}

fn runtime(text: &str) -> Result<Runtime, String> {
    let known =
        Runtime::ALL.into_iter().find(|runtime| runtime.as_str() == text.to_ascii_lowercase());
    known.ok_or_else(|| "neither r nor python".to_owned())
}

fn on_error(text: &str) -> Result<OnError, String> {
    match text {
        "stop" => Ok(OnError::Stop),
        "collect" => Ok(OnError::Collect),
        _ => Err("neither stop nor collect".to_owned()),
    }
}
