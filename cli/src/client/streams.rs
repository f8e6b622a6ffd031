//! Requests whose answers are lines: outcomes and logs.

use protocol::JobId;
use protocol::job::LogSource;
use reqwest::Method;

use super::{CallError, Client, Lines};

/// In which order outcomes come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As the elements stand.
    #[default]
    Index,
    /// As they were accepted.
    Completion,
}

/// Which outcomes to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutcomeQuery {
    /// Those with an error only.
    pub failed: bool,
    /// In which order.
    pub order: Order,
    /// Those behind this index, or in order of completion behind this rank.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: Option<u64>,
    /// Seconds for which to stay and tell more.
    pub wait: Option<u32>,
}

/// What of the things said to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogQuery {
    /// What is behind this cursor.
    pub after: Option<u64>,
    /// What this element said only.
    pub element: Option<u64>,
    /// What this part of the job said only.
    pub source: Option<LogSource>,
    /// Seconds for which to stay and tell more.
    pub wait: Option<u32>,
}

impl Client {
    /// Outcomes of a job, a line of JSON each.
    pub async fn outcomes(&self, id: JobId, query: OutcomeQuery) -> Result<Lines, CallError> {
        let mut pairs = Vec::new();
        if query.failed {
            pairs.push(("state", "failed".to_owned()));
        }
        if query.order == Order::Completion {
            pairs.push(("order", "completion".to_owned()));
        }
        pairs.extend(number("after", query.after));
        pairs.extend(number("limit", query.limit));
        pairs.extend(number("wait", query.wait));
        self.lines(&format!("/v1/jobs/{id}/outcomes"), &pairs).await
    }

    /// What a job has said, a line of JSON each.
    pub async fn logs(&self, id: JobId, query: LogQuery) -> Result<Lines, CallError> {
        let mut pairs = Vec::new();
        pairs.extend(number("after", query.after));
        pairs.extend(number("element", query.element));
        pairs.extend(query.source.map(|source| ("source", source_name(source).to_owned())));
        pairs.extend(number("wait", query.wait));
        self.lines(&format!("/v1/jobs/{id}/logs"), &pairs).await
    }

    async fn lines(&self, path: &str, query: &[(&str, String)]) -> Result<Lines, CallError> {
        let response = self.send(self.request(Method::GET, path).query(query)).await?;
        Ok(self.body(response).lines())
    }
}

/// The name of a source on the wire.
pub fn source_name(source: LogSource) -> &'static str {
    match source {
        LogSource::Prepare => "prepare",
        LogSource::Setup => "setup",
        LogSource::Element => "element",
    }
}

fn number(name: &'static str, value: Option<impl ToString>) -> Option<(&'static str, String)> {
    value.map(|value| (name, value.to_string()))
}
