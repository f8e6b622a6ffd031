//! Leases ahead, and what idle slots take over of busy agents, by example.

use std::collections::{BTreeMap, HashSet};

use protocol::agent::{Register, Released, Verdict};
use protocol::job::JobState;
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::super::jobs::NewJob;
use super::super::leases::{self, Grant};
use super::super::reports::NewPiece;
use super::super::spares;
use super::super::{agents, runnable};
use super::{Decided, Fixture, all_of, decision, failing, new_job, piece, read, register, write};
use crate::presence::{self, Presented};
use crate::scheduler::takeover::Spare;

/// A part of a lease.
fn part(grant: &Grant, range: Range) -> Released {
    let part = Some(RangeSet::from_range(range));
    Released { part, ..Released::whole(grant.id, BTreeMap::new()) }
}

/// One round for an agent whose only slot is free.
async fn grant(fixture: &Fixture, agent: AgentId) -> Vec<Grant> {
    write!(fixture, |tx| decision(tx, agent, 1, 1, 0)).grants
}

/// Outcomes that took 50 milliseconds each.
fn slow(grant: &Grant) -> Vec<NewPiece> {
    let pieces = all_of(grant).into_iter();
    pieces
        .map(|piece| NewPiece { micros: 50_000 * piece.block.lengths.len() as u64, ..piece })
        .collect()
}

/// A map of 161 elements of 50 milliseconds, of which the first is done and ten are leased: to `busy`,
/// in a cluster of two slots.
async fn ten_leased() -> (Fixture, AgentId, AgentId, JobId, Grant) {
    let fixture = Fixture::new().await;
    let (busy, idle) = (fixture.agent(1).await, fixture.agent(1).await);
    let job = fixture.map(161).await;
    let first = grant(&fixture, busy).await.remove(0);
    fixture.report(busy, slow(&first)).await;
    let ten = grant(&fixture, busy).await.remove(0);
    assert_eq!(ten.ranges.ranges(), [Range(1, 11)]);
    (fixture, busy, idle, job, ten)
}

/// The one lease that can spare something.
async fn spare(fixture: &Fixture) -> Option<Spare> {
    let mut spares =
        read!(fixture, |tx| async { spares::largest(tx, &HashSet::new(), 10, 107).await });
    assert!(spares.len() < 2, "{spares:?}");
    spares.pop()
}

#[tokio::test]
async fn what_has_not_begun_can_be_spared_until_it_is_reported() {
    let (fixture, busy, _, job, ten) = ten_leased().await;
    let elements = 9;
    assert_eq!(
        spare(&fixture).await,
        Some(Spare { lease: ten.id, holder: busy, job, elements, age: 100 })
    );
    for (until, left) in [(5, Some(5)), (10, None)] {
        let range = Range(if until == 5 { 1 } else { 5 }, until);
        fixture.report(busy, vec![piece(&ten, range)]).await;
        assert_eq!(spare(&fixture).await.map(|spare| spare.elements), left);
    }
    let asked = HashSet::from([ten.id]);
    let others = read!(fixture, |tx| async move { spares::largest(tx, &asked, 10, 107).await });
    assert_eq!(others, []);
}

#[tokio::test]
async fn a_part_that_is_given_back_is_leased_anew_and_costs_no_attempt() {
    let (fixture, busy, idle, job, ten) = ten_leased().await;
    let before = fixture.job(job).await;
    let (given, again) = (part(&ten, Range(6, 11)), part(&ten, Range(6, 11)));
    assert_eq!(write!(fixture, |tx| leases::release(tx, busy, &given)), Some(job));
    assert_eq!(write!(fixture, |tx| leases::release(tx, busy, &again)), None, "it is given once");
    let row = fixture.job(job).await;
    assert_eq!((row.counts.running, row.slots), (before.counts.running - 5, before.slots));
    assert_eq!(spare(&fixture).await.map(|spare| spare.elements), Some(4));

    let stale = fixture.report(busy, vec![piece(&ten, Range(6, 7))]).await;
    assert_eq!(stale.verdicts, [Verdict::Stale], "it is not the agent's any more");
    let next = grant(&fixture, idle).await.remove(0);
    assert_eq!((next.ranges.ranges()[0].0, next.attempt, next.lost), (6, 1, 0));
    let good = fixture.report(busy, vec![piece(&ten, Range(1, 6))]).await;
    assert_eq!(good.verdicts, [Verdict::Accepted], "the rest of the lease goes on");
    fixture.report(idle, all_of(&next)).await;
    loop {
        let grants = grant(&fixture, idle).await;
        if grants.is_empty() {
            break;
        }
        fixture.report(idle, grants.iter().flat_map(all_of).collect()).await;
    }
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.running, row.slots), (JobState::Resolved, 0, 0));
}

