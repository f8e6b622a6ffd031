//! Jobs that are sound in form and cannot be run, or not yet.

use serde_json::json;
use tests::World;

#[tokio::test]
async fn a_job_that_cannot_be_run_fails_at_once_and_says_where() {
    let world = World::start().await;
    let _agent = world.agent("one", 1).await;
    for (runtime, change, kind, says) in [
        (
            "r",
            json!({"function": "function(x) {\n  x +* 2\n}"}),
            "SyntaxError",
            &["line 2", "column 6"][..],
        ),
        (
            "r",
            json!({"function": "function(x) {"}),
            "SyntaxError",
            &["line 2", "unexpected end of input"],
        ),
        ("r", json!({"setup": "a <- 1\nb <- )"}), "SyntaxError", &["line 2", "setup"]),
        ("r", json!({"function": "42"}), "NotAFunction", &["numeric"]),
        (
            "r",
            json!({"packages": ["no.such.package"]}),
            "packageNotFoundError",
            &["no.such.package"],
        ),
        ("r", json!({"setup": "stop('not today')"}), "simpleError", &["not today"]),
        (
            "r",
            json!({"function": "function(x) { x", "globals": {"s": "a\u{0}b"}}),
            "Untranslatable",
            &["globals.s"],
        ),
        (
            "python",
            json!({"function": "def f(x):\n    return x +* 2"}),
            "SyntaxError",
            &["line 2", "column 15"],
        ),
        ("python", json!({"function": "x = (1,"}), "SyntaxError", &["line 1"]),
        ("python", json!({"setup": "a = 1\nb = )"}), "SyntaxError", &["line 2", "setup"]),
        ("python", json!({"function": "42"}), "NotAFunction", &["int", "lambda"]),
        (
            "python",
            json!({"packages": ["no_such_package"]}),
            "ModuleNotFoundError",
            &["no_such_package", "install"],
        ),
        ("python", json!({"setup": "raise OSError('not today')"}), "OSError", &["not today"]),
    ] {
        // Also where errors are collected: the fault is the job's.
        let mut job = json!({
            "runtime": runtime, "function": "abs", "elements": [1, 2], "options": {"on_error": "collect"}
        });
        for (name, value) in change.as_object().unwrap() {
            job[name] = value.clone();
        }
        let problem = world.client.failure(&job).await;
        assert_eq!(problem["element"]["type"], kind, "{problem:#}");
        for part in says {
            assert!(problem["detail"].as_str().unwrap().contains(part), "{part:?}: {problem:#}");
        }
    }
    for runtime in ["r", "python"] {
        let sound = json!({"runtime": runtime, "function": "abs", "elements": [-1, 2]});
        assert_eq!(world.client.run(&sound).await, json!([1, 2]), "{runtime}");
    }
}

#[tokio::test]
async fn a_job_that_nobody_can_run_says_what_it_waits_for() {
    let world = World::start().await;
    let job = |runtime: &str, slots: u32| json!({"runtime": runtime, "function": "abs", "elements": [-1], "options": {"slots": slots}});
    let lonely = world.client.submit(&job("python", 1)).await;
    let waiting = async |id: &str| world.client.status(id).await["waiting_for"].clone();
    let nobody = waiting(&lonely).await;
    assert_eq!(nobody, "no agent is connected: start one with `farrow agent`");

    let _agent = world.python_agent("one", 2).await;
    assert_eq!(world.client.value(&lonely).await, json!([1]));
    let r = world.client.submit(&job("r", 1)).await;
    assert_eq!(waiting(&r).await, "no agent has runtime r");
    let wide = world.client.submit(&job("python", 3)).await;
    assert_eq!(waiting(&wide).await, "no agent has 3 slots, which one element occupies");

    // What waits keeps nobody from running, and runs as soon as somebody can.
    assert_eq!(world.client.run(&job("python", 2)).await, json!([1]));
    let _larger = world.agent("larger", 3).await;
    assert_eq!(world.client.value(&r).await, json!([1]));
    assert_eq!(world.client.value(&wide).await, json!([1]));
}

#[tokio::test]
async fn an_outcome_larger_than_the_server_takes_is_an_error_of_its_element() {
    let world = World::start_with(&["--max-body", "512KiB"]).await;
    let _agent = world.python_agent("one", 1).await;
    let job = json!({
        "runtime": "python", "function": "lambda n: 'x' * n", "elements": [10, 700_000, 20],
        "options": {"on_error": "collect"}
    });
    let value = world.client.run(&job).await;
    assert_eq!((&value[0], &value[2]), (&json!("x".repeat(10)), &json!("x".repeat(20))));
    assert_eq!(value[1]["error"]["type"], "TooLarge", "{value}");
    assert!(value[1]["error"]["message"].as_str().unwrap().contains("--max-body"), "{value}");
}
