//! How tokens end, and what is said of them.

use super::*;

#[tokio::test]
async fn a_token_lets_nobody_in_from_the_moment_at_which_it_is_revoked_here() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let body = json!({"name": "temporary", "role": "submit"}).to_string();
    let created = house.send(ADMIN, "POST /v1/tokens", body).await.json();
    let mut guest = House {
        authorizations: vec![None],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    guest.authorizations[0] = Some(format!("Bearer {}", created["token"].as_str().unwrap()));
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    let path = format!("DELETE /v1/tokens/{}", created["id"].as_str().unwrap());
    assert_eq!(house.send(ADMIN, &path, "").await.status, 204);
    assert!(guest.send(0, "GET /v1/jobs", "").await.detail().contains("was revoked"));
    assert_eq!(house.send(ADMIN, &path, "").await.status, 204);
}

/// Another server revokes it: this one hears nothing, and must look again.
#[tokio::test]
async fn a_token_that_was_revoked_elsewhere_is_soon_good_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let (id, secret) = house.token("guest", Role::Submit, None).await;
    let hash: std::sync::Arc<str> = token::hash(&secret).into();
    let state = &house.state;
    let is_good = async || state.tokens.identify(&state.store, &state.clock, &hash).await.is_ok();
    assert!(is_good().await);
    house.revoke(id).await;
    let soon = async {
        while is_good().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), soon).await.unwrap();
}

/// Also while what is known of it is trusted.
#[tokio::test]
async fn a_token_ends_with_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let end = house.state.clock.now() + 3_600_000;
    let (_, secret) = house.token("guest", Role::Submit, Some(end)).await;
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    house.state.clock.not_before(end);
    assert!(guest.send(0, "GET /v1/jobs", "").await.detail().contains("has expired"));
}

/// A wait may be longer than the life of the token with which it began.
#[tokio::test]
async fn who_waits_with_a_token_that_is_revoked_meanwhile_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let (id, secret) = house.token("guest", Role::Submit, None).await;
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    let job = guest.submit(0, &map()).await;
    let route = format!("GET /v1/jobs/{job}/value?wait=60");
    let waiting = guest.send(0, &route, "");
    let ending = async {
        while house.state.metrics.n_waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let revoke = format!("DELETE /v1/tokens/{id}");
        assert_eq!(house.send(ADMIN, &revoke, "").await.status, 204);
        let cancel = format!("POST /v1/jobs/{job}/cancel");
        assert_eq!(house.send(ADMIN, &cancel, "").await.status, 200);
    };
    let (answer, ()) = tokio::join!(waiting, ending);
    assert_eq!(answer.status, 401, "{}", answer.body);
}

#[tokio::test]
async fn the_last_administrator_cannot_lock_everybody_out() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let listed = house.send(ADMIN, "GET /v1/tokens", "").await.json();
    let is_admin = |token: &&Value| token["role"] == "admin";
    let admin = listed["items"].as_array().unwrap().iter().find(is_admin).unwrap();
    let revoke = format!("DELETE /v1/tokens/{}", admin["id"].as_str().unwrap());
    let refused = house.send(ADMIN, &revoke, "").await;
    assert_eq!(refused.status, 409);
    assert!(refused.detail().contains("farrow token create --role admin"), "{}", refused.body);
    house.token("another", Role::Admin, None).await;
    assert_eq!(house.send(ADMIN, &revoke, "").await.status, 204);
    assert_eq!(house.send(ADMIN, "GET /v1/tokens", "").await.status, 401);
}

#[tokio::test]
async fn bad_tokens_are_refused_with_the_field_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    for (body, says) in [
        (json!({"name": " ", "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": "a\nb", "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": "a".repeat(101), "role": "submit"}), "name: must be 1 to 100 characters"),
        (json!({"name": TokenId::new(), "role": "submit"}), "name: is a UUID"),
        (json!({"name": "x", "role": "root"}), "role: unknown value `root`"),
        (
            json!({"name": "x", "role": "agent", "expires_in": 0}),
            "expires_in: is 0, must be seconds",
        ),
        (json!({"name": "x", "role": "agent", "expires_in": 1e10}), "expires_in: is 10000000000"),
        (json!({"name": "x", "role": "agent", "expires": 5}), "expires"),
    ] {
        let refused = house.send(ADMIN, "POST /v1/tokens", body.to_string()).await;
        assert_eq!(refused.status, 422, "{body}");
        assert!(refused.detail().contains(says), "{body}: {}", refused.detail());
    }
    let taken = json!({"name": " ada ", "role": "submit"}).to_string();
    let refused = house.send(ADMIN, "POST /v1/tokens", taken).await;
    assert_eq!(refused.status, 409);
    assert!(refused.detail().contains("called \"ada\" already"), "{}", refused.body);
}

#[tokio::test]
async fn a_secret_is_shown_once_and_kept_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new(folder.path()).await;
    let body = json!({"name": "guest", "role": "submit", "expires_in": 60}).to_string();
    let created = house.send(ADMIN, "POST /v1/tokens", body).await;
    let secret = created.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(secret.len(), "farrow_".len() + 64);
    assert!(!created.json()["expires_at"].is_null());
    for route in ["GET /v1/tokens", "GET /v1/audit"] {
        let read = house.send(ADMIN, route, "").await;
        assert!(!read.body.contains(&secret) && !read.body.contains(&token::hash(&secret)));
    }
    let database = std::fs::read(folder.path().join("farrow.db")).unwrap();
    let journal = std::fs::read(folder.path().join("farrow.db-wal")).unwrap_or_default();
    let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    assert!(!is_in(&database) && !is_in(&journal));
    // Used or not is told at once, by the server at which it was.
    let listed = house.send(ADMIN, "GET /v1/tokens?name=guest", "").await.json();
    assert!(listed["items"][0]["last_used_at"].is_null(), "{listed}");
    let guest = House {
        authorizations: vec![Some(format!("Bearer {secret}"))],
        state: house.state.clone(),
        router: house.router.clone(),
    };
    assert_eq!(guest.send(0, "GET /v1/jobs", "").await.status, 200);
    let listed = house.send(ADMIN, "GET /v1/tokens?name=guest", "").await.json();
    assert!(listed["items"][0]["last_used_at"].is_string(), "{listed}");
}
