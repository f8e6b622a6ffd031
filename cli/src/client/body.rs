//! The bytes of an answer, as they arrive, and lines of them.

use bytes::Bytes;
use reqwest::Response;

use super::{ANSWER_WITHIN, CallError, Client};

/// The bytes of an answer, as they arrive.
#[derive(Debug)]
pub struct Body {
    response: Response,
    client: Client,
    server: usize,
}

impl Body {
    /// Of an answer to `client` from this server.
    pub fn new(response: Response, client: Client, server: usize) -> Self {
        Self { response, client, server }
    }

    /// The next bytes; none at the end of a whole body. A body cut short is an error, after which
    /// another server is asked, if there is one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let url = self.client.url(self.server);
        let bytes = match tokio::time::timeout(ANSWER_WITHIN, self.response.chunk()).await {
            Ok(bytes) => bytes.map_err(|error| CallError::lost(url, &error)),
            Err(_) => Err(CallError::Lost {
                url: url.to_owned(),
                reason: "the answer stopped coming".to_owned(),
            }),
        };
        bytes.inspect_err(|_| self.client.leave(self.server))
    }

    /// Its lines, as they arrive.
    pub fn lines(self) -> Lines {
        Lines { body: self, split: Split::default() }
    }
}

/// The lines of an answer, as they arrive: NDJSON.
#[derive(Debug)]
pub struct Lines {
    body: Body,
    split: Split,
}

impl Lines {
    /// The next line that is whole, without its end; none at the end of the answer.
    pub async fn next(&mut self) -> Result<Option<String>, CallError> {
        loop {
            if let Some(line) = self.split.next() {
                return Ok(Some(line));
            }
            match self.body.next().await? {
                Some(bytes) => self.split.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Bytes, cut at the ends of lines.
#[derive(Debug, Default)]
struct Split {
    buffer: Vec<u8>,
    /// Where the first line that was not taken begins, and how far its end was looked for.
    start: usize,
    searched: usize,
}

impl Split {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<String> {
        let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = end.map(|end| self.searched + end) else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = String::from_utf8_lossy(&self.buffer[self.start..end]).into_owned();
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_their_bytes_arrive() {
        let text = "{\"a\": 1}\n\n{\"é\": 2}\nunfinished";
        for step in 1..=text.len() {
            let mut split = Split::default();
            let mut lines = Vec::new();
            for bytes in text.as_bytes().chunks(step) {
                split.push(bytes);
                lines.extend(std::iter::from_fn(|| split.next()));
            }
            assert_eq!(lines, ["{\"a\": 1}", "", "{\"é\": 2}"], "{step}");
        }
    }
}
