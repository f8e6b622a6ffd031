//! `farrow status`: how far a job is.

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::JobId;
use protocol::job::JobStatus;

use crate::client::Client;
use crate::clock;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::human;
use crate::output::OutputArgs;
use crate::persistence::Patience;
use crate::screen::{ProgressArgs, Screen};
use crate::table;
use crate::wait;

/// Show how far a job is
#[derive(Args, Debug)]
pub struct Status {
    /// The job
    id: JobId,
    /// Stay, with a progress bar, until the job has ended
    #[arg(long, env = "FARROW_WATCH", value_parser = FalseyValueParser::new())]
    watch: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    /// Prints the status, now or at the job's end.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let status = match self.watch {
            true => self.at_the_end(&client).await?,
            false => client.status(self.id).await?,
        };
        self.output.print(&status, describe)
    }

    async fn at_the_end(&self, client: &Client) -> Result<JobStatus, Failure> {
        let screen = Screen::new(self.progress);
        let end = wait::until_end(client, self.id, &screen, Patience::Brief);
        wait::unless_interrupted(end, &screen, "the job goes on").await
    }
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
    pairs.push(("runtime", status.runtime.as_str().to_owned()));
    pairs.push(("plan", human::plan(&status.plan)));
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
