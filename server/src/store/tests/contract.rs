//! Jobs that wait for others, are sent twice, are retried, are deleted; shares of memory and slots.

use std::collections::HashMap;

use protocol::job::{JobState, Level, Strategy};
use protocol::{AgentId, JobId, Range, RangeSet};

use super::super::ends::{self, Ended, Ending};
use super::super::jobs::NewJob;
use super::super::retries::{self, Retried, Retry};
use super::super::submissions::{self, Accepted, Key};
use super::super::tokens::Scope;
use super::super::trash::{self, Deleted};
use super::super::{agents, blocks, jobs, outcomes, runnable};
use super::{Fixture, all_of, collecting, failing, new_job, piece, read, write};
use crate::blobs::Blobs;
use crate::retry::work_out;
use crate::store::db::args;

fn after(n: usize, jobs: &[JobId]) -> NewJob {
    let mut job = new_job(n);
    job.after = jobs.to_vec();
    job
}

async fn end(fixture: &Fixture, job: JobId, state: JobState) -> Ending {
    match write!(fixture, |tx| ends::end(tx, job, state, None, 8)) {
        Ended::Now(ending) => ending,
        other => panic!("{other:?}"),
    }
}

async fn state(fixture: &Fixture, job: JobId) -> JobState {
    fixture.job(job).await.state
}

#[tokio::test]
async fn a_job_runs_when_all_before_it_are_resolved() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let (one, two) = (fixture.map(1).await, fixture.map(1).await);
    let last = fixture.submit(after(1, &[one, two, one])).await;
    let of_nothing = fixture.submit(after(0, &[last])).await;
    assert_eq!(fixture.job(last).await.after, [one, two]);
    assert!(!fixture.is_runnable(last).await);

    let freed = end(&fixture, one, JobState::Resolved).await.freed;
    assert_eq!((freed, fixture.job(last).await.after), (vec![], vec![two]));
    let grant = fixture.grant(agent, 1).await.remove(0);
    assert_eq!(grant.job, two);
    let outcome = fixture.report(agent, all_of(&grant)).await;
    assert_eq!((outcome.ended, outcome.can_go_on), (vec![two], true));
    assert!(outcome.jobs.contains(&last), "who watches it must be told");
    assert!(fixture.is_runnable(last).await);

    let grant = fixture.grant(agent, 1).await.remove(0);
    assert_eq!(grant.job, last);
    let outcome = fixture.report(agent, all_of(&grant)).await;
    assert_eq!(outcome.ended, [last, of_nothing], "a map of nothing is resolved with it");
    assert_eq!(fixture.job(of_nothing).await.started_at, Some(9));
    assert_eq!(state(&fixture, of_nothing).await, JobState::Resolved);
}

#[tokio::test]
async fn a_job_fails_with_those_that_it_comes_after() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let (first, other) = (fixture.map(1).await, fixture.map(1).await);
    let second = fixture.submit(after(1, &[first, other])).await;
    let third = fixture.submit(after(1, &[second, first])).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    let outcome = fixture.report(agent, vec![failing(&grant, 0, false)]).await;
    assert_eq!(outcome.ended, [first, second, third]);
    for (job, on) in [(second, first), (third, first)] {
        let row = fixture.job(job).await;
        let problem = row.error.unwrap();
        assert_eq!((row.state, problem.slug()), (JobState::Failed, "dependency-failed"));
        assert!(problem.detail.contains(&format!("job {on}, which")), "{}", problem.detail);
        assert_eq!((row.after, row.started_at), (vec![], None));
    }
    // What is resolved later brings nothing back.
    assert_eq!(end(&fixture, other, JobState::Resolved).await.freed, []);
    assert_eq!(state(&fixture, second).await, JobState::Failed);
}

#[tokio::test]
async fn a_job_after_one_that_has_ended_knows_it_at_once() {
    let fixture = Fixture::new().await;
    let (resolved, cancelled) = (fixture.map(1).await, fixture.map(1).await);
    end(&fixture, resolved, JobState::Resolved).await;
    end(&fixture, cancelled, JobState::Cancelled).await;
    let runs = fixture.submit(after(1, &[resolved])).await;
    assert!(fixture.is_runnable(runs).await);
    let fails = fixture.submit(after(1, &[resolved, cancelled])).await;
    let row = fixture.job(fails).await;
    assert_eq!(row.state, JobState::Failed);
    assert!(row.error.unwrap().detail.contains("was cancelled"));
    assert!(!fixture.is_runnable(fails).await);
    let of_nothing = fixture.submit(after(0, &[resolved])).await;
    assert_eq!(state(&fixture, of_nothing).await, JobState::Resolved);
    assert_eq!(read!(fixture, |tx| ends::state_of(tx, of_nothing)), Some(JobState::Resolved));
    assert_eq!(read!(fixture, |tx| ends::state_of(tx, JobId::new())), None);
}

