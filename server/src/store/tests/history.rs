//! Histories: whatever is granted, reported late or twice, lapsed, released and revived, the books
//! are right.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use protocol::agent::Released;
use protocol::job::JobState;
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::super::db::{Tx, args};
use super::super::leases::Grant;
use super::super::{StoreError, leases};
use super::{Fixture, all_of, collecting, piece, read, write};
use crate::scheduler::lease::MAX_LOST_AGENTS;

/// What a history does next.
#[derive(Clone, Debug)]
enum Step {
    Grant {
        agent: usize,
        free: u32,
    },
    /// Reports part of some lease that was ever granted, however outdated.
    Report {
        grant: usize,
        from: u64,
        n: u64,
    },
    Release {
        grant: usize,
    },
    Lapse {
        agent: usize,
    },
    Revive {
        grant: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 1..4_u32).prop_map(|(agent, free)| Step::Grant { agent, free }),
        8 => (any::<usize>(), 0..12_u64, 1..12_u64)
            .prop_map(|(grant, from, n)| Step::Report { grant, from, n }),
        1 => any::<usize>().prop_map(|grant| Step::Release { grant }),
        1 => (0..3_usize).prop_map(|agent| Step::Lapse { agent }),
        1 => any::<usize>().prop_map(|grant| Step::Revive { grant }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// An element has one outcome at the most, the counters tell the truth, and all comes to an end.
    #[test]
    fn every_history_keeps_the_books(
        n in 1..60_usize,
        chunk in prop::option::of(1..20_u64),
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let mut submission = collecting(n);
            submission.options.chunk_size = chunk;
            let job = fixture.submit(submission).await;
            let agents = [fixture.agent(4).await, fixture.agent(4).await, fixture.agent(4).await];
            let mut granted: Vec<Grant> = Vec::new();
            for step in steps {
                run_step(&fixture, &agents, &mut granted, step).await;
                check_books(&fixture, job).await;
            }
            for agent in agents {
                write!(fixture, |tx| leases::lapse(tx, agent));
            }
            finish(&fixture, agents[0]).await;
            check_books(&fixture, job).await;
            assert_eq!(fixture.job(job).await.state, JobState::Resolved);
        });
    }
}

async fn run_step(fixture: &Fixture, agents: &[AgentId; 3], granted: &mut Vec<Grant>, step: Step) {
    let pick = |i: usize| granted.get(i % granted.len().max(1)).cloned();
    match step {
        Step::Grant { agent, free } => granted.extend(fixture.grant(agents[agent], free).await),
        Step::Report { grant, from, n } => {
            let Some(grant) = pick(grant) else { return };
            let first = grant.ranges.ranges()[0].0 + from;
            fixture.report(grant.agent, vec![piece(&grant, Range(first, first + n))]).await;
        }
        Step::Release { grant } => {
            let Some(grant) = pick(grant) else { return };
            let released = Released { id: grant.id, deaths: BTreeMap::new() };
            write!(fixture, |tx| leases::release(tx, grant.agent, &released));
        }
        Step::Lapse { agent } => {
            let agent = agents[agent];
            // Elements that many agents were lost with are the reaper's business.
            let held = read!(fixture, |tx| leases::of_agent(tx, agent));
            if held.iter().all(|lease| lease.lost + 1 < MAX_LOST_AGENTS) {
                write!(fixture, |tx| leases::lapse(tx, agent));
            }
        }
        Step::Revive { grant } => {
            let Some(grant) = pick(grant) else { return };
            write!(fixture, |tx| leases::revive(tx, grant.agent, grant.id));
        }
    }
}

async fn finish(fixture: &Fixture, agent: AgentId) {
    loop {
        let grants = fixture.grant(agent, 64).await;
        if grants.is_empty() {
            return;
        }
        fixture.report(agent, grants.iter().flat_map(all_of).collect()).await;
    }
}

/// Recounts from the rows what the counters claim.
async fn check_books(fixture: &Fixture, job: JobId) {
    let row = fixture.job(job).await;
    let mut seen = BTreeSet::new();
    let mut ranks = Vec::new();
    for outcome in fixture.outcomes(job).await {
        ranks.extend((outcome.rank..).take(outcome.block.lengths.len()));
        for index in outcome.block.first..outcome.block.end() {
            assert!(seen.insert(index), "element {index} has two outcomes");
        }
    }
    assert_eq!(seen.len() as u64, row.counts.done + row.counts.failed);
    ranks.sort_unstable();
    assert!(ranks.iter().copied().eq(0..seen.len() as u64), "ranks are not dense: {ranks:?}");
    let leases = read!(fixture, |tx| lease_rows(tx));
    let mut leased: HashMap<u64, LeaseId> = HashMap::new();
    let (mut running, mut slots) = (0, 0);
    for (id, state, ranges, of_slots) in leases {
        for index in ranges.indexes() {
            assert!(!seen.contains(&index), "finished element {index} is still leased");
            let other = leased.insert(index, id);
            assert!(other.is_none(), "element {index} stands in two leases");
        }
        if state == "live" {
            running += ranges.len();
            slots += of_slots;
        }
    }
    assert_eq!((row.counts.running, row.slots), (running, slots));
}

async fn lease_rows(tx: &mut Tx<'_>) -> Result<Vec<(LeaseId, String, RangeSet, u64)>, StoreError> {
    let rows = tx.all("select id, state, ranges, slots from leases", args![]).await?;
    rows.iter()
        .map(|row| {
            Ok((row.id("id")?, row.text("state")?, row.json("ranges")?, row.count("slots")?))
        })
        .collect()
}
