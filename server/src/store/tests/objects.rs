//! Blobs in a bucket, by example and in any order of what is done with them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::objects::{self, Kept, Loose, Object};
use super::super::uploads;
use super::{Fixture, new_job, read, write};
use crate::blobs::Removed;
use crate::clock::Millis;

const BEGINNING: (Millis, String) = (Millis::MIN, String::new());

fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}

async fn begin(fixture: &Fixture, name: &str, now: Millis) {
    let name = name.to_owned();
    write!(fixture, |tx| objects::begin(tx, &name, None, now));
}

async fn keep(fixture: &Fixture, name: &str, n: u8, now: Millis) -> Kept {
    let (name, digest) = (name.to_owned(), digest(n));
    write!(fixture, |tx| objects::keep(tx, &name, &digest, 7, now))
}

async fn find(fixture: &Fixture, n: u8, now: Millis) -> Option<u64> {
    let digest = digest(n);
    write!(fixture, |tx| objects::find(tx, &digest, now))
}

async fn get(fixture: &Fixture, n: u8) -> Option<Object> {
    let digest = digest(n);
    read!(fixture, |tx| objects::get(tx, &digest))
}

async fn old(fixture: &Fixture, until: Millis) -> Vec<String> {
    read!(fixture, |tx| objects::old(tx, until, &BEGINNING, 100)).0
}

async fn doom_old(fixture: &Fixture, ns: &[u8], until: Millis, now: Millis) -> Removed {
    let digests: Vec<String> = ns.iter().map(|&n| digest(n)).collect();
    write!(fixture, |tx| objects::doom_old(tx, &digests, until, now))
}

async fn doomed(fixture: &Fixture, now: Millis) -> Vec<String> {
    let doomed = read!(fixture, |tx| objects::doomed(tx, now, "", 100));
    doomed.into_iter().map(|loose| loose.name).collect()
}

async fn refer_to(fixture: &Fixture, n: u8) {
    let mut job = new_job(1);
    job.spec.files = Some(digest(n));
    fixture.submit(job).await;
}

#[tokio::test]
async fn a_blob_is_there_when_its_object_is_whole_and_not_before() {
    let fixture = Fixture::new().await;
    begin(&fixture, "one", 10).await;
    assert_eq!((get(&fixture, 1).await, find(&fixture, 1, 11).await), (None, None));
    assert_eq!(keep(&fixture, "one", 1, 12).await, Kept::Now);
    let object = Object { name: "one".to_owned(), bytes: 7 };
    assert_eq!(get(&fixture, 1).await, Some(object));
    assert_eq!(find(&fixture, 1, 13).await, Some(7));
    // Nothing is loose: it is not swept as something that broke off.
    assert_eq!(write!(fixture, |tx| objects::doom_broken(tx, 100, 100)), 0);
}

#[tokio::test]
async fn what_is_there_is_found_and_else_begun() {
    let fixture = Fixture::new().await;
    let digest = digest(1);
    let of = digest.clone();
    assert_eq!(write!(fixture, |tx| objects::find_or_begin(tx, &of, "one", 10)), None);
    assert_eq!(keep(&fixture, "one", 1, 11).await, Kept::Now);
    assert_eq!(write!(fixture, |tx| objects::find_or_begin(tx, &digest, "two", 20)), Some(7));
    assert_eq!(old(&fixture, 19).await, Vec::<String>::new());
    assert_eq!(keep(&fixture, "two", 1, 21).await, Kept::TooLate, "it was not begun");
}

#[tokio::test]
async fn of_two_uploads_of_a_blob_one_object_stays_and_the_blob_is_young() {
    let fixture = Fixture::new().await;
    for (name, now, kept) in [("one", 10, Kept::Now), ("two", 20, Kept::Before)] {
        begin(&fixture, name, now).await;
        assert_eq!(keep(&fixture, name, 1, now).await, kept);
    }
    assert_eq!(get(&fixture, 1).await.unwrap().name, "one");
    assert_eq!(doomed(&fixture, 20).await, ["two"]);
    assert_eq!(old(&fixture, 19).await, Vec::<String>::new());
    assert_eq!(old(&fixture, 20).await, [digest(1)]);
}

