//! Large bodies on their way to a server.

use std::time::Duration;

/// Bytes a second of the slowest link that is worth waiting for.
const SLOWEST_LINK: u64 = 10_000;

/// How long so many bytes may be on their way.
pub fn upload_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_LINK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_takes_the_time_that_a_slow_connection_needs() {
        assert_eq!(upload_time(0), Duration::ZERO);
        assert_eq!(upload_time(3_600 * SLOWEST_LINK), Duration::from_secs(3_600));
    }
}
