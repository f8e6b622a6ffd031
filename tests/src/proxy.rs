//! A network that a test breaks: what listens here stands between a program and its servers, and
//! holds back, loses, delays or cuts what passes, in each direction by itself.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What happens to bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flow {
    /// They pass.
    Open,
    /// They wait, and pass when the flow is open again: a network that is cut, whose TCP sends
    /// again what was not acknowledged.
    Held,
    /// They vanish, and so do the connections that lost some once the flow is open again: a
    /// network that is cut for so long that TCP gives up.
    Lost,
    /// They pass, so much later.
    Late(Duration),
}

/// Listens in place of servers, and ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    network: Arc<Network>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Network {
    servers: Vec<String>,
    /// Which server the next connection goes to.
    next: AtomicUsize,
    requests: Direction,
    answers: Direction,
    /// Every connection is reset.
    reset: Notify,
}

/// One of the two directions of every connection.
#[derive(Debug)]
struct Direction {
    flow: watch::Sender<Flow>,
    /// How many bytes may pass before the connection that carries the next one is reset.
    until_cut: Mutex<Option<usize>>,
}

impl Proxy {
    /// Listens on the loopback interface for the servers at these addresses. Each connection goes
    /// to one of them by turns, past those that take none.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn start(servers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        Self::on(listener, servers)
    }

    /// Listens where `listener` does, which may be in another network namespace.
    ///
    /// # Panics
    /// When `listener` does not listen, or an address is not one of HTTP.
    pub fn on(listener: TcpListener, servers: &[String]) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let host = |url: &String| {
            let host = url.strip_prefix("http://").expect("a server is at an address of HTTP");
            host.to_owned()
        };
        let direction =
            || Direction { flow: watch::Sender::new(Flow::Open), until_cut: Mutex::new(None) };
        let network = Arc::new(Network {
            servers: servers.iter().map(host).collect(),
            next: AtomicUsize::new(0),
            requests: direction(),
            answers: direction(),
            reset: Notify::new(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&network)));
        Self { url, network, accepting }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What happens from now on to what programs ask.
    pub fn requests(&self, flow: Flow) {
        self.network.requests.flow.send_replace(flow);
    }

    /// What happens from now on to what servers answer.
    pub fn answers(&self, flow: Flow) {
        self.network.answers.flow.send_replace(flow);
    }

    /// Resets the connection that carries the byte after the next `n_bytes` of all requests, once.
    pub fn cut_requests_after(&self, n_bytes: usize) {
        self.network.requests.cut_after(n_bytes);
    }

    /// Resets the connection that carries the byte after the next `n_bytes` of all answers, once.
    pub fn cut_answers_after(&self, n_bytes: usize) {
        self.network.answers.cut_after(n_bytes);
    }

    /// Resets every connection that there is.
    pub fn reset(&self) {
        self.network.reset.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

impl Direction {
    fn cut_after(&self, n_bytes: usize) {
        *self.until_cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(n_bytes);
    }

    /// How many of the next `n` bytes may pass, and whether the connection is cut behind them.
    fn take(&self, n: usize) -> (usize, bool) {
        let mut until_cut = self.until_cut.lock().unwrap_or_else(PoisonError::into_inner);
        match *until_cut {
            Some(left) if n > left => {
                *until_cut = None;
                (left, true)
            }
            Some(left) => {
                *until_cut = Some(left - n);
                (n, false)
            }
            None => (n, false),
        }
    }

    /// Moves bytes until one side ends or the network breaks the connection.
    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut flow = self.flow.subscribe();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = from.read(&mut buffer).await?;
            let closed = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
            let is_held = flow.wait_for(|flow| *flow != Flow::Held).await.map(|flow| *flow);
            match is_held.map_err(closed)? {
                Flow::Lost => {
                    flow.wait_for(|flow| *flow != Flow::Lost).await.map_err(closed)?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Flow::Late(delay) => sleep(delay).await,
                Flow::Open | Flow::Held => {}
            }
            if n == 0 {
                return to.shutdown().await;
            }
            let (n, is_cut) = self.take(n);
            to.write_all(&buffer[..n]).await?;
            if is_cut {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

async fn accept(listener: TcpListener, network: Arc<Network>) {
    // A failure to accept is one of the connection, not of the listener.
    loop {
        if let Ok((client, _)) = listener.accept().await {
            let network = Arc::clone(&network);
            tokio::spawn(async move { connect(client, &network).await });
        }
    }
}

async fn connect(client: TcpStream, network: &Network) {
    let Some(server) = reach(network).await else {
        client.set_zero_linger().ok();
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    // Whatever is dropped without a proper end is reset.
    client.set_zero_linger().ok();
    server.set_zero_linger().ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::try_join!(
            network.requests.carry(from_client, to_server),
            network.answers.carry(from_server, to_client),
        )
    };
    tokio::select! {
        _ = both => {}
        () = network.reset.notified() => {}
    }
}

async fn reach(network: &Network) -> Option<TcpStream> {
    for _ in &network.servers {
        let turn = network.next.fetch_add(1, Ordering::Relaxed) % network.servers.len();
        if let Ok(server) = TcpStream::connect(&network.servers[turn]).await {
            return Some(server);
        }
    }
    None
}