#[tokio::test]
async fn an_object_that_was_given_up_holds_nothing_any_more() {
    let fixture = Fixture::new().await;
    write!(fixture, |tx| objects::begin(tx, "slow", Some("upload"), 10));
    begin(&fixture, "quick", 50).await;
    assert_eq!(write!(fixture, |tx| objects::doom_broken(tx, 10, 60)), 1);
    assert_eq!(keep(&fixture, "slow", 1, 61).await, Kept::TooLate);
    assert_eq!(get(&fixture, 1).await, None);
    let slow = Loose { name: "slow".to_owned(), upload: Some("upload".to_owned()) };
    assert_eq!(read!(fixture, |tx| objects::doomed(tx, 60, "", 100)), [slow]);
    assert_eq!(keep(&fixture, "quick", 1, 62).await, Kept::Now);
    // What may arrive yet is not removed at once.
    begin(&fixture, "failed", 70).await;
    write!(fixture, |tx| objects::give_up(tx, "failed", 90));
    assert_eq!(doomed(&fixture, 89).await, ["slow"]);
    assert_eq!(doomed(&fixture, 90).await, ["failed", "slow"]);
    write!(fixture, |tx| objects::forget(tx, &["slow".to_owned(), "quick".to_owned()]));
    assert_eq!(doomed(&fixture, 90).await, ["failed"]);
    assert!(get(&fixture, 1).await.is_some());
}

#[tokio::test]
async fn only_what_is_old_and_not_referred_to_goes_and_takes_rights_with_it() {
    let fixture = Fixture::new().await;
    for (n, now) in [(1, 10), (2, 20), (3, 10), (4, 10)] {
        let name = format!("object {n}");
        begin(&fixture, &name, now).await;
        keep(&fixture, &name, n, now).await;
        let digest = digest(n);
        write!(fixture, |tx| uploads::add(tx, "ada", &digest, 10));
    }
    refer_to(&fixture, 3).await;
    // Found since the collector has looked.
    assert_eq!(old(&fixture, 15).await.len(), 3);
    assert_eq!(find(&fixture, 4, 30).await, Some(7));
    let removed = doom_old(&fixture, &[1, 2, 3, 4], 15, 40).await;
    assert_eq!(removed, Removed { n: 1, bytes: 7 });
    assert_eq!(doomed(&fixture, 40).await, ["object 1"]);
    for (n, is_there) in [(1, false), (2, true), (3, true), (4, true)] {
        assert_eq!(get(&fixture, n).await.is_some(), is_there, "{n}");
        let digest = digest(n);
        assert_eq!(read!(fixture, |tx| uploads::has(tx, "ada", &digest)), is_there, "{n}");
    }
    // It can be put again, as another object.
    begin(&fixture, "again", 50).await;
    assert_eq!(keep(&fixture, "again", 1, 50).await, Kept::Now);
    assert_eq!(doomed(&fixture, 50).await, ["object 1"]);
}