#[tokio::test]
async fn a_part_that_is_all_that_remains_ends_the_lease() {
    let (fixture, busy, idle, job, ten) = ten_leased().await;
    let all = part(&ten, Range(0, 161));
    assert_eq!(write!(fixture, |tx| leases::release(tx, busy, &all)), Some(job));
    let row = fixture.job(job).await;
    assert_eq!((row.counts.running, row.slots), (0, 0));
    assert_eq!(read!(fixture, |tx| leases::of_agent(tx, busy)), []);
    assert_eq!(grant(&fixture, idle).await[0].ranges.ranges()[0].0, 1);
}

#[tokio::test]
async fn nobody_gives_back_a_part_of_what_is_not_its_own() {
    let (fixture, busy, idle, _, ten) = ten_leased().await;
    let foreign = part(&ten, Range(6, 11));
    assert_eq!(write!(fixture, |tx| leases::release(tx, idle, &foreign)), None);
    let outside = part(&ten, Range(0, 1));
    assert_eq!(write!(fixture, |tx| leases::release(tx, busy, &outside)), None);
    let no_lease = Released { id: LeaseId::new(), ..part(&ten, Range(6, 11)) };
    assert_eq!(write!(fixture, |tx| leases::release(tx, busy, &no_lease)), None);
    assert_eq!(read!(fixture, |tx| leases::of_agent(tx, busy)), [ten]);
}

#[tokio::test]
async fn an_idle_slot_asks_for_what_a_busy_one_has_not_begun_when_nothing_else_is_there() {
    let (fixture, busy, idle, _, _) = ten_leased().await;
    let decided = write!(fixture, |tx| decision(tx, idle, 1, 1, 0));
    assert_eq!(
        (decided.grants.len(), decided.takeover.wanted),
        (1, vec![]),
        "there are new elements"
    );
    loop {
        let grants = grant(&fixture, busy).await;
        if grants.is_empty() {
            break;
        }
        fixture.report(busy, grants.iter().flat_map(slow).collect()).await;
    }
    let most = read!(fixture, |tx| async { spares::largest(tx, &HashSet::new(), 1, 107).await });
    let decided: Decided = write!(fixture, |tx| decision(tx, idle, 1, 1, 0));
    let asked: Vec<LeaseId> = decided.takeover.wanted.iter().map(|spare| spare.lease).collect();
    assert_eq!((decided.grants.len(), asked), (0, vec![most[0].lease]));
    // Who has all slots busy asks for nothing.
    let decided: Decided = write!(fixture, |tx| decision(tx, idle, 1, 0, 1));
    assert!(decided.grants.is_empty() && decided.takeover.wanted.is_empty());
}

#[tokio::test]
async fn an_agent_learns_whether_something_is_left() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(2).await);
    for more in [true, false] {
        let decided = write!(fixture, |tx| decision(tx, agent, 1, 1, 0));
        assert_eq!((decided.grants[0].job, decided.more), (job, more));
    }
    let decided = write!(fixture, |tx| decision(tx, agent, 1, 1, 0));
    assert!(decided.grants.is_empty() && !decided.more);
}

/// As both say: the quick question, and the answer in full.
async fn is_nothing_sought(fixture: &Fixture) -> bool {
    let is_any = read!(fixture, |tx| runnable::is_any_sought(tx));
    assert_eq!(read!(fixture, |tx| runnable::sought(tx)).is_empty(), !is_any);
    !is_any
}

#[tokio::test]
async fn there_is_something_to_give_while_anything_can_be_leased_or_taken_over() {
    let fixture = Fixture::new().await;
    assert!(is_nothing_sought(&fixture).await);
    let (fixture, busy, _, _, ten) = ten_leased().await;
    assert!(!is_nothing_sought(&fixture).await, "there are new elements");
    let mut held = vec![ten.clone()];
    loop {
        let grants = grant(&fixture, busy).await;
        if grants.is_empty() {
            break;
        }
        held.extend(grants);
    }
    assert!(!is_nothing_sought(&fixture).await, "not all has begun");
    let begun = |grant: &Grant| {
        let rest = grant.ranges.ranges()[0];
        (rest.len() > 1).then(|| piece(grant, Range(rest.0, rest.1 - 1)))
    };
    fixture.report(busy, held.iter().filter_map(begun).collect()).await;
    assert!(is_nothing_sought(&fixture).await, "all has begun");
}

