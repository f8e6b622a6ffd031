//! The audit log.

use super::*;

#[tokio::test]
async fn every_act_is_in_the_audit_log_once() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let job = house.submit(ADA, &map()).await;
    let id = AgentId::new();
    house.register(AGENT, id).await;
    for _ in 0..2 {
        house.send(ADA, &format!("POST /v1/jobs/{job}/cancel"), "").await;
    }
    let mut retried = String::new();
    for _ in 0..2 {
        let answer = house.send(ADMIN, &format!("POST /v1/jobs/{job}/retry"), "").await;
        retried = answer.json()["id"].as_str().unwrap().to_owned();
    }
    for _ in 0..2 {
        house.send(ADA, &format!("DELETE /v1/jobs/{job}"), "").await;
        house.send(BOB, &format!("POST /v1/jobs/{retried}/cancel"), "").await;
    }
    house.send(ADMIN, &format!("POST /v1/agents/{id}/drain"), "").await;
    let body = json!({"name": "guest", "role": "submit"}).to_string();
    let token = house.send(ADMIN, "POST /v1/tokens", body).await.json()["id"].clone();
    let token = token.as_str().unwrap().to_owned();
    for _ in 0..2 {
        house.send(ADMIN, &format!("DELETE /v1/tokens/{token}"), "").await;
    }
    let mut told: Vec<_> = house
        .audit()
        .await
        .into_iter()
        .map(|entry| (entry.token_name, entry.action.as_str(), entry.object))
        .collect();
    told.reverse();
    let admin = "first administrator";
    let wanted = [
        ("ada", "job-submitted", &job),
        ("ada", "job-cancelled", &job),
        (admin, "job-retried", &job),
        (admin, "job-submitted", &retried),
        ("ada", "job-deleted", &job),
        (admin, "agent-drained", &id.to_string()),
        (admin, "token-created", &token),
        (admin, "token-revoked", &token),
    ];
    let wanted: Vec<_> = wanted
        .into_iter()
        .map(|(name, action, id)| (name.to_owned(), action, id.clone()))
        .collect();
    assert_eq!(told, wanted);

    // The retry is the owner's, whoever has asked for it.
    assert_eq!(house.send(ADA, &format!("GET /v1/jobs/{retried}"), "").await.status, 200);
    // By object, in pages.
    let of_job = house.send(ADMIN, &format!("GET /v1/audit?object={job}&limit=3"), "").await.json();
    assert_eq!(of_job["items"].as_array().unwrap().len(), 3);
    let next = of_job["next"].as_str().unwrap();
    let rest = format!("GET /v1/audit?object={job}&after={next}");
    let rest = house.send(ADMIN, &rest, "").await.json();
    assert_eq!(rest["items"][0]["action"], "job-submitted");
    assert_eq!(rest["next"], Value::Null);
    let refused = house.send(ADMIN, "GET /v1/audit?after=x", "").await;
    assert!(refused.detail().contains("`next`"), "{}", refused.body);
}
