//! What may stand between the program and its server, and does its work badly.

use std::future::pending;
use std::io;

use tests::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of answers that a proxy hands on before it holds back the rest.
const BEGINNING: u64 = 1 << 16;

/// The address of a proxy that loses the answer to the first request, and no other.
pub async fn losing_the_first_answer(world: &World) -> String {
    let (proxy, address) = listen().await;
    tokio::spawn(lose_the_first(proxy, server(world)));
    address
}

/// The address of a proxy that hands on, of what the server answers on a connection, the beginning
/// alone.
pub async fn holding_back_the_rest(world: &World) -> String {
    let (proxy, address) = listen().await;
    tokio::spawn(hold_back(proxy, server(world)));
    address
}

async fn listen() -> (TcpListener, String) {
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = proxy.local_addr().expect("it listens").port();
    (proxy, format!("http://127.0.0.1:{port}"))
}

fn server(world: &World) -> String {
    format!("127.0.0.1:{}", world.port())
}

async fn lose_the_first(proxy: TcpListener, server: String) -> io::Result<()> {
    let (first, _) = proxy.accept().await?;
    lose_the_answer(first, &server).await?;
    loop {
        let (mut client, _) = proxy.accept().await?;
        let mut server = TcpStream::connect(&server).await?;
        tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
    }
}

/// Hands a request on to the server and waits for its answer, which the client never sees.
async fn lose_the_answer(mut client: TcpStream, server: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut request, mut answer) = ([0; 1 << 16], [0; 1]);
    loop {
        tokio::select! {
            n = client.read(&mut request) => server.write_all(&request[..n?]).await?,
            n = server.read_exact(&mut answer) => return n.map(drop),
        }
    }
}

async fn hold_back(proxy: TcpListener, server: String) -> io::Result<()> {
    loop {
        let (client, _) = proxy.accept().await?;
        let (mut asked, mut told) = client.into_split();
        let (answered, mut asking) = TcpStream::connect(&server).await?.into_split();
        tokio::spawn(async move { copy(&mut asked, &mut asking).await });
        tokio::spawn(async move {
            let mut beginning = answered.take(BEGINNING);
            copy(&mut beginning, &mut told).await?;
            // The connection stays, and nothing more comes.
            pending::<io::Result<()>>().await
        });
    }
}
