//! What operations cost, counted in statements that are run and rows that are read: times would say
//! as much about the machine.

use protocol::JobId;
use protocol::job::JobState;

use super::super::jobs::NewJob;
use super::super::tokens::Scope;
use super::super::{agents, ends, submissions, trash};
use super::{Fixture, decision, new_job, register, write};

/// Two stages: jobs, and as many others that each come after all of these.
struct Stages {
    fixture: Fixture,
    first: Vec<JobId>,
    /// What the submission of the second stage cost.
    cost: usize,
}

impl Stages {
    /// `n_first` jobs in the first stage, `n_second` in the second.
    async fn new(n_first: usize, n_second: usize) -> Self {
        let fixture = Fixture::new().await;
        let first = ranges(n_first, &[]);
        let ids: Vec<JobId> = first.iter().map(|job| job.id).collect();
        accept(&fixture, first).await;
        let cost = accept(&fixture, ranges(n_second, &ids)).await;
        Self { fixture, first: ids, cost }
    }

    /// What the end of a job of the first stage costs.
    async fn end(&self, job: usize, state: JobState) -> usize {
        let job = self.first[job];
        write!(self.fixture, |tx| async {
            ends::end(tx, job, state, None, 8).await?;
            Ok(tx.cost)
        })
    }
}

async fn accept(fixture: &Fixture, jobs: Vec<NewJob>) -> usize {
    write!(fixture, |tx| async {
        submissions::accept(tx, "ada", &Scope::All, None, jobs, 5).await?;
        Ok(tx.cost)
    })
}

/// Maps over ranges, which have no blocks to write, after `after`.
fn ranges(n: usize, after: &[JobId]) -> Vec<NewJob> {
    let range = || {
        let mut job = new_job(0);
        job.elements.total = 1;
        job.elements.shape.range = Some(0);
        job.after = after.to_vec();
        job
    };
    (0..n).map(|_| range()).collect()
}

#[tokio::test]
async fn submitting_a_job_costs_the_same_after_few_and_after_many() {
    let (few, many) = (Stages::new(2, 5).await, Stages::new(60, 5).await);
    assert_eq!(few.cost, many.cost);
}

#[tokio::test]
async fn an_end_costs_the_same_whether_those_after_it_wait_for_few_more_or_for_many() {
    let (few, many) = (Stages::new(3, 5).await, Stages::new(60, 5).await);
    for state in [JobState::Resolved, JobState::Failed] {
        let job = usize::from(state == JobState::Failed);
        assert_eq!(few.end(job, state).await, many.end(job, state).await, "{state:?}");
    }
}

#[tokio::test]
async fn those_that_come_after_a_job_are_freed_and_failed_together() {
    for state in [JobState::Resolved, JobState::Failed] {
        let (few, many) = (Stages::new(1, 5).await, Stages::new(1, 65).await);
        let more = many.end(0, state).await - few.end(0, state).await;
        assert!(
            more <= 2 * 60,
            "{state:?}: the 60 more are read, and nothing is done to each: {more}"
        );
    }
}

#[tokio::test]
async fn deleting_by_age_costs_the_same_whether_few_or_many_jobs_are_open() {
    let mut costs = Vec::new();
    for n_open in [2, 60] {
        let stages = Stages::new(3, n_open).await;
        for job in 0..2 {
            stages.end(job, JobState::Resolved).await;
        }
        costs.push(write!(stages.fixture, |tx| async {
            let expired = trash::expire(tx, 100, None, 9).await?;
            assert_eq!(expired.deleted, []);
            Ok(tx.cost)
        }));
    }
    assert_eq!(costs[0], costs[1]);
}

/// What a round costs that gives elements of a map to an agent, while so many jobs wait for agents that are
/// not there, and so many others are there that have a label of their own.
async fn cost_of_a_round(n_jobs: usize, n_agents: usize) -> usize {
    let fixture = Fixture::new().await;
    let mut blocked = ranges(n_jobs, &[]);
    for job in &mut blocked {
        job.options.labels.insert("zone".to_owned(), "nowhere".to_owned());
    }
    accept(&fixture, blocked).await;
    let agent = fixture.agent(2).await;
    for _ in 0..n_agents {
        let mut other = register(2);
        other.labels.insert("zone".to_owned(), "elsewhere".to_owned());
        write!(fixture, |tx| agents::register(tx, &other, 0, 1000));
    }
    fixture.map(100).await;
    write!(fixture, |tx| async {
        let decided = decision(tx, agent, 2, 2, 0).await?;
        assert_eq!(decided.grants.len(), 2);
        Ok(tx.cost)
    })
}

#[tokio::test]
async fn a_round_costs_the_same_whatever_is_queued_that_those_who_wait_cannot_run() {
    assert_eq!(cost_of_a_round(2, 1).await, cost_of_a_round(60, 1).await);
}

#[tokio::test]
async fn a_round_costs_the_same_however_many_other_agents_are_alike() {
    assert_eq!(cost_of_a_round(1, 2).await, cost_of_a_round(1, 60).await);
}
