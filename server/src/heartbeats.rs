//! Heartbeats that come at about the same time are written in one transaction: of ten thousand agents with
//! nothing to do a thousand come a second, and a transaction for each was half of what they cost.
//!
//! The first of them is written at once, and those that come within [`PAUSE`] of it together: where agents are few,
//! none waits.

use std::sync::Arc;
use std::time::Duration;

use protocol::AgentId;
use protocol::agent::{Heartbeat, Orders};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock, Millis};
use crate::presence;
use crate::store::{Manner, Store, StoreError};

/// How long the next are gathered. Short beside the time for which an agent lets its heartbeat be held, and for
/// which it counts as alive.
const PAUSE: Duration = Duration::from_millis(50);

/// Heartbeats that one transaction writes at the most: others must not wait long for it.
const MOST: usize = 256;

/// Heartbeats that may wait before those who send them do.
const QUEUE: usize = 4096;

/// Takes heartbeats and has them written.
#[derive(Clone, Debug)]
pub struct Heartbeats(mpsc::Sender<Sent>);

/// A heartbeat, and who waits for what is to be done for it.
#[derive(Debug)]
struct Sent {
    agent: AgentId,
    heartbeat: Heartbeat,
    answer: oneshot::Sender<Result<Option<Orders>, StoreError>>,
}

impl Heartbeats {
    /// Takes heartbeats from now on, each of which keeps its agent alive for `lease` milliseconds, until this is
    /// dropped.
    pub fn new(store: Store, clock: Arc<Clock>, lease: Millis) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut sent = Vec::new();
            while receiver.recv_many(&mut sent, MOST).await > 0 {
                write(&store, &clock, lease, std::mem::take(&mut sent)).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self(sender)
    }

    /// An agent says that it is alive. Says what it is to do, by what was so when it was written down; `None`: it is
    /// not known, and must register.
    ///
    /// # Errors
    /// The database's.
    pub async fn write(
        &self,
        agent: AgentId,
        heartbeat: Heartbeat,
    ) -> Result<Option<Orders>, StoreError> {
        let (answer, answered) = oneshot::channel();
        // Whoever takes them ends only when nobody can send any.
        self.0.send(Sent { agent, heartbeat, answer }).await.map_err(|_| StoreError::Panicked)?;
        answered.await.map_err(|_| StoreError::Panicked)?
    }
}

/// Writes heartbeats together; or, if that fails, each by itself, so that what is wrong with one agent is no other's
/// end.
async fn write(store: &Store, clock: &Arc<Clock>, lease: Millis, sent: Vec<Sent>) {
    let beats = sent.iter().map(|sent| (sent.agent, sent.heartbeat.clone())).collect();
    let written = write_together(store, clock, lease, beats).await;
    let is_one = sent.len() == 1;
    match written {
        Ok(orders) => {
            for (sent, orders) in sent.into_iter().zip(orders) {
                // Whoever has gone meanwhile needs no answer.
                let _ = sent.answer.send(Ok(orders));
            }
        }
        Err(error) if is_one || !may_be_of_one(&error) => {
            for sent in sent {
                let _ = sent.answer.send(Err(error.clone()));
            }
        }
        Err(_) => {
            for sent in sent {
                let beat = vec![(sent.agent, sent.heartbeat)];
                let written = write_together(store, clock, lease, beat).await;
                let _ = sent.answer.send(written.map(|orders| orders.into_iter().next().flatten()));
            }
        }
    }
}

/// Whether it may be what is written of one agent that is wrong.
fn may_be_of_one(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { .. } | StoreError::Panicked)
}

async fn write_together(
    store: &Store,
    clock: &Arc<Clock>,
    lease: Millis,
    beats: Vec<(AgentId, Heartbeat)>,
) -> Result<Vec<Option<Orders>>, StoreError> {
    let clock = Arc::clone(clock);
    // A server that starts takes all agents for alive, so this life need not outlast the machine.
    let writing = store.put(Manner::Unflushed, move |tx| {
        Box::pin(async move {
            // A life counts from when it is written down, as when an agent registers.
            let alive_until = clock.now() + lease;
            let mut orders = Vec::with_capacity(beats.len());
            for (agent, heartbeat) in &beats {
                orders.push(presence::stay(tx, *agent, heartbeat, alive_until).await?);
            }
            Ok(orders)
        })
    });
    writing.await?.await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::future::join_all;
    use protocol::LeaseId;

    use super::*;
    use crate::state::AppState;
    use crate::state::tests::opened;
    use crate::store::agents;
    use crate::store::db::args;
    use crate::store::tests::register;

    /// Runs an operation in a transaction.
    macro_rules! transact {
        ($state:expr, |$tx:ident| $operation:expr) => {
            $state.store.write(move |$tx| Box::pin(async move { $operation.await })).await.unwrap()
        };
    }

    /// A server with `n` agents that are alive for a millisecond yet.
    async fn with_agents(folder: &Path, n: usize) -> (AppState, Vec<AgentId>) {
        let state = opened(folder).await;
        let mut ids = Vec::new();
        for _ in 0..n {
            let (agent, now) = (register(2), state.clock.now());
            ids.push(agent.id);
            transact!(state, |tx| agents::register(tx, &agent, now, now + 1));
        }
        (state, ids)
    }

    /// A heartbeat that lists a lease which is not its agent's.
    fn holding(lease: LeaseId) -> Heartbeat {
        Heartbeat { held: vec![lease], draining: false, wait: 0.0 }
    }

    #[tokio::test]
    async fn those_that_come_together_are_written_together_and_each_is_told_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (state, mut ids) = with_agents(folder.path(), 100).await;
        let unknown = AgentId::new();
        ids.insert(50, unknown);
        let before = state.store.n_committed();
        let told = join_all(ids.iter().map(async |&id| {
            let lease = LeaseId::new();
            (id, lease, state.heartbeats.write(id, holding(lease)).await.unwrap())
        }));
        for (id, lease, orders) in told.await {
            let revoked = orders.map(|orders| orders.revoked);
            assert_eq!(revoked, (id != unknown).then(|| vec![lease]), "{id}");
        }
        // All are sent before one is taken, because they share a thread with who takes them.
        assert_eq!(state.store.n_committed() - before, 1);
        // They are alive for another lease.
        let later = state.clock.now() + 1000;
        assert_eq!(transact!(state, |tx| agents::overdue(tx, later)), []);
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_agent_is_no_other_ones_end() {
        let folder = tempfile::tempdir().unwrap();
        let (state, ids) = with_agents(folder.path(), 3).await;
        let damaged = ids[1];
        transact!(state, |tx| tx
            .execute("update agents set state = 'x' where id = $1", args![damaged]));
        let beats = ids.iter().map(|&id| state.heartbeats.write(id, holding(LeaseId::new())));
        let told = join_all(beats).await;
        let are_told: Vec<bool> = told.iter().map(Result::is_ok).collect();
        assert_eq!(are_told, [true, false, true], "{told:?}");
        let later = state.clock.now() + 1000;
        assert_eq!(transact!(state, |tx| agents::overdue(tx, later)), []);
    }
}
