//! Blobs come from the storage, or else from the server; the storage hears of no token, and nobody of
//! an address.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response as Answered};
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;
use crate::config::Secret;
use crate::transport::Transport;

const LIMIT: Duration = Duration::from_secs(10);

/// What was asked of a server and of the storage beside it.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct World {
    heard: Heard,
    /// Where the storage is; `None`: the server has none.
    storage: Option<String>,
    /// How many addresses the storage refuses.
    refused: usize,
}

async fn blob(
    State(world): State<World>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let token = headers.get(AUTHORIZATION).is_some();
    let query = query.unwrap_or_default();
    world.heard.note(format!("server {query} token={token}"));
    match &world.storage {
        Some(storage) if query == "redirect=true" => {
            let location = format!("{storage}/object?X-Amz-Signature=hush");
            (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response()
        }
        _ => "from the server".into_response(),
    }
}

async fn object(State(world): State<World>, headers: HeaderMap) -> Answered {
    let token = headers.get(AUTHORIZATION).is_some();
    world.heard.note(format!("storage token={token}"));
    let n = world.heard.all().iter().filter(|line| line.starts_with("storage")).count();
    match n > world.refused {
        true => "from the storage".into_response(),
        false => (StatusCode::FORBIDDEN, "Request has expired").into_response(),
    }
}

async fn serve(world: World) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/v1/blobs/{digest}", get(blob))
        .route("/object", get(object))
        .with_state(world);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn transport(address: &str) -> Transport {
    rustls::crypto::ring::default_provider().install_default().ok();
    Transport::new(&[address.to_owned()], &Secret("t".to_owned()), Trust::default()).unwrap()
}

async fn fetched(transport: &Transport) -> String {
    let bytes = transport.fetch("sha256:ab", LIMIT, transport::body).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server and its storage, which refuses so many addresses first.
async fn world(refused: usize) -> (Transport, Heard) {
    let heard = Heard::default();
    let storage = serve(World { heard: heard.clone(), storage: None, refused }).await;
    let server = serve(World { heard: heard.clone(), storage: Some(storage), refused }).await;
    (transport(&server), heard)
}

#[tokio::test]
async fn the_bytes_come_from_the_storage_which_hears_of_no_token() {
    let (transport, heard) = world(0).await;
    assert_eq!(fetched(&transport).await, "from the storage");
    assert_eq!(heard.all(), ["server redirect=true token=true", "storage token=false"]);
}

#[tokio::test]
async fn an_address_that_is_not_good_any_more_is_asked_for_again() {
    let (transport, heard) = world(1).await;
    assert_eq!(fetched(&transport).await, "from the storage");
    assert_eq!(heard.all().len(), 4);
}

#[tokio::test]
async fn from_a_storage_that_gives_nothing_one_turns_to_the_server() {
    let (transport, heard) = world(usize::MAX).await;
    assert_eq!(fetched(&transport).await, "from the server");
    assert_eq!(heard.all().last().unwrap(), "server  token=true");
    assert_eq!(heard.all().len(), 2 * 2 + 1);
}

#[tokio::test]
async fn a_storage_that_cannot_be_reached_is_left_alone_for_a_while() {
    let heard = Heard::default();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let storage = Some(format!("http://{nobody}"));
    let server = serve(World { heard: heard.clone(), storage, refused: 0 }).await;
    let transport = transport(&server);
    for _ in 0..2 {
        assert_eq!(fetched(&transport).await, "from the server");
    }
    let asked = ["server redirect=true token=true", "server  token=true", "server  token=true"];
    assert_eq!(heard.all(), asked);
}

#[tokio::test]
async fn a_server_without_such_a_storage_gives_the_bytes_at_once() {
    let heard = Heard::default();
    let server = serve(World { heard: heard.clone(), storage: None, refused: 0 }).await;
    assert_eq!(fetched(&transport(&server)).await, "from the server");
    assert_eq!(heard.all(), ["server redirect=true token=true"]);
}

#[tokio::test]
async fn no_failure_tells_an_address() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}/secret/object?X-Amz-Signature=hush");
    let address = Address(url.parse().unwrap());
    let storage = Storage::default();
    let failure = storage.get(&address, &Trust::default(), LIMIT).await.unwrap_err().to_string();
    for hidden in ["hush", "secret"] {
        assert!(!failure.contains(hidden), "{failure}");
        assert!(!format!("{address:?}").contains(hidden));
    }
    assert!(failure.contains("127.0.0.1"), "{failure}");
}
