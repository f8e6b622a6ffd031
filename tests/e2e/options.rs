//! Every field of a submission does what it says, in both runtimes.

use serde_json::{Value, json};
use tests::World;

/// A job of three elements 1, 2, 3, what is added to it, and its value.
struct Case {
    name: &'static str,
    runtime: &'static str,
    function: &'static str,
    with: Value,
    value: Value,
}

fn case(
    name: &'static str,
    runtime: &'static str,
    function: &'static str,
    with: Value,
    value: Value,
) -> Case {
    Case { name, runtime, function, with, value }
}

fn r(name: &'static str, function: &'static str, with: Value, value: Value) -> Case {
    case(name, "r", function, with, value)
}

fn python(name: &'static str, function: &'static str, with: Value, value: Value) -> Case {
    case(name, "python", function, with, value)
}

fn cases() -> Vec<Case> {
    let large =
        json!({"globals": {"text": "ä".repeat(35_000), "table": (0..20_000).collect::<Vec<_>>()}});
    let huge = json!({"globals": {"text": "x".repeat(5_000_000)}});
    let nested = json!({"args": {"a": {"b": [1, 2.5, null, "c"]}}});
    let slots = |slots: Value| json!({"options": {"slots": slots}});
    vec![
        r("a formula", "~ .x + 1L", json!({}), json!([2, 3, 4])),
        r("a name", "sqrt", json!({"elements": [4, 9]}), json!([2.0, 3.0])),
        r(
            "args",
            "function(x, by, more = 5L) x * by + more",
            json!({"args": {"by": 10}}),
            json!([15, 25, 35]),
        ),
        r("args of a formula", "~ .x * by", json!({"globals": {"by": 10}}), json!([10, 20, 30])),
        r(
            "nested args",
            "function(x, a) list(a$b[[x]], length(a$b))",
            nested.clone(),
            json!([[1, 4], [2.5, 4], [null, 4]]),
        ),
        r(
            "large globals",
            "function(x) c(nchar(text), table[[20000]])",
            large.clone(),
            json!([[35_000, 19_999], [35_000, 19_999], [35_000, 19_999]]),
        ),
        r(
            "huge globals",
            "function(x) nchar(text) + x",
            huge.clone(),
            json!([5_000_001, 5_000_002, 5_000_003]),
        ),
        r(
            "packages",
            "function(x) is.function(mle) && isNamespaceLoaded('stats4')",
            json!({"packages": ["stats4"]}),
            json!([true, true, true]),
        ),
        r(
            "setup",
            "function(x) x + offset",
            json!({"setup": "offset <- 100L\noptions(digits = 3)"}),
            json!([101, 102, 103]),
        ),
        r(
            "two slots",
            "function(x) c(getOption('mc.cores'), as.integer(Sys.getenv(c('OMP_NUM_THREADS', 'MC_CORES'))))",
            slots(json!(2)),
            json!([[2, 2, 2], [2, 2, 2], [2, 2, 2]]),
        ),
        r("all slots", "function(x) getOption('mc.cores')", slots(json!("all")), json!([4, 4, 4])),
        r(
            "one slot",
            "function(x) c(getOption('mc.cores'), as.integer(Sys.getenv('OMP_NUM_THREADS')))",
            json!({}),
            json!([[1, 1], [1, 1], [1, 1]]),
        ),
        r(
            "many cores",
            "function(x) length(unique(unlist(parallel::mclapply(1:2, function(i) Sys.getpid()))))",
            slots(json!(2)),
            json!([2, 2, 2]),
        ),
        r("names", "function(x) x", json!({"elements": {"a": 1, "b": 2}}), json!({"a": 1, "b": 2})),
        r(
            "a data frame",
            "function(x) nrow(x)",
            json!({"elements": [[{"a": 1}, {"a": 2}]]}),
            json!([2]),
        ),
        python("a lambda", "lambda x: x + 1", json!({}), json!([2, 3, 4])),
        python(
            "a def",
            "import math\nhalf = 0.5\ndef f(x):\n    return math.floor(x * half)",
            json!({}),
            json!([0, 1, 1]),
        ),
        python(
            "args",
            "lambda x, by, more=5: x * by + more",
            json!({"args": {"by": 10}}),
            json!([15, 25, 35]),
        ),
        python("globals", "lambda x: x * by", json!({"globals": {"by": 10}}), json!([10, 20, 30])),
        python(
            "nested args",
            "lambda x, a: [a['b'][x], len(a['b'])]",
            nested,
            json!([[2.5, 4], [null, 4], ["c", 4]]),
        ),
        python(
            "large globals",
            "lambda x: [len(text), table[-1]]",
            large,
            json!([[35_000, 19_999], [35_000, 19_999], [35_000, 19_999]]),
        ),
        python(
            "huge globals",
            "lambda x: len(text) + x",
            huge,
            json!([5_000_001, 5_000_002, 5_000_003]),
        ),
        python(
            "packages",
            "lambda x: math.sqrt(x * x) + os.path.isabs('/')",
            json!({"packages": ["math", "os.path"]}),
            json!([2.0, 3.0, 4.0]),
        ),
        python(
            "setup",
            "lambda x: x + offset",
            json!({"setup": "import os\noffset = 100"}),
            json!([101, 102, 103]),
        ),
        python(
            "two slots",
            "import os\nlambda x: [os.environ[n] for n in ('OMP_NUM_THREADS', 'MC_CORES', 'MKL_NUM_THREADS')]",
            slots(json!(2)),
            json!([["2", "2", "2"], ["2", "2", "2"], ["2", "2", "2"]]),
        ),
        python(
            "all slots",
            "import os\nlambda x: os.environ['OMP_NUM_THREADS']",
            slots(json!("all")),
            json!(["4", "4", "4"]),
        ),
        python(
            "one slot",
            "import os\nlambda x: os.environ['OMP_NUM_THREADS']",
            json!({}),
            json!(["1", "1", "1"]),
        ),
        python(
            "its own processes",
            "from multiprocessing import Pool\ndef square(y): return y * y\ndef f(x):\n    with Pool(2) as pool: return pool.map(square, range(x))",
            slots(json!(2)),
            json!([[0], [0, 1], [0, 1, 4]]),
        ),
        python(
            "no output kept",
            "def f(x):\n    print(x)\n    return x",
            json!({"options": {"stdout": false, "conditions": false}}),
            json!([1, 2, 3]),
        ),
        python("a name", "abs", json!({"name": "größer", "elements": [-1]}), json!([1])),
    ]
}