fn key(key: &str, digest: &str) -> Option<Key> {
    Some(Key { key: key.to_owned(), digest: digest.to_owned() })
}

async fn accept(fixture: &Fixture, key: Option<Key>, jobs: &[NewJob]) -> Accepted {
    let jobs = jobs.to_vec();
    write!(fixture, |tx| submissions::accept(tx, "ada", &Scope::All, key, jobs, 5))
}

/// Accepted, and these of it have ended at once.
fn now(ended: &[JobId]) -> Accepted {
    Accepted::Now(Ending { ended: ended.to_vec(), ..Ending::default() })
}

#[tokio::test]
async fn a_submission_tells_which_of_its_jobs_have_ended_at_once() {
    let fixture = Fixture::new().await;
    let cancelled = fixture.map(1).await;
    end(&fixture, cancelled, JobState::Cancelled).await;
    let batch = [new_job(1), new_job(0), after(1, &[cancelled])];
    assert_eq!(accept(&fixture, None, &batch).await, now(&[batch[1].id, batch[2].id]));
}

#[tokio::test]
async fn a_submission_is_accepted_once_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let batch = [new_job(1), new_job(0)];
    let ids: Vec<JobId> = batch.iter().map(|job| job.id).collect();
    assert_eq!(accept(&fixture, key("k", "x"), &batch).await, now(&ids[1..]));
    let again = [new_job(1), new_job(0)];
    assert_eq!(accept(&fixture, key("k", "x"), &again).await, Accepted::Before(ids));
    assert_eq!(accept(&fixture, key("k", "y"), &again).await, Accepted::KeyReused);
    let wanted = key("k", "x").unwrap();
    let of_another = read!(fixture, |tx| submissions::known(tx, "bob", &wanted));
    assert_eq!(of_another, None, "keys are an owner's own");

    let unknown = [new_job(1), after(1, &[ids_first(&batch), JobId::new()])];
    let refused = accept(&fixture, key("new", "x"), &unknown).await;
    assert_eq!(refused, Accepted::NoSuchJob { job: 1, after: 1 });
    assert_eq!(read!(fixture, |tx| jobs::list(tx, "g", None, 9)).len(), 2);
    assert_eq!(accept(&fixture, key("new", "y"), &[new_job(1)]).await, now(&[]));
    assert_eq!(accept(&fixture, None, &[new_job(1)]).await, now(&[]));
}

fn ids_first(batch: &[NewJob]) -> JobId {
    batch[0].id
}

#[tokio::test]
async fn a_deleted_job_is_gone_at_once_and_cleared_in_slices() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut batch = [collecting(9000), new_job(0)];
    batch[0].elements.groups = vec![3000; 3];
    let [large, small] = [batch[0].id, batch[1].id];
    assert_eq!(accept(&fixture, key("k", "x"), &batch).await, now(&[small]));
    assert_eq!(write!(fixture, |tx| trash::delete(tx, large)), Deleted::NotEnded(JobState::Queued));
    let grant = fixture.grant(agent, 1).await.remove(0);
    fixture.report(agent, all_of(&grant)).await;
    end(&fixture, large, JobState::Cancelled).await;
    assert_eq!(write!(fixture, |tx| trash::delete(tx, large)), Deleted::Now);
    assert_eq!(write!(fixture, |tx| trash::delete(tx, large)), Deleted::Before);
    assert!(read!(fixture, |tx| jobs::find(tx, large)).is_none());
    let listed = read!(fixture, |tx| jobs::list(tx, "g", None, 9));
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [small]);
    let wanted = key("k", "x").unwrap();
    let known = read!(fixture, |tx| submissions::known(tx, "ada", &wanted));
    assert_eq!(known, Some(Accepted::Before(vec![small])), "the key stays for the other job");

    assert_eq!(rows_of(&fixture, large).await, 1 + 3 + 3);
    let mut slices = 0;
    while write!(fixture, |tx| trash::clear(tx, 2)) {
        slices += 1;
    }
    assert_eq!((rows_of(&fixture, large).await, slices), (0, 1 + 2 + 2 + 1));

    assert_eq!(write!(fixture, |tx| trash::delete(tx, small)), Deleted::Now);
    let last = [new_job(0)];
    assert_eq!(accept(&fixture, key("k", "other"), &last).await, now(&[last[0].id]));
}