/// The slots that a job has at work, and those of an agent that are busy.
async fn at_work(fixture: &Fixture, job: JobId, agent: AgentId) -> (u64, u32) {
    let busy = read!(fixture, |tx| agents::find(tx, agent, 9)).unwrap().busy;
    let totals = read!(fixture, |tx| agents::totals(tx));
    assert_eq!(totals.busy, u64::from(busy));
    (fixture.job(job).await.slots, busy)
}

#[tokio::test]
async fn a_lease_ahead_is_given_of_quick_elements_and_takes_a_slot_when_one_is_free() {
    let (fixture, busy, _, job, ten) = ten_leased().await;
    let decided = write!(fixture, |tx| decision(tx, busy, 1, 0, 1));
    let [ahead] = &decided.grants[..] else { panic!("{decided:?}") };
    assert_eq!((ahead.job, ahead.ranges.ranges()[0].0), (job, 11));
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "it waits");
    let asked = HashSet::from([ten.id]);
    let all = read!(fixture, |tx| async move { spares::largest(tx, &asked, 10, 107).await });
    assert_eq!(all[0].elements, ahead.ranges.len(), "all of it can be spared");
    fixture.report(busy, all_of(&ten)).await;
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "it has begun");
    let spare = spare(&fixture).await.unwrap();
    assert_eq!((spare.lease, spare.elements), (ahead.id, ahead.ranges.len() - 1));
    fixture.report(busy, all_of(ahead)).await;
    assert_eq!(at_work(&fixture, job, busy).await, (0, 0));
}

#[tokio::test]
async fn as_many_leases_ahead_have_begun_as_the_agent_has_slots_for() {
    let (fixture, busy, _, job, ten) = ten_leased().await;
    let mut ahead = Vec::new();
    for _ in 0..3 {
        let decided = write!(fixture, |tx| decision(tx, busy, 1, 0, 1));
        ahead.extend(decided.grants);
    }
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "three wait");
    // One report tells the end of what was at work and of what has begun behind it.
    let ended = [all_of(&ten), all_of(&ahead[0])].concat();
    fixture.report(busy, ended).await;
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "one has begun, one waits");
    fixture.report(busy, [all_of(&ahead[1]), all_of(&ahead[2])].concat()).await;
    assert_eq!(at_work(&fixture, job, busy).await, (0, 0));
    // The agent had asked before the last report, and its slot has been free since.
    let late = write!(fixture, |tx| decision(tx, busy, 1, 0, 1)).grants;
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "what is given late begins at once");
    fixture.report(busy, all_of(&late[0])).await;
    assert_eq!(at_work(&fixture, job, busy).await, (0, 0));
}

#[tokio::test]
async fn a_lease_ahead_counts_as_begun_from_its_first_report_on() {
    let (fixture, busy, _, job, _) = ten_leased().await;
    let decided = write!(fixture, |tx| decision(tx, busy, 1, 0, 1));
    let ahead = decided.grants[0].clone();
    fixture.report(busy, vec![piece(&ahead, Range(11, 12))]).await;
    assert_eq!(at_work(&fixture, job, busy).await, (2, 1));
    let id = ahead.id;
    write!(fixture, |tx| leases::lapse(tx, busy));
    assert_eq!(at_work(&fixture, job, busy).await, (0, 0));
    assert_eq!(write!(fixture, |tx| leases::revive(tx, busy, id)), Some(job));
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1));
}

#[tokio::test]
async fn a_lease_ahead_that_comes_back_begins_if_a_slot_is_free() {
    let (fixture, busy, _, job, _) = ten_leased().await;
    let decided = write!(fixture, |tx| decision(tx, busy, 1, 0, 1));
    let ahead = decided.grants[0].id;
    write!(fixture, |tx| leases::lapse(tx, busy));
    let agent = Register { id: busy, leases: vec![ahead], ..register(1) };
    let presented = write!(fixture, |tx| presence::register(tx, &agent, 9, 1000));
    // It is at work again, and then begins.
    assert_eq!(presented, Presented { revoked: Vec::new(), jobs: vec![job, job] });
    // The agent holds nothing else that could keep it waiting.
    assert_eq!(at_work(&fixture, job, busy).await, (1, 1), "it has begun, once");
    let whole = [Released::whole(ahead, BTreeMap::new())];
    assert_eq!(write!(fixture, |tx| presence::release(tx, busy, &whole)), [job]);
    assert_eq!(at_work(&fixture, job, busy).await, (0, 0));
}

