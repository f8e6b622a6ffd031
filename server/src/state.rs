//! What a handler can reach.

use std::ops::Deref;
use std::sync::Arc;

use protocol::{AgentId, JobId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::asks::Asks;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::config::Config;
use crate::dispatcher::Dispatcher;
use crate::heartbeats::Heartbeats;
use crate::http::auth::Tokens;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::signals::Outbound;
use crate::store::Store;
use crate::store::ends::Ending;
use crate::store::reports;
use crate::watchers::Watchers;

/// What a handler can reach. A pointer: the framework clones it many times for each request.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

impl Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl From<Parts> for AppState {
    fn from(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

/// What a server is made of.
#[derive(Clone)]
pub struct Parts {
    /// The settings.
    pub config: Arc<Config>,
    /// The database.
    pub store: Store,
    /// Large payloads.
    pub blobs: Blobs,
    /// The time.
    pub clock: Arc<Clock>,
    /// Gives work to agents.
    pub dispatcher: Dispatcher,
    /// Writes down that agents are alive.
    pub heartbeats: Heartbeats,
    /// What is asked of busy agents for idle ones.
    pub asks: Arc<Asks>,
    /// Who may call.
    pub tokens: Arc<Tokens>,
    /// Clients that wait for a job to move at all.
    pub job_watchers: Arc<Watchers<JobId>>,
    /// Clients that wait for a job to end.
    pub end_watchers: Arc<Watchers<JobId>>,
    /// Clients that wait for a job to say something.
    pub log_watchers: Arc<Watchers<JobId>>,
    /// What a client may take.
    pub limits: Arc<Limits>,
    /// What is counted for `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Heartbeats that wait for orders.
    pub agent_watchers: Arc<Watchers<AgentId>>,
    /// Clients that wait for a job of which nothing runs: agents come, leave or are drained.
    pub agents_changed: Arc<Notify>,
    /// What the other servers of the database are to be told, if there can be others.
    pub outbound: Option<Arc<Outbound>>,
    /// Notified when a job was deleted, so that what it left is cleared.
    pub deleted: Arc<Notify>,
    /// Every wait ends when it is cancelled: the server is stopping.
    pub shutdown: CancellationToken,
}

impl AppState {
    /// Wakes those to whom it matters which agents there are.
    pub fn wake_for_agents(&self) {
        self.agents_changed.notify_waiters();
        if let Some(outbound) = &self.outbound {
            outbound.agents();
        }
        self.dispatcher.wake();
    }

    /// Lets all agents look for orders, at whichever server they hold a heartbeat.
    pub fn look_for_orders(&self) {
        self.agent_watchers.wake_all_here();
        if let Some(outbound) = &self.outbound {
            outbound.all();
        }
    }

    /// Wakes all who wait for a job that has ended.
    pub fn ended(&self, job: JobId) {
        self.metrics.jobs_ended.add(1);
        self.job_watchers.wake(&job);
        self.end_watchers.wake(&job);
    }

    /// Wakes all whom the end of a job concerns.
    pub fn all_ended(&self, ending: &Ending) {
        ending.ended.iter().for_each(|job| self.ended(*job));
        ending.freed.iter().chain(&ending.begun).for_each(|job| self.job_watchers.wake(job));
        ending.holders.iter().for_each(|agent| self.agent_watchers.wake(agent));
        self.dispatcher.wake();
    }

    /// Wakes those whom the deletion of a job concerns.
    pub fn was_deleted(&self, job: JobId) {
        self.job_watchers.wake(&job);
        self.log_watchers.wake(&job);
        self.deleted.notify_one();
    }

    /// Wakes those whom a report or the loss of an agent concerns.
    pub fn moved(&self, outcome: &reports::Outcome) {
        self.metrics.elements_accepted.add(outcome.accepted);
        outcome.jobs.iter().for_each(|job| self.job_watchers.wake(job));
        outcome.ended.iter().for_each(|job| self.ended(*job));
        outcome.to_tell.iter().for_each(|agent| self.agent_watchers.wake(agent));
        if outcome.can_go_on {
            self.dispatcher.wake();
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use clap::Parser;
    use tokio_util::sync::CancellationToken;

    use super::AppState;
    use crate::config::{Config, Settings};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    /// A server's state in `folder`, without the server.
    pub async fn opened(folder: &Path) -> AppState {
        opened_with(folder, &["--max-body", "1048576", "--max-blob", "1048576"]).await
    }

    /// A server's state in `folder`, with these flags, without the server.
    pub async fn opened_with(folder: &Path, flags: &[&str]) -> AppState {
        let settings = Program::parse_from([&["farrow"], flags].concat()).settings;
        let config = Config { settings, data: folder.to_owned(), admin_token: None };
        crate::open(config, CancellationToken::new()).await.unwrap()
    }
}
