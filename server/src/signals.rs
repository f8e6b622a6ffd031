//! What servers of one database tell each other: that something has changed, and for whom to look.
//!
//! A note says only "look": what happened stands in the database. Notes are collected for a moment
//! and sent outside of transactions; one that is lost (its server was killed between the commit and
//! the note) costs a second, because each server also looks by itself. For orders to agents it does
//! not: an agent learns of them with its next heartbeat, a sixth of a lease later at the most (of an idle agent a third), or when
//! whoever had no answer asks once more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::{AgentId, JobId, LeaseId};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::postgres::{self, Notes};
use crate::store::{StoreError, jobs};

/// The least time between two sendings: what happens meanwhile goes together.
const COLLECT: Duration = Duration::from_millis(10);

/// How often a server looks by itself at what its waiters wait for.
const LOOK: Duration = Duration::from_secs(1);

/// Ids that one note names: PostgreSQL takes 8000 bytes.
const MAX_IDS: usize = 180;

/// Notes that one sending takes; of more than they name, all are to look.
const MAX_NOTES: usize = 8;

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// A job has moved.
    Moved,
    /// A job has ended.
    Ended,
    /// A job has said something.
    Said,
    /// A slot that has nothing to do could run something of a lease.
    Wanted,
    /// There are orders for an agent.
    Ordered,
    /// An agent waits for work at the server that says so, and nowhere else.
    Arrived,
}

/// A note from one server to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    from: String,
    ids: BTreeMap<Topic, BTreeSet<String>>,
    /// There may be work to give.
    work: bool,
    /// Agents have come or gone.
    agents: bool,
    /// More has changed than can be named.
    all: bool,
}

/// What is to be told to the other servers.
#[derive(Debug)]
pub struct Outbound {
    /// Names this server process.
    id: String,
    pending: Mutex<Note>,
    filled: Notify,
}

impl Outbound {
    /// With nothing to tell yet.
    pub fn new() -> Self {
        let id = JobId::new().to_string();
        Self { id, pending: Mutex::default(), filled: Notify::new() }
    }

    /// Tells that `key` is to be looked at.
    pub fn tell(&self, topic: Topic, key: &impl Display) {
        self.add(|note| {
            note.ids.entry(topic).or_default().insert(key.to_string());
        });
    }

    /// Tells that there may be work to give.
    pub fn work(&self) {
        self.add(|note| note.work = true);
    }

    /// Tells that agents have come or gone.
    pub fn agents(&self) {
        self.add(|note| note.agents = true);
    }

    /// Tells to look at everything.
    pub fn all(&self) {
        self.add(|note| note.all = true);
    }

    fn add(&self, add: impl FnOnce(&mut Note)) {
        add(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }

    /// Waits until there is something to tell, and takes it.
    async fn take(&self) -> Vec<Note> {
        loop {
            let pending =
                std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
            if pending != Note::default() {
                return split(Note { from: self.id.clone(), ..pending });
            }
            self.filled.notified().await;
        }
    }
}

/// Cuts a note into such as can be sent.
fn split(mut note: Note) -> Vec<Note> {
    let ids = std::mem::take(&mut note.ids);
    let ids: Vec<(Topic, String)> = ids
        .into_iter()
        .flat_map(|(topic, ids)| ids.into_iter().map(move |id| (topic, id)))
        .collect();
    if note.all || ids.len() > MAX_IDS * MAX_NOTES {
        return vec![Note { all: true, ..note }];
    }
    let mut notes = Vec::new();
    for some in ids.chunks(MAX_IDS) {
        let mut part = Note { from: note.from.clone(), ..Note::default() };
        for (topic, id) in some {
            part.ids.entry(*topic).or_default().insert(id.clone());
        }
        notes.push(part);
    }
    match notes.first_mut() {
        Some(first) => (first.work, first.agents) = (note.work, note.agents),
        None => notes.push(note),
    }
    notes
}

/// Exchanges notes with the other servers until `shutdown`, if there can be others.
pub async fn run(state: AppState, shutdown: CancellationToken) {
    let Some(outbound) = state.outbound.clone() else { return };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = send(&state, &outbound) => {}
        () = hear(&state, &outbound.id) => {}
        () = look(&state) => {}
    }
    // Others must not wait for their next look to learn of what was done last.
    let last = async {
        for note in outbound.take().await {
            tell(&state, &note).await;
        }
    };
    tokio::time::timeout(COLLECT, last).await.ok();
}

