//! What is put into a writer's queue.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::Manner;
use crate::store::StoreError;
use crate::store::db::Tx;

/// An operation that somebody waits for.
pub trait Operation: Send {
    /// Runs it. Says whether it succeeded, and how to answer its caller after the commit.
    fn run<'a>(self: Box<Self>, tx: &'a mut Tx<'_>) -> BoxFuture<'a, (bool, Finish)>;

    /// Answers its caller that it was not run.
    fn refuse(self: Box<Self>, error: StoreError);

    /// How it is to be written.
    fn manner(&self) -> Manner;
}

/// Told whether the transaction was committed; answers the caller.
pub type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What becomes of an operation, for its caller.
pub type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

/// An operation of the caller's, and how it learns what became of it.
pub fn asked<T, F>(manner: Manner, operation: F) -> (Box<dyn Operation>, Answer<T>)
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(Asked { operation, manner, answer }), answered)
}

/// What became of an operation.
///
/// # Errors
/// The operation's, the commit's, or that it was cut off.
pub async fn outcome<T>(answered: Answer<T>) -> Result<T, StoreError> {
    // It was begun, and cut off with its connection.
    answered.await.map_err(|_| StoreError::Unavailable("a write was cut off".into()))?
}

/// What became of an operation that was written at once.
///
/// # Errors
/// As [`outcome`]'s.
pub fn outcome_now<T>(mut answered: Answer<T>) -> Result<T, StoreError> {
    answered.try_recv().map_err(|_| StoreError::Unavailable("a write was cut off".into()))?
}

struct Asked<T, F> {
    operation: F,
    manner: Manner,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

// A caller that has gone needs no answer.
impl<T, F> Operation for Asked<T, F>
where
    T: Send + 'static,
    F: for<'a> FnOnce(&'a mut Tx<'_>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    fn run<'a>(self: Box<Self>, tx: &'a mut Tx<'_>) -> BoxFuture<'a, (bool, Finish)> {
        let Self { operation, answer, .. } = *self;
        let running = AssertUnwindSafe(async move { operation(tx).await }).catch_unwind();
        Box::pin(async move {
            // A panic is a bug of one operation: it is undone like a failure, and the writer goes on.
            let result = running.await.unwrap_or(Err(StoreError::Panicked));
            let succeeded = result.is_ok();
            let finish: Finish = Box::new(move |committed| {
                let _ = answer.send(committed.and(result));
            });
            (succeeded, finish)
        })
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.answer.send(Err(error));
    }

    fn manner(&self) -> Manner {
        self.manner
    }
}
