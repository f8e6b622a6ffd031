//! What those who watch a job read: outcomes in both orders, and what was said.

use protocol::job::{AgentState, JobState};
use protocol::{AgentId, JobId, Range};

use super::super::agents::{self, Totals};
use super::super::ends;
use super::super::jobs::{self, Group};
use super::super::logs::{self, Added, KEPT, Packed, Stored};
use super::super::outcomes::{self, Outcomes, Start};
use super::{Fixture, all_of, collecting, failing, new_job, piece, read, write};

fn firsts(rows: &[Outcomes]) -> Vec<u64> {
    rows.iter().map(|row| row.block.first).collect()
}

#[tokio::test]
async fn outcomes_are_read_in_the_order_in_which_they_were_accepted() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut submission = new_job(10);
    submission.options.chunk_size = Some(10);
    let job = fixture.submit(submission).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    // Two pieces of one report, then one of another.
    fixture.report(agent, vec![piece(&grant, Range(6, 9)), piece(&grant, Range(0, 4))]).await;
    fixture.report(agent, vec![piece(&grant, Range(4, 6))]).await;
    let ranked = |rank| Start::Rank(rank);
    let all = read!(fixture, |tx| outcomes::read_from(tx, job, ranked(0), false, 9));
    assert_eq!(firsts(&all), [6, 0, 4]);
    assert_eq!(all.iter().map(|row| row.rank).collect::<Vec<_>>(), [0, 3, 7]);
    assert!(all.iter().all(|row| row.agent == agent && row.agent_name == "host"));
    let inside = read!(fixture, |tx| outcomes::read_from(tx, job, ranked(5), false, 9));
    assert_eq!(firsts(&inside), [0, 4], "the piece that holds rank 5 comes first");
    assert!(read!(fixture, |tx| outcomes::read_from(tx, job, ranked(9), false, 9)).is_empty());

    let indexed = |index| Start::Index(index);
    let by_index = read!(fixture, |tx| outcomes::read_from(tx, job, indexed(5), false, 9));
    assert_eq!(firsts(&by_index), [4, 6]);
    assert!(read!(fixture, |tx| outcomes::read_from(tx, job, indexed(9), false, 9)).is_empty());
}

#[tokio::test]
async fn pieces_without_errors_are_not_read_by_those_who_look_for_errors() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let mut submission = collecting(6);
    submission.options.chunk_size = Some(6);
    let job = fixture.submit(submission).await;
    let grant = fixture.grant(agent, 1).await.remove(0);
    let pieces =
        vec![failing(&grant, 5, false), piece(&grant, Range(2, 5)), failing(&grant, 1, false)];
    fixture.report(agent, pieces).await;
    fixture.report(agent, vec![piece(&grant, Range(0, 1))]).await;
    assert_eq!(fixture.job(job).await.state, JobState::Resolved);
    let by_index = read!(fixture, |tx| outcomes::read_from(tx, job, Start::Index(0), true, 9));
    assert_eq!(firsts(&by_index), [1, 5]);
    let by_rank = read!(fixture, |tx| outcomes::read_from(tx, job, Start::Rank(0), true, 9));
    assert_eq!(firsts(&by_rank), [5, 1]);
    let behind = read!(fixture, |tx| outcomes::read_from(tx, job, Start::Rank(1), true, 9));
    assert_eq!(firsts(&behind), [1]);

    let accepted = read!(fixture, |tx| outcomes::accepted(tx, job, 1, 9));
    let told: Vec<_> = accepted.iter().map(|a| (a.rank, a.first, a.n, a.failed.clone())).collect();
    assert_eq!(told, [(1, 2, 3, vec![]), (4, 1, 1, vec![1]), (5, 0, 1, vec![])]);
    assert!(read!(fixture, |tx| outcomes::accepted(tx, job, 6, 9)).is_empty());
}

#[tokio::test]
async fn the_name_of_an_agent_stays_with_what_it_did() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(1).await);
    let grant = fixture.grant(agent, 1).await.remove(0);
    fixture.report(agent, all_of(&grant)).await;
    write!(fixture, |tx| tx.execute("delete from agents", crate::store::db::args![]));
    assert_eq!(fixture.outcomes(job).await[0].agent_name, "host");
}

#[tokio::test]
async fn the_outer_element_of_an_element_is_found_past_empty_ones() {
    let fixture = Fixture::new().await;
    let mut submission = new_job(5);
    submission.elements.shape.nested = true;
    submission.elements.groups = vec![0, 3, 0, 2];
    let job = fixture.submit(submission).await;
    let (first, second) =
        (Group { position: 1, first: 0, n: 3 }, Group { position: 3, first: 3, n: 2 });
    for (index, group) in [(0, first), (2, first), (3, second), (4, second)] {
        let found = read!(fixture, |tx| jobs::group_of(tx, job, index));
        assert_eq!(found, Some(group), "of element {index}");
        assert!(group.holds(index));
    }
    assert!(!first.holds(3));
}