/// Rows of the large tables that are of a job.
async fn rows_of(fixture: &Fixture, job: JobId) -> u64 {
    let rows = read!(fixture, |tx| tx.all(
        "select count(*) as n from outcomes where job_id = $1
         union all select count(*) from groups where job_id = $1
         union all select count(*) from blocks where job_id = $1",
        args![job]
    ));
    rows.iter().map(|row| row.count("n").unwrap()).sum()
}

/// Works a retry of a job out and writes it down.
async fn retry(fixture: &Fixture, job: JobId) -> (Retry, Retried) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let row = fixture.job(job).await;
    let retry = work_out(&fixture.store, &blobs, &row).await.unwrap();
    let written = retry.clone();
    (retry, write!(fixture, |tx| retries::insert(tx, written, 11)))
}

#[tokio::test]
async fn a_retry_runs_what_failed_and_nothing_else() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut submission = collecting(1000);
    submission.options.chunk_size = Some(100);
    let job = fixture.submit(submission).await;
    let failed = [7, 8, 999];
    loop {
        let Some(grant) = fixture.grant(agent, 1).await.pop() else { break };
        let mut pieces = all_of(&grant);
        let range = grant.ranges.ranges()[0];
        for &index in failed.iter().filter(|&&index| range.contains(index)) {
            let position = (index - range.0) as u32;
            pieces[0].first_error =
                pieces[0].first_error.take().or(failing(&grant, index, false).first_error);
            pieces[0].errors.push(position);
        }
        fixture.report(agent, pieces).await;
    }
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.failed), (JobState::Resolved, 3));

    let (retry, written) = retry(&fixture, job).await;
    assert_eq!(written, Retried::Now);
    let row = fixture.job(retry.id).await;
    assert_eq!((row.state, row.counts.done, row.counts.waiting), (JobState::Queued, 997, 3));
    assert_eq!((row.retry_of, fixture.job(job).await.retried_as), (Some(job), Some(retry.id)));
    let spec = read!(fixture, |tx| jobs::spec(tx, retry.id)).unwrap().0;
    assert_eq!((spec.id, row.shape), (retry.id, fixture.job(job).await.shape));
    let blocks_of =
        async |job| read!(fixture, |tx| blocks::read(tx, job, blocks::Kind::Element, 0, 1000, 9));
    assert_eq!(blocks_of(retry.id).await, blocks_of(job).await);

    let mut run = RangeSet::default();
    while let Some(grant) = fixture.grant(agent, 1).await.pop() {
        assert_eq!((grant.job, grant.attempt), (retry.id, 1));
        grant.ranges.ranges().iter().for_each(|&range| run.insert(range));
        fixture.report(agent, all_of(&grant)).await;
    }
    assert_eq!(run, [Range(7, 9), Range(999, 1000)].into_iter().collect());
    let row = fixture.job(retry.id).await;
    assert_eq!((row.state, row.counts.done), (JobState::Resolved, 1000));
    check_values(&fixture, retry.id, 1000).await;

    let other = Retry { id: JobId::new(), ..retry.clone() };
    let again = write!(fixture, |tx| retries::insert(tx, other, 11));
    assert_eq!(again, Retried::Before(retry.id));
}

/// Every element has one value, its square, and ranks are without a gap.
async fn check_values(fixture: &Fixture, job: JobId, n: u64) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path()).unwrap();
    let mut next = 0;
    for outcome in fixture.outcomes(job).await {
        assert_eq!((outcome.block.first, outcome.errors.len()), (next, 0));
        let block = outcome.block.load(&blobs).await.unwrap();
        for payload in block.payloads() {
            assert_eq!(payload, (next * next).to_string());
            next += 1;
        }
    }
    assert_eq!(next, n);
    let mut rank = 0;
    for piece in read!(fixture, |tx| outcomes::accepted(tx, job, 0, 100_000)) {
        assert_eq!(piece.rank, rank);
        rank += piece.n;
    }
    assert_eq!(rank, n);
}

