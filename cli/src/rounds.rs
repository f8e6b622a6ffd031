//! Reading what a job tells, again and again until it has ended.

use protocol::JobId;

use crate::client::{CallError, Client, WAIT};
use crate::failure::Failure;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;

/// Reads what a job tells: once, or to `follow` it until it has ended. `read` reads what is new
/// since it was called last, and stays for so many seconds to read more.
pub async fn read(
    client: &Client,
    id: JobId,
    screen: &Screen,
    follow: bool,
    mut read: impl AsyncFnMut(Option<u32>) -> Result<(), CallError>,
) -> Result<(), Failure> {
    let mut patience = Patience::Brief;
    loop {
        // What a job tells after it was seen to have ended is all that it has to tell.
        let is_last = !follow || has_ended(client, id, screen, patience).await?;
        let wait = (!is_last).then_some(WAIT);
        persist(screen, patience, async || read(wait).await).await?;
        if is_last {
            return Ok(());
        }
        patience = Patience::Endless;
    }
}

async fn has_ended(
    client: &Client,
    id: JobId,
    screen: &Screen,
    patience: Patience,
) -> Result<bool, CallError> {
    let status = persist(screen, patience, async || client.status(id).await).await?;
    Ok(status.state.is_final())
}
