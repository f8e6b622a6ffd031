//! Waiting for a job, and delivering its value.

use std::time::Duration;

use protocol::JobId;
use protocol::job::{JobStatus, Variant};

use crate::client::{Body, CallError, Client, Polled, Until, Value};
use crate::delivery::{Delivery, Sink};
use crate::failure::{Exit, Failure};
use crate::live;
use crate::persistence::{Patience, persist};
use crate::printer::{Format, Printer};
use crate::screen::Screen;
use crate::signals;

/// Between two looks at a job for which the server holds the answer: a fast job changes more often than an eye sees, and a
/// server that is stopping holds no request.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Before a value that was cut short is asked for again.
const BEFORE_THE_REST: Duration = Duration::from_secs(1);

/// How often a value may break off without a byte more than before: at the same place each time something is wrong there,
/// such as a blob that the server cannot read.
const CUTS_AT_ONE_PLACE: u32 = 7;

/// How a command waits for a value.
pub struct Waiting<'a> {
    /// The server.
    pub client: &'a Client,
    /// Where progress is shown.
    pub screen: &'a Screen,
    /// Where the value goes.
    pub delivery: &'a Delivery,
    /// Whether to show what elements say while they run.
    pub live: bool,
}

impl Waiting<'_> {
    /// Waits for a job's end and delivers its value. Ctrl-C leaves the job running and says how to
    /// come back to it.
    pub async fn for_value(&self, id: JobId, patience: Patience) -> Result<(), Failure> {
        let how_to_come_back = format!("the job goes on; to come back to it: farrow value {id}");
        unless_interrupted(self.value(id, patience), self.screen, &how_to_come_back).await
    }

    async fn value(&self, id: JobId, patience: Patience) -> Result<(), Failure> {
        let end = until_end(self.client, id, self.screen, patience);
        let status = match self.live {
            true => live::beside(end, self.client, id, self.screen).await?,
            false => end.await?,
        };
        self.deliver(&status).await?;
        if status.elements.failed > 0 {
            self.screen.note(&some_failed(&status));
        }
        Ok(())
    }

    /// Writes the value of a job that has ended, while it arrives.
    pub async fn deliver(&self, status: &JobStatus) -> Result<(), Failure> {
        self.delivery.check(status.options.encoding)?;
        let format = Format::of(status, self.delivery.json);
        let first = self.ask(status.id).await?;
        let mut sink = self.delivery.open()?;
        self.copy_whole(status.id, first, format, &mut sink).await?;
        sink.finish()
    }

    async fn ask(&self, id: JobId) -> Result<Body, Failure> {
        let answer =
            persist(self.screen, Patience::Endless, async || self.client.value(id).await).await;
        match answer {
            Ok(Value::Here(body)) => Ok(body),
            Ok(Value::NotYet(status)) => Err(not_yet(&status)),
            Err(error) => Err(without_value(error, id)),
        }
    }

    /// A connection that breaks is made again: a value never changes, so what was printed already
    /// is skipped.
    async fn copy_whole(
        &self,
        id: JobId,
        mut body: Body,
        format: Format,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let mut printer = Printer::new(format, sink);
        let mut n_cuts = 0;
        loop {
            let before = printer.printed();
            printer.rewind();
            let cut = loop {
                match body.next().await {
                    Ok(Some(bytes)) => printer.print(&bytes)?,
                    Ok(None) => return printer.finish(),
                    Err(error) => break error,
                }
            };
            n_cuts = if printer.printed() > before { 1 } else { n_cuts + 1 };
            if n_cuts == CUTS_AT_ONE_PLACE {
                return Err(cut_each_time(cut, printer.printed(), id));
            }
            self.screen.note(&format!("{cut}; fetching the rest"));
            tokio::time::sleep(BEFORE_THE_REST).await;
            body = self.ask(id).await?;
        }
    }
}

/// Runs `work` until it is interrupted: by Ctrl-C, or as `kill` and `timeout` do it.
pub async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    screen: &Screen,
    how_to_come_back: &str,
) -> Result<T, Failure> {
    let interruption = signals::interruption()?;
    tokio::select! {
        result = work => result.inspect_err(|_| screen.clear()),
        () = interruption.cancelled() => {
            screen.clear();
            Err(Failure::new(Exit::Interrupted, "interrupted").remedy(how_to_come_back))
        }
    }
}

/// Waits until a job has ended, whatever happens to the server meanwhile, and shows how far it is.
pub async fn until_end(
    client: &Client,
    id: JobId,
    screen: &Screen,
    patience: Patience,
) -> Result<JobStatus, Failure> {
    let mut patience = patience;
    let mut until = Until::Now;
    let mut tag;
    loop {
        let is_first = matches!(until, Until::Now);
        let call = persist(screen, patience, async || client.poll(id, until).await);
        if let Polled::Status(status, new_tag) = call.await? {
            if status.state.is_final() {
                screen.clear();
                return Ok(*status);
            }
            screen.show(&status);
            tag = new_tag;
            until = match &tag {
                Some(tag) if screen.is_live() => Until::Change(tag),
                // Nobody looks at what comes between.
                _ => Until::End,
            };
        }
        patience = Patience::Endless;
        if !is_first {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

/// The value is not there yet, and how far it is.
pub fn not_yet(status: &JobStatus) -> Failure {
    let counts = status.elements;
    let what = format!(
        "the job is {}: {} of {} elements are done",
        status.state.as_str(),
        counts.done,
        counts.total
    );
    let failure = Failure::new(Exit::NotThere, what);
    match &status.waiting_for {
        Some(reason) => failure.details([format!("waiting: {reason}")]),
        None => failure,
    }
}

fn some_failed(status: &JobStatus) -> String {
    let counts = status.elements;
    let places = match status.options.variant {
        Variant::Walk => "",
        _ => ": their places hold errors",
    };
    format!(
        "{} of {} elements failed{places}; farrow outcomes {} --failed tells of them, farrow retry \
         {} runs them again",
        counts.failed, counts.total, status.id, status.id
    )
}

/// What arrives is never more than so many bytes.
fn cut_each_time(cut: CallError, n_bytes: u64, id: JobId) -> Failure {
    Failure::from(cut)
        .details([format!("the value breaks off behind byte {n_bytes} each time it is asked for")])
        .remedy(format!(
            "the server's log says why, or a proxy before it ends long answers; `farrow server check` looks \
             for what is damaged, and `farrow retry {id}` runs again what is missing"
        ))
}

/// What the server says in the place of a value: the job failed, or was cancelled.
fn without_value(error: CallError, id: JobId) -> Failure {
    match error {
        CallError::Refused(problem) if problem.status == 409 => Failure::of_job(&problem, id),
        CallError::Refused(problem) if problem.status == 410 => {
            Failure::new(Exit::Cancelled, &problem.detail)
                .remedy(format!("`farrow retry {id}` runs what is missing"))
        }
        error => error.into(),
    }
}
