//! What elements are called, and where they stand in a nested job, looked up by index.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use protocol::JobId;
use protocol::job::OnError;
use protocol::problem::FailedElement;

use crate::names::Names;
use crate::state::AppState;
use crate::store::StoreError;
use crate::store::blocks::Kind;
use crate::store::jobs::{self, Group, JobRow};
use crate::store::reports::NewPiece;

/// What an element is called, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Its name as a JSON string, if elements have names; in a nested job that of its outer element.
    pub name: Option<Bytes>,
    /// In a nested job the indexes of its outer element and within it.
    pub nested: Option<[u64; 2]>,
}

/// The labels of a job's elements. The last one's outer element and the block of its name are kept,
/// so that neighbours cost nothing.
pub struct Labels {
    state: AppState,
    job: JobId,
    names: Option<Names>,
    outer_names: Option<Names>,
    is_nested: bool,
    group: Option<Group>,
}

impl Labels {
    /// The labels of the elements of `job`.
    pub fn new(state: &AppState, job: &JobRow) -> Self {
        let names =
            |kind, are_there: bool| are_there.then(|| Names::new(state.clone(), job.id, kind));
        Self {
            names: names(Kind::Name, job.shape.named),
            outer_names: names(Kind::OuterName, job.shape.nested && job.shape.outer_named),
            is_nested: job.shape.nested,
            group: None,
            state: state.clone(),
            job: job.id,
        }
    }

    /// The label of element `index`.
    ///
    /// # Errors
    /// When the database fails or a name is not there.
    pub async fn get(&mut self, index: u64) -> Result<Label, StoreError> {
        let mut label = Label::default();
        if let Some(names) = &mut self.names {
            label.name = Some(names.get(index).await?);
        }
        if self.is_nested {
            let group = self.group_of(index).await?;
            label.nested = Some([group.position, index - group.first]);
            if let Some(names) = &mut self.outer_names {
                label.name = Some(names.get(group.position).await?);
            }
        }
        Ok(label)
    }

    async fn group_of(&mut self, index: u64) -> Result<Group, StoreError> {
        if let Some(group) = self.group.filter(|group| group.holds(index)) {
            return Ok(group);
        }
        let job = self.job;
        let found = self
            .state
            .store
            .read(|tx| Box::pin(async move { jobs::group_of(tx, job, index).await }))
            .await?;
        self.group = found;
        found.ok_or_else(|| StoreError::Corrupt {
            column: "groups",
            value: format!("no outer element of element {index} of job {job}"),
        })
    }
}

/// Labels the elements of `pieces` whose errors fail their jobs, before the transaction that accepts
/// them: names may stand in blobs, which no transaction reads.
pub async fn label_failures(state: &AppState, pieces: &mut [NewPiece]) {
    let mut failures = Failures { state, jobs: HashMap::new() };
    for piece in pieces {
        let Some(element) = &mut piece.first_error else { continue };
        // What was computed is accepted all the same.
        if let Err(error) = failures.label(piece.job, element).await {
            tracing::error!(job = %piece.job, %error, "the name of a failed element is left out");
        }
    }
}

/// Labels failed elements of several jobs, each of which is read once.
struct Failures<'a> {
    state: &'a AppState,
    jobs: HashMap<JobId, Option<(OnError, Labels)>>,
}

