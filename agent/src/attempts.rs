//! The attempts at one request: when the next one is made, and at which server.

use std::time::Duration;

use tokio::time::sleep;

use crate::backoff::{self, Backoff};
use crate::transport::{Failure, Transport};

/// The pause before the next server is asked is drawn from nothing up to this: agents that lost
/// one together do not fall on the next together.
const BEFORE_THE_NEXT: Duration = Duration::from_millis(100);

/// The attempts at one request.
pub struct Attempts {
    what: &'static str,
    pauses: Pauses,
}

impl Attempts {
    /// Waits stay below a third of a lease, so that a server that was away hears of the agent
    /// before it takes the agent for dead.
    pub fn new(what: &'static str, lease_time: Duration) -> Self {
        Self { what, pauses: Pauses::up_to(lease_time / 3) }
    }

    /// Waits before the next attempt, after one at `server` has failed. If there is another server
    /// that may do better, it is asked next.
    pub async fn wait(&mut self, transport: &Transport, server: usize, failure: &Failure) {
        let servers = transport.servers();
        let goes_on = failure.is_of_server() && servers.leave(server);
        let n_servers = if goes_on { servers.count() } else { 1 };
        let asked = failure.retry_after().unwrap_or_default();
        let pause = self.pauses.next(n_servers, asked, backoff::random());
        let (what, server) = (self.what, servers.name(server));
        // Once loudly, then once in a while: a server may be away for hours.
        if self.pauses.failures % 20 == 1 {
            tracing::warn!(server, %failure, "{what}: no answer; trying again until there is one");
        } else {
            tracing::debug!(server, %failure, "{what}: no answer");
        }
        sleep(pause).await;
    }

    /// Notes that there is an answer.
    pub fn succeeded(&self, transport: &Transport) {
        if self.pauses.failures > 0 {
            let servers = transport.servers();
            let server = servers.name(servers.current());
            tracing::info!(server, "{}: answered again", self.what);
        }
    }
}

/// The pauses between attempts: short ones while a server is left that was not asked, and growing
/// ones after all have failed.
#[derive(Debug)]
struct Pauses {
    longest: Duration,
    backoff: Backoff,
    failures: usize,
}

impl Pauses {
    fn up_to(longest: Duration) -> Self {
        Self { longest, backoff: Backoff::up_to(longest), failures: 0 }
    }

    /// The next one; `asked` is what the server asks for, which matters only if no other is there. It is no more than the
    /// longest pause: a proxy that shows a page of its own for an hour does not know when the server is back.
    fn next(&mut self, n_servers: usize, asked: Duration, random: u64) -> Duration {
        self.failures += 1;
        if self.failures.is_multiple_of(n_servers) {
            asked.min(self.longest).saturating_add(self.backoff.next(random))
        } else {
            backoff::share(BEFORE_THE_NEXT, random)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_only_when_all_servers_have_failed() {
        let mut pauses = Pauses::up_to(Duration::MAX);
        let mut next = |asked| pauses.next(2, Duration::from_secs(asked), u64::MAX).as_millis();
        assert_eq!([next(0), next(0)], [100, 100]);
        assert_eq!([next(7), next(7)], [100, 7200]);
        assert_eq!([next(0), next(0), next(0), next(0)], [100, 400, 100, 800]);
    }

    #[test]
    fn alone_a_server_is_given_the_time_that_it_asks_for() {
        let mut pauses = Pauses::up_to(Duration::MAX);
        let mut next = |asked| pauses.next(1, Duration::from_secs(asked), u64::MAX).as_millis();
        assert_eq!([next(0), next(3), next(0)], [100, 3200, 400]);
    }

    #[test]
    fn no_server_is_given_more_time_than_the_agent_may_be_silent() {
        let longest = Duration::from_secs(10);
        let mut pauses = Pauses::up_to(longest);
        for asked in [3600, u64::MAX] {
            assert!(pauses.next(1, Duration::from_secs(asked), u64::MAX) < 2 * longest, "{asked}");
        }
    }
}
