//! Many elements, and large ones.

use serde_json::{Value, json};
use tests::World;

use crate::by_hand::Agent;

const MANY: u64 = 20_000;

fn sum_of(value: &Value) -> u64 {
    value.as_array().expect("an array").iter().map(|x| x.as_u64().expect("a number")).sum()
}

#[tokio::test]
async fn twenty_thousand_elements_come_back_right_and_in_order() {
    let world = World::start().await;
    let (_one, _two) = tokio::join!(world.agent("one", 2), world.agent("two", 1));
    let explicit: Vec<u64> = (0..MANY).rev().collect();
    for (runtime, function) in [("python", "lambda x: 2 * x + 1"), ("r", "function(x) 2L * x + 1L")]
    {
        for elements in [json!({"range": [0, MANY]}), json!(explicit)] {
            let job = json!({"runtime": runtime, "function": function, "elements": elements});
            let inputs =
                elements.as_array().cloned().unwrap_or((0..MANY).map(Value::from).collect());
            let value = world.client.run(&job).await;
            assert_eq!(sum_of(&value), MANY * MANY, "{runtime}");
            for (input, output) in inputs.iter().zip(value.as_array().unwrap()) {
                assert_eq!(output.as_u64(), input.as_u64().map(|x| 2 * x + 1), "{runtime}");
            }
        }
    }
}

#[tokio::test]
async fn many_names_are_kept() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 2).await;
    let elements: serde_json::Map<String, Value> =
        (0..5000).map(|i| (format!("name {i}"), json!(i))).collect();
    let job = json!({"runtime": "python", "function": "lambda x: x", "elements": elements});
    assert_eq!(world.client.run(&job).await, json!(elements));
}

#[tokio::test]
async fn many_outer_elements_of_many_sizes_are_kept_apart() {
    let world = World::start().await;
    let (_one, _two) = tokio::join!(world.python_agent("one", 2), world.python_agent("two", 2));
    let elements: Vec<Vec<u64>> =
        (0..300).map(|i| (0..i % 7).map(|j| 1000 * i + j).collect()).collect();
    let job = json!({
        "runtime": "python", "function": "lambda x: x", "elements": elements,
        "plan": [{"strategy": "cluster"}, {"strategy": "multisession"}]
    });
    assert_eq!(world.client.run(&job).await, json!(elements));
}

#[tokio::test]
async fn elements_of_a_megabyte_and_values_of_a_hundred_kilobytes() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let texts: Vec<String> = (0..8_u32)
        .map(|i| char::from_digit(i, 10).unwrap().to_string().repeat(1_000_000))
        .collect();
    let heads: Vec<Value> = (0..8).map(|i| json!([i.to_string(), 1_000_000])).collect();
    for (runtime, first_and_length, repeat) in [
        ("python", "lambda x: [x[0], len(x)]", "lambda i: chr(65 + i) * 100_000"),
        (
            "r",
            "function(x) list(substr(x, 1, 1), nchar(x))",
            "function(i) strrep(LETTERS[i + 1], 100000)",
        ),
    ] {
        let job = json!({"runtime": runtime, "function": first_and_length, "elements": texts});
        assert_eq!(world.client.run(&job).await, json!(heads), "{runtime}");
        let job = json!({"runtime": runtime, "function": repeat, "elements": {"range": [0, 20]}});
        let value = world.client.run(&job).await;
        let letters: Vec<String> =
            ('A'..='T').map(|letter| letter.to_string().repeat(100_000)).collect();
        assert!(value == json!(letters), "{runtime}: the values differ");
    }
}

#[tokio::test]
async fn a_large_chunk_travels_as_digests_also_if_a_part_of_it_compresses_well() {
    let world = World::start_with(&["--lease", "60"]).await;
    let by_hand = Agent::register(&world).await;
    // Text in which nothing repeats for long, beside text in which everything does.
    let varied = |seed: u64| -> String {
        let digits = (0..20_000_u64).map(|i| (i * i * 2_654_435_761 + seed) % 1_000_000_007);
        digits.map(|n| n.to_string()).collect()
    };
    let elements: Vec<String> =
        std::iter::once("a".repeat(200_000)).chain((0..40).map(varied)).collect();
    let job = json!({
        "runtime": "python", "function": "len", "elements": elements,
        "options": {"chunk_size": elements.len()}
    });
    let id = world.client.submit(&job).await;
    let lease = by_hand.lease().await;
    assert_eq!(lease.n, elements.len() as u64);
    assert!(lease.n_bytes < 1 << 20, "{} bytes", lease.n_bytes);
    by_hand.leave().await;
    let _agent = world.python_agent("one", 1).await;
    let lengths: Vec<usize> = elements.iter().map(String::len).collect();
    assert_eq!(world.client.value(&id).await, json!(lengths));
}

/// Elements whose values are a letter each, so often: beside one another in a row, in blobs together, in blobs of their
/// own, and errors among them.
const SIZES: [u64; 7] = [5, 100_000, 3_000_000, 0, 1_500_000, 7, 300_000];

