//! Keeps the agent's leases alive, on a thread of its own that no work can block, and hears what
//! the server orders.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use protocol::agent::{Heartbeat, Orders};
use tokio::runtime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Registration};
use crate::held::Held;
use crate::transport::Transport;

/// The longest for which the server holds a heartbeat. The next one comes at once, so that an
/// order is never later than it takes to arrive, and than the server gathers those of many agents.
const LONGEST: Duration = Duration::from_secs(10);

/// What a heartbeat needs.
#[derive(Debug)]
pub struct Pulse {
    /// The agent's standing with the server.
    pub registration: Arc<Registration>,
    /// The leases to keep alive.
    pub held: Arc<Held>,
    /// Cancelled when the agent takes nothing new; the server may order it.
    pub draining: CancellationToken,
    /// Cancelled when the agent is gone.
    pub stopped: CancellationToken,
}

impl Pulse {
    /// Starts the thread. `transport` makes its connection to the server: one that is used from
    /// another thread's runtime would stop with that.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(self, transport: Transport) -> std::io::Result<thread::JoinHandle<()>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = self.run(transport) => {}
                    () = self.stopped.cancelled() => {}
                }
            });
        })
    }

    async fn run(&self, transport: Transport) {
        let client = Client::new(transport, Arc::clone(&self.registration));
        loop {
            match client.heartbeat(|| self.heartbeat(), || self.margin()).await {
                Ok(orders) => self.obey(&orders),
                Err(problem) => {
                    tracing::error!(%problem, "the server refuses heartbeats; trying again");
                    sleep(self.margin()).await;
                }
            }
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let draining = self.draining.is_cancelled();
        let held = self.held.ids();
        let wait = hold(self.registration.lease_time(), held.is_empty()).as_secs_f64();
        Heartbeat { held, draining, wait }
    }

    /// For how long an answer is waited for after the server has held the heartbeat.
    fn margin(&self) -> Duration {
        margin(self.registration.lease_time())
    }

    fn obey(&self, orders: &Orders) {
        self.held.revoke(&orders.revoked);
        self.held.want(&orders.wanted);
        if orders.drain && !self.draining.is_cancelled() {
            tracing::info!("the server asks the agent to drain");
            self.draining.cancel();
        }
    }
}

/// A sixth of a lease, as an agent's hold is that has leases. So each lost answer costs a third of a lease, and the one after
/// two lost ones is sent when a third is left.
fn margin(lease: Duration) -> Duration {
    (lease / 6).min(LONGEST)
}

/// For how long the server holds a heartbeat. Twice as long of an agent that is idle: there may be thousands, and what one
/// could lose by it is that it must register again, after two lost answers. With the first lease that it gets it is as
/// safe as others, though its heartbeat was sent before.
fn hold(lease: Duration, is_idle: bool) -> Duration {
    if is_idle { (lease / 3).min(LONGEST) } else { margin(lease) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_may_be_lost_before_a_lease_lapses() {
        for lease in [Duration::from_secs(3), Duration::from_secs(30), Duration::from_secs(300)] {
            // The server counts from the last heartbeat that it received, which may be the first
            // of these: after it two are lost, with their holds, margins and back-offs of less. The first may
            // have been sent before there was a lease.
            for was_idle in [false, true] {
                let lost = hold(lease, was_idle) + hold(lease, false) + margin(lease) * 2;
                assert!(lost < lease && hold(lease, was_idle) <= LONGEST, "{lost:?} of {lease:?}");
            }
        }
    }
}
