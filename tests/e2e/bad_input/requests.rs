//! Requests with a wrong address, method, token, parameter or body, of clients and of agents.

use serde_json::{Value, json};

use super::{
    BLOB, INVALID, MAX_BLOB, NO_BLOB, NOBODY, NOT_ALLOWED, NOT_FOUND, Refusal, TEXT, UNAUTHORIZED,
    UNREADABLE, refusal,
};

pub fn requests() -> Vec<Refusal> {
    let get = |path: String, how, says: &[&'static str]| refusal("GET", path, "", how, says);
    let open = |name: &'static str, value: &'static str, says: &[&'static str]| {
        get("/v1/jobs".to_owned(), UNAUTHORIZED, says).header(name, value)
    };
    vec![
        open("authorization", "", &["no token", "Authorization: Bearer"]),
        open("authorization", "Bearer", &["Authorization: Bearer"]),
        open("authorization", "Basic dXNlcjpwYXNz", &["Authorization: Bearer"]),
        open("authorization", "Bearer not-the-token-at-all", &["not known", "FARROW_TOKEN"]),
        refusal("POST", "/v1/jobs", "{", UNAUTHORIZED, &["no token"]).header("authorization", ""),
        get("/v1/nothing".to_owned(), UNAUTHORIZED, &["no token"]).header("authorization", ""),
        get("/v1/nothing".to_owned(), NOT_FOUND, &["/v1/nothing", "/openapi.json"]),
        get("/v1/jobs/".to_owned(), NOT_FOUND, &[]),
        get("/v1/jobs/17".to_owned(), INVALID, &["\"17\"", "UUID"]),
        get("/v1/jobs/%ff/value".to_owned(), UNREADABLE, &["UTF-8"]),
        get(format!("/v1/jobs/{NOBODY}"), NOT_FOUND, &["no job", NOBODY]),
        get(format!("/v1/jobs/{NOBODY}/value"), NOT_FOUND, &["no job"]),
        refusal("POST", format!("/v1/jobs/{NOBODY}/cancel"), "", NOT_FOUND, &["no job"]),
        get(format!("/v1/jobs/{NOBODY}?wait=61"), INVALID, &["wait: is 61", "from 0 to 60"]),
        get(format!("/v1/jobs/{NOBODY}/value?wait=-1"), INVALID, &["wait: is -1"]),
        get(format!("/v1/jobs/{NOBODY}/value?wait=soon"), INVALID, &["wait"]),
        get(format!("/v1/jobs/{NOBODY}?wait=nan"), INVALID, &["wait"]),
        get(format!("/v1/jobs/{NOBODY}/value?wiat=1"), INVALID, &["wiat"]),
        get("/v1/jobs?limit=0".to_owned(), INVALID, &["limit: is 0", "from 1 to 1000"]),
        get("/v1/jobs?limit=1001".to_owned(), INVALID, &["limit: is 1001"]),
        get("/v1/jobs?limit=many".to_owned(), INVALID, &["limit"]),
        get("/v1/jobs?after=%00".to_owned(), INVALID, &["NUL"]),
        get("/v1/jobs?state=done".to_owned(), INVALID, &["unknown value `done`", "`resolved`"]),
        get("/v1/jobs?after=17".to_owned(), INVALID, &["after"]),
        get("/v1/agents?dead=true".to_owned(), INVALID, &["dead"]),
        get(format!("/v1/jobs/{NOBODY}/outcomes"), NOT_FOUND, &["no job"]),
        get(format!("/v1/jobs/{NOBODY}/logs"), NOT_FOUND, &["no job"]),
        get(format!("/v1/jobs/{NOBODY}/events"), NOT_FOUND, &["no job"]),
        refusal("POST", format!("/v1/jobs/{NOBODY}/retry"), "", NOT_FOUND, &["no job"]),
        refusal("DELETE", "/v1/jobs/17", "", INVALID, &["UUID"]),
        get("/v1/jobs/17/outcomes".to_owned(), INVALID, &["UUID"]),
        get(
            format!("/v1/jobs/{NOBODY}/outcomes?order=random"),
            INVALID,
            &["order", "`completion`"],
        ),
        get(format!("/v1/jobs/{NOBODY}/outcomes?state=maybe"), INVALID, &["state", "`failed`"]),
        get(format!("/v1/jobs/{NOBODY}/outcomes?limit=0"), INVALID, &["limit: is 0"]),
        get(format!("/v1/jobs/{NOBODY}/outcomes?after=-1"), INVALID, &["after"]),
        get(format!("/v1/jobs/{NOBODY}/outcomes?wait=5&order=index"), INVALID, &["order"]),
        get(format!("/v1/jobs/{NOBODY}/logs?source=kernel"), INVALID, &["source", "`prepare`"]),
        get(format!("/v1/jobs/{NOBODY}/logs?element=first"), INVALID, &["element"]),
        get(format!("/v1/jobs/{NOBODY}/logs?wait=61"), INVALID, &["wait: is 61"]),
        get(format!("/v1/jobs/{NOBODY}/events"), INVALID, &["Last-Event-ID", "leave it out"])
            .header("last-event-id", "yesterday"),
        get("/v1/jobs?id=17".to_owned(), INVALID, &["id", "UUID"]),
        get(format!("/v1/jobs?id={NOBODY}&limit=3"), INVALID, &["id: goes with no other"]),
        get(
            format!("/v1/jobs?{}", vec![format!("id={NOBODY}"); 1001].join("&")),
            INVALID,
            &["1001"],
        ),
        get("/metrics".to_owned(), UNAUTHORIZED, &["no token"]).header("authorization", ""),
        get("/v1/jobs:batch".to_owned(), NOT_ALLOWED, &["GET"]),
        refusal("DELETE", format!("/v1/blobs/{BLOB}"), "", NOT_ALLOWED, &["DELETE"]),
        refusal("PUT", "/v1/jobs", "", NOT_ALLOWED, &["PUT"]),
        refusal("GET", format!("/v1/jobs/{NOBODY}/cancel"), "", NOT_ALLOWED, &["GET"]),
        refusal("POST", "/healthz", "", NOT_ALLOWED, &["POST"]),
    ]
}

pub fn of_agents() -> Vec<Refusal> {
    let agent = |change: Value| {
        let mut agent = json!({
            "id": NOBODY, "name": "stranger", "protocol": 2, "version": "0.0.1", "slots": 1,
            "physical_cores": 1, "logical_cores": 1, "memory": 0, "runtimes": {}, "labels": {}
        });
        for (name, value) in change.as_object().expect("an object") {
            agent[name] = value.clone();
        }
        agent.to_string()
    };
    let at = |what: &str| format!("/v1/agents/{NOBODY}/{what}");
    let report = |change: Value, says: &[&'static str]| {
        let mut piece = json!({"lease": NOBODY, "job": NOBODY, "first": 0, "lengths": [1],
            "slot": 0, "pid": 7, "started_at": 0, "seconds": 1});
        piece.as_object_mut().expect("one").extend(change.as_object().expect("one").clone());
        let header = json!({"pieces": [piece]}).to_string();
        let length = u32::try_from(header.len()).expect("a short header").to_le_bytes();
        let body = [&length[..], header.as_bytes(), b"1"].concat();
        refusal("POST", at("report"), body, INVALID, says)
    };
    let beat = json!({"held": [], "draining": false, "wait": 0}).to_string();
    let lease = json!({"free": 1, "held": [], "known_jobs": [], "wait": 0}).to_string();
    vec![
        refusal(
            "POST",
            "/v1/agents",
            agent(json!({"protocol": 999})),
            (409, "protocol-version"),
            &["protocol 999", "same version"],
        ),
        refusal("POST", "/v1/agents", agent(json!({"slots": 0})), INVALID, &["slots: is 0"]),
        refusal("POST", "/v1/agents", agent(json!({"id": "me"})), INVALID, &["id"]),
        refusal(
            "POST",
            "/v1/agents",
            agent(json!({"runtimes": {"perl": "5"}})),
            INVALID,
            &["perl"],
        ),
        refusal("POST", at("heartbeat"), beat, (404, "unknown-agent"), &["register again"]),
        refusal("POST", at("lease"), lease, (404, "unknown-agent"), &["register again"]),
        refusal("POST", at("heartbeat"), "[[], false, 0]", INVALID, &["array"]),
        refusal("POST", at("lease"), "{}", INVALID, &["missing field"]),
        refusal(
            "POST",
            at("report"),
            "xx",
            UNREADABLE,
            &["not a report", "ends before its header"],
        ),
        refusal("POST", at("report"), "\u{3}\0\0\0{x}", UNREADABLE, &["not a report", "header"]),
        report(json!({"first": u64::MAX}), &["pieces[0].first", "no element"]),
        report(json!({"seconds": 1e300}), &["pieces[0].seconds", "must be from 0"]),
        report(json!({"seconds": -1}), &["pieces[0].seconds", "must be from 0"]),
        refusal("POST", at("drain"), "", NOT_FOUND, &["no agent"]),
    ]
}

pub fn of_blobs() -> Vec<Refusal> {
    let at = |digest: &str| format!("/v1/blobs/{digest}");
    vec![
        refusal("GET", at("sha256:0"), "", INVALID, &["64 hex digits"]),
        refusal("GET", at(NO_BLOB), "", NOT_FOUND, &["no blob"]),
        refusal("GET", at("%ff"), "", UNREADABLE, &["UTF-8"]),
        refusal("PUT", at("%ff"), "x", UNREADABLE, &["UTF-8"]),
        refusal("PUT", at("md5:0"), "x", INVALID, &["64 hex digits"]),
        refusal("PUT", at(&BLOB.to_uppercase()), "x", INVALID, &["64 hex digits", "lower case"]),
        refusal(
            "PUT",
            at(BLOB),
            "another text",
            INVALID,
            &["is not that of the body", "own digest"],
        ),
        refusal("PUT", at(NO_BLOB), vec![b'x'; MAX_BLOB + 1], (413, "too-large"), &["--max-blob"]),
        refusal("PUT", at(BLOB), TEXT, UNAUTHORIZED, &["no token"]).header("authorization", ""),
    ]
}

/// Keys by which a submission is recognized when it comes again.
pub fn of_keys() -> Vec<Refusal> {
    let sound = r#"{"runtime": "python", "function": "1"}"#;
    let key = |key: &'static str| {
        refusal("POST", "/v1/jobs", sound, INVALID, &["Idempotency-Key", "1 to 255 visible"])
            .header("idempotency-key", key)
    };
    let too_long: &'static str = "x".repeat(256).leak();
    vec![key("two words"), key("\t"), key(too_long), key("ä")]
}
