//! How a server or an agent is asked to stop, and another command to end.

use std::process::exit;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};
use crate::output::remark;

/// How long a command that is to end may take to put away what it was writing. It takes longer only
/// when it hangs, such as in writing to a pipe that nobody reads.
pub const TO_END: Duration = Duration::from_secs(1);

/// A token that SIGINT (Ctrl-C) or SIGTERM cancels; a second later the process ends in any case.
pub fn interruption() -> Result<CancellationToken, Failure> {
    let interruption = CancellationToken::new();
    let token = interruption.clone();
    heed(async move |mut signals| {
        signals.next().await;
        token.cancel();
        tokio::time::sleep(TO_END).await;
        exit(Exit::Interrupted as i32);
    })?;
    Ok(interruption)
}

/// A second signal within this time is taken for the first: `timeout` sends one to its child and one to the child's
/// process group.
const TOGETHER: Duration = Duration::from_millis(300);

/// A token that the first SIGINT (Ctrl-C) or SIGTERM cancels. The second one ends the process at once.
pub fn stop_token(first_does: &'static str) -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    heed(async move |mut signals| {
        signals.next().await;
        token.cancel();
        // A full pipe that nobody reads, as of a pager that was left alone, holds up whoever writes to it.
        thread::spawn(move || remark(&format!("{first_does}; once more ends at once\n")));
        let _ = tokio::time::timeout(TOGETHER, async {
            loop {
                signals.next().await;
            }
        })
        .await;
        signals.next().await;
        exit(Exit::Interrupted as i32);
    })?;
    Ok(stop)
}

/// Lets `answer` wait for signals, on a thread of its own: all others may hang, such as in writing their log to that
/// pipe.
fn heed<A>(answer: A) -> Result<(), Failure>
where
    A: AsyncFnOnce(Signals) + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| deaf(&error))?;
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let waiting = move || runtime.block_on(answer(signals));
    let thread = thread::Builder::new().name("signals".to_owned()).spawn(waiting);
    thread.map(drop).map_err(|error| deaf(&error))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| deaf(&error))
}

fn deaf(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
}
