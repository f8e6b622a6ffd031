//! Waiting for events. No test waits for time: a limit only ends what hangs.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// How long anything may take before a test is said to hang. Far beyond what a busy machine needs.
pub const HANG: Duration = Duration::from_secs(120);

/// Between two looks at what cannot be waited for otherwise, such as a file or a process.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Looks until there is something to return.
///
/// # Panics
/// When there is nothing for [`HANG`]; `what` says what was waited for.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(HANG, what, look).await
}

/// Looks until there is something to return, no longer than `limit`.
///
/// # Panics
/// When there is nothing for so long; `what` says what was waited for.
pub async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(BETWEEN_LOOKS).await;
        }
    };
    match timeout(limit, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {} s in vain: {what}", limit.as_secs()),
    }
}
