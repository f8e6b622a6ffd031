//! How servers lose agents: those that were not heard of for a lease, and those of whom another says that they are dead.

use protocol::AgentId;

use super::network::Answer;
use super::transactions::{read, write};
use super::world::{Event, LEASE, News, World};
use crate::clock::Millis;
use crate::reaper;
use crate::store::agents;

impl World<'_> {
    pub async fn reaps(&mut self, server: usize, incarnation: u64) {
        if !self.is_there(server, incarnation) {
            return;
        }
        let again = self.random.between(LEASE / 8, LEASE / 2);
        self.schedule(again, Event::Reaps { server, incarnation });
        let now = self.now;
        let Some(overdue) = read!(self, |tx| agents::overdue(tx, now)) else { return };
        for agent in overdue {
            self.lose(server, agent, now).await;
        }
    }

    /// An agent says that another is dead.
    pub async fn bury(&mut self, server: usize, agent: AgentId) -> Option<Answer> {
        let now = self.now;
        let incarnation = self.servers[server].incarnation;
        self.coverage.saw("agents said to be dead");
        let ended = write!(self, server, |tx| agents::end_life(tx, agent, now));
        if ended.is_some() {
            self.audit.death_told(agent, now);
        }
        let is_done = ended.is_some()
            && self.is_there(server, incarnation)
            && self.lose(server, agent, now).await.is_some();
        Some(if is_done { Answer::Done } else { Answer::Unavailable })
    }

    /// Gives an agent up if it is overdue. `None`: the transaction has failed.
    async fn lose(&mut self, server: usize, agent: AgentId, now: Millis) -> Option<()> {
        let forgetful = self.bug == Some(super::Bug::LapseIgnoresReports);
        let granted = if forgetful { self.audit.grants_of(agent) } else { Vec::new() };
        let reaped = write!(self, server, |tx| async {
            let outcome = reaper::reap_agent(tx, agent, Vec::new(), now).await?;
            for (lease, ranges) in &granted {
                crate::store::recount::refill(tx, *lease, ranges).await?;
            }
            Ok(outcome)
        });
        let Some(outcome) = reaped? else { return Some(()) };
        self.audit.lost(agent, now);
        self.coverage.saw("agents lost");
        self.recount().await;
        let (jobs, agents) = (outcome.ended, outcome.to_tell);
        self.tell(server, News { work: true, jobs, agents, ..News::default() });
        Some(())
    }
}
