//! Heartbeats that come at about the same time are written in one transaction: of ten thousand agents with
//! nothing to do a thousand come a second, and a transaction for each was half of what they cost.
//!
//! The first [`FEW`] of every [`WINDOW`] are written as they come, so that where agents are few none waits; those
//! that follow are gathered until it is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use protocol::AgentId;
use protocol::agent::{Heartbeat, Orders};
use tokio::sync::{mpsc, oneshot};

use crate::clock::{Clock, Millis};
use crate::presence;
use crate::store::{Manner, Store, StoreError};

/// How long they are gathered at the most: short beside the time for which an agent lets its heartbeat be held.
const WINDOW: Duration = Duration::from_millis(50);

/// The part of a lease that a window takes at the most.
const OF_LEASE: u32 = 100;

/// Transactions of a window that wait for no others to come.
const FEW: usize = 4;

/// Heartbeats that one transaction writes at the most: it takes no longer than the disk does to flush it.
const MOST: usize = 32;

/// Heartbeats that may wait before those who send them do.
const QUEUE: usize = 4096;

/// Takes heartbeats and has them written, until the last clone is dropped.
#[derive(Clone)]
pub struct Heartbeats(Arc<Desk>);

struct Desk {
    store: Store,
    clock: Arc<Clock>,
    lease: Millis,
    coming: mpsc::Sender<Message>,
}

enum Message {
    Sent(Sent),
    /// Somebody waits until all before it are written.
    Settle(oneshot::Sender<()>),
}

/// A heartbeat, and who waits for what is to be done for it.
struct Sent {
    agent: AgentId,
    heartbeat: Heartbeat,
    answer: oneshot::Sender<Result<Option<Orders>, StoreError>>,
}