fn repeated(i: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(i).expect("few"));
    letter.to_string().repeat(usize::try_from(SIZES[i]).expect("small"))
}

#[tokio::test]
async fn large_values_come_whole_and_with_their_length_wherever_errors_stand() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let elements: Vec<Value> = (0..).zip(SIZES).map(|(i, size)| json!([i, size])).collect();
    let json_of = |i: usize| match SIZES[i] {
        0 => json!({"type": "ValueError", "message": "none"}),
        _ => json!(repeated(i)),
    };
    let function = "def f(x):\n    if not x[1]:\n        raise ValueError('none')\n    return chr(97 + x[0]) * x[1]\n";
    for names in [false, true] {
        let named = || (0..).zip(&elements).map(|(i, x)| (i.to_string(), x.clone())).collect();
        let elements = if names { Value::Object(named()) } else { json!(elements) };
        let job = json!({
            "runtime": "python", "function": function, "elements": elements, "options": {"on_error": "collect"}
        });
        let id = world.client.submit(&job).await;
        let answer = world.client.outcome(&id).await;
        assert_eq!(answer.status, 200);
        // With names in it the length is not known beforehand.
        let length = if names { String::new() } else { answer.body.len().to_string() };
        assert_eq!(answer.header("content-length"), length);
        let value = answer.json();
        for i in 0..SIZES.len() {
            let own = if names { &value[i.to_string()] } else { &value[i] };
            let own = own.get("error").map_or(
                own.clone(),
                |error| json!({"type": error["type"], "message": error["message"]}),
            );
            assert!(own == json_of(i), "value {i}");
        }
    }
    let job = json!({
        "runtime": "python", "function": "def f(i):\n    return bytes([97 + i]) * sizes[i]\n", "elements": {"range": [0, SIZES.len()]},
        "globals": {"sizes": SIZES}, "options": {"encoding": "bytes"}
    });
    let id = world.client.submit(&job).await;
    let answer = world.client.outcome(&id).await;
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let frame = |i: usize| {
        let length = u32::try_from(SIZES[i]).expect("small").to_le_bytes();
        [&length[..], b"v", repeated(i).as_bytes()].concat()
    };
    assert!(answer.body == (0..SIZES.len()).map(frame).collect::<Vec<_>>().concat());
}

#[tokio::test]
async fn elements_that_are_lost_fail_and_hold_up_no_other_job() {
    let world = World::start().await;
    // Too large for a row, small enough to travel in a lease.
    let mut seed = 1_u64;
    let element: String = (0..300_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + (seed >> 58) as u8)
        })
        .map(|c| if c == '"' || c == '\\' { 'x' } else { c })
        .collect();
    let job = json!({"runtime": "python", "function": "len", "elements": [element]});
    let lost = world.client.submit(&job).await;
    let digest = tests::client::digest(format!("\"{element}\"").as_bytes());
    let hex = digest.trim_start_matches("sha256:");
    let blob = world.data().join("blobs").join(&hex[..2]).join(hex);
    std::fs::remove_file(&blob).expect("a blob of elements");
    let job = json!({"runtime": "python", "function": "abs", "elements": [-1]});
    let other = world.client.submit(&job).await;
    let _agent = world.python_agent("one", 1).await;
    assert_eq!(world.client.value(&other).await, json!([1]));
    let failed = world.client.outcome(&lost).await;
    assert_eq!(failed.status, 409);
    assert!(failed.text().contains(&digest), "{}", failed.text());
}

#[tokio::test]
async fn a_value_of_which_a_part_is_damaged_is_never_taken_for_whole() {
    let world = World::start().await;
    let _agent = world.python_agent("one", 1).await;
    let job =
        json!({"runtime": "python", "function": "lambda x: x * 2_000_000", "elements": ["a", "b"]});
    let id = world.client.submit(&job).await;
    assert_eq!(world.client.outcome(&id).await.status, 200);
    let digest = tests::client::digest(format!("\"{}\"", "b".repeat(2_000_000)).as_bytes());
    let hex = digest.trim_start_matches("sha256:");
    let blob = world.data().join("blobs").join(&hex[..2]).join(hex);
    let file = std::fs::File::options().write(true).open(&blob).expect("the blob of a large value");
    file.set_len(1_000_000).expect("to be cut");
    let path = format!("/v1/jobs/{id}/value");
    let answer = world.client.try_send("GET", &path, &[], Vec::new()).await;
    assert!(answer.is_err(), "a part of the value came as if it were all of it");
    // A command asks again, as after a connection that broke, but not for ever.
    let command = world.farrow(&["value", &id]).await;
    assert_eq!(command.code, Some(3), "{command:?}");
    assert!(command.stderr.contains("the value breaks off behind byte"), "{command:?}");
    std::fs::remove_file(&blob).expect("to be removed");
    let answer = world.client.try_send("GET", &path, &[], Vec::new()).await;
    assert!(answer.is_err(), "a part of the value came as if it were all of it");
}
