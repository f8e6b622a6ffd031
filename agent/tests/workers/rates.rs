//! How many elements a second one worker runs.

use protocol::job::Runtime;

use crate::harness::worker;

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