impl Heartbeats {
    /// Takes heartbeats from now on, each of which keeps its agent alive for `lease` milliseconds.
    pub fn new(store: Store, clock: Arc<Clock>, lease: Millis) -> Self {
        let (coming, receiver) = mpsc::channel(QUEUE);
        let desk = Arc::new(Desk { store, clock, lease, coming });
        let window = WINDOW.min(Duration::from_millis(lease.unsigned_abs()) / OF_LEASE);
        // It keeps the database from being closed only while somebody waits for it.
        tokio::spawn(run(Arc::downgrade(&desk), receiver, window));
        Self(desk)
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
        let sent = Message::Sent(Sent { agent, heartbeat, answer });
        self.0.coming.send(sent).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Returns once all that have come are written: an agent must not be given up while its heartbeat waits.
    pub async fn settle(&self) {
        let (settled, all_written) = oneshot::channel();
        // Who takes them ends only when nobody can send any.
        if self.0.coming.send(Message::Settle(settled)).await.is_ok() {
            let _ = all_written.await;
        }
    }
}

async fn run(desk: Weak<Desk>, mut coming: mpsc::Receiver<Message>, window: Duration) {
    let mut messages = Vec::new();
    let (mut began, mut n_written) = (Duration::ZERO, 0);
    while coming.recv_many(&mut messages, MOST).await > 0 {
        let Some(desk) = desk.upgrade() else { return };
        let now = desk.clock.uptime();
        if now.saturating_sub(began) >= window {
            (began, n_written) = (now, 0);
        }
        desk.take(messages.drain(..)).await;
        n_written += 1;
        let left = window.saturating_sub(desk.clock.uptime().saturating_sub(began));
        drop(desk);
        // What has come meanwhile has waited already.
        if n_written >= FEW && coming.is_empty() {
            tokio::time::sleep(left).await;
        }
    }
}

impl Desk {
    async fn take(&self, messages: impl Iterator<Item = Message>) {
        let (mut sent, mut to_settle) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                Message::Sent(one) => sent.push(one),
                Message::Settle(waiting) => to_settle.push(waiting),
            }
        }
        if !sent.is_empty() {
            self.write(sent).await;
        }
        for waiting in to_settle {
            let _ = waiting.send(());
        }
    }

    /// Writes heartbeats together; or, if that fails, each by itself, so that what is wrong with one agent is no
    /// other's end.
    async fn write(&self, sent: Vec<Sent>) {
        let beats = sent.iter().map(|sent| (sent.agent, sent.heartbeat.clone())).collect();
        match self.write_together(beats).await {
            Ok(orders) => {
                for (sent, orders) in sent.into_iter().zip(orders) {
                    // Whoever has gone meanwhile needs no answer.
                    let _ = sent.answer.send(Ok(orders));
                }
            }
            Err(error) if sent.len() == 1 || is_everybodys(&error) => {
                for sent in sent {
                    let _ = sent.answer.send(Err(error.clone()));
                }
            }
            Err(_) => {
                for Sent { agent, heartbeat, answer } in sent {
                    let written = self.write_together(vec![(agent, heartbeat)]).await;
                    let _ = answer.send(written.map(|orders| orders.into_iter().next().flatten()));
                }
            }
        }
    }

    async fn write_together(
        &self,
        beats: Vec<(AgentId, Heartbeat)>,
    ) -> Result<Vec<Option<Orders>>, StoreError> {
        let (clock, lease) = (Arc::clone(&self.clock), self.lease);
        // A server that starts takes all agents for alive, so this life need not outlast the machine.
        let writing = self.store.put(Manner::Unflushed, move |tx| {
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
}

/// Whether it is the database that fails, rather than what it holds of one agent.
fn is_everybodys(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::Closed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::future::join_all;
    use protocol::LeaseId;

    use super::*;
    use crate::reaper;
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
        let drains = ids[7];
        let before = state.store.n_committed();
        let told = join_all(ids.iter().map(async |&id| {
            let lease = LeaseId::new();
            let heartbeat = Heartbeat { draining: id == drains, ..holding(lease) };
            (id, lease, state.heartbeats.write(id, heartbeat).await.unwrap())
        }));
        for (id, lease, orders) in told.await {
            let revoked = orders.map(|orders| orders.revoked);
            assert_eq!(revoked, (id != unknown).then(|| vec![lease]), "{id}");
        }
        // All are sent before one is taken, because they share a thread with who takes them.
        assert_eq!(state.store.n_committed() - before, 101_u64.div_ceil(MOST as u64));
        let all = ids.clone();
        let live = transact!(state, |tx| agents::live(tx, &all));
        assert!(!live.contains_key(&drains), "it drains once it is answered");
        assert_eq!(live.len(), 99);
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

    #[tokio::test]
    async fn an_agent_whose_heartbeat_has_come_is_not_given_up_before_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (state, ids) = with_agents(folder.path(), 3 * MOST).await;
        state.clock.not_before(state.clock.now() + 10);
        let now = state.clock.now();
        assert_eq!(transact!(state, |tx| agents::overdue(tx, now)).len(), ids.len());
        let beats =
            join_all(ids.iter().map(|&id| state.heartbeats.write(id, holding(LeaseId::new()))));
        // The reaper looks when all have come, and none is written yet.
        let (told, reaped) = tokio::join!(beats, reaper::reap(&state));
        reaped.unwrap();
        assert!(told.iter().all(|orders| matches!(orders, Ok(Some(_)))), "{told:?}");
        let all = ids.clone();
        let live = transact!(state, |tx| agents::live(tx, &all));
        assert_eq!(live.len(), 3 * MOST);
    }

    #[tokio::test]
    async fn who_takes_them_does_not_keep_a_database_open_that_nobody_uses() {
        let folder = tempfile::tempdir().unwrap();
        let (state, ids) = with_agents(folder.path(), 10).await;
        for &id in &ids {
            state.heartbeats.write(id, holding(LeaseId::new())).await.unwrap();
        }
        drop(state);
        opened(folder.path()).await;
    }
}
