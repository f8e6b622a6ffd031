//! The first map of the vignette: a linear model for each gear of mtcars.

use serde_json::{Map, Value, json};
use tests::World;

/// `gear, mpg, cyl, hp, wt` of R's data set mtcars.
const MTCARS: [(u32, f64, f64, f64, f64); 32] = [
    (3, 21.4, 6.0, 110.0, 3.215),
    (3, 18.7, 8.0, 175.0, 3.440),
    (3, 18.1, 6.0, 105.0, 3.460),
    (3, 14.3, 8.0, 245.0, 3.570),
    (3, 16.4, 8.0, 180.0, 4.070),
    (3, 17.3, 8.0, 180.0, 3.730),
    (3, 15.2, 8.0, 180.0, 3.780),
    (3, 10.4, 8.0, 205.0, 5.250),
    (3, 10.4, 8.0, 215.0, 5.424),
    (3, 14.7, 8.0, 230.0, 5.345),
    (3, 21.5, 4.0, 97.0, 2.465),
    (3, 15.5, 8.0, 150.0, 3.520),
    (3, 15.2, 8.0, 150.0, 3.435),
    (3, 13.3, 8.0, 245.0, 3.840),
    (3, 19.2, 8.0, 175.0, 3.845),
    (4, 21.0, 6.0, 110.0, 2.620),
    (4, 21.0, 6.0, 110.0, 2.875),
    (4, 22.8, 4.0, 93.0, 2.320),
    (4, 24.4, 4.0, 62.0, 3.190),
    (4, 22.8, 4.0, 95.0, 3.150),
    (4, 19.2, 6.0, 123.0, 3.440),
    (4, 17.8, 6.0, 123.0, 3.440),
    (4, 32.4, 4.0, 66.0, 2.200),
    (4, 30.4, 4.0, 52.0, 1.615),
    (4, 33.9, 4.0, 65.0, 1.835),
    (4, 27.3, 4.0, 66.0, 1.935),
    (4, 21.4, 4.0, 109.0, 2.780),
    (5, 26.0, 4.0, 91.0, 2.140),
    (5, 30.4, 4.0, 113.0, 1.513),
    (5, 15.8, 8.0, 264.0, 3.170),
    (5, 19.7, 6.0, 175.0, 2.770),
    (5, 15.0, 8.0, 335.0, 3.570),
];

const TERMS: [&str; 4] = ["(Intercept)", "cyl", "hp", "wt"];

/// What R computes by itself, in the order of [`TERMS`].
#[expect(clippy::excessive_precision, reason = "the digits are R's")]
const COEFFICIENTS: [(u32, [f64; 4]); 3] = [
    (3, [30.4895586500882807, -0.3188257816087205, -0.0232614319951162, -2.0308309592568894]),
    (4, [43.6935269919930604, 0.0564687204061053, -0.1233110247381720, -3.2053672508873188]),
    (5, [45.2909934141214379, -2.0326819742298250, 0.0265542700005081, -6.4228962929582440]),
];

const FIT: &str = "function(.x) coef(lm(mpg ~ cyl + hp + wt, data = .x))";

fn rows(gear: u32) -> Value {
    let of_gear = MTCARS.iter().filter(|row| row.0 == gear);
    let object = |&(_, mpg, cyl, hp, wt): &(u32, f64, f64, f64, f64)| json!({"mpg": mpg, "cyl": cyl, "hp": hp, "wt": wt});
    of_gear.map(object).collect()
}

fn assert_are_coefficients(model: &Value, gear: u32) {
    let (_, known) = COEFFICIENTS.iter().find(|(own, _)| *own == gear).expect("a known gear");
    assert_eq!(model.as_object().map(Map::len), Some(TERMS.len()), "{model}");
    for (term, known) in TERMS.iter().zip(known) {
        let got = model[term].as_f64().unwrap_or_else(|| panic!("no {term} in {model}"));
        assert!(
            (got - known).abs() <= 1e-12 * known.abs(),
            "gear {gear}, {term}: {got} != {known}"
        );
    }
}

#[tokio::test]
async fn three_models_by_gear() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let elements: Vec<Value> = COEFFICIENTS.iter().map(|(gear, _)| rows(*gear)).collect();
    let models =
        world.client.run(&json!({"runtime": "r", "function": FIT, "elements": elements})).await;
    assert_eq!(models.as_array().map(Vec::len), Some(3), "{models}");
    for (i, (gear, _)) in COEFFICIENTS.iter().enumerate() {
        assert_are_coefficients(&models[i], *gear);
    }
}

#[tokio::test]
async fn an_object_of_elements_gives_an_object_with_its_names_in_its_order() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    // Written by hand, because a map in memory would sort the names.
    let job = format!(
        r#"{{"runtime": "r", "function": "{FIT}",
            "elements": {{"four": {}, "fünf \"5\"": {}, "3": {}}}}}"#,
        rows(4),
        rows(5),
        rows(3)
    );
    let id = world.client.submit_text(job).await;
    let answer = world.client.outcome(&id).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let places = ["\"four\"", "\"fünf \\\"5\\\"\"", "\"3\""].map(|name| text.find(name));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
    let models = answer.json();
    assert_are_coefficients(&models["four"], 4);
    assert_are_coefficients(&models["fünf \"5\""], 5);
    assert_are_coefficients(&models["3"], 3);
}
