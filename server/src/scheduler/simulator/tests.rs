//! Properties of whole maps, and the table of `make chunking`. Time is virtual, so that bounds on it hold
//! on every machine.

use super::rules::Rule;
use super::{Cluster, MILLI, Nanos, Run, SECOND, greedy, lower_bound, run, times};
use crate::scheduler::chunking::LEAST_SECONDS;

const TWO_OF_FOUR: Cluster = Cluster { agents: 2, slots: 4, round_trip: 4 * MILLI };
const TWO_OF_TWO: Cluster = Cluster { agents: 2, slots: 2, round_trip: 4 * MILLI };

const RULES: [(&str, Rule); 5] = [
    ("ours", Rule::Ours),
    ("static", Rule::Static),
    ("single", Rule::Single),
    ("guided", Rule::Guided),
    ("factoring", Rule::Factoring),
];

/// Most maps have no more elements.
const N_OF_MOST: usize = 1000;

/// Milliseconds of the round trips that are looked at.
const ROUND_TRIPS: [Nanos; 3] = [0, 4, 200];

fn ratio(run: &Run, bound: Nanos) -> f64 {
    run.makespan as f64 / bound as f64
}

/// What a map runs on: the one of 64 elements is for four slots.
fn cluster_for(times: &[Nanos], millis: Nanos) -> Cluster {
    let cluster = if times.len() == 64 { TWO_OF_TWO } else { TWO_OF_FOUR };
    Cluster { round_trip: millis * MILLI, ..cluster }
}

/// The makespan of lognormal times over that of greedy scheduling without any cost.
fn over_greedy(seed: u64) -> f64 {
    let times = times::lognormal(seed);
    let bound = greedy(TWO_OF_FOUR.all_slots(), &times);
    ratio(&run(TWO_OF_FOUR, Rule::Ours, &times), bound)
}

#[test]
fn every_element_is_run_once_under_every_rule() {
    for (name, times) in times::all() {
        for millis in ROUND_TRIPS {
            for (of, rule) in RULES {
                // 100,000 leases take long to simulate, and show nothing that 1,000 do not.
                if rule == Rule::Single && times.len() > N_OF_MOST {
                    continue;
                }
                let Run { runs, leases, .. } = run(cluster_for(&times, millis), rule, &times);
                assert!(runs.iter().all(|&n| n == 1), "{name}, {of}, {millis} ms");
                assert!(leases <= 2 * times.len() as u64, "{name}, {of}: {leases} leases");
            }
        }
    }
}

#[test]
fn a_map_of_lognormal_times_takes_hardly_longer_than_without_any_cost() {
    for seed in 1..=10 {
        let ratio = over_greedy(seed);
        assert!(ratio <= 1.05, "seed {seed}: {ratio:.3}");
    }
}

#[test]
fn eight_long_elements_among_short_ones_hold_nothing_up() {
    let times = times::eight_long();
    let one_of_four = Cluster { agents: 1, slots: 4, ..TWO_OF_TWO };
    for cluster in [TWO_OF_TWO, one_of_four] {
        let ratio = ratio(&run(cluster, Rule::Ours, &times), lower_bound(4, &times));
        assert!(ratio <= 1.02, "{cluster:?}: {ratio:.3}");
    }
}

/// Wherever it stands: it alone is still running at the end, or nothing would be gained by asking.
#[test]
fn what_stands_behind_a_giant_is_taken_over() {
    let lateness = |index| {
        let times = times::giant_at(index);
        let makespan = run(TWO_OF_FOUR, Rule::Ours, &times).makespan as f64;
        (makespan - greedy(TWO_OF_FOUR.all_slots(), &times) as f64) / SECOND as f64
    };
    let indexes = (0..N_OF_MOST).step_by(20);
    let mean = indexes.clone().map(lateness).sum::<f64>() / indexes.count() as f64;
    assert!(mean <= 0.035, "{mean:.3} s later than without any cost");
}

