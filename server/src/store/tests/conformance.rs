//! Each function of the store, by example.

use protocol::agent::Verdict;
use protocol::job::{JobState, Level, Strategy};
use protocol::{JobId, Range, RangeSet};
use tokio::sync::oneshot;

use super::super::Manner;
use super::super::blocks::{self, Kind};
use super::super::ends::{Ended, Ending};
use super::super::jobs::{JobRow, Shape};
use super::super::outcomes::{self, Extent, Outcomes};
use super::super::{StoreError, ends, identity, jobs, leases, store_time, stored_time, tokens};
use super::{Fixture, all_of, collecting, failing, new_job, piece, read, runnable_jobs, write};

#[tokio::test]
async fn a_map_is_leased_reported_and_resolved() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(2).await, fixture.map(3).await);
    assert_eq!(fixture.job(job).await.state, JobState::Queued);

    let grants = fixture.grant(agent, 2).await;
    assert_eq!(grants.len(), 2);
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.running, row.slots), (JobState::Running, 2, 2));
    assert_eq!((row.submitted_at, row.started_at), (5, Some(7)));

    fixture.report(agent, grants.iter().flat_map(all_of).collect()).await;
    let last = fixture.grant(agent, 2).await;
    assert!(!fixture.is_runnable(job).await, "the cursor is at the end and nothing came back");
    let outcome = fixture.report(agent, all_of(&last[0])).await;
    assert_eq!((outcome.jobs, outcome.can_go_on), (vec![job], true));
    let row = fixture.job(job).await;
    assert_eq!(
        (row.state, row.counts.done, row.counts.running, row.slots),
        (JobState::Resolved, 3, 0, 0)
    );
    assert_eq!(row.finished_at, Some(9));
    let firsts: Vec<u64> = fixture.outcomes(job).await.iter().map(|o| o.block.first).collect();
    assert_eq!(firsts, [0, 1, 2]);
}

#[tokio::test]
async fn a_map_of_nothing_is_resolved_at_once() {
    let fixture = Fixture::new().await;
    let job = fixture.map(0).await;
    assert_eq!(fixture.job(job).await.state, JobState::Resolved);
    assert!(!fixture.is_runnable(job).await);
}

#[tokio::test]
async fn the_same_report_again_is_accepted_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(2).await);
    let grant = fixture.grant(agent, 1).await.remove(0);
    for _ in 0..2 {
        let outcome = fixture.report(agent, all_of(&grant)).await;
        assert_eq!(outcome.verdicts, [Verdict::Accepted]);
    }
    assert_eq!(fixture.job(job).await.counts.done, 1);
    assert_eq!(fixture.outcomes(job).await.len(), 1);
}

#[tokio::test]
async fn a_database_has_one_id_for_ever() {
    let fixture = Fixture::new().await;
    let first = write!(fixture, |tx| identity::database_id(tx));
    assert_eq!(write!(fixture, |tx| identity::database_id(tx)), first);
    let other = Fixture::new().await;
    assert_ne!(write!(other, |tx| identity::database_id(tx)), first);
}

#[tokio::test]
async fn the_first_error_fails_the_job_and_takes_its_leases_back() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.agent(1).await, fixture.agent(1).await);
    let job = fixture.map(4).await;
    let mine = fixture.grant(one, 1).await.remove(0);
    let others = fixture.grant(two, 1).await.remove(0);
    let outcome = fixture.report(one, vec![failing(&mine, 0, false)]).await;
    assert_eq!(outcome.verdicts, [Verdict::Accepted]);
    assert_eq!(outcome.to_tell, [two], "who runs the rest must be told");
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.failed, row.slots), (JobState::Failed, 1, 0));
    let problem = row.error.unwrap();
    assert_eq!(problem.kind, "urn:farrow:job-failed");
    assert_eq!(problem.element.unwrap()["index"], 0);
    let late = fixture.report(two, all_of(&others)).await;
    assert_eq!(late.verdicts, [Verdict::Stale]);
    assert_eq!(fixture.outcomes(job).await.len(), 1);
    assert!(!fixture.is_runnable(job).await);
}

