//! Properties of the pure core. Each was seen to fail with the code broken on purpose.

mod examples;

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use protocol::job::{AllSlots, Runtime, Slots};
use protocol::{AgentId, JobId, LeaseId, Range, RangeSet};

use super::assign::{Agent, Assignment, Job, Placement, Returned, assign};
use super::chunking::{self, Measured};
use super::lease::{AfterLoss, MAX_LOST_AGENTS, accept, after_loss, narrowed};
use super::takeover::{MIN_SECONDS, OVERDUE, Spare, take_over};

fn job(total: u64) -> Job {
    Job {
        id: JobId::new(),
        owner: "ada".to_owned(),
        priority: 0,
        runtime: Runtime::Python,
        labels: BTreeMap::new(),
        slots: Slots::Count(1),
        memory: 0,
        placement: Placement::default(),
        total,
        cursor: 0,
        groups: Vec::new(),
        returned: Vec::new(),
        chunk: None,
        measured: Measured::default(),
        element_bytes: 8,
        cluster_slots: 4,
        usage: HashMap::new(),
        suspects_on: HashSet::new(),
    }
}

fn agent(slots: u32) -> Agent {
    Agent {
        id: AgentId::new(),
        free: slots,
        ahead: 0,
        slots,
        memory: 16 << 30,
        free_memory: 16 << 30,
        runtimes: vec![Runtime::Python, Runtime::R],
        labels: BTreeMap::new(),
    }
}

fn nested(groups: &[u64], max_width: Option<u32>) -> Job {
    let mut job = job(groups.iter().sum());
    job.placement = Placement { nested: true, max_agents: None, max_width };
    let mut first = 0;
    for &n in groups.iter().filter(|&&n| n > 0) {
        job.groups.push(Range(first, first + n));
        first += n;
    }
    job
}

fn assign_all(jobs: &[Job], agents: &[Agent]) -> Vec<Assignment> {
    let slots = agents.iter().map(|agent| u64::from(agent.slots)).sum();
    let jobs = jobs.iter().cloned().map(|job| Job { cluster_slots: slots, ..job });
    assign(jobs.collect(), &mut agents.to_vec(), &mut HashMap::new())
}

prop_compose! {
    fn any_job()(
        total in 1..2000_u64,
        cursor_share in 0.0..1.0_f64,
        returned in prop::collection::vec((1..50_u64, 0..12_u32), 0..4),
        owner in 0..3_u8,
        priority in -1..2_i32,
        r in any::<bool>(),
        slots in prop_oneof![5 => (1..4_u32).prop_map(Slots::Count), 1 => Just(Slots::All(AllSlots::All))],
        chunk in prop::option::of(1..100_u64),
        (done, seconds) in (0..500_u64, 0.0..100.0_f64),
        max_agents in prop::option::of(1..3_u32),
        max_width in prop::option::of(1..4_u32),
        group in prop::option::of(1..40_u64),
        memory in prop_oneof![2 => Just(0), 1 => 1..20_u64],
    ) -> Job {
        let mut job = job(total);
        // What came back lies before the cursor, back to back.
        let mut first = 0;
        for (n, lost) in returned {
            let range = Range(first, total.min(first + n));
            first = range.1;
            if !range.is_empty() {
                job.returned.push(Returned {
                    lease: LeaseId::new(),
                    ranges: RangeSet::from_range(range),
                    attempt: 1,
                    lost,
                });
            }
        }
        job.cursor = first + ((total - first) as f64 * cursor_share) as u64;
        job.owner = format!("owner {owner}");
        job.priority = priority;
        job.runtime = if r { Runtime::R } else { Runtime::Python };
        job.slots = slots;
        job.memory = memory << 30;
        job.measured = Measured { elements: done, seconds };
        job.placement = Placement { nested: group.is_some(), max_agents, max_width };
        if let Some(n) = group {
            let starts = (job.cursor..total).step_by(n as usize);
            job.groups = starts.map(|first| Range(first, total.min(first + n))).collect();
        } else {
            job.chunk = chunk;
        }
        job
    }
}

prop_compose! {
    fn any_agent()(
        slots in 1..9_u32, free_share in 0.0..=1.0_f64, r in any::<bool>(), free_memory in 0..17_u64,
        ahead in 0..5_u32,
    ) -> Agent {
        let mut agent = agent(slots);
        agent.free = (f64::from(slots) * free_share).round() as u32;
        agent.free_memory = free_memory << 30;
        agent.ahead = ahead;
        if !r {
            agent.runtimes.retain(|runtime| *runtime != Runtime::R);
        }
        agent
    }
}

