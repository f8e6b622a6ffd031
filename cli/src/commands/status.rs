//! `farrow status`: how far jobs are.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::JobId;
use protocol::job::{JobStatus, Seed};

use crate::arguments::job_id;
use crate::client::Client;
use crate::clock;
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::human;
use crate::output::OutputArgs;
use crate::persistence::Patience;
use crate::screen::{Screen, ScreenArgs};
use crate::table;
use crate::wait;

const EXAMPLES: &str = "\
Examples:
  farrow status 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow status --watch 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow status --json 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42 | jq .elements

With --json the status of one job is an object; that of several is an array of objects.
";

/// Jobs asked of the server at a time.
const AT_ONCE: usize = 100;

/// Show how far jobs are
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Status {
    /// The jobs
    #[arg(required = true, value_name = "ID", value_parser = job_id)]
    ids: Vec<JobId>,
    /// Stay, with a progress bar, until the jobs have ended, one after the other
    #[arg(short, long, env = "FARROW_WATCH", value_parser = FalseyValueParser::new())]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    screen: ScreenArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    /// Prints the status of each job, now or at its end.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let statuses = match self.watch {
            true => self.at_the_end(&client).await?,
            false => now(&client, &self.ids).await?,
        };
        match statuses.as_slice() {
            [status] if self.ids.len() == 1 => self.output.print(status, describe),
            statuses => self.output.print(&statuses, |statuses| {
                statuses.iter().map(describe).collect::<Vec<_>>().join("\n")
            }),
        }?;
        match self.ids.iter().find(|id| !statuses.iter().any(|status| status.id == **id)) {
            Some(id) => Err(Failure::new(Exit::Server, format!("there is no job {id}"))
                .remedy("`farrow jobs` lists the jobs that there are")),
            None => Ok(()),
        }
    }

    async fn at_the_end(&self, client: &Client) -> Result<Vec<JobStatus>, Failure> {
        let screen = Screen::new(self.screen);
        let mut statuses = Vec::new();
        for &id in &self.ids {
            let end = wait::until_end(client, id, &screen, Patience::Brief);
            statuses.push(wait::unless_interrupted(end, &screen, "the job goes on").await?);
        }
        Ok(statuses)
    }
}

/// The status of those jobs that there are.
async fn now(client: &Client, ids: &[JobId]) -> Result<Vec<JobStatus>, Failure> {
    if let [id] = ids {
        return Ok(vec![client.status(*id).await?]);
    }
    let mut statuses = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        statuses.extend(client.statuses(ids).await?);
    }
    Ok(statuses)
}

fn describe(status: &JobStatus) -> String {
    let now = clock::now();
    let time = |time: &String| format!("{} ({time})", human::ago(time, now));
    let running = !status.state.is_final();
    let mut pairs = vec![("job", status.id.to_string())];
    pairs.extend(status.name.clone().map(|name| ("name", name)));
    pairs.push(("state", status.state.as_str().to_owned()));
    pairs.push(("elements", elements(status)));
    if running && status.slots > 0 {
        pairs.push(("at work", human::count(status.slots, "slot")));
    }
    pairs.extend(status.waiting_for.clone().map(|reason| ("waiting", reason)));
    pairs.extend(status.rate.map(|rate| ("rate", human::rate(rate))));
    pairs.extend(
        status.remaining.filter(|_| running).map(|left| ("time left", human::duration(left))),
    );
    pairs.extend(status.error.as_ref().map(|problem| ("error", problem.detail.clone())));
    pairs.extend(retries(status));
    pairs.push(("runtime", status.runtime.as_str().to_owned()));
    pairs.push(("plan", human::plan(&status.plan)));
    pairs.extend(seed(status.options.seed.as_ref()).map(|seed| ("seed", seed)));
    if status.options.priority != 0 {
        pairs.push(("priority", status.options.priority.to_string()));
    }
    if !status.options.labels.is_empty() {
        pairs.push(("labels", human::labels(&status.options.labels)));
    }
    pairs.push(("submitted", time(&status.submitted_at)));
    pairs.extend(status.started_at.as_ref().map(|at| ("started", time(at))));
    pairs.extend(status.finished_at.as_ref().map(|at| ("finished", time(at))));
    pairs.extend(took(status).map(|seconds| ("took", human::duration(seconds))));
    table::of_pairs(&pairs)
}

/// The jobs before and behind this one.
fn retries(status: &JobStatus) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    if !status.after.is_empty() {
        let ids: Vec<_> = status.after.iter().map(ToString::to_string).collect();
        pairs.push(("after", ids.join(", ")));
    }
    pairs.extend(status.retry_of.map(|id| ("retry of", id.to_string())));
    pairs.extend(status.retried_as.map(|id| ("retried as", id.to_string())));
    pairs
}

fn seed(seed: Option<&Seed>) -> Option<String> {
    match seed? {
        Seed::Number(seed) => Some(seed.to_string()),
        Seed::State(state) => Some(format!("{state:?}")),
        Seed::Drawn(is_drawn) => is_drawn.then(|| "drawn".to_owned()),
    }
}

fn elements(status: &JobStatus) -> String {
    let counts = status.elements;
    let mut text = format!("{} of {} done", counts.done, counts.total);
    // Nothing of a job that has ended waits.
    let waiting = if status.state.is_final() { "never run" } else { "waiting" };
    for (n, what) in
        [(counts.failed, "failed"), (counts.running, "running"), (counts.waiting, waiting)]
    {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    text
}

/// Seconds from the first lease to the end.
fn took(status: &JobStatus) -> Option<f64> {
    human::seconds_between(status.started_at.as_ref()?, status.finished_at.as_ref()?)
}