#[tokio::test]
async fn what_a_report_says_behind_the_error_that_stops_the_job_is_stale() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut submission = new_job(3);
    submission.options.chunk_size = Some(3);
    let job = fixture.submit(submission).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    let pieces = vec![failing(&grant, 1, false), piece(&grant, Range(2, 3))];
    let outcome = fixture.report(agent, pieces).await;
    assert_eq!(outcome.verdicts, [Verdict::Accepted, Verdict::Stale]);
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.done, row.counts.failed), (JobState::Failed, 0, 1));
}

#[tokio::test]
async fn with_collect_errors_stand_in_their_places() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let job = fixture.submit(collecting(2)).await;
    let first = fixture.grant(agent, 1).await.remove(0);
    fixture.report(agent, vec![failing(&first, 0, false)]).await;
    let second = fixture.grant(agent, 1).await.remove(0);
    fixture.report(agent, all_of(&second)).await;
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.done, row.counts.failed), (JobState::Resolved, 1, 1));
    assert_eq!(fixture.outcomes(job).await[0].errors, [0]);
}

#[tokio::test]
async fn outcomes_are_added_up_in_slices() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let job = fixture.submit(collecting(3)).await;
    for is_failing in [true, false, true] {
        let grant = fixture.grant(agent, 1).await.remove(0);
        let pieces = if is_failing { vec![failing(&grant, 0, false)] } else { all_of(&grant) };
        fixture.report(agent, pieces).await;
    }
    let lengths = |rows: &[Outcomes]| rows.iter().map(|row| u64::from(row.block.lengths[0])).sum();
    let all = fixture.outcomes(job).await;
    for (from, limit, rows) in [(0, 9, &all[..]), (0, 2, &all[..2]), (1, 9, &all[1..]), (3, 9, &[])]
    {
        let extent = read!(fixture, |tx| outcomes::extent(tx, job, from, limit));
        let n_errors = rows.iter().filter(|row| !row.errors.is_empty()).count() as u64;
        let wanted = Extent { n: rows.len() as u64, n_errors, n_bytes: lengths(rows) };
        assert_eq!(extent, wanted, "{limit} from {from}");
    }
}

#[tokio::test]
async fn a_fault_of_the_job_fails_it_also_with_collect() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let job = fixture.submit(collecting(2)).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    fixture.report(agent, vec![failing(&grant, 0, true)]).await;
    assert_eq!(fixture.job(job).await.state, JobState::Failed);
}

#[tokio::test]
async fn a_cancelled_job_stays_cancelled() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(3).await);
    let grant = fixture.grant(agent, 1).await.remove(0);
    let ended = write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
    assert_eq!(
        ended,
        Ended::Now(Ending { holders: vec![agent], ended: vec![job], ..Ending::default() })
    );
    let ended = write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
    assert_eq!(ended, Ended::Before(JobState::Cancelled));
    let unknown = JobId::new();
    let ended = write!(fixture, |tx| ends::end(tx, unknown, JobState::Cancelled, None, 8));
    assert_eq!(ended, Ended::Unknown);
    assert_eq!(fixture.report(agent, all_of(&grant)).await.verdicts, [Verdict::Stale]);
    assert_eq!(fixture.job(job).await.state, JobState::Cancelled);
    assert!(fixture.grant(agent, 1).await.is_empty());
}

#[tokio::test]
async fn a_report_of_a_foreign_lease_is_stale() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.agent(1).await, fixture.agent(1).await);
    let job = fixture.map(1).await;
    let grant = fixture.grant(one, 1).await.remove(0);
    assert_eq!(fixture.report(two, all_of(&grant)).await.verdicts, [Verdict::Stale]);
    assert_eq!(fixture.job(job).await.counts.done, 0);
}