/// Two jobs, each with a lease at work and one ahead, at an agent of two slots.
async fn two_behind_two() -> (Fixture, [JobId; 2], AgentId, Vec<Grant>, Vec<Grant>) {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(2).await;
    let a = fixture.map(161).await;
    // Of two owners each gets a slot.
    let b = fixture.submit(NewJob { owner: "bob".to_owned(), ..new_job(161) }).await;
    let first = write!(fixture, |tx| decision(tx, agent, 2, 2, 0)).grants;
    fixture.report(agent, first.iter().flat_map(slow).collect()).await;
    let at_work = write!(fixture, |tx| decision(tx, agent, 2, 2, 0)).grants;
    let ahead = write!(fixture, |tx| decision(tx, agent, 2, 0, 2)).grants;
    for grants in [&at_work, &ahead] {
        assert_eq!(grants.iter().map(|grant| grant.job).collect::<Vec<_>>(), [a, b]);
    }
    (fixture, [a, b], agent, at_work, ahead)
}

/// How much a lease can spare.
async fn spares_of(fixture: &Fixture, lease: &Grant) -> u64 {
    let all = read!(fixture, |tx| async { spares::largest(tx, &HashSet::new(), 10, 107).await });
    all.iter().find(|spare| spare.lease == lease.id).map_or(0, |spare| spare.elements)
}

#[tokio::test]
async fn a_lease_ahead_begins_when_what_was_at_work_is_given_back() {
    let (fixture, [a, b], agent, held, ahead) = two_behind_two().await;
    let given = [Released::whole(held[0].id, BTreeMap::new())];
    // The oldest that waits is of the same job.
    assert_eq!(write!(fixture, |tx| presence::release(tx, agent, &given)), [a, a]);
    assert_eq!(at_work(&fixture, a, agent).await, (1, 2));
    assert_eq!(at_work(&fixture, b, agent).await, (1, 2));
    assert_eq!(spares_of(&fixture, &ahead[1]).await, ahead[1].ranges.len(), "it waits");
}

#[tokio::test]
async fn leases_ahead_of_several_jobs_begin_with_one_report() {
    let (fixture, jobs, agent, held, ahead) = two_behind_two().await;
    let outcome = fixture.report(agent, held.iter().flat_map(all_of).collect()).await;
    for (job, ahead) in jobs.into_iter().zip(&ahead) {
        assert_eq!(at_work(&fixture, job, agent).await, (1, 2));
        assert_eq!(spares_of(&fixture, ahead).await, ahead.ranges.len() - 1);
        assert!(outcome.jobs.contains(&job));
    }
}

#[tokio::test]
async fn a_lease_ahead_begins_when_the_job_before_it_ends() {
    let (fixture, [a, b], agent, held, ahead) = two_behind_two().await;
    let first = held[0].ranges.ranges()[0].0;
    let outcome = fixture.report(agent, vec![failing(&held[0], first, false)]).await;
    assert_eq!((outcome.ended, outcome.to_tell), (vec![a], vec![agent]));
    assert!(outcome.jobs.contains(&b), "who watches it must be told");
    assert_eq!(at_work(&fixture, a, agent).await, (0, 2));
    assert_eq!(at_work(&fixture, b, agent).await, (2, 2), "what waited has begun");
    fixture.report(agent, [all_of(&held[1]), all_of(&ahead[1])].concat()).await;
    assert_eq!(at_work(&fixture, b, agent).await, (0, 0));
}

#[tokio::test]
async fn a_chunk_that_stays_whole_can_be_spared_only_while_it_waits() {
    let fixture = Fixture::new().await;
    let busy = fixture.agent(1).await;
    let mut job = new_job(161);
    job.options.chunk_size = Some(10);
    fixture.submit(job).await;
    let first = grant(&fixture, busy).await.remove(0);
    fixture.report(busy, all_of(&first)).await;
    let ten = grant(&fixture, busy).await.remove(0);
    let ahead = write!(fixture, |tx| decision(tx, busy, 1, 0, 2)).grants;
    let spared = [spares_of(&fixture, &ahead[0]).await, spares_of(&fixture, &ahead[1]).await];
    assert_eq!(spared, [10, 10]);
    fixture.report(busy, all_of(&ten)).await;
    assert_eq!(spares_of(&fixture, &ahead[0]).await, 0, "it has begun");
    let from = ahead[1].ranges.ranges()[0].0;
    fixture.report(busy, vec![piece(&ahead[1], Range(from, from + 1))]).await;
    assert_eq!(spares_of(&fixture, &ahead[1]).await, 0, "it has begun by its own report");
}
