//! Agents that live, are lost, come back or leave, and what becomes of what they held.

use std::collections::BTreeMap;

use protocol::agent::{Register, Released, Verdict};
use protocol::job::{AgentState, JobState};
use protocol::{AgentId, LeaseId, Range, RangeSet};

use super::super::agents::Standing;
use super::super::leases::Lapsed;
use super::super::{StoreError, agents, leases, offers};
use super::{Fixture, all_of, new_job, piece, read, register, write};
use crate::scheduler::lease::{MAX_LOST_AGENTS, SUSPECT_AFTER_LOST};

#[tokio::test]
async fn a_lapsed_lease_is_good_until_it_is_leased_anew() {
    let fixture = Fixture::new().await;
    let (slow, quick) = (fixture.agent(1).await, fixture.agent(1).await);
    let mut submission = new_job(10);
    submission.options.chunk_size = Some(10);
    let job = fixture.submit(submission).await;
    let old = fixture.grant(slow, 1).await.remove(0);
    write!(fixture, |tx| leases::lapse(tx, slow));
    let row = fixture.job(job).await;
    assert_eq!((row.counts.running, row.slots, row.counts.waiting), (0, 0, 10));

    // Late, but nobody else has it yet.
    let late = fixture.report(slow, vec![piece(&old, Range(0, 4))]).await;
    assert_eq!(late.verdicts, [Verdict::Accepted]);

    let new = fixture.grant(quick, 1).await.remove(0);
    assert_eq!(new.ranges, RangeSet::from_range(Range(4, 10)));
    assert_eq!((new.attempt, new.lost), (2, 1));
    let stale =
        fixture.report(slow, vec![piece(&old, Range(4, 6)), piece(&old, Range(0, 4))]).await;
    assert_eq!(stale.verdicts, [Verdict::Stale, Verdict::Accepted]);

    fixture.report(quick, all_of(&new)).await;
    let row = fixture.job(job).await;
    assert_eq!((row.state, row.counts.done), (JobState::Resolved, 10));
}

#[tokio::test]
async fn what_an_agent_has_finished_is_accepted_after_it_is_gone_and_forgotten() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(3).await;
    let job = fixture.map(4).await;
    let grants = fixture.grant(agent, 3).await;
    write!(fixture, |tx| leases::lapse(tx, agent));
    write!(fixture, |tx| agents::set_state(tx, agent, AgentState::Gone));
    let gone = fixture.report(agent, all_of(&grants[0])).await;
    assert_eq!((gone.verdicts, gone.jobs), (vec![Verdict::Accepted], vec![job]));
    // As long as it holds something its name is known.
    let days = 3 * 24 * 3600 * 1000;
    write!(fixture, |tx| agents::forget_gone(tx, days));
    assert!(read!(fixture, |tx| agents::find(tx, agent, 0)).is_some());
    // What an earlier version has forgotten, too, is good by its leases.
    write!(fixture, |tx| forget(tx, agent));
    assert!(read!(fixture, |tx| agents::find(tx, agent, 0)).is_none());
    for _ in 0..2 {
        let forgotten = fixture.report(agent, all_of(&grants[1])).await;
        assert_eq!(forgotten.verdicts, [Verdict::Accepted]);
    }
    assert_eq!(fixture.job(job).await.counts.done, 2);
    // What another agent has been given meanwhile is stale.
    let other = fixture.agent(1).await;
    assert_eq!(fixture.grant(other, 1).await[0].ranges, grants[2].ranges);
    let late = fixture.report(agent, all_of(&grants[2])).await;
    assert_eq!(late.verdicts, [Verdict::Stale]);
    assert_eq!(fixture.job(job).await.counts.done, 2);
}

async fn forget(tx: &mut super::super::db::Tx<'_>, agent: AgentId) -> Result<(), StoreError> {
    tx.execute("delete from agents where id = $1", super::super::db::args![agent]).await?;
    Ok(())
}

#[tokio::test]
async fn an_agent_that_comes_back_goes_on_with_what_was_not_leased_anew() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(1).await);
    let grant = fixture.grant(agent, 1).await.remove(0);
    write!(fixture, |tx| leases::lapse(tx, agent));
    assert!(fixture.is_runnable(job).await);
    let id = grant.id;
    assert_eq!(write!(fixture, |tx| leases::revive(tx, agent, id)), Some(job));
    assert!(!fixture.is_runnable(job).await);
    assert_eq!(fixture.job(job).await.counts.running, 1);
    assert_eq!(write!(fixture, |tx| leases::revive(tx, agent, LeaseId::new())), None);
    fixture.report(agent, all_of(&grant)).await;
    assert_eq!(fixture.job(job).await.state, JobState::Resolved);
}

