//! Tokens, whose jobs, agents and blobs are whose, and the audit log, by example.

use protocol::rights::{Action, AuditEntry, Role, TokenState};
use protocol::{AgentId, JobId, TokenId};

use super::super::agents::Holder;
use super::super::audit::{self, Actor, Place};
use super::super::db::args;
use super::super::ends;
use super::super::submissions::{self, Accepted};
use super::super::tokens::{self, NewToken, Revoked, Scope};
use super::super::{agents, jobs, uploads};
use super::{Fixture, actor, new_job, read, write};
use crate::clock::Millis;
use crate::presence;

async fn token(
    fixture: &Fixture,
    name: &'static str,
    role: Role,
    expires_at: Option<Millis>,
) -> Option<TokenId> {
    let id = TokenId::new();
    let hash = format!("hash of {id}");
    let new = NewToken { id, hash, name: name.to_owned(), role, expires_at };
    write!(fixture, |tx| tokens::create(tx, new, 10)).then_some(id)
}

#[tokio::test]
async fn the_first_administrators_token_is_made_once() {
    let fixture = Fixture::new().await;
    for _ in 0..2 {
        write!(fixture, |tx| tokens::ensure_admin(tx, "abc", 1));
    }
    let known = read!(fixture, |tx| tokens::find(tx, "abc")).unwrap();
    assert_eq!((known.identity.role, known.identity.scope()), (Role::Admin, Scope::All));
    assert_eq!(known.state(Millis::MAX), TokenState::Live);
    assert_eq!(read!(fixture, |tx| tokens::find(tx, "abd")), None);
}

#[tokio::test]
async fn a_token_is_good_until_its_end_or_until_it_is_revoked() {
    let fixture = Fixture::new().await;
    let id = token(&fixture, "ada", Role::Submit, Some(20)).await.unwrap();
    let hash: &'static str = format!("hash of {id}").leak();
    let known = read!(fixture, |tx| tokens::find(tx, hash)).unwrap();
    assert_eq!(known.identity.scope(), Scope::Of(id.to_string()));
    assert_eq!([19, 20].map(|now| known.state(now)), [TokenState::Live, TokenState::Expired]);
    assert_eq!(write!(fixture, |tx| tokens::revoke(tx, id, 12)), Revoked::Now(hash.to_owned()));
    assert_eq!(write!(fixture, |tx| tokens::revoke(tx, id, 13)), Revoked::Before);
    let known = read!(fixture, |tx| tokens::find(tx, hash)).unwrap();
    assert_eq!((known.state(12), known.revoked_at), (TokenState::Revoked, Some(12)));
    let other = TokenId::new();
    assert_eq!(write!(fixture, |tx| tokens::revoke(tx, other, 13)), Revoked::Unknown);
}

#[tokio::test]
async fn of_the_tokens_that_are_good_each_has_a_name_of_its_own() {
    let fixture = Fixture::new().await;
    let first = token(&fixture, "ada", Role::Submit, None).await.unwrap();
    assert_eq!(token(&fixture, "ada", Role::Agent, None).await, None);
    write!(fixture, |tx| tokens::revoke(tx, first, 11));
    // One that has expired by now does not hold the name.
    assert!(token(&fixture, "ada", Role::Submit, Some(10)).await.is_some());
    assert!(token(&fixture, "ada", Role::Submit, None).await.is_some());
    let called = read!(fixture, |tx| tokens::list(tx, "", Some("ada"), 9, 10));
    let states: Vec<_> = called.iter().map(|token| token.state).collect();
    assert_eq!(states, [TokenState::Revoked, TokenState::Expired, TokenState::Live]);
}

#[tokio::test]
async fn the_last_administrators_token_is_not_revoked() {
    let fixture = Fixture::new().await;
    let one = token(&fixture, "one", Role::Admin, None).await.unwrap();
    token(&fixture, "expired", Role::Admin, Some(11)).await.unwrap();
    token(&fixture, "submitter", Role::Submit, None).await.unwrap();
    assert_eq!(write!(fixture, |tx| tokens::revoke(tx, one, 12)), Revoked::LastAdmin);
    let two = token(&fixture, "two", Role::Admin, Some(50)).await.unwrap();
    assert!(matches!(write!(fixture, |tx| tokens::revoke(tx, one, 13)), Revoked::Now(_)));
    assert_eq!(write!(fixture, |tx| tokens::revoke(tx, two, 14)), Revoked::LastAdmin);
    // Of one that has expired nothing depends any more.
    assert!(matches!(write!(fixture, |tx| tokens::revoke(tx, two, 50)), Revoked::Now(_)));
}