#[tokio::test]
async fn outer_elements_are_leased_whole_and_empty_ones_skipped() {
    let fixture = Fixture::new().await;
    let mut submission = new_job(5);
    submission.elements.shape.nested = true;
    submission.plan.push(Level::new(Strategy::Multisession));
    submission.elements.groups = vec![0, 3, 0, 2];
    let job = fixture.submit(submission).await;
    let (one, two) = (fixture.agent(64).await, fixture.agent(64).await);
    let first = fixture.grant(one, 64).await;
    assert_eq!(first.len(), 1, "one outer element an agent");
    assert_eq!((first[0].ranges.clone(), first[0].width), (RangeSet::from_range(Range(0, 3)), 3));
    let second = fixture.grant(two, 64).await;
    assert_eq!(second[0].ranges, RangeSet::from_range(Range(3, 5)));
    assert_eq!(read!(fixture, |tx| jobs::groups(tx, job, 1, 2)), [3, 0]);
    // Inner elements finish in any order.
    let inner = [Range(1, 2), Range(0, 1), Range(2, 3)].map(|range| piece(&first[0], range));
    fixture.report(one, inner.into()).await;
    fixture.report(two, all_of(&second[0])).await;
    assert_eq!(fixture.job(job).await.state, JobState::Resolved);
}

#[tokio::test]
async fn scheduling_is_fixed_at_the_first_lease() {
    let fixture = Fixture::new().await;
    let mut submission = new_job(100);
    submission.options.scheduling = Some(2.0);
    let job = fixture.submit(submission).await;
    let load = read!(fixture, |tx| runnable_jobs(tx, 5));
    assert_eq!(load[0].chunk, Some(10), "100 elements, 5 slots, 2 chunks a slot");
    write!(fixture, |tx| leases::fix_chunk(tx, job, 10));
    let later = read!(fixture, |tx| runnable_jobs(tx, 50));
    assert_eq!(later[0].chunk, Some(10));
}

#[tokio::test]
async fn blocks_are_read_by_range() {
    let fixture = Fixture::new().await;
    let job = fixture.map(10_000).await;
    let read = read!(fixture, |tx| blocks::read(tx, job, Kind::Element, 5000, 5003, 9));
    assert_eq!(read.iter().map(|block| block.first).collect::<Vec<_>>(), [4096]);
    let (span, lengths) = read[0].slice(5000, 5003);
    assert_eq!((span.start, lengths), ((5000 - 4096) * 4, &[4, 4, 4][..]));
    let across = read!(fixture, |tx| blocks::read(tx, job, Kind::Element, 4000, 9000, 9));
    assert_eq!(across.len(), 3);
    assert!(read!(fixture, |tx| blocks::read(tx, job, Kind::Name, 0, 9, 9)).is_empty());
}

#[tokio::test]
async fn jobs_are_listed_youngest_first_in_pages() {
    let fixture = Fixture::new().await;
    let (old, young) = (fixture.map(1).await, fixture.map(0).await);
    let ids = |rows: Vec<JobRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(read!(fixture, |tx| jobs::list(tx, "g", None, 9))), [young, old]);
    let before = young.to_string();
    assert_eq!(ids(read!(fixture, |tx| jobs::list(tx, &before, None, 9))), [old]);
    let resolved = Some(JobState::Resolved);
    assert_eq!(ids(read!(fixture, |tx| jobs::list(tx, "g", resolved, 9))), [young]);
    let (spec, shape) = read!(fixture, |tx| jobs::spec(tx, old)).unwrap();
    assert_eq!((spec.id, shape), (old, Shape::default()));
}

#[tokio::test]
async fn the_largest_time_is_kept() {
    let fixture = Fixture::new().await;
    assert_eq!(read!(fixture, |tx| stored_time(tx)), None);
    for now in [5, 6] {
        write!(fixture, |tx| store_time(tx, now));
    }
    assert_eq!(read!(fixture, |tx| stored_time(tx)), Some(6));
}

