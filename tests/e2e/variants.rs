//! Every variant, type and way of taking errors, in every runtime.

use serde_json::{Value, json};
use tests::World;

/// A job of one runtime and the value that it must have.
struct Case {
    runtime: &'static str,
    function: Value,
    elements: Value,
    options: Value,
    value: Value,
}

impl Case {
    fn job(&self) -> Value {
        json!({
            "runtime": self.runtime, "function": self.function, "elements": self.elements,
            "options": self.options
        })
    }
}

fn sh(script: &str) -> Value {
    json!(["sh", "-c", script, "sh", "{}"])
}

/// The same in all three runtimes.
fn in_each(
    functions: [Value; 3],
    elements: &Value,
    options: &Value,
    values: [Value; 3],
) -> Vec<Case> {
    let case = |((runtime, function), value)| Case {
        runtime,
        function,
        elements: elements.clone(),
        options: options.clone(),
        value,
    };
    ["r", "python", "command"].into_iter().zip(functions).zip(values).map(case).collect()
}

fn variants() -> Vec<Case> {
    let (two, named) = (json!([10, 20]), json!({"a": 10, "b": 20}));
    let pairs = json!([[1, 2], {"y": 5, "x": 3}]);
    let variant = |variant: &str| json!({"variant": variant});
    let mut cases = in_each(
        [json!("~ .x + 1L"), json!("lambda x: x + 1"), json!(["echo", "{}!"])],
        &two,
        &variant("map"),
        [json!([11, 21]), json!([11, 21]), json!(["10!", "20!"])],
    );
    cases.extend(in_each(
        [
            json!("function(x, y) x - y"),
            json!("lambda x, y: x - y"),
            json!(["echo", "{1}{x}", "{2}{y}"]),
        ],
        &pairs,
        &variant("pmap"),
        [json!([-1, -2]), json!([-1, -2]), json!(["1{x} 2{y}", "{1}3 {2}5"])],
    ));
    cases.extend(in_each(
        [
            json!("function(x, i) paste(x, i)"),
            json!("lambda x, i: f'{x} {i}'"),
            json!(["echo", "{}", "{key}"]),
        ],
        &two,
        &variant("imap"),
        [json!(["10 1", "20 2"]), json!(["10 0", "20 1"]), json!(["10 0", "20 1"])],
    ));
    cases.extend(in_each(
        [
            json!("function(x, i) paste(x, i)"),
            json!("lambda x, i: f'{x} {i}'"),
            json!(["echo", "{}", "{key}"]),
        ],
        &named,
        &variant("imap"),
        std::array::from_fn(|_| json!({"a": "10 a", "b": "20 b"})),
    ));
    cases.extend(in_each(
        [json!("~ .x"), json!("lambda x: x"), json!(["echo", "{}"])],
        &two,
        &variant("walk"),
        std::array::from_fn(|_| json!([null, null])),
    ));
    cases
}

fn types() -> Vec<Case> {
    let one = json!([1]);
    let of = |name: &str| json!({"type": name, "output": "json"});
    // Only a command has an output to choose.
    let mut cases = Vec::new();
    for (name, r, python, printed, value) in [
        ("list", "~ list(1L, 'a')", "lambda x: [1, 'a']", r#"[1, "a"]"#, json!([1, "a"])),
        ("chr", "~ 'a'", "lambda x: 'a'", r#""a""#, json!("a")),
        ("dbl", "~ 1.5", "lambda x: 1.5", "1.5", json!(1.5)),
        ("int", "~ 2L", "lambda x: 2", "2", json!(2)),
        ("lgl", "~ TRUE", "lambda x: True", "true", json!(true)),
    ] {
        let values = std::array::from_fn(|_| json!([value]));
        let functions = [json!(r), json!(python), json!(["echo", printed])];
        cases.extend(in_each(functions, &one, &of(name), values).into_iter().map(|mut case| {
            if case.runtime != "command" {
                case.options = json!({"type": name});
            }
            case
        }));
    }
    cases
}

async fn come_true(world: &World, cases: Vec<Case>) {
    for case in cases {
        let value = world.client.run(&case.job()).await;
        assert_eq!(value, case.value, "{}", case.job());
    }
}

#[tokio::test]
async fn every_variant_in_every_runtime() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    come_true(&world, variants()).await;
}

#[tokio::test]
async fn every_type_in_every_runtime() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    come_true(&world, types()).await;
}

