//! Waiting for a job, and printing its value.

use std::io::{self, Write};
use std::time::Duration;

use protocol::JobId;
use protocol::job::JobStatus;

use crate::client::{Body, CallError, Client, Polled, Until, Value};
use crate::failure::{Exit, Failure};
use crate::persistence::{Patience, persist};
use crate::printer::{Format, Printer};
use crate::screen::Screen;

/// Between two looks at a job: a fast one changes more often than an eye sees, and a server that is
/// stopping holds no request.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Before a value that was cut short is asked for again.
const BEFORE_THE_REST: Duration = Duration::from_secs(1);

/// Waits for a job's end and prints its value. Ctrl-C leaves the job running and says how to come
/// back to it.
pub async fn for_value(
    client: &Client,
    id: JobId,
    screen: &Screen,
    patience: Patience,
    format: Format,
) -> Result<(), Failure> {
    let value = async {
        let status = until_end(client, id, screen, patience).await?;
        print_value(client, id, screen, format).await?;
        if status.elements.failed > 0 {
            let counts = status.elements;
            screen.note(&format!(
                "{} of {} elements failed: their places hold errors",
                counts.failed, counts.total
            ));
        }
        Ok(())
    };
    unless_interrupted(
        value,
        screen,
        &format!("the job goes on; to come back to it: farrow value {id}"),
    )
    .await
}

/// Runs `work` until Ctrl-C.
pub async fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    screen: &Screen,
    how_to_come_back: &str,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result.inspect_err(|_| screen.clear()),
        _ = tokio::signal::ctrl_c() => {
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
        let call = persist(screen, patience, CallError::is_temporary, async || {
            client.poll(id, until).await
        });
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
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Prints the value of a job that has ended, while it arrives. A connection that breaks is made
/// again: a value never changes, so what was printed already is skipped.
pub async fn print_value(
    client: &Client,
    id: JobId,
    screen: &Screen,
    format: Format,
) -> Result<(), Failure> {
    let mut printer = Printer::new(format, io::stdout());
    loop {
        let answer = persist(screen, Patience::Endless, CallError::is_temporary, async || {
            client.value(id).await
        });
        let mut body = match answer.await.map_err(without_value)? {
            Value::Here(body) => body,
            Value::NotYet(status) => return Err(not_yet(&status)),
        };
        match copy(&mut body, &mut printer).await? {
            Copied::Whole => return printer.finish(),
            Copied::Cut(error) => {
                screen.note(&format!("{error}; fetching the rest"));
                tokio::time::sleep(BEFORE_THE_REST).await;
            }
        }
    }
}

/// How far a value's bytes came.
enum Copied {
    Whole,
    Cut(CallError),
}

async fn copy<W: Write>(body: &mut Body, printer: &mut Printer<W>) -> Result<Copied, Failure> {
    printer.rewind();
    loop {
        match body.next().await {
            Ok(Some(bytes)) => printer.print(&bytes)?,
            Ok(None) => return Ok(Copied::Whole),
            Err(error) => return Ok(Copied::Cut(error)),
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
    let failure = Failure::new(Exit::NotYet, what);
    match &status.waiting_for {
        Some(reason) => failure.details([format!("waiting: {reason}")]),
        None => failure,
    }
}

/// What the server says in the place of a value: the job failed, or was cancelled.
pub fn without_value(error: CallError) -> Failure {
    match error {
        CallError::Refused(problem) if problem.status == 409 => Failure::of_job(&problem),
        CallError::Refused(problem) if problem.status == 410 => {
            Failure::new(Exit::Cancelled, &problem.detail)
        }
        error => error.into(),
    }
}