impl Failures<'_> {
    async fn label(&mut self, job: JobId, element: &mut FailedElement) -> Result<(), StoreError> {
        if let Entry::Vacant(entry) = self.jobs.entry(job) {
            let row = self.state.store.read(|tx| Box::pin(jobs::find(tx, job))).await?;
            entry.insert(row.map(|row| (row.options.on_error, Labels::new(self.state, &row))));
        }
        let Some(Some((on_error, labels))) = self.jobs.get_mut(&job) else { return Ok(()) };
        if element.error.fatal || *on_error == OnError::Stop {
            let label = labels.get(element.index).await?;
            element.name = label.name.and_then(|name| serde_json::from_slice(&name).ok());
            element.nested = label.nested;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::job::{JobState, Level, Strategy};
    use protocol::{AgentId, Problem};
    use serde_json::{Value, json};

    use super::*;
    use crate::block::pack;
    use crate::state::tests::opened;
    use crate::store::agents;
    use crate::store::blocks::{Place, StoredBlock};
    use crate::store::jobs::NewJob;
    use crate::store::leases::Grant;
    use crate::store::reports;
    use crate::store::tests::{collecting, failing, new_job, register, round};

    /// Names as a job of very many has them: in a blob.
    async fn names(state: &AppState, names: &[&str]) -> Vec<StoredBlock> {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let mut stored = Vec::new();
        for block in pack(&names) {
            let place = Place::Blob(state.blobs.put(block.data).await.unwrap());
            stored.push(StoredBlock { first: block.first, lengths: block.lengths, place });
        }
        stored
    }

    async fn named(state: &AppState, mut job: NewJob) -> NewJob {
        job.elements.shape.named = true;
        job.elements.names = names(state, &["mon", "tue"]).await;
        job
    }

    async fn nested(state: &AppState, mut job: NewJob) -> NewJob {
        job.plan.push(Level::new(Strategy::Multisession));
        job.elements.shape.nested = true;
        job.elements.shape.outer_named = true;
        job.elements.outer_names = names(state, &["cars", "bikes"]).await;
        job.elements.groups = vec![0, 2];
        job
    }

    /// Submits `job` and gives all of it to a new agent, which was heard of long ago.
    async fn leased(state: &AppState, job: NewJob) -> (AgentId, Vec<Grant>) {
        state
            .store
            .write(|tx| Box::pin(async move { jobs::insert(tx, job, 5).await }))
            .await
            .unwrap();
        lease(state).await
    }

    async fn lease(state: &AppState) -> (AgentId, Vec<Grant>) {
        let agent = register(4);
        let id = agent.id;
        let grants = state.store.write(move |tx| {
            Box::pin(async move {
                agents::register(tx, &agent, 0, 1000).await?;
                round(tx, id, 4).await
            })
        });
        (id, grants.await.unwrap())
    }

    async fn row(state: &AppState, job: JobId) -> JobRow {
        let row = state.store.read(|tx| Box::pin(jobs::find(tx, job))).await;
        row.unwrap().unwrap()
    }

    fn element(problem: Option<Problem>) -> Value {
        let mut element = problem.expect("a failed job").element.expect("a failed element");
        element.as_object_mut().unwrap().retain(|member, _| member != "message");
        element
    }

    /// Fails element 1 of `job`; says what is told of it.
    async fn failed(state: &AppState, job: NewJob, fatal: bool) -> (JobState, Option<Problem>) {
        let id = job.id;
        let (agent, grants) = leased(state, job).await;
        let grant = grants.iter().find(|grant| grant.ranges.ranges()[0].contains(1)).unwrap();
        let mut pieces = vec![failing(grant, 1, fatal)];
        label_failures(state, &mut pieces).await;
        let reported = state
            .store
            .write(move |tx| Box::pin(async move { reports::report(tx, agent, pieces, 9).await }));
        assert_eq!(reported.await.unwrap().accepted, 1);
        let row = row(state, id).await;
        (row.state, row.error)
    }

    #[tokio::test]
    async fn a_failed_job_says_what_the_element_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let told = |more: Value| {
            let mut told = json!({"index": 1, "type": "ValueError"});
            told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            told
        };
        let (_, problem) = failed(&state, named(&state, new_job(2)).await, false).await;
        assert_eq!(element(problem), told(json!({"name": "tue"})));
        let (_, problem) = failed(&state, nested(&state, new_job(2)).await, false).await;
        assert_eq!(element(problem), told(json!({"name": "bikes", "nested": [1, 1]})));
        let (_, problem) = failed(&state, new_job(2), false).await;
        assert_eq!(element(problem), told(json!({})));
        let (_, problem) = failed(&state, named(&state, collecting(2)).await, true).await;
        assert_eq!(element(problem), told(json!({"name": "tue", "fatal": true})));
        let (state, problem) = failed(&state, named(&state, collecting(2)).await, false).await;
        assert_eq!((state, problem), (JobState::Running, None));
    }

    #[tokio::test]
    async fn an_error_is_accepted_also_when_the_name_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let mut job = named(&state, new_job(2)).await;
        job.elements.names[0].place = Place::Blob(format!("sha256:{}", "0".repeat(64)));
        let (now, problem) = failed(&state, job, false).await;
        assert_eq!((now, element(problem)["index"].clone()), (JobState::Failed, json!(1)));
    }

    #[tokio::test]
    async fn what_is_given_up_says_what_it_is_called_too() {
        let folder = tempfile::tempdir().unwrap();
        let state = opened(folder.path()).await;
        let mut job = named(&state, new_job(2)).await;
        job.options.chunk_size = Some(1);
        let id = job.id;
        leased(&state, job).await;
        while row(&state, id).await.state == JobState::Running {
            crate::reaper::reap(&state).await.unwrap();
            lease(&state).await;
        }
        let element = element(row(&state, id).await.error);
        let index = element["index"].as_u64().unwrap() as usize;
        let told = (&element["type"], &element["name"]);
        assert_eq!(told, (&json!("AgentLost"), &json!(["mon", "tue"][index])));
    }
}