#[tokio::test]
async fn a_retry_of_a_nested_job_gives_outer_elements_whole_to_agents() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(64).await;
    let mut submission = new_job(9);
    submission.elements.shape.nested = true;
    submission.plan.push(Level::new(Strategy::Multisession));
    submission.elements.groups = vec![3, 0, 4, 2];
    let job = fixture.submit(submission).await;
    let grant = fixture.grant(agent, 64).await.remove(0);
    fixture.report(agent, vec![piece(&grant, Range(0, 1)), piece(&grant, Range(2, 3))]).await;
    end(&fixture, job, JobState::Cancelled).await;
    let (retry, _) = retry(&fixture, job).await;
    let sets = [Range(1, 2), Range(3, 7), Range(7, 9)].map(RangeSet::from_range);
    assert_eq!(retry.rows, sets);
    assert_eq!(
        read!(fixture, |tx| retries::groups(tx, retry.id, 1, 2)),
        [Range(3, 3), Range(3, 7)]
    );
    let mut run = Vec::new();
    while let Some(grant) = fixture.grant(agent, 64).await.pop() {
        run.push((grant.ranges.clone(), grant.width));
        fixture.report(agent, all_of(&grant)).await;
    }
    assert_eq!(run, sets.into_iter().zip([1, 4, 2]).collect::<Vec<_>>());
    assert_eq!(state(&fixture, retry.id).await, JobState::Resolved);
    check_values(&fixture, retry.id, 9).await;
}

#[tokio::test]
async fn a_chunk_size_also_holds_for_what_a_retry_runs() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut submission = new_job(100);
    submission.options.chunk_size = Some(30);
    let job = fixture.submit(submission).await;
    end(&fixture, job, JobState::Cancelled).await;
    let (retry, _) = retry(&fixture, job).await;
    let mut sizes = Vec::new();
    while let Some(grant) = fixture.grant(agent, 1).await.pop() {
        sizes.push(grant.ranges.len());
        fixture.report(agent, all_of(&grant)).await;
    }
    assert_eq!(sizes, [30, 30, 30, 10]);
    assert_eq!(state(&fixture, retry.id).await, JobState::Resolved);
    let (nothing, _) = self::retry(&fixture, retry.id).await;
    assert!(nothing.rows.is_empty(), "all of it has a value");
}

#[tokio::test]
async fn a_retry_of_what_never_began_waits_for_the_retry_of_what_it_came_after() {
    let fixture = Fixture::new().await;
    let first = fixture.map(1).await;
    let second = fixture.submit(after(1, &[first])).await;
    let of_nothing = fixture.submit(after(0, &[first])).await;
    end(&fixture, first, JobState::Cancelled).await;
    let (_, refused) = retry(&fixture, second).await;
    assert_eq!(refused, Retried::Dependency(first, Some(JobState::Cancelled)));
    let (of_first, _) = retry(&fixture, first).await;
    let (of_second, _) = retry(&fixture, second).await;
    let (of_third, _) = retry(&fixture, of_nothing).await;
    assert_eq!(fixture.job(of_second.id).await.after, [of_first.id]);
    assert!(!fixture.is_runnable(of_second.id).await);
    let ending = end(&fixture, of_first.id, JobState::Resolved).await;
    assert_eq!((ending.freed, ending.ended), (vec![of_second.id], vec![of_first.id, of_third.id]));
    assert!(fixture.is_runnable(of_second.id).await);
}

#[tokio::test]
async fn what_was_deleted_is_neither_retried_nor_waited_for() {
    let fixture = Fixture::new().await;
    let first = fixture.map(1).await;
    let second = fixture.submit(after(1, &[first])).await;
    end(&fixture, first, JobState::Cancelled).await;
    let (again, _) = retry(&fixture, first).await;
    end(&fixture, again.id, JobState::Cancelled).await;
    write!(fixture, |tx| trash::delete(tx, again.id));
    assert_eq!(fixture.job(first).await.retried_as, None, "it can be retried once more");
    let (once_more, written) = retry(&fixture, first).await;
    assert_eq!((written, fixture.job(first).await.retried_as), (Retried::Now, Some(once_more.id)));

    write!(fixture, |tx| trash::delete(tx, first));
    let (_, refused) = retry(&fixture, second).await;
    assert_eq!(refused, Retried::Dependency(first, None));
    let unknown = Retry { of: first, id: JobId::new(), ..once_more };
    assert_eq!(write!(fixture, |tx| retries::insert(tx, unknown, 11)), Retried::Unknown);
}

