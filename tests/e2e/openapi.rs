//! The description of the API that is kept beside the code.

use std::fs;
use std::path::Path;

use tests::World;

#[tokio::test]
async fn the_description_is_that_of_the_code() {
    let world = World::start().await;
    let printed = world.farrow(&["openapi"]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let served = world.client.send("GET", "/openapi.json", &[("authorization", "")], Vec::new());
    assert_eq!(served.await.text(), printed.stdout);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == printed.stdout, "openapi/openapi.json is stale: run `make openapi`");
}
