//! What those who watch a job read: outcomes in both orders, and what was said.

use protocol::Range;
use protocol::job::JobState;

use super::super::outcomes::{self, Outcomes, Start};
use super::{Fixture, collecting, failing, new_job, piece, read, write};

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
    let all = read!(fixture, |tx| outcomes::read(tx, job, ranked(0), false, 9));
    assert_eq!(firsts(&all), [6, 0, 4]);
    assert_eq!(all.iter().map(|row| row.rank).collect::<Vec<_>>(), [0, 3, 7]);
    assert!(all.iter().all(|row| row.agent == agent && row.agent_name == "host"));
    let inside = read!(fixture, |tx| outcomes::read(tx, job, ranked(5), false, 9));
    assert_eq!(firsts(&inside), [0, 4], "the piece that holds rank 5 comes first");
    assert!(read!(fixture, |tx| outcomes::read(tx, job, ranked(9), false, 9)).is_empty());

    let indexed = |index| Start::Index(index);
    let by_index = read!(fixture, |tx| outcomes::read(tx, job, indexed(5), false, 9));
    assert_eq!(firsts(&by_index), [4, 6]);
    assert!(read!(fixture, |tx| outcomes::read(tx, job, indexed(9), false, 9)).is_empty());
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
    let by_index = read!(fixture, |tx| outcomes::read(tx, job, Start::Index(0), true, 9));
    assert_eq!(firsts(&by_index), [1, 5]);
    let by_rank = read!(fixture, |tx| outcomes::read(tx, job, Start::Rank(0), true, 9));
    assert_eq!(firsts(&by_rank), [5, 1]);
    let behind = read!(fixture, |tx| outcomes::read(tx, job, Start::Rank(1), true, 9));
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
    fixture.report(agent, super::all_of(&grant)).await;
    write!(fixture, |tx| tx.execute("delete from agents", crate::store::db::args![]));
    assert_eq!(fixture.outcomes(job).await[0].agent_name, "host");
}
