//! How many elements a second one worker runs, and how soon a late element's seed is there.

use agent::runtimes::WorkerJob;
use agent::seeds::{Seeds, Stream};
use protocol::job::{Function, Runtime};

use crate::harness::{Worker, job, worker};

#[expect(clippy::disallowed_methods, reason = "a rate is printed, nothing depends on it")]
fn rate(runtime: Runtime, function: &str) {
    let mut worker = worker(runtime, function);
    let elements: Vec<_> = (0..100_000).map(|i| i.to_string()).collect();
    let elements: Vec<_> = elements.iter().map(String::as_str).collect();
    let started = std::time::Instant::now();
    let mut values = Vec::new();
    for chunk in elements.chunks(5_000) {
        values.extend(worker.run(chunk).values());
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{}: {:.0} elements a second", runtime.as_str(), 100_000.0 / seconds);
    assert_eq!(values.len(), 100_000);
    assert!(values.iter().zip(1_u32..).all(|(value, i)| value.as_f64() == Some(f64::from(i))));
}

#[test]
fn a_hundred_thousand_trivial_elements_in_python() {
    rate(Runtime::Python, "lambda x: x + 1");
}

#[test]
fn a_hundred_thousand_trivial_elements_in_r() {
    rate(Runtime::R, "function(x) x + 1");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a rate is printed, nothing depends on it")]
fn a_thousand_programs_by_two_workers() {
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut worker = Worker::start(Runtime::Command);
                let function = Function::Command(vec!["true".to_owned()]);
                worker.prepare(&WorkerJob { function, ..job("") });
                for _ in 0..20 {
                    assert_eq!(worker.run(&["0"; 25]).values(), [""; 25]);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("command: {:.0} programs a second", 1000.0 / seconds);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a time is printed, nothing depends on it")]
fn the_seed_of_element_ten_million() {
    let start = Stream::from_number(123);
    // The matrices of a stream are made once a process.
    Seeds::new(start).at(0);
    let started = std::time::Instant::now();
    let seed = Seeds::new(start).at(10_000_000);
    println!("the seed of element 10,000,000: {:.1} us", started.elapsed().as_secs_f64() * 1e6);
    let halfway = start.jump(5_000_000);
    assert_eq!(seed, Seeds::new(halfway).at(5_000_000));
}