fn any_jobs() -> impl Strategy<Value = Vec<Job>> {
    prop::collection::vec(any_job(), 0..6)
}

fn any_agents() -> impl Strategy<Value = Vec<Agent>> {
    prop::collection::vec(any_agent(), 0..6)
}

/// Those that wait for a slot: all of them is spare.
fn ahead(assignments: &[Assignment]) -> Vec<&Assignment> {
    assignments.iter().filter(|a| a.spare == a.ranges.len()).collect()
}

fn find<'a>(jobs: &'a [Job], assignment: &Assignment) -> &'a Job {
    jobs.iter().find(|job| job.id == assignment.job).unwrap()
}

proptest! {
    #[test]
    fn no_agent_gets_more_than_its_free_slots(jobs in any_jobs(), agents in any_agents()) {
        let assignments = assign_all(&jobs, &agents);
        for agent in &agents {
            let given: u32 = assignments.iter().filter(|a| a.agent == agent.id).map(|a| a.slots).sum();
            let most = agent.free + agent.ahead;
            prop_assert!(given <= most, "{given} of {most} slots, free or ahead");
        }
    }

    #[test]
    fn elements_at_once_never_need_more_memory_than_an_agent_has(
        jobs in any_jobs(), agents in any_agents(),
    ) {
        let assignments = assign_all(&jobs, &agents);
        for assignment in &assignments {
            let of_one = find(&jobs, assignment).memory;
            prop_assert_eq!(assignment.memory, of_one * u64::from(assignment.width));
        }
        for agent in &agents {
            let given: u64 =
                assignments.iter().filter(|a| a.agent == agent.id).map(|a| a.memory).sum();
            prop_assert!(given <= agent.free_memory, "{given} of {}", agent.free_memory);
        }
    }

    #[test]
    fn as_many_elements_run_at_once_as_memory_holds(memory in 1..20_u64, slots in 1..30_u32) {
        let mut job = job(100);
        job.memory = memory << 30;
        let assignments = assign_all(std::slice::from_ref(&job), &[agent(slots)]);
        prop_assert_eq!(assignments.len() as u64, u64::from(slots).min(16 / memory));
    }

    #[test]
    fn an_element_is_given_once_and_only_if_it_was_free(jobs in any_jobs(), agents in any_agents()) {
        let mut given = HashSet::new();
        for assignment in assign_all(&jobs, &agents) {
            let job = find(&jobs, &assignment);
            prop_assert!(!assignment.ranges.is_empty());
            let was_free = |range: Range| match assignment.from {
                None => job.cursor <= range.0 && range.1 <= job.total,
                Some(from) => job.returned.iter().any(|r| r.lease == from && r.ranges.contains(range)),
            };
            prop_assert!(assignment.ranges.ranges().iter().all(|&range| was_free(range)));
            for index in assignment.ranges.indexes() {
                prop_assert!(given.insert((job.id, index)), "element {index} was given twice");
            }
        }
    }

    #[test]
    fn new_elements_are_given_from_the_cursor_on_without_gaps(jobs in any_jobs(), agents in any_agents()) {
        let assignments = assign_all(&jobs, &agents);
        for job in &jobs {
            let mut cursor = job.cursor;
            for assignment in assignments.iter().filter(|a| a.job == job.id && a.from.is_none()) {
                for range in assignment.ranges.ranges() {
                    prop_assert_eq!(range.0, cursor);
                    cursor = range.1;
                }
            }
        }
    }

    #[test]
    fn agents_get_only_what_they_can_run(jobs in any_jobs(), agents in any_agents()) {
        for assignment in assign_all(&jobs, &agents) {
            let job = find(&jobs, &assignment);
            let agent = agents.iter().find(|agent| agent.id == assignment.agent).unwrap();
            prop_assert!(agent.runtimes.contains(&job.runtime));
            let each = match job.slots { Slots::Count(n) => n, Slots::All(_) => agent.slots };
            prop_assert_eq!(assignment.slots, each * assignment.width);
        }
    }

    #[test]
    fn the_bounds_of_a_plan_hold(jobs in any_jobs(), agents in any_agents()) {
        let assignments = assign_all(&jobs, &agents);
        for job in &jobs {
            let mut width_on: HashMap<AgentId, (u32, u32)> = HashMap::new();
            for assignment in assignments.iter().filter(|a| a.job == job.id) {
                let (width, leases) = width_on.entry(assignment.agent).or_default();
                *width += assignment.width;
                *leases += 1;
            }
            if let Some(max) = job.placement.max_agents {
                prop_assert!(width_on.len() <= max as usize);
            }
            for (width, leases) in width_on.into_values() {
                prop_assert!(width <= job.placement.max_width.unwrap_or(u32::MAX));
                prop_assert!(!job.placement.nested || leases == 1, "two outer elements on an agent");
            }
        }
    }

    #[test]
    fn an_outer_element_stays_whole(groups in prop::collection::vec(0..20_u64, 1..6), agents in any_agents()) {
        let job = nested(&groups, None);
        for assignment in assign_all(std::slice::from_ref(&job), &agents) {
            let ranges = assignment.ranges.ranges();
            prop_assert!(ranges.len() == 1 && job.groups.contains(&ranges[0]));
        }
    }

    #[test]
    fn a_fixed_chunk_stays_whole(total in 1..500_u64, chunk in 1..100_u64, agents in any_agents()) {
        let mut job = job(total);
        job.chunk = Some(chunk);
        for assignment in assign_all(std::slice::from_ref(&job), &agents) {
            let Range(from, to) = assignment.ranges.ranges()[0];
            prop_assert_eq!((from % chunk, to), (0, total.min(from + chunk)));
        }
    }

    #[test]
    fn no_slot_is_idle_while_a_simple_job_has_elements(
        totals in prop::collection::vec(1..50_u64, 1..5),
        agents in any_agents(),
    ) {
        let jobs: Vec<Job> = totals.iter().map(|&total| job(total)).collect();
        let assignments = assign_all(&jobs, &agents);
        // Nothing is known of the elements' times, so that nothing is given ahead.
        let given: u64 = assignments.iter().map(|a| a.ranges.len()).sum();
        let used: u32 = assignments.iter().map(|a| a.slots).sum();
        let free: u32 = agents.iter().map(|agent| agent.free).sum();
        prop_assert!(used == free || given == totals.iter().sum::<u64>());
    }

    #[test]
    fn a_higher_priority_goes_first(low in 1..50_u64, high in 1..50_u64, slots in 1..20_u32) {
        let mut jobs = [job(low), job(high)];
        jobs[1].priority = 1;
        let assignments = assign_all(&jobs, &[agent(slots)]);
        let given = |job: &Job| -> u64 {
            assignments.iter().filter(|a| a.job == job.id).map(|a| a.ranges.len()).sum()
        };
        prop_assert!(given(&jobs[0]) == 0 || given(&jobs[1]) == high);
    }

    #[test]
    fn owners_share_evenly(slots in 1..40_u32, jobs_of_ada in 1..5_usize) {
        let mut jobs: Vec<Job> = (0..jobs_of_ada).map(|_| job(100)).collect();
        let mut of_bob = job(100);
        of_bob.owner = "bob".to_owned();
        jobs.push(of_bob);
        let assignments = assign_all(&jobs, &[agent(slots)]);
        let bob = assignments.iter().filter(|a| a.job == jobs[jobs_of_ada].id).count() as i64;
        prop_assert!((i64::from(slots) - 2 * bob).abs() <= 1, "{bob} of {slots}");
    }

    #[test]
    fn a_chunk_is_never_empty_and_never_more_than_its_share(
        elements in 0..10_000_u64, seconds in 0.0..1e5_f64, left in 1..10_000_000_u64,
        slots in 1..1000_u64, bytes in 0..10_000_000_u64,
    ) {
        let n = chunking::adaptive(Measured { elements, seconds }, left, slots, bytes);
        prop_assert!(n >= 1);
        prop_assert!(n <= left.div_ceil(2 * slots).max(1));
        prop_assert!(n == 1 || n * bytes <= chunking::MAX_BYTES);
        prop_assert!(elements > 0 || n == 1);
    }

    #[test]
    fn a_slot_that_has_nothing_to_do_gets_no_less_and_no_more_than_half_a_share_or_what_is_worth_a_lease(
        elements in 0..10_000_u64, micros in prop_oneof![0..2_000_000_u64, 0..100_u64],
        left in 1..10_000_000_u64, slots in 1..1000_u64,
    ) {
        let measured = Measured { elements, seconds: elements as f64 * micros as f64 / 1e6 };
        let idle = chunking::for_idle(measured, left, slots, 8);
        let n = chunking::adaptive(measured, left, slots, 8);
        let lasts = |seconds: f64| idle as f64 * micros as f64 / 1e6 <= seconds * (1.0 + 1e-9);
        prop_assert!(n <= idle);
        prop_assert!(
            idle <= left.div_ceil(2 * slots)
                || idle <= elements / slots
                    && lasts(chunking::WORTH_SECONDS)
                    && (idle <= left.div_ceil(slots) || lasts(chunking::LITTLE_SECONDS))
        );
        prop_assert!(n == 1 || idle * micros <= 1_000_001);
    }

    #[test]
    fn what_is_not_worth_a_lease_is_not_divided(
        elements in 1_000..1_000_000_u64, micros in 1..10_u64, slots in 1..100_u64, left in 1..25_u64,
    ) {
        let measured = Measured { elements, seconds: elements as f64 * micros as f64 / 1e6 };
        let n = chunking::adaptive(measured, left, slots, 8);
        prop_assert!(n >= left.min(elements / slots), "{n}");
    }

    #[test]
    fn a_chunk_is_fine_but_for_what_hides_its_way(
        elements in 1..10_000_u64, micros in 1..20_000_u64, left in 1..100_000_u64,
        slots in 1..300_u64,
    ) {
        let measured = Measured { elements, seconds: elements as f64 * micros as f64 / 1e6 };
        let n = chunking::adaptive(measured, left, slots, 8);
        let least = chunking::LEAST_SECONDS.max(slots as f64 / chunking::MOST_LEASES_A_SECOND);
        let fits = n as f64 * micros as f64 / 1e6 <= least * (1.0 + 1e-9);
        prop_assert!(n <= left.div_ceil(8 * slots) || fits && n <= elements / slots);
    }

    #[test]
    fn scheduling_makes_so_many_chunks_a_slot(total in 1..10_000_u64, slots in 1..100_u64) {
        let one = chunking::from_scheduling(1.0, total, slots);
        prop_assert!(total.div_ceil(one) <= slots);
        prop_assert_eq!(chunking::from_scheduling(f64::MAX, total, slots), 1);
    }

    #[test]
    fn an_element_is_accepted_once_whatever_is_reported(
        n in 1..200_u64,
        reports in prop::collection::vec((0..220_u64, 0..40_u64), 0..60),
    ) {
        let mut remaining = RangeSet::from_range(Range(0, n));
        let mut accepted = HashSet::new();
        for (first, length) in reports {
            let piece = Range(first, first + length);
            let before = remaining.clone();
            if accept(&mut remaining, piece) {
                for index in piece.0..piece.1 {
                    prop_assert!(index < n && accepted.insert(index), "{index} was accepted twice");
                }
            } else {
                prop_assert_eq!(&remaining, &before, "a refused report changed the lease");
            }
        }
        prop_assert_eq!(remaining.len() + accepted.len() as u64, n);
    }

    #[test]
    fn only_a_single_element_is_given_up(n in 1..100_u64, lost in 0..20_u32) {
        let remaining = RangeSet::from_range(Range(5, 5 + n));
        match after_loss(&remaining, lost) {
            AfterLoss::GiveUp { element } => {
                prop_assert!(n == 1 && lost + 1 >= MAX_LOST_AGENTS);
                prop_assert_eq!(element, 5);
            }
            AfterLoss::Return { lost: now } => {
                prop_assert_eq!(now, lost + 1);
                prop_assert!(n > 1 || now < MAX_LOST_AGENTS);
            }
        }
        prop_assert!((1..=n).contains(&narrowed(n, lost, false)));
    }

    #[test]
    fn free_slots_go_before_leases_ahead(
        elements in 1..1000_u64, micros in 1..2_000_000_u64, total in 1..300_u64, agents in any_agents(),
    ) {
        let mut job = job(total);
        job.measured = Measured { elements, seconds: elements as f64 * micros as f64 / 1e6 };
        let assignments = assign_all(std::slice::from_ref(&job), &agents);
        let ahead: Vec<&Assignment> = ahead(&assignments);
        let free: u32 = agents.iter().map(|agent| agent.free).sum();
        prop_assert!(ahead.is_empty() || (assignments.len() - ahead.len()) as u32 == free);
        for agent in &agents {
            let n = ahead.iter().filter(|a| a.agent == agent.id).count();
            prop_assert!(n <= agent.ahead as usize);
        }
        // What is ahead is quick, and leaves one element for each slot elsewhere.
        let slots: u64 = agents.iter().map(|agent| u64::from(agent.slots)).sum();
        let mut left = total - assignments.iter().map(|a| a.ranges.len()).sum::<u64>();
        for assignment in ahead.iter().rev() {
            left += assignment.ranges.len();
            let agent = agents.iter().find(|agent| agent.id == assignment.agent).unwrap();
            prop_assert!(left > slots - u64::from(agent.slots));
            prop_assert!(assignment.ranges.len() * micros <= 1_000_001);
            prop_assert_eq!(assignment.spare, assignment.ranges.len());
        }
    }

    #[test]
    fn what_is_spare_leaves_each_lane_an_element_and_chunks_whole(jobs in any_jobs(), agents in any_agents()) {
        for assignment in assign_all(&jobs, &agents) {
            let job = find(&jobs, &assignment);
            let n = assignment.ranges.len();
            prop_assert!(assignment.spare <= n);
            let is_ahead = assignment.spare == n;
            let is_whole = job.placement.nested || job.chunk.is_some() || assignment.lost > 0;
            if !is_ahead {
                let most = if is_whole { 0 } else { n.saturating_sub(assignment.width.into()) };
                prop_assert_eq!(assignment.spare, most);
            } else {
                prop_assert!(!job.placement.nested && assignment.lost == 0);
            }
        }
    }

    #[test]
    fn an_idle_slot_asks_one_holder_for_the_most_work(
        spares in prop::collection::vec((1..500_u64, 0..3_usize, 0..2 * OVERDUE), 0..12),
        micros in prop::collection::vec(0..400_000_u64, 3),
        agents in any_agents(),
    ) {
        let jobs: Vec<Job> = micros.iter().map(|&micros| {
            let mut job = job(10_000);
            job.measured = Measured { elements: 10, seconds: micros as f64 / 1e5 };
            job
        }).collect();
        let spares: Vec<Spare> = spares.into_iter().map(|(elements, of, age)| Spare {
            lease: LeaseId::new(), holder: AgentId::new(), job: jobs[of].id, elements, age,
        }).collect();
        let by_id: HashMap<JobId, Job> = jobs.iter().map(|job| (job.id, job.clone())).collect();
        let decided = take_over(&agents, &by_id, spares.clone());
        let asked = decided.wanted;
        let seconds = |spare: &Spare| {
            let job = &by_id[&spare.job];
            job.measured.seconds / 10.0 * spare.elements as f64
        };
        // Behind what is expected to be worth it comes what is overdue, the oldest first.
        let rank = |spare: &Spare| match seconds(spare) {
            worth if worth >= MIN_SECONDS => (worth, 0),
            _ => (0.0, spare.age),
        };
        let is_worth = |spare: &Spare| rank(spare) >= (0.0, OVERDUE);
        let free: u32 = agents.iter().map(|agent| agent.free).sum();
        let worth = spares.iter().filter(|spare| is_worth(spare)).count();
        prop_assert_eq!(asked.len(), worth.min(free as usize));
        let unique: HashSet<LeaseId> = asked.iter().map(|spare| spare.lease).collect();
        prop_assert_eq!(unique.len(), asked.len());
        let least = asked.iter().map(rank).fold((f64::INFINITY, 0), |one, other| {
            if other < one { other } else { one }
        });
        for spare in spares.iter().filter(|spare| !unique.contains(&spare.lease)) {
            prop_assert!(asked.len() < free as usize || rank(spare) <= least);
        }
        // While a slot is free, the next that would be overdue is waited for; and behind a guess, for another.
        let is_little = |spare: &&Spare| seconds(spare) < MIN_SECONDS;
        let young = spares.iter().filter(is_little).filter(|spare| spare.age < OVERDUE);
        let soonest = young.map(|spare| OVERDUE - spare.age).min();
        let after_guess = asked.iter().find(is_little).map(|_| OVERDUE);
        let is_any_free = asked.len() < free as usize;
        let soonest = soonest.filter(|_| is_any_free);
        prop_assert_eq!(decided.look_again, soonest.or(after_guess));
    }
}