#[tokio::test]
async fn a_retry_asks_no_more_for_what_was_resolved_and_deleted() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.map(1).await, fixture.map(1).await);
    let freed = fixture.submit(after(1, &[one])).await;
    let waiting = fixture.submit(after(1, &[one, two])).await;
    end(&fixture, one, JobState::Resolved).await;
    write!(fixture, |tx| trash::delete(tx, one));
    end(&fixture, freed, JobState::Cancelled).await;
    let (of_freed, written) = retry(&fixture, freed).await;
    assert_eq!(written, Retried::Now, "it was freed, though it never began");
    assert!(fixture.is_runnable(of_freed.id).await);

    end(&fixture, two, JobState::Cancelled).await;
    let (of_two, _) = retry(&fixture, two).await;
    let late = fixture.submit(after(1, &[two, of_two.id])).await;
    assert_eq!(state(&fixture, late).await, JobState::Failed);
    for job in [waiting, late] {
        let (again, written) = retry(&fixture, job).await;
        assert_eq!(written, Retried::Now);
        assert_eq!(fixture.job(again.id).await.after, [of_two.id]);
    }
}

#[tokio::test]
async fn leases_take_memory_and_give_it_back() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(64).await;
    let mut submission = new_job(100);
    // The fixture's agents have 16 GiB.
    submission.options.memory = Some(5 << 30);
    let job = fixture.submit(submission).await;
    let grants = fixture.grant(agent, 64).await;
    assert_eq!(grants.len(), 3);
    let other = fixture.agent(1).await;
    let ids = [agent, other, AgentId::new()];
    let live = read!(fixture, |tx| agents::live(tx, &ids));
    assert_eq!(live, HashMap::from([(agent, 15 << 30), (other, 0)]));
    let by_agent = read!(fixture, |tx| agents::memory_by_agent(tx));
    assert_eq!(by_agent, HashMap::from([(agent, 15 << 30)]));
    assert!(fixture.grant(agent, 61).await.is_empty());
    let simple = fixture.map(1).await;
    assert_eq!(fixture.grant(agent, 61).await[0].job, simple, "the slots are free for others");
    fixture.report(agent, all_of(&grants[0])).await;
    assert_eq!(fixture.grant(agent, 61).await[0].job, job);
    write!(fixture, |tx| agents::set_state(tx, agent, protocol::job::AgentState::Gone));
    assert_eq!(read!(fixture, |tx| agents::live(tx, &ids)), HashMap::from([(other, 0)]));
}

#[tokio::test]
async fn two_owners_share_the_slots_evenly_and_a_higher_priority_goes_first() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(8).await;
    let submit = async |owner: &str, priority| {
        let mut job = new_job(0);
        job.owner = owner.to_owned();
        job.options.priority = priority;
        job.elements.total = 10_000;
        job.elements.shape.range = Some(0);
        fixture.submit(job).await
    };
    let ada = submit("ada", 0).await;
    let bob = submit("bob", 0).await;
    let mut held = fixture.grant(agent, 8).await;
    let mut done: HashMap<JobId, u64> = HashMap::new();
    // One lease after the other ends, and what is free is given anew.
    while done.values().sum::<u64>() < 20_000 {
        let both_left = [ada, bob].map(|job| done.get(&job).copied().unwrap_or(0) < 9_000);
        if both_left == [true, true] {
            let owners = read!(fixture, |tx| runnable::slots_by_owner(tx));
            assert_eq!(owners, HashMap::from([("ada".to_owned(), 4), ("bob".to_owned(), 4)]));
        }
        let lease = held.remove(0);
        *done.entry(lease.job).or_default() += lease.ranges.len();
        fixture.report(agent, all_of(&lease)).await;
        held.extend(fixture.grant(agent, 1).await);
    }
    assert_eq!([state(&fixture, ada).await, state(&fixture, bob).await], [JobState::Resolved; 2]);

    let (_low, high) = (submit("ada", 0).await, submit("bob", 1).await);
    let grants = fixture.grant(agent, 8).await;
    assert!(grants.iter().all(|grant| grant.job == high), "{grants:?}");
}
