//! Doubles come through a map to the last bit, in every runtime that has them.

use serde_json::json;
use tests::doubles::{as_json, bits, of_every_size, parse};
use tests::{Client, World};

const N: usize = 100_000;

async fn come_back_through(client: &Client, runtime: &str, function: &str, sent: &[f64]) {
    let job = json!({"runtime": runtime, "function": function, "elements": "@"}).to_string();
    let id = client.submit_text(job.replace("\"@\"", &as_json(sent))).await;
    let answer = client.outcome(&id).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let back = parse(&answer.text());
    assert_eq!(back.len(), sent.len());
    let differ = bits(sent).into_iter().zip(bits(&back)).position(|(sent, back)| sent != back);
    assert!(differ.is_none(), "{runtime}: {:?}", differ.map(|i| (sent[i], back[i])));
}

#[tokio::test]
async fn a_hundred_thousand_doubles_come_back_as_they_were() {
    let world = World::start().await;
    let _agent = world.agent("one", 2).await;
    let sent = of_every_size(N);
    assert_eq!(sent.len(), N);
    assert!(sent.iter().filter(|double| double.is_subnormal()).count() > N / 100);
    come_back_through(&world.client, "r", "function(x) x", &sent).await;
    come_back_through(&world.client, "python", "lambda x: x", &sent).await;
}
