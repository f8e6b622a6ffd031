//! Requests about jobs and agents.

use bytes::Bytes;
use protocol::job::{AgentStatus, JobState, JobStatus, Page};
use protocol::{AgentId, JobId};
use reqwest::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};

use super::{Body, CallError, Client, WAIT};

/// When to say how a job is.
#[derive(Clone, Copy, Debug)]
pub enum Until<'a> {
    /// At once.
    Now,
    /// As soon as its status is not the one of this tag.
    Change(&'a str),
    /// As soon as it has ended.
    End,
}

/// What a request for a job's status came back with.
#[derive(Debug)]
pub enum Polled {
    /// Nothing has changed.
    Same,
    /// The status now, and the tag that names it.
    Status(Box<JobStatus>, Option<String>),
}

/// What a request for a value came back with.
#[derive(Debug)]
pub enum Value {
    /// The value's bytes follow.
    Here(Body),
    /// The job goes on.
    NotYet(Box<JobStatus>),
}

impl Client {
    /// Submits a job. With the same key it is submitted once, however often this is called.
    pub async fn submit(&self, body: Bytes, key: &str) -> Result<JobStatus, CallError> {
        let size = body.len() as u64;
        let request = self
            .request(Method::POST, "/v1/jobs")
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(body);
        self.read_json(self.send_large(size, request).await?).await
    }

    /// A job's status now.
    pub async fn status(&self, id: JobId) -> Result<JobStatus, CallError> {
        self.get_json(self.request(Method::GET, &format!("/v1/jobs/{id}"))).await
    }

    /// The status of those of these jobs that there are, in this order.
    pub async fn statuses(&self, ids: &[JobId]) -> Result<Vec<JobStatus>, CallError> {
        let query: Vec<_> = ids.iter().map(|id| ("id", id.to_string())).collect();
        let request = self.request(Method::GET, "/v1/jobs").query(&query);
        Ok(self.get_json::<Page<JobStatus>>(request).await?.items)
    }

    /// A job's status when the time has come, or when the server has held the request long enough.
    pub async fn poll(&self, id: JobId, until: Until<'_>) -> Result<Polled, CallError> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{id}"));
        let response = self.send(match until {
            Until::Now => request,
            Until::Change(tag) => request.query(&[("wait", WAIT)]).header(IF_NONE_MATCH, tag),
            Until::End => request.query(&[("wait", WAIT)]),
        });
        let response = response.await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Polled::Same);
        }
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        Ok(Polled::Status(Box::new(self.read_json(response).await?), tag))
    }

    /// A job's value, if it is there.
    pub async fn value(&self, id: JobId) -> Result<Value, CallError> {
        let response =
            self.send(self.request(Method::GET, &format!("/v1/jobs/{id}/value"))).await?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(Value::NotYet(Box::new(self.read_json(response).await?))),
            _ => Ok(Value::Here(self.body(response))),
        }
    }

    /// Cancels a job; one that has ended stays as it is.
    pub async fn cancel(&self, id: JobId) -> Result<JobStatus, CallError> {
        self.get_json(self.request(Method::POST, &format!("/v1/jobs/{id}/cancel"))).await
    }

    /// Makes a new job of what failed or is missing of one; the same one, however often this is
    /// called.
    pub async fn retry(&self, id: JobId) -> Result<JobStatus, CallError> {
        self.get_json(self.request(Method::POST, &format!("/v1/jobs/{id}/retry"))).await
    }

    /// Deletes a job that has ended, with its value.
    pub async fn delete(&self, id: JobId) -> Result<(), CallError> {
        self.send(self.request(Method::DELETE, &format!("/v1/jobs/{id}"))).await.map(drop)
    }

    /// A page of the jobs, the newest first.
    pub async fn jobs(
        &self,
        state: Option<JobState>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page<JobStatus>, CallError> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(state.map(|state| ("state", state.as_str().to_owned())));
        query.extend(after.map(|after| ("after", after.to_owned())));
        self.get_json(self.request(Method::GET, "/v1/jobs").query(&query)).await
    }

    /// The agents that are there.
    pub async fn all_agents(&self) -> Result<Vec<AgentStatus>, CallError> {
        let (mut agents, mut after) = (Vec::new(), None);
        loop {
            let page = self.agents(after.as_deref()).await?;
            agents.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(agents),
            }
        }
    }

    /// A page of the agents.
    async fn agents(&self, after: Option<&str>) -> Result<Page<AgentStatus>, CallError> {
        let query: Vec<_> = after.map(|after| ("after", after)).into_iter().collect();
        self.get_json(self.request(Method::GET, "/v1/agents").query(&query)).await
    }

    /// Lets an agent finish what it runs, and leave.
    pub async fn drain(&self, id: AgentId) -> Result<(), CallError> {
        self.send(self.request(Method::POST, &format!("/v1/agents/{id}/drain"))).await.map(drop)
    }
}
