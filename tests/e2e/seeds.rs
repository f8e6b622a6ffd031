//! Random numbers: the same whatever the chunking and the agents, and in R exactly furrr's.

use std::process::Command;

use serde_json::{Value, json};
use tests::doubles::{bits, parse};
use tests::{Client, World};

const ELEMENTS: u32 = 5;

/// What furrr draws, each with the digits that bring it back.
fn furrr(seed: u32) -> Vec<f64> {
    let script = format!(
        "suppressPackageStartupMessages(library(furrr))
         drawn <- future_map_dbl(1:{ELEMENTS}, ~ rnorm(1), .options = furrr_options(seed = {seed}L))
         cat(sprintf('%.17g', drawn))"
    );
    let output = Command::new("Rscript").args(["--vanilla", "-e", &script]).output();
    let output = output.expect("Rscript runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&String::from_utf8(output.stdout).expect("text"))
}

fn job(runtime: &str, function: &str, elements: &Value, plan: &Value, options: &Value) -> Value {
    json!({
        "runtime": runtime, "function": function, "elements": elements, "plan": plan,
        "options": options
    })
}

async fn drawn(client: &Client, job: &Value) -> Vec<f64> {
    let id = client.submit(job).await;
    let answer = client.outcome(&id).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    parse(&answer.text())
}

/// The value of a job is the same for every chunking, flat and nested; gives it.
async fn the_same_however_cut(client: &Client, runtime: &str, function: &str) -> Vec<f64> {
    let (flat, nested) = (json!([1, 2, 3, 4, 5]), json!([[1, 2], [3], [4, 5]]));
    let cluster = json!([{"strategy": "cluster"}]);
    let both = json!([{"strategy": "cluster"}, {"strategy": "multisession"}]);
    let mut first: Option<Vec<f64>> = None;
    for chunk_size in [1, 2, 5] {
        let options = json!({"seed": 123, "chunk_size": chunk_size});
        let value = drawn(client, &job(runtime, function, &flat, &cluster, &options)).await;
        let first = first.get_or_insert_with(|| value.clone());
        assert_eq!(bits(first), bits(&value), "{runtime}, chunk_size {chunk_size}");
    }
    let options = json!({"seed": 123});
    let value = drawn(client, &job(runtime, function, &nested, &both, &options)).await;
    let first = first.expect("a first value");
    assert_eq!(bits(&first), bits(&value), "{runtime}, nested");
    first
}

#[tokio::test]
async fn r_draws_what_furrr_draws_however_it_is_cut() {
    let world = World::start().await;
    let known = furrr(123);
    assert_eq!(known.len(), ELEMENTS as usize);
    let _one = world.agent("one", 2).await;
    let on_one = the_same_however_cut(&world.client, "r", "~ rnorm(1)").await;
    assert_eq!(bits(&on_one), bits(&known), "on one agent");
    let _two = world.agent("two", 2).await;
    let on_two = the_same_however_cut(&world.client, "r", "~ rnorm(1)").await;
    assert_eq!(bits(&on_two), bits(&known), "on two agents");
}

#[tokio::test]
async fn python_and_commands_draw_the_same_however_it_is_cut() {
    let world = World::start().await;
    let flags = ["--runtime", "python", "--runtime", "command"];
    let _one = world.agent_with("one", 2, &flags).await;
    let function = "import random\nlambda x: random.gauss(0, 1)";
    let on_one = the_same_however_cut(&world.client, "python", function).await;
    let _two = world.agent_with("two", 2, &flags).await;
    let on_two = the_same_however_cut(&world.client, "python", function).await;
    assert_eq!(bits(&on_one), bits(&on_two));
    let echo = json!({
        "runtime": "command", "function": ["sh", "-c", "echo $FARROW_SEED"],
        "elements": [1, 2, 3], "options": {"seed": 7}
    });
    let first = world.client.run(&echo).await;
    assert_eq!(first, world.client.run(&echo).await);
    let seeds = first.as_array().unwrap();
    assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2], "{first}");
}

#[tokio::test]
async fn a_drawn_seed_is_told_and_brings_the_same_numbers_again() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let cluster = json!([{"strategy": "cluster"}]);
    let function = "import random\nlambda x: random.random()";
    let with =
        |seed: Value| job("python", function, &json!([1, 2]), &cluster, &json!({"seed": seed}));
    let id = world.client.submit(&with(json!(true))).await;
    let value = world.client.value(&id).await;
    let seed = world.client.status(&id).await["options"]["seed"].clone();
    assert!(seed.is_i64(), "{seed}");
    assert_eq!(world.client.run(&with(seed)).await, value);
    assert_ne!(world.client.run(&with(json!(true))).await, value);
}