#[tokio::test]
async fn old_blobs_are_walked_through_once_in_slices() {
    let fixture = Fixture::new().await;
    for n in 0..7 {
        let name = format!("object {n}");
        begin(&fixture, &name, 10).await;
        keep(&fixture, &name, n, Millis::from(n / 3)).await;
    }
    let (mut after, mut seen) = (BEGINNING, Vec::new());
    loop {
        let from = after.clone();
        let (digests, next) = read!(fixture, |tx| objects::old(tx, 1, &from, 2));
        assert!(digests.len() <= 2);
        seen.extend(digests);
        let Some(next) = next else { break };
        after = next;
    }
    assert_eq!(seen, (0..6).map(digest).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_copy_forgets_that_blobs_are_in_a_bucket() {
    let fixture = Fixture::new().await;
    write!(fixture, |tx| super::super::settle(tx, super::super::BLOBS_ID, "here".to_owned()));
    for (name, n) in [("one", 1), ("two", 1)] {
        begin(&fixture, name, 10).await;
        keep(&fixture, name, n, 10).await;
    }
    write!(fixture, |tx| objects::clear(tx));
    assert_eq!((get(&fixture, 1).await, doomed(&fixture, 99).await), (None, Vec::new()));
    assert_eq!(read!(fixture, |tx| super::super::fact(tx, super::super::BLOBS_ID)), None);
}

/// What the bucket of a history holds, and what was promised of it.
#[derive(Default)]
struct Books {
    /// Objects that may be in the bucket.
    bucket: BTreeSet<String>,
    /// When a blob was last put or found.
    found: BTreeMap<u8, Millis>,
    referred: BTreeSet<u8>,
}

/// Any order of uploads, also of ones that stop in the middle, finds, references and collections, also
/// of ones that stop before they have removed what they doomed: whoever has found a blob finds it in
/// the bucket for a grace, and what nobody needs is gone in the end.
#[tokio::test]
async fn whatever_the_order_what_was_found_is_there_and_nothing_is_forgotten() {
    const GRACE: Millis = 10;
    for seed in 0..12 {
        let mut chance = ::tests::Chance::new(seed, "objects");
        let (fixture, mut books) = (Fixture::new().await, Books::default());
        let mut begun: Vec<(String, u8)> = Vec::new();
        for now in 0..120 {
            let n = u8::try_from(chance.between(0, 4)).unwrap();
            match chance.between(0, 8) {
                0 | 1 => {
                    let name = format!("{now:04}");
                    begin(&fixture, &name, now).await;
                    books.bucket.insert(name.clone());
                    begun.push((name, n));
                }
                2 | 3 if !begun.is_empty() => {
                    let at = chance.between(0, begun.len());
                    let (name, n) = begun.swap_remove(at);
                    if keep(&fixture, &name, n, now).await != Kept::TooLate {
                        books.found.insert(n, now);
                    }
                }
                4 if find(&fixture, n, now).await.is_some() => {
                    books.found.insert(n, now);
                    if chance.between(0, 3) == 0 {
                        refer_to(&fixture, n).await;
                        books.referred.insert(n);
                    }
                }
                5 => {
                    write!(fixture, |tx| objects::doom_broken(tx, now - 3 * GRACE, now));
                    doom_old(&fixture, &[0, 1, 2, 3], now - GRACE, now).await;
                }
                6 => {
                    let gone = doomed(&fixture, now).await;
                    for name in &gone {
                        books.bucket.remove(name);
                    }
                    // The server may be killed before it forgets them.
                    if chance.between(0, 2) == 0 {
                        write!(fixture, |tx| objects::forget(tx, &gone));
                    }
                }
                _ => {}
            }
            for (&n, &at) in &books.found {
                if now - at < GRACE || books.referred.contains(&n) {
                    let object = get(&fixture, n).await;
                    let object = object.unwrap_or_else(|| panic!("seed {seed}: blob {n} is gone"));
                    assert!(books.bucket.contains(&object.name), "seed {seed}, at {now}: {n}");
                }
            }
        }
        // Much later.
        write!(fixture, |tx| objects::doom_broken(tx, 1000, 1000));
        doom_old(&fixture, &[0, 1, 2, 3], 1000, 1000).await;
        for name in doomed(&fixture, 1000).await {
            books.bucket.remove(&name);
        }
        let mut needed = BTreeSet::new();
        for &n in &books.referred {
            needed.insert(get(&fixture, n).await.unwrap().name);
        }
        assert_eq!(books.bucket, needed, "seed {seed}: objects are forgotten");
    }
}
