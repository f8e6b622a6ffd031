//! Every route by every kind of caller.

use std::collections::BTreeSet;

use super::super::{ACCESS, openapi_json};
use super::*;

/// What each route answers to each caller, in the order of [`CALLERS`].
#[rustfmt::skip]
pub const MATRIX: &[(&str, [u16; 10])] = &[
    ("POST /v1/jobs",                  [401, 401, 401, 401, 401, 202, 202, 403, 403, 202]),
    ("GET /v1/jobs",                   [401, 401, 401, 401, 401, 200, 200, 403, 403, 200]),
    ("POST /v1/jobs:batch",            [401, 401, 401, 401, 401, 202, 202, 403, 403, 202]),
    ("GET /v1/jobs/{id}",              [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    // Deleting what is not there is fine; the owner's job has not ended.
    ("DELETE /v1/jobs/{id}",           [401, 401, 401, 401, 401, 409, 204, 403, 403, 409]),
    ("GET /v1/jobs/{id}/value",        [401, 401, 401, 401, 401, 202, 404, 403, 403, 202]),
    ("GET /v1/jobs/{id}/outcomes",     [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("GET /v1/jobs/{id}/events",       [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("GET /v1/jobs/{id}/logs",         [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("POST /v1/jobs/{id}/cancel",      [401, 401, 401, 401, 401, 200, 404, 403, 403, 200]),
    ("POST /v1/jobs/{id}/retry",       [401, 401, 401, 401, 401, 409, 404, 403, 403, 409]),
    // The owner had it; to another it is new.
    ("PUT /v1/blobs/{digest}",         [401, 401, 401, 401, 401, 200, 201, 403, 403, 200]),
    ("HEAD /v1/blobs/{digest}",        [401, 401, 401, 401, 401, 200, 404, 200, 200, 200]),
    ("GET /v1/blobs/{digest}",         [401, 401, 401, 401, 401, 200, 404, 200, 200, 200]),
    ("GET /v1/agents",                 [401, 401, 401, 401, 401, 200, 200, 403, 403, 200]),
    ("POST /v1/agents",                [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/drain",     [401, 401, 401, 401, 401, 403, 403, 403, 403, 202]),
    ("DELETE /v1/agents/{id}",         [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/agents/{id}/lease",     [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/report",    [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/logs",      [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/agents/{id}/heartbeat", [401, 401, 401, 401, 401, 403, 403, 200, 403, 200]),
    ("POST /v1/agents/{id}/release",   [401, 401, 401, 401, 401, 403, 403, 204, 403, 204]),
    ("POST /v1/tokens",                [401, 401, 401, 401, 401, 403, 403, 403, 403, 201]),
    ("GET /v1/tokens",                 [401, 401, 401, 401, 401, 403, 403, 403, 403, 200]),
    ("DELETE /v1/tokens/{id}",         [401, 401, 401, 401, 401, 403, 403, 403, 403, 204]),
    ("GET /v1/audit",                  [401, 401, 401, 401, 401, 403, 403, 403, 403, 200]),
    ("GET /metrics",                   [401, 401, 401, 401, 401, 200, 200, 200, 200, 200]),
    ("GET /healthz",                   [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /readyz",                    [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /openapi.json",              [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
    ("GET /docs",                      [200, 200, 200, 200, 200, 200, 200, 200, 200, 200]),
];

fn described() -> BTreeSet<String> {
    let description: Value = serde_json::from_str(&openapi_json()).unwrap();
    let paths = description["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

#[test]
fn it_is_said_of_every_route_who_may_call_it() {
    let said: BTreeSet<String> =
        ACCESS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(said, described(), "the table ACCESS is not that of the routes");
    assert_eq!(said.len(), ACCESS.len(), "a route stands twice in the table ACCESS");
    let shown: BTreeSet<String> = MATRIX.iter().map(|(route, _)| (*route).to_owned()).collect();
    assert_eq!(shown, described(), "a route is not tested");
}

#[tokio::test]
async fn every_route_answers_every_caller_as_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let mut wrong = Vec::new();
    for (route, wanted) in MATRIX {
        for (caller, wanted) in wanted.iter().enumerate() {
            let status = house.cell(caller, route).await;
            if status.as_u16() != *wanted {
                wrong.push(format!("{route} by {}: {status}, not {wanted}", CALLERS[caller]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    for (caller, says) in [
        (0, ["no token", "Authorization: Bearer"]),
        (1, ["holds no token", "Authorization: Bearer"]),
        (2, ["not known", "farrow token create"]),
        (3, ["\"expired\" has expired at 20", "farrow token create --role submit"]),
        (4, ["\"revoked\" was revoked at 20", "farrow token create --role submit"]),
    ] {
        let refused = house.send(caller, "GET /v1/jobs", "").await;
        assert_eq!(refused.json()["type"], "urn:farrow:unauthorized");
        let detail = refused.detail();
        assert!(says.iter().all(|says| detail.contains(says)), "{detail}");
    }
    for (caller, route, says) in [
        (ADA, "POST /v1/tokens", ["\"ada\" has the role `submit`", "needs the role `admin`"]),
        (AGENT, "POST /v1/jobs", ["\"agents\" has the role `agent`", "`submit` or `admin`"]),
        (ADA, "POST /v1/agents", ["the role `submit`", "`agent` or `admin`"]),
    ] {
        let refused = house.send(caller, route, "").await;
        assert_eq!(
            (refused.status, &refused.json()["type"]),
            (403, &json!("urn:farrow:forbidden"))
        );
        let detail = refused.detail();
        assert!(says.iter().all(|says| detail.contains(says)), "{detail}");
    }
}