#[tokio::test]
async fn what_is_of_another_type_is_an_error_that_says_which_element_and_what_it_got() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for (runtime, function, value_type, got) in [
        ("r", json!("~ if (.x == 3) c('a', 'b') else 1"), "dbl", "character"),
        ("r", json!("~ if (.x == 3) 1.5 else 1L"), "int", "1.5"),
        ("python", json!("lambda x: 'a' if x == 3 else 1"), "dbl", "str"),
        ("python", json!("lambda x: None if x == 3 else 'a'"), "chr", "None"),
        ("command", sh("[ $1 = 3 ] && echo '\"a\"' || echo 1"), "dbl", "string"),
    ] {
        let mut options = json!({"type": value_type});
        if runtime == "command" {
            options["output"] = json!("json");
        }
        let problem = world
            .client
            .failure(&json!({
                "runtime": runtime, "function": function, "elements": {"range": [0, 4]},
                "options": options
            }))
            .await;
        let message = problem["element"]["message"].as_str().unwrap();
        assert_eq!(problem["element"]["index"], 3, "{problem:#}");
        assert!(message.contains("element 3") && message.contains(got), "{problem:#}");
    }
}

#[tokio::test]
async fn an_error_fails_the_job_or_stands_in_its_place() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    for (runtime, function, words) in [
        ("r", json!("function(x) if (x == 2) stop('no ', x) else x"), "no 2"),
        (
            "python",
            json!("def f(x):\n    if x == 2: raise ValueError('no 2')\n    return x"),
            "no 2",
        ),
        ("command", sh("[ $1 = 2 ] && { echo no 2 >&2; exit 3; } || echo $1"), "no 2"),
    ] {
        let job = |on_error: &str| {
            json!({
                "runtime": runtime, "function": function, "elements": [0, 1, 2, 3],
                "options": {"on_error": on_error}
            })
        };
        let problem = world.client.failure(&job("stop")).await;
        assert_eq!(problem["element"]["index"], 2, "{problem:#}");
        assert!(problem["element"]["message"].as_str().unwrap().contains(words), "{problem:#}");
        if runtime == "r" {
            let call = problem["element"]["call"].as_str().unwrap_or_default();
            assert!(call.starts_with("f("), "{problem:#}");
        }
        let value = world.client.run(&job("collect")).await;
        let message = value[2]["error"]["message"].as_str();
        assert!(message.is_some_and(|message| message.contains(words)), "{value}");
        assert_eq!(value.as_array().map(Vec::len), Some(4));
        assert!(!value[3].is_null() && value[3]["error"].is_null(), "{value}");
    }
}

/// The lines of an NDJSON answer.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn what_elements_say_stands_in_their_outcomes() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let r = "function(x) { cat('out', x, '\\n'); message('note ', x); warning('careful ', x); x }";
    let python = "import sys, warnings\ndef f(x):\n    print('out', x)\n    print('err', x, \
                  file=sys.stderr)\n    warnings.warn(f'careful {x}')\n    return x";
    let command = sh("echo $1; echo err $1 >&2");
    for (runtime, function) in [("r", json!(r)), ("python", json!(python)), ("command", command)] {
        let job = json!({"runtime": runtime, "function": function, "elements": [1, 2, 3]});
        let id = world.client.submit(&job).await;
        world.client.value(&id).await;
        let outcomes = lines(&world.client.get(&format!("/v1/jobs/{id}/outcomes")).await.text());
        assert_eq!(outcomes.len(), 3);
        for (i, outcome) in outcomes.iter().enumerate() {
            let x = i + 1;
            assert_eq!((&outcome["index"], &outcome["ok"]), (&json!(i), &json!(true)));
            let says = |field: &str, words: String| {
                let text = outcome[field].to_string();
                assert!(text.contains(&words), "{runtime}: no {words:?} in {outcome:#}");
            };
            match runtime {
                "r" => {
                    says("stdout", format!("out {x}"));
                    says("conditions", format!("note {x}"));
                    says("conditions", format!("careful {x}"));
                }
                "python" => {
                    says("stdout", format!("out {x}"));
                    says("stderr", format!("err {x}"));
                    says("conditions", format!("careful {x}"));
                }
                _ => says("stderr", format!("err {x}")),
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_speaks_of_no_element() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let problem = world.client.failure(&json!({"runtime": "python", "function": "1 / 0"})).await;
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!(detail, "the call failed: division by zero");
}