/// Graham's bound for greedy scheduling (1966), and what chunks and ways to the server may add to it: the
/// two chunks that `chunking` speaks of, and some round trips to begin, to take over and to end.
#[test]
fn chunks_hold_a_map_up_by_no_more_than_two_of_the_least() {
    let lognormal = (1..=30).map(|seed| ("lognormal", times::lognormal(seed)));
    for (name, times) in times::all().into_iter().chain(lognormal) {
        for millis in [0, 4] {
            let cluster = cluster_for(&times, millis);
            let slots = cluster.all_slots();
            let largest = times.iter().max().copied().unwrap_or(0);
            let greedy = (times.iter().sum::<Nanos>() + (slots - 1) * largest).div_ceil(slots);
            let chunks = (2.0 * LEAST_SECONDS * SECOND as f64) as Nanos;
            let most = greedy + chunks + 10 * cluster.round_trip;
            let makespan = run(cluster, Rule::Ours, &times).makespan;
            assert!(makespan <= most, "{name}, {millis} ms: {makespan} > {most}");
        }
    }
}

/// No rule that cannot measure, fetch ahead or take over does better by more than two hundredths; but a
/// map of microseconds is over before that is of use.
#[test]
fn no_other_rule_is_much_better_at_four_milliseconds() {
    for (name, times) in times::all().into_iter().filter(|(_, times)| times.len() <= N_OF_MOST) {
        let cluster = cluster_for(&times, 4);
        let ours = run(cluster, Rule::Ours, &times).makespan;
        let others = RULES.iter().skip(1).map(|&(_, rule)| run(cluster, rule, &times).makespan);
        let best = others.min().unwrap_or(0);
        assert!(ours as f64 <= 1.02 * best as f64, "{name}: {ours} > {best}");
    }
}

/// Where the way is long, the slots that it leaves idle get larger chunks, and with them little is lost
/// against guided self-scheduling, whose chunks are larger from the first.
#[test]
fn a_long_way_makes_chunks_large() {
    for (name, times) in times::all() {
        let cluster = cluster_for(&times, 200);
        let (ours, guided) = (run(cluster, Rule::Ours, &times), run(cluster, Rule::Guided, &times));
        let most = if times.len() > N_OF_MOST { 1.5 } else { 1.1 };
        let ratio = ratio(&ours, guided.makespan);
        assert!(ratio <= most, "{name}: {ratio:.3} of guided self-scheduling");
    }
}

#[test]
#[ignore = "prints a table, which `make chunking` shows"]
fn the_table() {
    for millis in ROUND_TRIPS {
        println!(
            "\nmakespan / lower bound at {millis} ms a round trip; ours: leases, asks of idle slots"
        );
        print!("{:20}{:>8}", "", "no cost");
        RULES.iter().for_each(|(name, _)| print!("{name:>11}"));
        println!("{:>9}{:>6}", "leases", "asks");
        for (name, times) in times::all() {
            print_line(name, &times, cluster_for(&times, millis));
        }
    }
    println!(
        "\nlognormal, 4 ms: makespan / that of greedy scheduling without any cost, seeds 1 to 10"
    );
    let ratios: Vec<String> = (1..=10).map(|seed| format!("{:.3}", over_greedy(seed))).collect();
    println!("{}", ratios.join(" "));
}

fn print_line(name: &str, times: &[Nanos], cluster: Cluster) {
    let slots = cluster.all_slots();
    let bound = lower_bound(slots, times);
    print!("{name:20}{:8.3}", greedy(slots, times) as f64 / bound as f64);
    let runs: Vec<Run> = RULES.iter().map(|&(_, rule)| run(cluster, rule, times)).collect();
    runs.iter().for_each(|run| print!("{:11.3}", ratio(run, bound)));
    println!("{:9}{:6}", runs[0].leases, runs[0].asks);
}
