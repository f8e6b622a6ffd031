//! Jobs, blobs and agents of others.

use super::matrix::MATRIX;
use super::*;

/// Word for word: not even that it is there is told.
#[tokio::test]
async fn another_owners_job_is_as_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let none = protocol::JobId::new().to_string();
    for (route, _) in MATRIX.iter().filter(|(route, _)| route.contains("/jobs/{id}")) {
        let job = house.submit(ADA, &map()).await;
        let theirs = house.send(BOB, &route.replace("{id}", &job), "").await;
        let nothing = house.send(BOB, &route.replace("{id}", &none), "").await;
        assert_eq!(theirs.status, nothing.status, "{route}");
        assert_eq!(theirs.body.replace(&job, &none), nothing.body, "{route}");
        let status = house.send(ADA, &format!("GET /v1/jobs/{job}"), "").await;
        assert_eq!(status.json()["state"], "queued", "after {route}");
    }
    let job = house.submit(ADA, &map()).await;
    let mine = house.submit(BOB, &map()).await;
    // In its lists, among many, as what to come after.
    for (caller, wanted) in [(BOB, vec![&mine]), (ADMIN, vec![&job, &mine])] {
        let many = house.send(caller, &format!("GET /v1/jobs?id={job}&id={mine}"), "").await.json();
        let ids: Vec<&str> = many["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, wanted);
    }
    for query in ["", "?state=queued"] {
        let listed = house.send(BOB, &format!("GET /v1/jobs{query}"), "").await;
        assert!(listed.body.contains(&mine) && !listed.body.contains(&job), "{}", listed.body);
    }
    let after = |job: &str| {
        let mut after = map();
        after["after"] = json!([job]);
        after.to_string()
    };
    for route in ["POST /v1/jobs", "POST /v1/jobs:batch"] {
        let body = |job: &str| match route {
            "POST /v1/jobs" => after(job),
            _ => format!("{{\"jobs\": [{}]}}", after(job)),
        };
        let theirs = house.send(BOB, route, body(&job)).await;
        let nothing = house.send(BOB, route, body(&none)).await;
        assert_eq!((theirs.status, nothing.status), (422, 422));
        assert_eq!(theirs.body.replace(&job, &none), nothing.body);
        assert_eq!(house.send(BOB, route, body(&mine)).await.status, 202);
        assert_eq!(house.send(ADMIN, route, body(&job)).await.status, 202);
    }
}

/// To know the digest gives no right to the bytes, neither by themselves nor through a job.
#[tokio::test]
async fn a_blob_is_read_and_named_only_by_who_has_uploaded_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let digest = format!("sha256:{}", hex_digest(BLOB.as_bytes()));
    let none = format!("sha256:{}", "0".repeat(64));
    let jobs = |digest: &str| {
        let mut jobs = [map(), map(), map(), map()];
        jobs[0]["elements"] = json!({"blob": digest});
        jobs[1]["args"] = json!({"k": {"blob": digest}});
        jobs[2]["globals"] = json!({"k": {"blob": digest}});
        jobs[3]["files"] = json!({"blob": digest});
        jobs
    };
    for (theirs, nothing) in jobs(&digest).iter().zip(jobs(&none)) {
        let refused = house.send(BOB, "POST /v1/jobs", theirs.to_string()).await;
        assert_eq!(refused.status, 422, "{theirs}");
        let nothing = house.send(BOB, "POST /v1/jobs", nothing.to_string()).await;
        assert_eq!(refused.body.replace(&digest, &none), nothing.body);
        for caller in [ADA, ADMIN] {
            house.submit(caller, theirs).await;
        }
    }
    let read = format!("GET /v1/blobs/{digest}");
    assert_eq!(house.send(BOB, &read, "").await.status, 404);
    // Who can send the bytes had them. Others' uploads are not told of: to Bob it is new.
    for status in [201, 200] {
        assert_eq!(house.send(BOB, &format!("PUT /v1/blobs/{digest}"), BLOB).await.status, status);
    }
    assert_eq!(house.send(BOB, &read, "").await.body, BLOB);
    house.submit(BOB, &jobs(&digest)[0]).await;
}

#[tokio::test]
async fn an_agent_is_its_tokens_for_as_long_as_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let id = AgentId::new();
    assert_eq!(house.register(AGENT, id).await.status, 200);
    let refused = house.register(OTHER_AGENT, id).await;
    assert_eq!(refused.status, 403);
    assert!(refused.detail().contains("registered with another token"), "{}", refused.body);
    let beat = |caller| {
        let beat = json!({"held": [], "draining": false, "wait": 0}).to_string();
        house.send(
            caller,
            Box::leak(format!("POST /v1/agents/{id}/heartbeat").into_boxed_str()),
            beat,
        )
    };
    assert_eq!(beat(OTHER_AGENT).await.status, 403);

    // With another server on the same database, and after an administrator has spoken for it.
    let again = House {
        router: router(reopened(&house.state)),
        state: house.state.clone(),
        authorizations: house.authorizations.clone(),
    };
    assert_eq!(again.register(ADMIN, id).await.status, 200);
    assert_eq!(again.register(OTHER_AGENT, id).await.status, 403);
    assert_eq!(again.register(AGENT, id).await.status, 200);
    assert_eq!(beat(AGENT).await.status, 200);

    // One that registered before tokens had roles was an administrator's.
    let old = AgentId::new();
    assert_eq!(house.register(ADMIN, old).await.status, 200);
    let sql = "update agents set token_id = null where id = $1";
    let forgotten = house.state.store.write(move |tx| {
        Box::pin(async move { tx.execute(sql, crate::store::db::args![old]).await })
    });
    forgotten.await.unwrap();
    assert_eq!(again.register(AGENT, old).await.status, 403);
    assert_eq!(again.register(ADMIN, old).await.status, 200);
}
