//! What an agent does for those that died on its machine.
//!
//! It delivers what they have left on disk: outcomes that no server had accepted when they were killed.
//! They are reported as their own agent would have, under its id and its leases, whose elements so do
//! not run again. And it says that they are dead, for the rest of their leases.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use protocol::agent::Verdict;
use protocol::{AgentId, Problem};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::client::Client;
use crate::outbox::REPORT_BYTES;
use crate::parcel::Parcel;
use crate::report::{TOO_LARGE, smaller};
use crate::scratch::{FOLDER_PREFIX, lock};
use crate::spool::record::Reader;
use crate::spool::{self, Kept, Opening, SEGMENT_ENDING, SpoolFolder};

/// What a dead agent has left.
#[derive(Debug)]
struct Legacy {
    folder: PathBuf,
    /// Nobody else delivers it while this is held.
    _lock: Flock<File>,
}

/// Why something is not delivered.
enum Failure {
    /// It cannot be read.
    Unreadable(io::Error),
    /// The server does not take it.
    Refused(Box<Problem>),
}

/// How many outcomes were delivered.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    accepted: usize,
    stale: usize,
}

/// Delivers to the server what dead agents have left in the folder `spool` for the database that it
/// speaks for. What it cannot deliver stays there, for the next agent that starts.
pub async fn deliver(client: &Client, spool: &Path) {
    let parent = spool.to_owned();
    let found = spawn_blocking(move || find(&parent)).await;
    let legacies = match found.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(legacies) => legacies,
        Err(error) => {
            tracing::error!(folder = %spool.display(), %error,
                "cannot look for outcomes that dead agents have left");
            return;
        }
    };
    for legacy in legacies {
        match legacy.deliver(client).await {
            Ok(true) => spool::remove(&legacy.folder),
            Ok(false) => {}
            Err(error) => tracing::error!(folder = %legacy.folder.display(), %error,
                "cannot read outcomes that a dead agent has left"),
        }
    }
}

/// Says to the server that these agents are dead, so that what they held and have not finished runs
/// again now, and not when it has not heard of them for a lease.
///
/// To be called behind [`deliver`], for what is leased anew cannot be delivered any more: whoever has
/// left something in the folder `spool` that is still there is not spoken of, because another agent may
/// be delivering it. What was left in another folder is not seen. After a lease nothing is gained any
/// more, and a server that cannot be told keeps nobody from work.
pub async fn bury(client: &Client, spool: &Path, dead: &[AgentId], lease: Duration) {
    let telling = async {
        for agent in dead.iter().filter(|agent| !leaves_something(spool, **agent)) {
            match client.bury(*agent).await {
                Ok(()) => tracing::info!(%agent, "told the server that an agent died here"),
                // Such as: it was of another token.
                Err(problem) => tracing::info!(%agent, %problem,
                    "an agent died here, which the server will notice by itself"),
            }
        }
    };
    if timeout(lease, telling).await.is_err() {
        tracing::warn!(agents = ?dead,
            "the server could not be told within a lease that these agents died here; it notices by \
             itself, and nothing need be done");
    }
}

fn leaves_something(spool: &Path, agent: AgentId) -> bool {
    // Where that cannot be known there may be something.
    SpoolFolder::new(spool.to_owned(), agent).path().try_exists().unwrap_or(true)
}

/// The folders of dead agents: those that nobody has locked.
fn find(parent: &Path) -> io::Result<Vec<Legacy>> {
    let _turn = lock(parent, FlockArg::LockExclusive)?;
    let mut legacies = Vec::new();
    for entry in fs::read_dir(parent)? {
        let folder = entry?.path();
        if name_of(&folder).starts_with(FOLDER_PREFIX)
            && let Ok(lock) = lock(&folder, FlockArg::LockExclusiveNonblock)
        {
            legacies.push(Legacy { folder, _lock: lock });
        }
    }
    Ok(legacies)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Legacy {
    /// Delivers all there is, in order; whether nothing is left.
    async fn deliver(&self, client: &Client) -> io::Result<bool> {
        let mut is_empty = true;
        for segment in self.segments()? {
            let left = match deliver_segment(client, &segment).await {
                Ok(left) => left,
                Err(Failure::Unreadable(error)) => {
                    tracing::error!(file = %segment.display(), %error,
                        "outcomes that a dead agent has left cannot be read; their elements run again; \
                         remove the file when it is not needed any more");
                    true
                }
                Err(Failure::Refused(problem)) => {
                    tracing::error!(file = %segment.display(), %problem,
                        "the server does not take outcomes that a dead agent has left; an agent \
                         that is started later, with the token of the dead one, tries again");
                    true
                }
            };
            if left {
                is_empty = false;
            } else {
                fs::remove_file(&segment)?;
            }
        }
        Ok(is_empty)
    }

    fn segments(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.path()));
        let mut segments: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
        segments.retain(|path| name_of(path).ends_with(SEGMENT_ENDING));
        segments.sort();
        Ok(segments)
    }
}

