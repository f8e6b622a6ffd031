//! Seeds: an element's random numbers follow from the job's seed and its index.

use std::process::Command;

use agent::runtimes::{Element, Input, WorkerJob};
use agent::seeds::{Seeds, Stream};
use protocol::job::Runtime::{Python, R};
use protocol::job::{Options, Seed, Variant};
use serde_json::{Value, json};

use crate::both::both;
use crate::harness::{Worker, constants, elements, job, json_values};

fn seeded(seed: i64, function: &str) -> WorkerJob {
    let options = Options { seed: Some(Seed::Number(seed)), ..Options::default() };
    WorkerJob { options, ..job(function) }
}

fn at(index: u64) -> Element<'static> {
    Element { index, input: Input::Json(b"0"), key: None }
}

/// What an R script prints, a number a line.
fn rscript(script: &str) -> Vec<f64> {
    let output = Command::new("Rscript").args(["--vanilla", "-e", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().map(|line| line.parse().unwrap()).collect()
}

fn bits(values: &[Value]) -> Vec<u64> {
    values.iter().map(|value| value.to_string().parse::<f64>().unwrap().to_bits()).collect()
}

#[test]
fn streams_are_those_of_the_package_parallel() {
    let numbers = rscript(
        "suppressWarnings(RNGkind(\"L'Ecuyer-CMRG\"))
         for (seed in c(123L, 0L, -5L, .Machine$integer.max, -.Machine$integer.max)) {
           set.seed(seed); s <- .Random.seed
           for (i in 1:8) { cat(s, parallel::nextRNGSubStream(s), sep = '\\n'); s <- parallel::nextRNGStream(s) }
         }",
    );
    let expected: Vec<i32> = [123, 0, -5, i32::MAX, -i32::MAX]
        .into_iter()
        .flat_map(|seed| {
            let start = Stream::from_number(seed);
            let mut seeds = Seeds::new(start);
            let pairs = (0..8).map(move |i| [start.jump(i).random_seed(), seeds.at(i)].concat());
            pairs.flatten().collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(numbers, expected.into_iter().map(f64::from).collect::<Vec<_>>());
}

#[test]
fn elements_draw_what_furrr_draws() {
    let numbers = rscript(
        "library(furrr); plan(sequential)
         draw <- function(seed) future_map_dbl(1:5, ~rnorm(1), .options = furrr_options(seed = seed))
         cat(sprintf('%.17g', draw(123L)), sprintf('%.17g', draw(c(10407L, 1:6))), sep = '\\n')",
    );
    let state = Seed::State(vec![10_407, 1, 2, 3, 4, 5, 6]);
    let mut worker = Worker::start(R);
    let texts = ["1", "2", "3", "4", "5"];
    for (seed, expected) in [Seed::Number(123), state].into_iter().zip(numbers.chunks(5)) {
        let options = Options { seed: Some(seed), ..Options::default() };
        let job = WorkerJob { options, ..job("~ rnorm(1)") };
        let values = json_values(worker.outcomes(&job, &elements(&texts)));
        assert_eq!(bits(&values), expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_depend_on_nothing_but_seed_and_index() {
    both(
        "function(x) { v <- runif(3); RNGkind('Wichmann-Hill'); v }",
        "import random\ndef f(x):\n    return [random.random() for i in range(3)]",
        |runtime, function| {
            let mut worker = Worker::start(runtime);
            let job = seeded(42, function);
            let batch: Vec<_> = (0..6).map(at).collect();
            let all = json_values(worker.outcomes(&job, &batch));
            assert!(all.iter().enumerate().all(|(i, value)| !all[..i].contains(value)));
            // In other frames, in another order, in another worker.
            let mut other = Worker::start(runtime);
            let some = json_values(other.outcomes(&job, &[at(4), at(5), at(1)]));
            assert_eq!(some, [all[4].clone(), all[5].clone(), all[1].clone()]);
            assert_ne!(
                json_values(other.outcomes(&seeded(43, function), &[at(1)])),
                [all[1].clone()]
            );
        },
    );
}

#[test]
fn the_random_state_is_taken_back_with_the_job() {
    let mut worker = Worker::start(R);
    worker.outcomes(&seeded(1, "~ rnorm(1)"), &[at(0)]);
    let state = "function(x) list(exists('.Random.seed', globalenv()), RNGkind()[1])";
    worker.prepare(&job(state));
    assert_eq!(worker.value("0"), json!([false, "Mersenne-Twister"]));
    let random = "import random\nlambda x: random.random()";
    let mut worker = Worker::start(Python);
    let seeded_value = json_values(worker.outcomes(&seeded(1, random), &[at(0)]));
    worker.prepare(&job("import random\nlambda x: [random.random(), 'farrow_seed' in globals()]"));
    let value = worker.value("0");
    assert_ne!(value[0], seeded_value[0]);
    assert_eq!(value[1], json!(false));
}

#[test]
fn variants_and_calls_are_seeded_too() {
    let mut worker = Worker::start(R);
    let plain = worker.outcomes(&seeded(9, "~ rnorm(1)"), &elements(&["[0]", "[0]"]));
    for variant in [Variant::Pmap, Variant::Imap] {
        let mut job = seeded(9, "~ rnorm(1)");
        job.options.variant = variant;
        assert_eq!(worker.outcomes(&job, &elements(&["[0]", "[0]"])), plain);
    }
    let mut call = seeded(9, "function() rnorm(1)");
    call.is_call = true;
    assert_eq!(worker.outcomes(&call, &[crate::harness::CALL])[0], plain[0]);
}

#[test]
fn python_is_seeded_from_a_digest_that_anyone_can_make() {
    let check = "import hashlib, random\n\
        def f(x, i):\n    a = random.random()\n    \
        digest = hashlib.sha256(b'-7:%d' % i).digest()\n    \
        return a == random.Random(int.from_bytes(digest, 'big')).random()";
    let mut job = seeded(-7, check);
    job.options.variant = Variant::Imap;
    let values = json_values(Worker::start(Python).outcomes(&job, &elements(&["0", "0"])));
    assert_eq!(values, [json!(true), json!(true)]);
}

#[test]
fn numpy_has_its_own_sequence_where_it_is_there() {
    let check = "def f(x, i):\n    try:\n        import numpy\n    except ImportError:\n        return farrow_seed is None\n    \
        s = numpy.random.SeedSequence(11, spawn_key=(i,))\n    \
        own = numpy.random.RandomState(numpy.random.MT19937(s)).random_sample(3)\n    \
        return bool((numpy.random.random(3) == own).all()) and farrow_seed.spawn_key == (i,) and farrow_seed.entropy == 11";
    let mut job = seeded(11, check);
    job.options.variant = Variant::Imap;
    let values = json_values(Worker::start(Python).outcomes(&job, &elements(&["0", "0"])));
    assert_eq!(values, [json!(true), json!(true)]);
}

#[test]
fn a_seed_that_the_language_has_not_fails_the_job() {
    let state = Seed::State(vec![10_407, 1, 2, 3, 4, 5, 6]);
    for (runtime, seed) in
        [(R, Seed::Number(1 << 40)), (R, Seed::State(vec![403])), (Python, state)]
    {
        let options = Options { seed: Some(seed), ..Options::default() };
        let job = WorkerJob { options, args: constants(&[]), ..job("abs") };
        let error = agent::runtimes::encode_job(runtime, &job).unwrap_err();
        assert!(error.fatal && error.message.starts_with("`options.seed` "), "{error:?}");
    }
}
