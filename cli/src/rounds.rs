//! Reading what a job tells, again and again until it has ended.

use protocol::JobId;

use crate::client::{CallError, Client, WAIT};
use crate::failure::Failure;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

/// Reads what a job tells: once, or until it has ended.
pub struct Rounds<'a> {
    /// The server.
    pub client: &'a Client,
    /// The job.
    pub id: JobId,
    /// Where a lost connection is told of.
    pub screen: &'a Screen,
    /// Whether to stay until the job has ended.
    pub follow: bool,
}

impl Rounds<'_> {
    /// Calls `read` until all is told. It reads what is new since it was called last, and stays
    /// for so many seconds to read more.
    pub async fn read(
        &self,
        mut read: impl AsyncFnMut(Option<u32>) -> Result<(), CallError>,
    ) -> Result<(), Failure> {
        let mut patience = Patience::Brief;
        loop {
            // What a job tells after it was seen to have ended is all that it has to tell.
            let is_last = !self.follow || self.has_ended(patience).await?;
            let wait = (!is_last).then_some(WAIT);
            persist(self.screen, patience, async || read(wait).await).await?;
            if is_last {
                return Ok(());
            }
            patience = Patience::Endless;
        }
    }

    async fn has_ended(&self, patience: Patience) -> Result<bool, CallError> {
        let asked = persist(self.screen, patience, async || self.client.status(self.id).await);
        Ok(asked.await?.state.is_final())
    }
}
