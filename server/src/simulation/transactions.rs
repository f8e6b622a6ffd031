//! Transactions, and what may become of them: before, in and behind each its server may crash.

use super::network::{Answer, Node};
use super::world::{Event, LEASE, World};
use crate::store::{StoreError, sqlite};

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Commits,
    /// It is rolled back, and the server says so.
    Fails,
    CrashesBeforeCommit,
    CrashesBeforeAnswer,
    CrashesAfterAnswer,
}

impl Fate {
    /// Whether nothing of it stays.
    pub fn rolls_back(self) -> bool {
        matches!(self, Self::Fails | Self::CrashesBeforeCommit)
    }
}

/// Runs an operation in a transaction at a server. Nothing, if it was rolled back.
///
/// Only a transaction that is to be rolled back is one in the database: a savepoint of the one that
/// holds the whole history.
macro_rules! write {
    ($world:ident, $server:expr, |$tx:ident| $operation:expr) => {{
        let fate = $world.fate();
        if fate.rolls_back() {
            $world.statement("savepoint operation");
        }
        let result = {
            let mut transaction = $world.tx();
            let $tx = &mut transaction;
            $operation.await
        };
        $world.finish($server, fate, result).await
    }};
}
pub(super) use write;

/// Reads at a server. Nothing, if the database has failed, which it should not.
macro_rules! read {
    ($world:ident, |$tx:ident| $operation:expr) => {{
        let result = {
            let mut transaction = $world.tx();
            let $tx = &mut transaction;
            $operation.await
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                $world.database_failed(&error);
                None
            }
        }
    }};
}
pub(super) use read;

impl World<'_> {
    pub fn fate(&mut self) -> Fate {
        if self.random.happens(self.faults.fail) {
            return Fate::Fails;
        }
        let kinds =
            [Fate::CrashesBeforeCommit, Fate::CrashesBeforeAnswer, Fate::CrashesAfterAnswer];
        for (kind, rate) in kinds.into_iter().zip(self.faults.crash) {
            if self.random.happens(rate) {
                return kind;
            }
        }
        Fate::Commits
    }

    pub fn statement(&mut self, sql: &'static str) {
        if let Err(error) = sqlite::script(self.connection, sql) {
            self.database_failed(&error);
        }
    }

    /// Ends a transaction as its fate will have it.
    pub async fn finish<T>(
        &mut self,
        server: usize,
        fate: Fate,
        result: Result<T, StoreError>,
    ) -> Option<T> {
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                self.database_failed(&error);
                return None;
            }
        };
        if fate.rolls_back() {
            self.statement("rollback to operation; release operation");
            if fate == Fate::Fails {
                self.coverage.saw("transactions failed");
                return None;
            }
            self.coverage.saw("servers crashed before the commit");
            if self.answers_early {
                self.crashes_when_answered = Some(server);
                return Some(value);
            }
            self.crash(server);
            return None;
        }
        match fate {
            Fate::CrashesBeforeAnswer => {
                self.coverage.saw("servers crashed between commit and answer");
                self.crash(server);
            }
            Fate::CrashesAfterAnswer => {
                self.coverage.saw("servers crashed after the answer");
                self.crashes_when_answered = Some(server);
            }
            _ => {}
        }
        Some(value)
    }

    /// A server is gone, with all that it had in memory, and starts again after a while.
    pub fn crash(&mut self, server: usize) {
        if !self.servers[server].is_up {
            return;
        }
        self.servers[server].is_up = false;
        self.break_connections(server);
        let delay = self.random.between(50, 2 * LEASE);
        self.schedule(delay, Event::ServerStarts(server));
    }

    /// Most of those who have asked a server learn at once that it is gone, the others never.
    fn break_connections(&mut self, server: usize) {
        let of_agents = self.agents.iter().enumerate().flat_map(|(i, agent)| {
            agent.letters_to(server).map(move |letter| (Node::Agent(i), letter))
        });
        let of_clients = self.clients.iter().enumerate().flat_map(|(i, client)| {
            client.letters_to(server).map(move |letter| (Node::Client(i), letter))
        });
        for (node, letter) in of_agents.chain(of_clients).collect::<Vec<_>>() {
            if self.random.happens(700) {
                let delay = self.random.between(1, 20);
                self.schedule(delay, Event::Answered(node, letter, Answer::Unavailable));
            }
        }
    }
}
