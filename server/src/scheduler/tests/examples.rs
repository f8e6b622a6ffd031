//! What the pure core decides, by example.

use super::*;

#[test]
fn the_first_leases_are_single_elements_for_every_slot() {
    let assignments = assign_all(&[job(100)], &[agent(4), agent(4)]);
    let sizes: Vec<u64> = assignments.iter().map(|a| a.ranges.len()).collect();
    assert_eq!(sizes, [1; 8]);
}

#[test]
fn the_vignettes_topology_gives_each_agent_one_outer_element_on_all_its_slots() {
    let agents = [agent(4), agent(4)];
    let assignments = assign_all(&[nested(&[4, 4, 4], None)], &agents);
    let who: HashSet<AgentId> = assignments.iter().map(|a| a.agent).collect();
    assert_eq!((assignments.len(), who.len()), (2, 2));
    assert!(assignments.iter().all(|a| (a.slots, a.width) == (4, 4)));
}

#[test]
fn a_job_that_needs_a_whole_agent_is_not_held_up_by_small_ones() {
    let mut whole = job(10);
    whole.slots = Slots::All(AllSlots::All);
    let small = job(10);
    let mut busy = agent(4);
    busy.free = 1;
    assert_eq!(assign_all(&[whole, small], &[busy]), []);
}

#[test]
fn a_job_that_fits_no_agent_holds_nothing_up() {
    let mut large = job(10);
    large.slots = Slots::Count(8);
    let assignments = assign_all(&[large, job(10)], &[agent(4)]);
    assert_eq!(assignments.len(), 4);
}

#[test]
fn a_job_that_needs_more_memory_than_is_free_is_not_held_up_by_small_ones() {
    let (mut large, mut small, simple) = (job(10), job(10), job(10));
    (large.memory, small.memory) = (12 << 30, 1 << 30);
    let mut busy = agent(4);
    (busy.free, busy.free_memory) = (3, 8 << 30);
    let assignments = assign_all(&[large.clone(), small.clone(), simple.clone()], &[busy.clone()]);
    assert!(assignments.iter().all(|a| a.job == simple.id), "slots without memory are for others");
    assert_eq!(assignments.len(), 3);
    // What its own elements use comes back to it: nothing is kept.
    large.usage.insert(busy.id, 1);
    let assignments = assign_all(&[large, small.clone()], &[busy]);
    assert!(assignments.len() == 3 && assignments.iter().all(|a| a.job == small.id));
}

#[test]
fn an_outer_element_is_as_wide_as_memory_holds() {
    let mut job = nested(&[8], None);
    job.memory = 5 << 30;
    let assignments = assign_all(&[job], &[agent(8)]);
    assert_eq!((assignments[0].slots, assignments[0].width), (3, 3));
}

#[test]
fn what_was_never_leased_is_cut_into_chunks() {
    let mut job = job(100);
    (job.cursor, job.chunk) = (100, Some(3));
    let returned = |attempt, range| Returned {
        lease: LeaseId::new(),
        ranges: RangeSet::from_range(range),
        attempt,
        lost: 0,
    };
    job.returned = vec![returned(0, Range(0, 5)), returned(1, Range(10, 15))];
    let sizes: Vec<u64> = assign_all(&[job], &[agent(4)]).iter().map(|a| a.ranges.len()).collect();
    assert_eq!(sizes, [3, 2, 5]);
}

#[test]
fn what_was_lost_with_many_agents_is_leased_one_by_one() {
    let mut job = job(100);
    job.cursor = 100;
    job.measured = Measured { elements: 1000, seconds: 0.001 };
    job.returned.push(Returned {
        lease: LeaseId::new(),
        ranges: RangeSet::from_range(Range(0, 50)),
        attempt: 3,
        lost: 3,
    });
    let assignments = assign_all(&[job], &[agent(2)]);
    assert!(assignments.iter().all(|a| a.ranges.len() == 1 && a.attempt == 4 && a.lost == 3));
    assert_eq!(assignments.len(), 2);
}

/// An agent of four slots, started again whenever it is lost, meets an element that takes it down.
#[test]
fn the_neighbours_of_an_element_that_takes_its_agent_down_are_not_given_up_with_it() {
    let guilty = 5;
    let mut job = job(12);
    job.chunk = Some(1);
    let (mut given_up, mut finished) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let mut agents = [agent(4)];
        let assignments = assign(vec![job.clone()], &mut agents, &mut HashMap::new());
        let taken = |lease: Option<LeaseId>| {
            assignments.iter().any(|assignment| lease.is_some() && assignment.from == lease)
        };
        job.returned.retain(|returned| !taken(Some(returned.lease)));
        let new = assignments.iter().filter(|assignment| assignment.from.is_none()).count();
        job.cursor += new as u64;
        let is_guilty = |assignment: &Assignment| assignment.ranges.indexes().any(|i| i == guilty);
        let is_lost = assignments.iter().any(is_guilty);
        for assignment in assignments {
            match after_loss(&assignment.ranges, assignment.lost) {
                _ if !is_lost => finished.extend(assignment.ranges.indexes()),
                AfterLoss::GiveUp { element } => given_up.push(element),
                AfterLoss::Return { lost } => job.returned.push(Returned {
                    lease: LeaseId::new(),
                    ranges: assignment.ranges,
                    attempt: assignment.attempt,
                    lost,
                }),
            }
        }
    }
    finished.sort_unstable();
    assert_eq!(given_up, [guilty]);
    assert_eq!(finished, (0..12).filter(|element| *element != guilty).collect::<Vec<_>>());
}

#[test]
fn one_that_cannot_run_a_job_takes_nothing_of_it_over() {
    let mut job = job(100);
    job.measured = Measured { elements: 10, seconds: 10.0 };
    let spare =
        Spare { lease: LeaseId::new(), holder: AgentId::new(), job: job.id, elements: 20, age: 0 };
    let asked = |job: &Job, agent: Agent| {
        let jobs = HashMap::from([(job.id, job.clone())]);
        take_over(&[agent], &jobs, vec![spare.clone()]).wanted.len()
    };
    assert_eq!(asked(&job, agent(2)), 1);
    let mut without = agent(2);
    without.runtimes.retain(|runtime| *runtime == Runtime::R);
    assert_eq!(asked(&job, without), 0);
    job.placement.max_agents = Some(1);
    job.usage.insert(spare.holder, 1);
    assert_eq!(asked(&job, agent(2)), 0, "its plan has no room for another agent");
}
