//! Properties of whole maps, and the table of `make chunking`.

use super::rules::Rule;
use super::{Cluster, MILLI, Nanos, Run, greedy, lower_bound, run, times};

const TWO_OF_FOUR: Cluster = Cluster { agents: 2, slots: 4, round_trip: 4 * MILLI };
const TWO_OF_TWO: Cluster = Cluster { agents: 2, slots: 2, round_trip: 4 * MILLI };

const RULES: [(&str, Rule); 5] = [
    ("ours", Rule::Ours),
    ("static", Rule::Static),
    ("single", Rule::Single),
    ("guided", Rule::Guided),
    ("factoring", Rule::Factoring),
];

fn ratio(run: &Run, bound: Nanos) -> f64 {
    run.makespan as f64 / bound as f64
}

/// What the maps run on: the one of 64 elements is for four slots.
fn cluster_of(times: &[Nanos], round_trip: Nanos) -> Cluster {
    let cluster = if times.len() == 64 { TWO_OF_TWO } else { TWO_OF_FOUR };
    Cluster { round_trip, ..cluster }
}

#[test]
fn the_table() {
    for millis in [0, 4, 200] {
        println!("\nmakespan / lower bound, {millis} ms a round trip");
        print!("{:20}{:>8}", "", "greedy");
        RULES.iter().for_each(|(name, _)| print!("{name:>11}"));
        println!("{:>9}{:>7}", "leases", "asks");
        for (name, times) in times::all() {
            let cluster = cluster_of(&times, millis * MILLI);
            let bound = lower_bound(cluster.all_slots(), &times);
            print!("{name:20}{:8.3}", greedy(cluster.all_slots(), &times) as f64 / bound as f64);
            let mut counts = (0, 0);
            for (_, rule) in RULES {
                let run = run(cluster, rule, &times);
                print!("{:11.3}", ratio(&run, bound));
                if rule == Rule::Ours {
                    counts = (run.leases, run.asks);
                }
            }
            println!("{:9}{:7}", counts.0, counts.1);
        }
    }
    println!("\nlognormal, makespan / greedy without cost, seeds 1 to 10");
    let ratios: Vec<String> = (1..=10).map(|seed| format!("{:.3}", over_greedy(seed))).collect();
    println!("{}", ratios.join(" "));
}

fn over_greedy(seed: u64) -> f64 {
    let times = times::lognormal(seed);
    let cluster = TWO_OF_FOUR;
    ratio(&run(cluster, Rule::Ours, &times), greedy(cluster.all_slots(), &times))
}
