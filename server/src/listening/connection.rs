//! A connection, over TLS or not.

use std::fmt;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// For how long a connection may be open without a request.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// A connection. One on which no request has come is over after a while, or as soon as the server
/// is to stop: nothing is lost with it, and the server does not wait for it.
pub struct Connection {
    stream: Stream,
    has_asked: Arc<AtomicBool>,
    /// Until the first request: what ends the wait for it.
    silence: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether it had ended before a request came.
    is_over: bool,
}

/// What is read and written.
#[derive(Debug)]
pub enum Stream {
    /// As it came.
    Plain(TcpStream),
    /// What is inside TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// A connection to a server that is to stop when `shutdown` is cancelled.
    pub fn new(stream: Stream, shutdown: CancellationToken) -> Self {
        Self::silent_for(SILENCE_LIMIT, stream, shutdown)
    }

    fn silent_for(limit: Duration, stream: Stream, shutdown: CancellationToken) -> Self {
        let silence = async move {
            timeout(limit, shutdown.cancelled_owned()).await.ok();
        };
        Self { stream, has_asked: Arc::default(), silence: Some(Box::pin(silence)), is_over: false }
    }

    /// To be set when a request has come.
    pub fn has_asked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_asked)
    }

    /// What is read and written.
    #[cfg(test)]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether it is over before a request has come.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.has_asked.load(Ordering::Relaxed) {
            self.silence = None;
        }
        let silence = self.silence.as_mut();
        self.is_over |= silence.is_some_and(|silence| silence.as_mut().poll(context).is_ready());
        if self.is_over {
            // It may be read again, and what has ended must not be asked again.
            self.silence = None;
        }
        self.is_over
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.stream).finish()
    }
}

/// Calls the same method of whichever there is.
macro_rules! either {
    ($connection:expr, $method:ident $(, $argument:expr)*) => {
        match &mut $connection.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.is_over(context) {
            // As if the client had closed it.
            return Poll::Ready(Ok(()));
        }
        either!(self, poll_read, context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        either!(self, poll_write, context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        either!(self, poll_write_vectored, context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        either!(self, poll_shutdown, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn connection(limit: Duration, shutdown: &CancellationToken) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        let stream = Stream::Plain(accepted.unwrap().0);
        (Connection::silent_for(limit, stream, shutdown.clone()), client.unwrap())
    }

    #[tokio::test]
    async fn one_without_a_request_is_over_when_the_server_is_to_stop() {
        let shutdown = CancellationToken::new();
        let (mut silent, _client) = connection(SILENCE_LIMIT, &shutdown).await;
        let (mut asking, asker) = connection(SILENCE_LIMIT, &shutdown).await;
        asking.has_asked().store(true, Ordering::Relaxed);
        shutdown.cancel();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        asker.try_write(b"x").unwrap();
        assert_eq!(asking.read(&mut [0]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn one_without_a_request_is_over_after_a_while() {
        let soon = Duration::from_millis(1);
        let (mut silent, _client) = connection(soon, &CancellationToken::new()).await;
        for _ in 0..2 {
            assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "also when it is read again");
        }
    }
}
