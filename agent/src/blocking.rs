//! Work on files that may take a while, kept off the threads that run tasks.

use std::io;

use tokio::task::spawn_blocking;

/// Does `work` on a thread where it may take its time.
///
/// # Errors
/// The work's, or that it panicked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}