#[tokio::test]
async fn what_is_released_carries_its_deaths_and_no_blame() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.agent(1).await, fixture.agent(1).await);
    fixture.map(1).await;
    let grant = fixture.grant(one, 1).await.remove(0);
    let released = Released::whole(grant.id, BTreeMap::from([(0, 1)]));
    let again = released.clone();
    assert_eq!(write!(fixture, |tx| leases::release(tx, one, &released)), Some(grant.job));
    assert_eq!(write!(fixture, |tx| leases::release(tx, one, &again)), None);
    let stale = fixture.report(one, all_of(&grant)).await;
    assert_eq!(stale.verdicts, [Verdict::Stale], "what was given back cannot be reported");
    let next = fixture.grant(two, 1).await.remove(0);
    assert_eq!((next.lost, next.attempt, next.deaths), (0, 2, BTreeMap::from([(0, 1)])));
}

#[tokio::test]
async fn an_element_that_takes_agent_after_agent_down_is_given_up() {
    let fixture = Fixture::new().await;
    let job = fixture.map(1).await;
    for lost in 1..=MAX_LOST_AGENTS {
        let agent = fixture.agent(1).await;
        let grant = fixture.grant(agent, 1).await.remove(0);
        let lapsed: Lapsed = write!(fixture, |tx| leases::lapse(tx, agent));
        if lost < MAX_LOST_AGENTS {
            assert_eq!(lapsed.jobs, [job]);
        } else {
            assert_eq!(lapsed.given_up, [(grant, 0)]);
        }
    }
}

#[tokio::test]
async fn of_what_may_have_taken_many_agents_down_one_is_on_an_agent_at_a_time() {
    let fixture = Fixture::new().await;
    let mut submission = new_job(2);
    submission.options.chunk_size = Some(1);
    fixture.submit(submission).await;
    for _ in 0..SUSPECT_AFTER_LOST {
        let agent = fixture.agent(2).await;
        assert_eq!(fixture.grant(agent, 2).await.len(), 2);
        write!(fixture, |tx| leases::lapse(tx, agent));
    }
    let (one, two) = (fixture.agent(2).await, fixture.agent(2).await);
    let first = fixture.grant(one, 2).await;
    assert_eq!((first.len(), first[0].lost), (1, SUSPECT_AFTER_LOST));
    assert!(fixture.grant(one, 1).await.is_empty(), "while it runs the first");
    assert_eq!(fixture.grant(two, 2).await.len(), 1);
}

/// The slots that live agents offer, as they are counted and recounted.
async fn offered(fixture: &Fixture) -> u64 {
    let counted = read!(fixture, |tx| offers::all(tx));
    write!(fixture, |tx| offers::recount(tx));
    assert_eq!(read!(fixture, |tx| offers::all(tx)), counted);
    counted.iter().map(|offer| offer.slots).sum()
}

#[tokio::test]
async fn agents_live_while_they_are_heard_of() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(4).await;
    assert_eq!(offered(&fixture).await, 4);
    assert!(read!(fixture, |tx| agents::overdue(tx, 1000)).is_empty());
    assert_eq!(read!(fixture, |tx| agents::overdue(tx, 1001)), [agent]);
    let live = Standing { state: AgentState::Live, leases: Vec::new() };
    assert_eq!(write!(fixture, |tx| agents::keep_alive(tx, agent, 2000)), Some(live.clone()));
    assert!(read!(fixture, |tx| agents::overdue(tx, 1001)).is_empty());
    // What was held up on its way takes nothing back.
    assert_eq!(write!(fixture, |tx| agents::keep_alive(tx, agent, 1500)), Some(live.clone()));
    let again = Register { id: agent, ..register(4) };
    write!(fixture, |tx| agents::register(tx, &again, 500, 1500));
    assert!(read!(fixture, |tx| agents::overdue(tx, 2000)).is_empty());
    write!(fixture, |tx| agents::keep_all_alive(tx, 3000));
    assert!(read!(fixture, |tx| agents::overdue(tx, 2999)).is_empty());
    let known = read!(fixture, |tx| agents::find(tx, agent, 0)).unwrap();
    assert_eq!((known.busy, known.alive_for, known.labels["zone"].as_str()), (0, 3.0, "a"));

    // Who is known to be dead is overdue at once, and was not dead before.
    write!(fixture, |tx| agents::end_life(tx, agent, 2500));
    let known = read!(fixture, |tx| agents::overdue(tx, 2500));
    assert_eq!((known, read!(fixture, |tx| agents::overdue(tx, 2499))), (vec![agent], vec![]));
    write!(fixture, |tx| agents::end_life(tx, agent, 2900));
    assert_eq!(read!(fixture, |tx| agents::overdue(tx, 2500)), [agent], "it gives no life");
    write!(fixture, |tx| agents::keep_all_alive(tx, 3000));

    assert_eq!(read!(fixture, |tx| agents::standing(tx, AgentId::new())), None);
    assert_eq!(read!(fixture, |tx| agents::standing(tx, agent)), Some(live));
    fixture.map(2).await;
    let held: Vec<_> = fixture.grant(agent, 2).await.iter().map(|grant| grant.id).collect();
    assert_eq!(held.len(), 2);
    assert_eq!(read!(fixture, |tx| agents::list(tx, "", 9, false, 0))[0].busy, 2);
    assert!(write!(fixture, |tx| agents::set_state(tx, agent, AgentState::Draining)));
    for standing in [
        read!(fixture, |tx| agents::standing(tx, agent)),
        write!(fixture, |tx| agents::keep_alive(tx, agent, 2000)),
    ] {
        let Standing { state, mut leases } = standing.unwrap();
        leases.sort_unstable();
        assert_eq!((state, &leases), (AgentState::Draining, &held));
    }
    assert_eq!(offered(&fixture).await, 0);
    assert!(write!(fixture, |tx| agents::set_state(tx, agent, AgentState::Gone)));
    write!(fixture, |tx| agents::end_life(tx, agent, 1));
    let alive_for = read!(fixture, |tx| agents::find(tx, agent, 0)).unwrap().alive_for;
    assert_eq!(alive_for, 3.0, "of one that is gone it stays, for it is forgotten by that");
    let gone = write!(fixture, |tx| agents::keep_alive(tx, agent, 9000));
    assert_eq!(gone, None, "it must register again");
    assert!(read!(fixture, |tx| agents::list(tx, "", 9, false, 0)).is_empty());
    assert_eq!(read!(fixture, |tx| agents::list(tx, "", 9, true, 0)).len(), 1);
}