async fn send(state: &AppState, outbound: &Outbound) {
    loop {
        for note in outbound.take().await {
            tell(state, &note).await;
        }
        tokio::time::sleep(COLLECT).await;
    }
}

async fn tell(state: &AppState, note: &Note) {
    let Some(database) = state.store.shared() else { return };
    // A note is plain texts and flags, which always can be written.
    let text = serde_json::to_string(note).unwrap_or_default();
    if let Err(error) = postgres::notify(database, &text).await {
        tracing::debug!(%error, "a note to the other servers was lost; they look by themselves");
    }
}

/// Listens, and wakes whom the notes name.
async fn hear(state: &AppState, own: &str) {
    let Some(database) = state.store.shared() else { return };
    loop {
        if let Ok(mut notes) = Notes::listen(database).await {
            while let Ok(heard) = notes.next().await {
                match heard.as_deref().map(serde_json::from_str::<Note>) {
                    Some(Ok(note)) if note.from == own => {}
                    Some(Ok(note)) => wake(state, &note),
                    // What was lost with a connection, or comes from another version.
                    None | Some(Err(_)) => wake_all(state),
                }
            }
        }
        wake_all(state);
        tokio::time::sleep(LOOK).await;
    }
}

fn wake(state: &AppState, note: &Note) {
    if note.all {
        return wake_all(state);
    }
    for (topic, ids) in &note.ids {
        for id in ids {
            wake_one(state, *topic, id);
        }
    }
    if note.agents {
        state.agents_changed.notify_waiters();
    }
    if note.work || note.agents {
        state.dispatcher.wake_here();
    }
}

fn wake_one(state: &AppState, topic: Topic, id: &str) {
    let (job, agent) = (id.parse::<JobId>().ok(), id.parse::<AgentId>().ok());
    if let (Topic::Wanted, Ok(lease)) = (topic, id.parse::<LeaseId>()) {
        state.asks.heard(lease, state.clock.now());
    }
    match (topic, job, agent) {
        (Topic::Moved, Some(job), _) => state.job_watchers.wake_here(&job),
        (Topic::Ended, Some(job), _) => state.end_watchers.wake_here(&job),
        (Topic::Said, Some(job), _) => state.log_watchers.wake_here(&job),
        (Topic::Ordered, _, Some(agent)) => state.agent_watchers.wake_here(&agent),
        (Topic::Arrived, _, Some(agent)) => state.dispatcher.waits_elsewhere(agent),
        _ => {}
    }
}

fn wake_all(state: &AppState) {
    state.job_watchers.wake_all_here();
    state.end_watchers.wake_all_here();
    state.log_watchers.wake_all_here();
    state.agent_watchers.wake_all_here();
    state.agents_changed.notify_waiters();
    state.dispatcher.wake_here();
}

/// Looks, every second, at what is waited for here.
async fn look(state: &AppState) {
    let mut seen = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        state.dispatcher.wake_here();
        state.log_watchers.wake_all_here();
        state.agents_changed.notify_waiters();
        match look_at_jobs(state, &seen).await {
            Ok(now) => seen = now,
            Err(error) => tracing::debug!(%error, "what is waited for could not be looked at"),
        }
    }
}

/// Wakes those who wait for a job of which more is known than `seen`. Gives what is known now.
async fn look_at_jobs(
    state: &AppState,
    seen: &HashMap<JobId, i64>,
) -> Result<HashMap<JobId, i64>, StoreError> {
    let mut watched: BTreeSet<JobId> = state.job_watchers.keys().into_iter().collect();
    watched.extend(state.end_watchers.keys());
    if watched.is_empty() {
        return Ok(HashMap::new());
    }
    let wanted: Vec<JobId> = watched.iter().copied().collect();
    let versions =
        state.store.read(|tx| Box::pin(async move { jobs::versions(tx, &wanted).await })).await?;
    for job in &watched {
        // Who waits since the last look may have missed what came before this one. A job that is
        // gone has no version; who waits for it must learn that.
        let now = versions.get(job);
        if now.is_none() || now != seen.get(job) {
            state.job_watchers.wake_here(job);
            state.end_watchers.wake_here(job);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests;