#[tokio::test]
async fn tokens_are_listed_in_pages_with_their_last_use() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(token(&fixture, name, Role::Submit, None).await.unwrap());
    }
    let uses = vec![(ids[0].to_string(), 70), ("unknown".to_owned(), 70)];
    write!(fixture, |tx| tokens::used(tx, &uses));
    let earlier = vec![(ids[0].to_string(), 60)];
    write!(fixture, |tx| tokens::used(tx, &earlier));
    let page = read!(fixture, |tx| tokens::list(tx, "", None, 2, 10));
    assert_eq!(page.iter().map(|token| token.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(page[0].last_used_at.as_deref(), Some("1970-01-01T00:00:00.070Z"));
    assert_eq!(page[1].last_used_at, None);
    let after = ids[1].to_string();
    let rest = read!(fixture, |tx| tokens::list(tx, &after, None, 2, 10));
    assert_eq!(rest.iter().map(|token| token.id).collect::<Vec<_>>(), ids[2..]);
}

#[tokio::test]
async fn who_owns_no_job_sees_none() {
    let fixture = Fixture::new().await;
    let (old, young) = (fixture.map(0).await, fixture.map(1).await);
    let mut of_bob = new_job(1);
    of_bob.owner = "bob".to_owned();
    fixture.submit(of_bob).await;
    let (ada, bob) = (Scope::Of("ada".to_owned()), Scope::Of("bob".to_owned()));
    for (scope, is_there) in [(Scope::All, true), (ada.clone(), true), (bob.clone(), false)] {
        let asked = scope.clone();
        assert_eq!(read!(fixture, |tx| jobs::find_in(tx, old, &scope)).is_some(), is_there);
        assert_eq!(read!(fixture, |tx| jobs::is_in(tx, old, &asked)), is_there);
    }
    assert!(!read!(fixture, |tx| jobs::is_in(tx, JobId::new(), &Scope::All)));
    let ids = |rows: Vec<jobs::JobRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(read!(fixture, |tx| jobs::list_of(tx, "ada", "g", None, 9))), [young, old]);
    let before = young.to_string();
    assert_eq!(ids(read!(fixture, |tx| jobs::list_of(tx, "ada", &before, None, 9))), [old]);
    let resolved = Some(protocol::job::JobState::Resolved);
    assert_eq!(ids(read!(fixture, |tx| jobs::list_of(tx, "ada", "g", resolved, 9))), [old]);
    assert_eq!(ids(read!(fixture, |tx| jobs::list_of(tx, "eve", "g", None, 9))), []);

    let both = [old, young];
    assert_eq!(read!(fixture, |tx| ends::first_missing(tx, &both, &ada)), None);
    let asked = bob.clone();
    assert_eq!(read!(fixture, |tx| ends::first_missing(tx, &both, &asked)), Some(old));
    let mut after = new_job(1);
    after.after = vec![old];
    let accepted = write!(fixture, |tx| submissions::accept(tx, "bob", &bob, None, vec![after], 5));
    assert_eq!(accepted, Accepted::NoSuchJob { job: 0, after: 0 });
}

#[tokio::test]
async fn an_agent_belongs_to_the_token_that_registered_it() {
    let fixture = Fixture::new().await;
    let agent = fixture.agent(1).await;
    let holder = async |agent: AgentId| read!(fixture, |tx| agents::holder(tx, agent));
    assert_eq!(holder(AgentId::new()).await, Holder::Nobody);
    assert_eq!(holder(agent).await, Holder::Admins);
    for token in ["one", "two"] {
        write!(fixture, |tx| agents::give(tx, agent, token));
        assert_eq!(holder(agent).await, Holder::Token("one".to_owned()));
    }
}

#[tokio::test]
async fn a_blob_is_its_uploaders() {
    let fixture = Fixture::new().await;
    let add =
        async |owner: &'static str| write!(fixture, |tx| uploads::add(tx, owner, "sha256:00", 5));
    let has = async |owner: &'static str, digest: &'static str| {
        read!(fixture, |tx| uploads::has(tx, owner, digest))
    };
    assert_eq!([add("ada").await, add("ada").await, add("bob").await], [true, false, true]);
    assert!(has("ada", "sha256:00").await);
    assert!(!has("eve", "sha256:00").await);
    assert!(!has("ada", "sha256:01").await);
    write!(fixture, |tx| uploads::forget(tx, &["sha256:01".to_owned()]));
    assert!(has("ada", "sha256:00").await);
    write!(fixture, |tx| uploads::forget(tx, &["sha256:00".to_owned()]));
    assert!(!has("ada", "sha256:00").await && !has("bob", "sha256:00").await);
}

