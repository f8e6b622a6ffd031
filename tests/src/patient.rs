//! A client that asks again, as every good one does: after a connection that fails, and when the
//! server says that it cannot now.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::client::{Answer, Client};
use crate::wait::HANG;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// The statuses after which the same request may be made again.
const PASSING: [u16; 4] = [429, 502, 503, 504];

/// Knows all servers of a database, and uses the one that answered last. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Patient {
    servers: Arc<[Client]>,
    current: Arc<AtomicUsize>,
}

impl Patient {
    /// A client of the servers at these addresses.
    pub fn new(urls: &[String]) -> Self {
        let servers = urls.iter().map(|url| Client::new(url)).collect();
        Self { servers, current: Arc::default() }
    }

    /// A request that is made until there is an answer that says yes or no.
    ///
    /// # Panics
    /// When there is none for [`HANG`].
    pub async fn send(&self, method: &str, path: &str, key: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let asking = async {
            loop {
                let current = self.current.load(Ordering::Relaxed);
                let server = &self.servers[current % self.servers.len()];
                match server.try_send(method, path, &headers, body.clone()).await {
                    Ok(answer) if !PASSING.contains(&answer.status) => return answer,
                    _ => self.current.store(current + 1, Ordering::Relaxed),
                }
                sleep(PAUSE).await;
            }
        };
        let answer = timeout(HANG, asking).await;
        answer.unwrap_or_else(|_| panic!("{method} {path} is not answered by any server"))
    }

    /// Submits a job under a key and gives its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&self, key: &str, job: &Value) -> String {
        let answer = self.send("POST", "/v1/jobs", key, job).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().expect("a job has an id").to_owned()
    }

    /// Waits for a job's value.
    ///
    /// # Panics
    /// When it has none in the end.
    pub async fn value(&self, job: &str) -> Value {
        loop {
            let path = format!("/v1/jobs/{job}/value?wait=20");
            let answer = self.send("GET", &path, "", &Value::Null).await;
            match answer.status {
                200 => return answer.json(),
                202 => {}
                _ => panic!("{path}: {} {}", answer.status, answer.text()),
            }
        }
    }
}
