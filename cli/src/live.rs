//! What elements print and signal, on the screen while a command waits for their job.

use std::pin::pin;
use std::time::Duration;

use protocol::JobId;
use protocol::job::LogLine;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::{CallError, Client, LogQuery, Outlook, WAIT};
use crate::screen::Screen;
use crate::tagged::Tagger;

/// Between two requests for what is said.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Before the next request after one has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(2);

/// How long a server may take to tell the last words.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);

/// Runs `work`, which waits for the end of a job, and shows beside it what the job says.
pub async fn beside<T>(
    work: impl Future<Output = T>,
    client: &Client,
    id: JobId,
    screen: &Screen,
) -> T {
    let ended = CancellationToken::new();
    let mut listener = Listener { client, id, screen, tagger: Tagger::default(), cursor: None };
    let mut said = pin!(listener.listen(&ended));
    let mut work = pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        () = &mut said => return work.await,
    };
    ended.cancel();
    timeout(LAST_WORDS_WITHIN, said).await.ok();
    result
}

struct Listener<'a> {
    client: &'a Client,
    id: JobId,
    screen: &'a Screen,
    tagger: Tagger,
    /// What was shown last.
    cursor: Option<u64>,
}

impl Listener<'_> {
    /// Shows what is said until the job has `ended`, or the server will not tell. That is no
    /// reason to end: whoever waits for the job is told what is wrong with the server.
    async fn listen(&mut self, ended: &CancellationToken) {
        let mut is_last = false;
        loop {
            let wait = (!is_last).then_some(WAIT);
            let pause = match self.show(wait).await {
                Ok(()) => BETWEEN_LOOKS,
                Err(error) if error.outlook() == Outlook::Hopeless => break,
                Err(_) => AFTER_A_FAILURE,
            };
            if is_last {
                break;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = ended.cancelled() => is_last = true,
            }
        }
        self.tagger.finish().iter().for_each(|line| self.screen.note(line));
    }

    async fn show(&mut self, wait: Option<u32>) -> Result<(), CallError> {
        let query = LogQuery { after: self.cursor, wait, ..LogQuery::default() };
        let mut lines = self.client.logs(self.id, query).await?;
        while let Some(line) = lines.next().await? {
            if let Ok(said) = serde_json::from_str::<LogLine>(&line) {
                self.cursor = Some(said.cursor);
                self.tagger.push(&said).iter().for_each(|line| self.screen.note(line));
            }
        }
        Ok(())
    }
}