#[tokio::test]
async fn administrators_that_are_made_at_a_start_have_names_of_their_own() {
    let fixture = Fixture::new().await;
    for hash in ["one", "one", "two"] {
        write!(fixture, |tx| tokens::ensure_admin(tx, hash, 1));
    }
    let one = read!(fixture, |tx| tokens::find(tx, "one")).unwrap();
    let two = read!(fixture, |tx| tokens::find(tx, "two")).unwrap();
    assert_eq!(one.identity.name, "first administrator");
    assert_eq!(two.identity.name, "first administrator 2");
}

#[tokio::test]
async fn the_audit_log_is_read_the_newest_first_and_by_object() {
    let fixture = Fixture::new().await;
    let jobs: [JobId; 3] = std::array::from_fn(|_| JobId::new());
    let (one, two) = (actor("1"), Actor { address: None, ..actor("2") });
    write!(fixture, |tx| audit::record(tx, &one, Action::JobSubmitted, &jobs, 5));
    let deleted = [jobs[1]];
    write!(fixture, |tx| audit::record(tx, &two, Action::JobDeleted, &deleted, 6));

    let all = read!(fixture, |tx| audit::list(tx, None, None, 9));
    let told: Vec<_> = all.iter().map(|(_, entry)| (entry.action, entry.object.clone())).collect();
    let submitted = |i: usize| (Action::JobSubmitted, jobs[i].to_string());
    let wanted =
        [(Action::JobDeleted, jobs[1].to_string()), submitted(2), submitted(1), submitted(0)];
    assert_eq!(told, wanted);
    assert_eq!(
        all[3].1,
        AuditEntry {
            at: "1970-01-01T00:00:00.005Z".to_owned(),
            action: Action::JobSubmitted,
            object: jobs[0].to_string(),
            token: "ada".to_owned(),
            token_name: "ada's laptop".to_owned(),
            address: Some("10.0.0.1".to_owned()),
            request: "1".to_owned(),
        }
    );
    assert_eq!(all[0].1.address, None);

    // A page may end within what one request did.
    let place: Place = all[1].0.to_string().parse().unwrap();
    let rest = read!(fixture, |tx| audit::list(tx, Some(&place), None, 9));
    assert_eq!(rest, all[2..]);
    let object: &'static str = jobs[1].to_string().leak();
    let of_job = read!(fixture, |tx| audit::list(tx, None, Some(object), 9));
    assert_eq!(of_job, [all[0].clone(), all[2].clone()]);
    let place = all[0].0.clone();
    let older = read!(fixture, |tx| audit::list(tx, Some(&place), Some(object), 9));
    assert_eq!(older, [all[2].clone()]);
}

#[tokio::test]
async fn agents_leave_with_their_token() {
    let fixture = Fixture::new().await;
    let (leaving, other) = (fixture.agent(2).await, fixture.agent(2).await);
    for (agent, token) in [(leaving, "fleet"), (other, "another fleet")] {
        write!(fixture, |tx| agents::give(tx, agent, token));
    }
    let job = fixture.map(1).await;
    assert_eq!(fixture.grant(leaving, 1).await.len(), 1);
    assert!(!fixture.is_runnable(job).await);
    assert_eq!(read!(fixture, |tx| agents::of_token(tx, "fleet")), [leaving]);
    let left = write!(fixture, |tx| presence::leave_with_token(tx, "fleet"));
    assert_eq!(left, (vec![leaving], vec![job]));
    assert!(fixture.is_runnable(job).await);
    assert_eq!(read!(fixture, |tx| agents::of_token(tx, "fleet")), []);
    assert_eq!(read!(fixture, |tx| agents::of_token(tx, "another fleet")), [other]);
}

#[tokio::test]
async fn old_entries_of_the_audit_log_are_forgotten_in_slices() {
    let fixture = Fixture::new().await;
    for (request, now) in [("1", 5), ("2", 6), ("3", 7)] {
        let (actor, objects) = (actor(request), [JobId::new()]);
        write!(fixture, |tx| audit::record(tx, &actor, Action::JobSubmitted, &objects, now));
    }
    assert!(write!(fixture, |tx| audit::forget(tx, 7, 1)));
    assert!(!write!(fixture, |tx| audit::forget(tx, 7, 2)));
    let left = read!(fixture, |tx| audit::list(tx, None, None, 9));
    assert_eq!(left.iter().map(|(_, entry)| &*entry.request).collect::<Vec<_>>(), ["3"]);
}

/// An act and its entry are written together or not at all.
#[tokio::test]
async fn what_was_not_done_has_no_entry() {
    let fixture = Fixture::new().await;
    let failed = fixture.store.write(|tx| {
        Box::pin(async move {
            audit::record(tx, &actor("1"), Action::JobSubmitted, &[JobId::new()], 5).await?;
            tx.execute("this is not SQL", args![]).await
        })
    });
    assert!(failed.await.is_err());
    assert!(read!(fixture, |tx| audit::list(tx, None, None, 9)).is_empty());
}
