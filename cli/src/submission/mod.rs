//! A submission as the command line says it: what `map` and `call` share, made into a job.

mod files;
mod function;
mod how;
mod surroundings;
pub mod upload;
mod value;

pub use function::Work;
pub use how::How;
pub use surroundings::Surroundings;
pub use upload::Upload;

use bytes::Bytes;
use clap::Args;
use protocol::JobId;
use protocol::job::{Encoding, JobStatus, Level, Options, Runtime, Strategy, SubmitJob};

use crate::arguments;
use crate::client::{CallError, Client};
use crate::elements::Elements;
use crate::failure::{Exit, Failure};
use crate::persistence::{Patience, persist};
use crate::screen::Screen;
use crate::wait;

/// What every submission says.
#[derive(Args, Debug)]
pub struct SubmissionArgs {
    /// What runs the function
    #[arg(long, env = "FARROW_JOB_RUNTIME", ignore_case = true,
          value_parser = arguments::one_of::<Runtime>(&["r", "python", "command"]))]
    pub runtime: Runtime,
    #[command(flatten)]
    surroundings: Surroundings,
    #[command(flatten)]
    how: How,
}

/// What a map says beyond that.
pub struct Spread {
    /// Its elements.
    pub elements: Elements,
    /// Its topology.
    pub plan: Vec<Level>,
}

impl SubmissionArgs {
    /// How elements and values are written.
    pub fn encoding(&self) -> Encoding {
        self.how.encoding()
    }

    /// Submits the job. What is large is uploaded before; nothing is sent before all that the
    /// command line names was read.
    pub async fn submit(
        self,
        function: protocol::job::Function,
        spread: Option<Spread>,
        options: Options,
        client: &Client,
        screen: &Screen,
    ) -> Result<JobStatus, Failure> {
        let mut upload = Upload::default();
        let (args, globals) = self.surroundings.values(&mut upload)?;
        let workdir = self.surroundings.workdir()?;
        let files = self.surroundings.pack_files(screen, &mut upload)?;
        let one_level = || vec![Level::new(Strategy::Cluster)];
        let (elements, plan) = match spread {
            Some(spread) => (Some(upload.elements(spread.elements)), spread.plan),
            None => (None, one_level()),
        };
        let job = SubmitJob {
            name: self.how.name.clone(),
            runtime: self.runtime,
            function,
            elements,
            args,
            globals,
            packages: self.surroundings.package,
            prepare: self.surroundings.prepare,
            setup: self.surroundings.setup,
            files,
            workdir,
            after: self.how.after.clone(),
            plan,
            options: self.how.options(&options),
        };
        let body = serde_json::to_vec(&job).map(Bytes::from).map_err(|error| {
            Failure::usage(format!("cannot write the submission as JSON: {error}"))
        })?;
        let sent = async {
            upload.send(client, screen).await?;
            send(client, screen, &body).await
        };
        let unsure = "the job may have been accepted: `farrow jobs` shows it";
        wait::unless_interrupted(sent, screen, unsure).await
    }
}

/// Sends a submission until it is answered. Its key makes sure that it is one job, also when an
/// answer was lost.
async fn send(client: &Client, screen: &Screen, body: &Bytes) -> Result<JobStatus, Failure> {
    // An id that nobody has made before is as good as any other such text.
    let key = JobId::new().to_string();
    let sent = persist(screen, Patience::Brief, async || client.submit(body.clone(), &key).await);
    sent.await.map_err(|error| match error {
        CallError::Lost { .. } => Failure::new(Exit::Server, error.to_string()).remedy(
            "the job may have been accepted: look with `farrow jobs` before submitting again",
        ),
        error => error.into(),
    })
}
