//! Requests and their answers. Nothing here knows farrow's types: a test sees what a user sees.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::time::timeout;

use crate::token;
use crate::wait::HANG;

/// Within which a server that can serve says so.
const SOON: Duration = Duration::from_secs(2);

/// Seconds that one request waits for a job.
const WAIT: u32 = 20;

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer that is read line by line, as it comes.
#[derive(Debug)]
pub struct Lines {
    answer: reqwest::Response,
    /// What came behind the last line that was given.
    read: Vec<u8>,
}

impl Lines {
    /// Waits for the next line; `None` at the end.
    ///
    /// # Panics
    /// When nothing comes for [`HANG`], or the answer breaks off.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let part =
                timeout(HANG, self.answer.chunk()).await.expect("another part of the answer");
            match part.expect("the answer is whole") {
                Some(part) => self.read.extend_from_slice(&part),
                None => {
                    assert!(self.read.is_empty(), "the answer ends within a line");
                    return None;
                }
            }
        }
    }
}

impl Lines {
    /// Reads the rest, and says whether it came to a proper end; else the answer broke off.
    ///
    /// # Panics
    /// When nothing comes for [`HANG`].
    pub async fn ends_whole(mut self) -> bool {
        loop {
            match timeout(HANG, self.answer.chunk()).await.expect("another part of the answer") {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client with connections of its own.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub fn new(url: &str) -> Self {
        static TLS: Once = Once::new();
        // Without effect when the test has a provider already.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let http = reqwest::Client::builder().no_proxy().build().expect("HTTP can be set up");
        Self { http, url: url.to_owned() }
    }

    /// Whether the server answers, soon, that it can serve.
    pub async fn answers(&self) -> bool {
        let asking = self.http.get(format!("{}/readyz", self.url)).send();
        let answer = timeout(SOON, asking).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
    }

    /// A request to a path; with the token, unless `headers` say otherwise.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        match timeout(HANG, self.try_send(method, path, headers, body)).await {
            Err(_) => panic!("{path} is not answered"),
            Ok(Err(error)) => panic!("{path}: {error:?}"),
            Ok(Ok(answer)) => answer,
        }
    }

    /// The same, or why there is no answer.
    ///
    /// # Errors
    /// When the connection fails or breaks.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<Answer> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            request = request.bearer_auth(token());
        }
        // An empty value stands for no header at all.
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    /// `GET`s a path whose answer is read line by line, as it comes.
    ///
    /// # Panics
    /// When there is no answer, or it is a failure.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Lines {
        let mut request = self.http.get(format!("{}{path}", self.url)).bearer_auth(token());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = timeout(HANG, request.send()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{path} is not answered"));
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        Lines { answer, read: Vec::new() }
    }

    /// `GET`s a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await
    }

    /// The number that the server gives for a metric without labels.
    ///
    /// # Panics
    /// When it gives none.
    pub async fn metric(&self, name: &str) -> usize {
        let text = self.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// `POST`s JSON to a path.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.send("POST", path, &json, body.to_string().into_bytes()).await
    }

    /// Uploads bytes and gives their digest, `sha256:` and 64 hex digits.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn upload(&self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        let answer = self.send("PUT", &format!("/v1/blobs/{digest}"), &[], bytes).await;
        assert!([200, 201].contains(&answer.status), "{}", answer.text());
        digest
    }

    /// Submits a job and gives its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit(&self, job: &Value) -> String {
        self.submit_text(job.to_string()).await
    }

    /// Submits a job that is written as JSON already, names in the order that they have there.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn submit_text(&self, job: String) -> String {
        let answer = self.send("POST", "/v1/jobs", &[], job.into_bytes()).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().expect("a job has an id").to_owned()
    }

    /// Waits for a job's end and gives the answer that stands for its value.
    ///
    /// # Panics
    /// When it does not end for [`HANG`].
    pub async fn outcome(&self, job: &str) -> Answer {
        let path = format!("/v1/jobs/{job}/value?wait={WAIT}");
        let asking = async {
            loop {
                let answer = self.get(&path).await;
                if answer.status != 202 {
                    return answer;
                }
            }
        };
        match timeout(HANG, asking).await {
            Ok(answer) => answer,
            Err(_) => panic!("the job hangs: {:#}", self.status(job).await),
        }
    }

    /// Waits for a job's value.
    ///
    /// # Panics
    /// When it has none in the end.
    pub async fn value(&self, job: &str) -> Value {
        let answer = self.outcome(job).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Submits a job and waits for its value.
    ///
    /// # Panics
    /// When it is refused or has none.
    pub async fn run(&self, job: &Value) -> Value {
        let id = self.submit(job).await;
        self.value(&id).await
    }

    /// Submits a job and waits for the problem that it ends with.
    ///
    /// # Panics
    /// When it does not fail.
    pub async fn failure(&self, job: &Value) -> Value {
        let id = self.submit(job).await;
        self.outcome(&id).await.problem(409, "job-failed")
    }

    /// How a job is.
    ///
    /// # Panics
    /// When the server does not say.
    pub async fn status(&self, job: &str) -> Value {
        let answer = self.get(&format!("/v1/jobs/{job}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Waits, by the server's own means, until a job's status is as `wanted`, and gives it.
    ///
    /// # Panics
    /// When it is not for [`HANG`], or the job ends before.
    pub async fn status_when(&self, job: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            let mut tag = "\"none\"".to_owned();
            let path = format!("/v1/jobs/{job}?wait={WAIT}");
            loop {
                let known = [("if-none-match", tag.as_str())];
                let answer = self.send("GET", &path, &known, Vec::new()).await;
                if answer.status == 304 {
                    continue;
                }
                tag = answer.header("etag");
                let status = answer.json();
                if wanted(&status) {
                    return status;
                }
                let is_final = ["resolved", "failed", "cancelled"].map(Value::from);
                assert!(!is_final.contains(&status["state"]), "the job has ended: {status:#}");
            }
        };
        match timeout(HANG, asking).await {
            Ok(status) => status,
            Err(_) => panic!("waited in vain for the job: {:#}", self.status(job).await),
        }
    }

    /// Waits until so many elements of a job have a value.
    pub async fn done(&self, job: &str, n_done: u64) -> Value {
        self.status_when(job, |status| status["elements"]["done"].as_u64() == Some(n_done)).await
    }

    /// Asks to cancel a job.
    pub async fn cancel(&self, job: &str) -> Answer {
        self.send("POST", &format!("/v1/jobs/{job}/cancel"), &[], Vec::new()).await
    }
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// A header's value, empty if it is missing.
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }

    /// The body as a problem, which must be of this status and kind and say so everywhere.
    ///
    /// # Panics
    /// When it is not.
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:farrow:{slug}"), "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        for member in ["title", "detail", "instance"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem:#}");
        }
        problem
    }
}

/// The digest of bytes, as another program than ours tells it.
pub fn digest(bytes: &[u8]) -> String {
    let mut command = Command::new("sha256sum");
    let mut program =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum runs");
    let mut input = program.stdin.take().expect("it has an input");
    input.write_all(bytes).expect("it reads");
    drop(input);
    let output = program.wait_with_output().expect("it ends").stdout;
    format!("sha256:{}", String::from_utf8_lossy(&output[..64]))
}