#[tokio::test]
async fn agents_that_left_are_forgotten_after_a_day() {
    let fixture = Fixture::new().await;
    let (idle, holding) = (fixture.agent(1).await, fixture.agent(1).await);
    fixture.map(1).await;
    fixture.grant(holding, 1).await;
    for agent in [idle, holding] {
        write!(fixture, |tx| agents::set_state(tx, agent, AgentState::Gone));
    }
    let two_days = 2 * 24 * 3600 * 1000;
    write!(fixture, |tx| agents::forget_gone(tx, two_days));
    let left = read!(fixture, |tx| agents::list(tx, "", 9, true, 0));
    assert_eq!(left.iter().map(|agent| agent.id).collect::<Vec<_>>(), [holding]);
}

#[tokio::test]
async fn an_agent_that_is_gone_gets_nothing_and_what_it_has_is_found() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    fixture.map(2).await;
    fixture.grant(agent, 1).await;
    write!(fixture, |tx| agents::set_state(tx, agent, AgentState::Gone));
    assert!(fixture.grant(agent, 1).await.is_empty());
    assert_eq!(read!(fixture, |tx| agents::overdue(tx, 0)), [agent]);
    write!(fixture, |tx| leases::lapse(tx, agent));
    assert!(read!(fixture, |tx| agents::overdue(tx, 0)).is_empty());
}

#[tokio::test]
async fn an_agent_that_comes_back_again_and_again_was_never_lost() {
    let fixture = Fixture::new().await;
    let (agent, job) = (fixture.agent(1).await, fixture.map(1).await);
    let id = fixture.grant(agent, 1).await.remove(0).id;
    for _ in 0..2 * MAX_LOST_AGENTS {
        assert!(write!(fixture, |tx| leases::lapse(tx, agent)).given_up.is_empty());
        assert_eq!(write!(fixture, |tx| leases::revive(tx, agent, id)), Some(job));
    }
}

#[tokio::test]
async fn a_lease_of_which_part_was_leased_anew_is_not_revived_but_may_be_reported() {
    let fixture = Fixture::new().await;
    let (slow, quick) = (fixture.agent(1).await, fixture.agent(1).await);
    let mut submission = new_job(10);
    submission.options.chunk_size = Some(10);
    fixture.submit(submission).await;
    let old = fixture.grant(slow, 1).await.remove(0);
    for _ in 0..3 {
        // With so many agents lost it is leased one by one.
        let id = old.id;
        write!(fixture, |tx| leases::lapse(tx, slow));
        write!(fixture, |tx| tx
            .execute("update leases set lost = 3 where id = $1", crate::store::db::args![id]));
    }
    assert_eq!(fixture.grant(quick, 1).await[0].ranges, RangeSet::from_range(Range(0, 1)));
    let id = old.id;
    assert_eq!(write!(fixture, |tx| leases::revive(tx, slow, id)), None);
    let late = fixture.report(slow, vec![piece(&old, Range(1, 4)), piece(&old, Range(0, 2))]).await;
    assert_eq!(late.verdicts, [Verdict::Accepted, Verdict::Stale]);
}
