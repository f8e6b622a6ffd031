//! A storage that answers as S3 does, in a process of its own, and what was asked of it.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use crate::process;
use crate::wait::until;

/// The bucket that it has.
pub const BUCKET: &str = "farrow-blobs";

/// What stands for the keys of the storage: it takes any.
const KEY: &str = "a-key-of-the-storage";

/// By which a request is not anybody's: whether it is rightly signed the storage does not ask.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, \
    SignedHeaders=host, Signature=0";

/// The storage. It ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Storage {
    child: Child,
    /// What it reads until then.
    _lifeline: ChildStdin,
    url: String,
    said: Arc<Mutex<String>>,
    http: reqwest::Client,
}

/// A request that it has answered.
#[derive(Clone, Debug)]
pub struct Request(Value);

impl Request {
    /// Its method.
    pub fn method(&self) -> &str {
        self.0["method"].as_str().unwrap_or_default()
    }

    /// What it asked for.
    pub fn path(&self) -> &str {
        self.0["path"].as_str().unwrap_or_default()
    }

    /// The program that asked, without its version.
    pub fn agent(&self) -> &str {
        self.0["agent"].as_str().unwrap_or_default()
    }

    /// Whether the right to it was in its address.
    pub fn is_signed(&self) -> bool {
        self.0["signed"] == true
    }

    /// The kind of its authorization, if it had one.
    pub fn authorization(&self) -> &str {
        self.0["authorization"].as_str().unwrap_or_default()
    }

    /// The status of the answer.
    pub fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or_default()
    }

    /// The bytes of the answer.
    pub fn bytes(&self) -> u64 {
        self.0["bytes"].as_u64().unwrap_or_default()
    }
}

/// Where `make venv` installs it.
fn python() -> PathBuf {
    let program = process::program();
    // target/debug/farrow
    let target = program.ancestors().nth(2).expect("the program stands in target/PROFILE");
    let python = target.join("venv/bin/python");
    assert!(python.exists(), "no {}: run `make venv`", python.display());
    python
}

impl Storage {
    /// Starts it, with one empty bucket.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub async fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/storage/serve.py");
        let mut child = Command::new(python())
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the storage can be started");
        let lifeline = child.stdin.take().expect("its standard input");
        let mut stdout = child.stdout.take().expect("its standard output");
        let said = Arc::new(Mutex::new(String::new()));
        let listening = Arc::clone(&said);
        thread::spawn(move || {
            let mut part = [0; 1 << 16];
            while let Ok(n @ 1..) = stdout.read(&mut part) {
                let text = String::from_utf8_lossy(&part[..n]);
                listening.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        let port = until("the storage listens", async || {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.split_once('\n').map(|(port, _)| port.to_owned())
        })
        .await;
        // Without effect when the test has a provider already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().build().expect("HTTP can be set up");
        let url = format!("http://127.0.0.1:{port}");
        let storage = Self { child, _lifeline: lifeline, url, said, http };
        storage.send("PUT", BUCKET).await;
        storage
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The variables by which a server finds it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.to_owned()),
        ]
    }

    /// The objects in the bucket, by their keys.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.send("GET", &format!("{BUCKET}?list-type=2")).await;
        between(&listed, "<Key>", "</Key>")
    }

    /// The objects of blobs.
    pub async fn blobs(&self) -> Vec<String> {
        let keys = self.keys().await;
        keys.into_iter().filter(|key| !key.contains("/farrow-")).collect()
    }

    /// The uploads in parts that are neither complete nor given up, by their keys.
    pub async fn uploads(&self) -> Vec<String> {
        let listed = self.send("GET", &format!("{BUCKET}?uploads")).await;
        between(&listed, "<Key>", "</Key>")
    }

    /// Removes an object.
    pub async fn remove(&self, key: &str) {
        self.send("DELETE", &format!("{BUCKET}/{key}")).await;
    }

    /// Writes something over an object.
    pub async fn damage(&self, key: &str, bytes: Vec<u8>) {
        let url = format!("{}/{BUCKET}/{key}", self.url);
        let request = self.http.put(url).header("authorization", AUTHORIZATION);
        let answer = request.body(bytes).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// What was asked of it by others than this.
    ///
    /// # Panics
    /// When it tells something else.
    pub fn requests(&self) -> Vec<Request> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let notes = whole.lines().skip(1).map(|line| {
            Request(serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        });
        notes.filter(|request| request.agent().starts_with("farrow-")).collect()
    }

    async fn send(&self, method: &str, path: &str) -> String {
        let method = method.parse().expect("a method");
        let request = self.http.request(method, format!("{}/{path}", self.url));
        let request = request.header("authorization", AUTHORIZATION);
        let answer = request.send().await.expect("the storage answers");
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert!(status.is_success(), "{status}: {text}");
        text
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn between(text: &str, from: &str, to: &str) -> Vec<String> {
    let parts = text.split(from).skip(1).filter_map(|part| part.split_once(to));
    parts.map(|(inner, _)| inner.to_owned()).collect()
}