/// Delivers a segment; whether it must stay, because it is of another server.
async fn deliver_segment(client: &Client, path: &Path) -> Result<bool, Failure> {
    let mut reader = Reader::open(path, 0).map_err(Failure::Unreadable)?;
    // One whose first record is not whole holds nothing.
    let opening = reader.next::<Opening>().map_err(Failure::Unreadable)?;
    let Some((Opening { agent, database }, _)) = opening else { return Ok(false) };
    if database != client.database() {
        tracing::info!(file = %path.display(), "outcomes of a dead agent are for another server");
        return Ok(true);
    }
    let mut delivered = Delivered::default();
    loop {
        let (rest, parcels) = read_some(reader).await.map_err(Failure::Unreadable)?;
        if parcels.is_empty() {
            if rest.left() > 0 {
                tracing::warn!(file = %path.display(), from = rest.position(), bytes = rest.left(),
                    "the end of what a dead agent has left was not written whole, or is damaged; the \
                     elements that are in it run again");
            }
            break;
        }
        report(client, agent, parcels, &mut delivered).await.map_err(Failure::Refused)?;
        reader = rest;
    }
    let Delivered { accepted, stale } = delivered;
    tracing::info!(%agent, accepted, stale, "delivered outcomes that a dead agent had left");
    Ok(false)
}

/// As many parcels as a report holds.
async fn read_some(mut reader: Reader) -> io::Result<(Reader, Vec<Arc<Parcel>>)> {
    let reading = spawn_blocking(move || {
        let (mut parcels, mut size) = (Vec::new(), 0);
        while size < REPORT_BYTES {
            let Some((kept, body)) = reader.next::<Kept>()? else { break };
            size += body.len();
            parcels.push(Arc::new(kept.parcel(body)));
        }
        Ok((reader, parcels))
    });
    reading.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// Reports these parcels until each has been judged.
async fn report(
    client: &Client,
    agent: AgentId,
    parcels: Vec<Arc<Parcel>>,
    delivered: &mut Delivered,
) -> Result<(), Box<Problem>> {
    let mut stack = vec![parcels];
    while let Some(parcels) = stack.pop() {
        match client.report_for(agent, &parcels).await {
            Ok(reported) => {
                for (parcel, verdict) in parcels.iter().zip(&reported.verdicts) {
                    match verdict {
                        Verdict::Accepted => delivered.accepted += parcel.count(),
                        Verdict::Stale => delivered.stale += parcel.count(),
                    }
                }
            }
            Err(problem) if problem.status == TOO_LARGE => stack.extend(smaller(parcels, &problem)),
            Err(problem) => return Err(Box::new(problem)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parcel::tests::finished;
    use crate::spool::Spool;

    #[test]
    fn what_the_living_keep_is_not_found_and_what_the_dead_have_left_is_found_once() {
        let parent = tempfile::tempdir().unwrap();
        let id = AgentId::new();
        let folder = SpoolFolder::new(parent.path().to_owned(), id);
        let mut spool = Spool::new(folder.clone());
        let parcel = Parcel::of(finished(protocol::LeaseId::new(), 0, &["1"]));
        spool.keep(&[(0, Arc::new(parcel))], None).unwrap();
        assert!(find(parent.path()).unwrap().is_empty());
        drop(spool);
        let found = find(parent.path()).unwrap();
        assert_eq!(found.iter().map(|legacy| &legacy.folder).collect::<Vec<_>>(), [&folder.path()]);
        assert!(find(parent.path()).unwrap().is_empty(), "it is being delivered");
        assert!(leaves_something(parent.path(), id), "it is not to be said to be dead yet");
        spool::remove(&found[0].folder);
        assert!(!leaves_something(parent.path(), id));
    }
}