fn job(case: &Case) -> Value {
    let mut job =
        json!({"runtime": case.runtime, "function": case.function, "elements": [1, 2, 3]});
    for (field, value) in case.with.as_object().expect("an object") {
        job[field] = value.clone();
    }
    job
}

#[tokio::test]
async fn every_field_does_what_it_says() {
    let world = World::start().await;
    let _agent = world.agent("one", 4).await;
    for case in &cases() {
        let value = world.client.run(&job(case)).await;
        assert_eq!(value, case.value, "{}: {}", case.runtime, case.name);
    }
}

#[tokio::test]
async fn an_error_fails_the_job_or_stands_in_its_elements_place() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for (runtime, function, kind, message) in [
        (
            "r",
            "function(x) if (x == 2) stop('two is too much') else x",
            "simpleError",
            "two is too much",
        ),
        (
            "python",
            "def f(x):\n    if x == 2: raise ValueError('two is too much')\n    return x",
            "ValueError",
            "two is too much",
        ),
    ] {
        let mut job = json!({"runtime": runtime, "function": function, "elements": [1, 2, 3]});
        let id = world.client.submit(&job).await;
        let problem = world.client.outcome(&id).await.problem(409, "job-failed");
        let element = &problem["element"];
        assert_eq!((&element["index"], &element["type"]), (&json!(1), &json!(kind)), "{problem:#}");
        assert_eq!(element["message"], message);
        assert!(problem["detail"].as_str().unwrap().contains(message), "{problem:#}");
        let status = world.client.status(&id).await;
        assert_eq!(
            (&status["state"], &status["elements"]["failed"]),
            (&json!("failed"), &json!(1))
        );
        assert_eq!(status["error"]["element"], problem["element"]);

        job["options"] = json!({"on_error": "collect"});
        let id = world.client.submit(&job).await;
        let value = world.client.value(&id).await;
        assert_eq!((&value[0], &value[2]), (&json!(1), &json!(3)));
        assert_eq!(value[1]["error"]["message"], message);
        assert_eq!(world.client.status(&id).await["elements"]["failed"], 1);
    }
}

#[tokio::test]
async fn workers_work_where_the_job_says_if_the_agent_has_it() {
    let world = World::start().await;
    let _agent = world.agent("one", 1).await;
    let folder = world.path("project");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("offset.txt"), "100\n").unwrap();
    let run = async |runtime: &str, function: &Value, workdir: Value| {
        let job = json!({
            "runtime": runtime, "function": function, "elements": [1, 2], "workdir": workdir
        });
        world.client.run(&job).await
    };
    for (runtime, function) in [
        ("r", json!("function(x) if (file.exists('offset.txt')) 'there' else 'away'")),
        (
            "python",
            json!("import os\nlambda x: 'there' if os.path.exists('offset.txt') else 'away'"),
        ),
        ("command", json!(["sh", "-c", "[ -e offset.txt ] && echo there || echo away"])),
    ] {
        assert_eq!(run(runtime, &function, json!(folder)).await, json!(["there", "there"]));
        // Another job of the same owner does not work there, nor one whose folder is not here.
        for workdir in [Value::Null, json!(world.path("nowhere"))] {
            assert_eq!(run(runtime, &function, workdir).await, json!(["away", "away"]));
        }
    }
    assert!(folder.join("offset.txt").exists());
}