#[tokio::test]
async fn an_operation_that_fails_undoes_itself_and_nothing_else() {
    let fixture = Fixture::new().await;
    let job = new_job(1);
    let twice = job.clone();
    let failed = fixture.store.write(move |tx| {
        Box::pin(async move {
            jobs::insert(tx, job.clone(), 0).await?;
            jobs::insert(tx, job, 0).await
        })
    });
    let fine =
        fixture.store.write(|tx| Box::pin(async move { tokens::ensure_admin(tx, "x", 0).await }));
    let (failed, fine) = tokio::join!(failed, fine);
    assert!(matches!(failed, Err(StoreError::Database(_))));
    fine.unwrap();
    let id = twice.id;
    assert!(read!(fixture, |tx| jobs::find(tx, id)).is_none());
}

#[tokio::test]
async fn what_comes_while_an_operation_runs_is_on_disk_with_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (begun, has_begun) = oneshot::channel();
    let (go_on, may_go_on) = oneshot::channel();
    let first = store.put(Manner::InTurn, |tx| {
        Box::pin(async move {
            tokens::ensure_admin(tx, "first", 0).await?;
            begun.send(()).unwrap();
            may_go_on.await.unwrap();
            Ok(())
        })
    });
    let first = first.await.unwrap();
    has_begun.await.unwrap();
    let before = store.writer_stats().commits.get();
    let mut others = Vec::new();
    for name in ["second", "third, which fails", "fourth"] {
        let other = store.put(Manner::InTurn, move |tx| {
            Box::pin(async move {
                tokens::ensure_admin(tx, name, 0).await?;
                if name.contains("fails") { Err(StoreError::Closed) } else { Ok(()) }
            })
        });
        others.push(other.await.unwrap());
    }
    go_on.send(()).unwrap();
    first.await.unwrap();
    let others = futures::future::join_all(others).await;
    assert_eq!(others.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(store.writer_stats().commits.get(), before + 1);
    for (name, is_there) in
        [("first", true), ("second", true), ("third, which fails", false), ("fourth", true)]
    {
        assert_eq!(read!(fixture, |tx| tokens::find(tx, name)).is_some(), is_there, "{name}");
    }
}

#[tokio::test]
async fn an_operation_that_panics_takes_nothing_else_down() {
    let fixture = Fixture::new().await;
    let panicking = fixture.store.write(|tx| {
        Box::pin(async move {
            tokens::ensure_admin(tx, "half done", 0).await?;
            assert!(std::hint::black_box(false), "a bug");
            Ok(())
        })
    });
    assert!(matches!(panicking.await, Err(StoreError::Panicked)));
    write!(fixture, |tx| tokens::ensure_admin(tx, "after", 0));
    assert!(read!(fixture, |tx| tokens::find(tx, "after")).is_some());
    assert!(read!(fixture, |tx| tokens::find(tx, "half done")).is_none());
}

#[tokio::test]
async fn jobs_that_nobody_can_run_hold_up_none_behind_them() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    for _ in 0..100 {
        let mut unplaceable = new_job(1);
        unplaceable.options.labels.insert("gpu".to_owned(), "yes".to_owned());
        fixture.submit(unplaceable).await;
    }
    let last = fixture.map(1).await;
    let grants = fixture.grant(agent, 1).await;
    assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [last]);
}

#[tokio::test]
async fn a_job_that_cannot_be_read_holds_up_no_other() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let (damaged, sound) = (fixture.map(1).await, fixture.map(1).await);
    write!(fixture, |tx| tx.execute(
        "update jobs set options = $2 where id = $1",
        crate::store::db::args![damaged, "{}}"]
    ));
    let grants = fixture.grant(agent, 1).await;
    assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [sound]);
    assert_eq!(read!(fixture, |tx| jobs::list(tx, "g", None, 9)).len(), 1);
}