fn said(bytes: u64, data: &[u8]) -> Packed {
    Packed { bytes, data: data.to_vec() }
}

async fn add(fixture: &Fixture, agent: AgentId, batch: u64, job: JobId, lines: Packed) -> Added {
    write!(fixture, |tx| logs::add(tx, agent, batch, vec![(job, vec![lines])]))
}

#[tokio::test]
async fn a_batch_of_lines_is_kept_once_and_read_by_cursor() {
    let fixture = Fixture::new().await;
    let (agent, other, job) =
        (fixture.agent(1).await, fixture.agent(1).await, fixture.map(1).await);
    for (batch, added) in [(1, Added::Now), (1, Added::Before), (3, Added::Now), (2, Added::Before)]
    {
        assert_eq!(add(&fixture, agent, batch, job, said(10, b"a")).await, added, "batch {batch}");
    }
    assert_eq!(add(&fixture, other, 1, job, said(5, b"b")).await, Added::Now);
    let unknown = AgentId::new();
    assert_eq!(add(&fixture, unknown, 1, job, said(5, b"c")).await, Added::UnknownAgent);
    let deleted = JobId::new();
    assert_eq!(add(&fixture, agent, 4, deleted, said(5, b"d")).await, Added::Now);

    let starts = |rows: Vec<Stored>| rows.iter().map(|row| row.starts).collect::<Vec<_>>();
    let all = read!(fixture, |tx| logs::read(tx, job, 0, 9));
    assert_eq!(all[2], Stored { starts: 20, agent_name: "host".to_owned(), data: b"b".to_vec() });
    assert_eq!(starts(all), [0, 10, 20]);
    assert_eq!(starts(read!(fixture, |tx| logs::read(tx, job, 10, 9))), [10, 20]);
    assert_eq!(starts(read!(fixture, |tx| logs::read(tx, job, 11, 1))), [10]);
    assert!(read!(fixture, |tx| logs::read(tx, job, 25, 9)).is_empty());
    assert!(read!(fixture, |tx| logs::read(tx, deleted, 0, 9)).is_empty());
}

#[tokio::test]
async fn the_oldest_lines_are_dropped_and_cursors_go_on() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(1).await);
    for batch in 1..=5 {
        add(&fixture, agent, batch, job, said(KEPT / 2, b"x")).await;
    }
    let kept = read!(fixture, |tx| logs::read(tx, job, 0, 9));
    assert_eq!(kept.iter().map(|row| row.starts).collect::<Vec<_>>(), [KEPT / 2 * 3, KEPT / 2 * 4]);
}

#[tokio::test]
async fn only_who_held_elements_of_a_job_may_speak_of_it() {
    let fixture = Fixture::new().await;
    let (agent, other) = (fixture.agent(1).await, fixture.agent(1).await);
    let job = fixture.map(2).await;
    let may_speak = async |agent| -> bool { read!(fixture, |tx| logs::may_speak(tx, agent, job)) };
    assert!(!may_speak(agent).await);
    let grant = fixture.grant(agent, 1).await.remove(0);
    assert!(may_speak(agent).await, "it holds one");
    fixture.report(agent, all_of(&grant)).await;
    assert!(may_speak(agent).await, "it has an outcome");
    fixture.grant(other, 1).await;
    add(&fixture, other, 1, job, said(1, b"x")).await;
    write!(fixture, |tx| ends::end(tx, job, JobState::Cancelled, None, 8));
    assert!(may_speak(other).await, "it has spoken of the job while it held one");
    let unknown = JobId::new();
    assert!(!read!(fixture, |tx| logs::may_speak(tx, agent, unknown)));
}

#[tokio::test]
async fn agents_are_added_up() {
    let fixture = Fixture::new().await;
    let none = read!(fixture, |tx| agents::totals(tx));
    assert_eq!(none, Totals::default());
    let agent = fixture.agent(4).await;
    fixture.agent(2).await;
    let draining = fixture.agent(8).await;
    write!(fixture, |tx| agents::set_state(tx, draining, AgentState::Draining));
    fixture.map(3).await;
    fixture.grant(agent, 3).await;
    let totals = read!(fixture, |tx| agents::totals(tx));
    assert_eq!(totals, Totals { live: 2, draining: 1, slots: 6, busy: 3 });
}
