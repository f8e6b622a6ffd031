//! A bucket is one database's, a database has one bucket, and what it had elsewhere is brought there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::memory::InMemory;

use super::*;
use crate::store::tests::{Fixture, new_job};

fn empty() -> Bucket {
    Bucket::of(Arc::new(InMemory::new()))
}

async fn claim(fixture: &Fixture, bucket: &Bucket) -> Result<(), ClaimError> {
    claim_bucket(&fixture.store, bucket, async || panic!("there is nothing to bring")).await
}

async fn is_its(fixture: &Fixture, bucket: &Bucket) -> bool {
    let bucket = bucket.clone();
    let read =
        fixture.store.read(|tx| Box::pin(async move { Ok(belongs_bucket(tx, &bucket).await) }));
    read.await.unwrap().is_ok()
}

async fn is_nobodys(bucket: &Bucket) -> bool {
    bucket.read_text(NAME_FILE).await.unwrap().is_none()
}

#[tokio::test]
async fn servers_of_one_database_share_one_bucket() {
    let (fixture, bucket, other) = (Fixture::new().await, empty(), empty());
    // Also of those that start at once.
    let both = tokio::join!(claim(&fixture, &bucket), claim(&fixture, &bucket));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert!(is_its(&fixture, &bucket).await && !is_its(&fixture, &other).await);
    let refused = claim(&fixture, &other).await.unwrap_err().to_string();
    assert!(refused.contains("is not the bucket of this database's blobs"), "{refused}");
    assert!(is_nobodys(&other).await);
    // Nor does a database in a file look for them beside it.
    let beside = fixture.store.read(|tx| Box::pin(async { Ok(beside(tx).await) }));
    assert!(matches!(beside.await.unwrap(), Err(ClaimError::InBucket)));
}

#[tokio::test]
async fn a_bucket_is_of_one_database() {
    let (one, two, bucket) = (Fixture::new().await, Fixture::new().await, empty());
    claim(&one, &bucket).await.unwrap();
    assert!(matches!(claim(&two, &bucket).await, Err(ClaimError::Other { .. })));
    assert!(is_its(&one, &bucket).await);
    // It is free to take another one.
    claim(&two, &empty()).await.unwrap();
}

#[tokio::test]
async fn what_was_elsewhere_is_brought_once_before_the_bucket_counts() {
    let (fixture, bucket) = (Fixture::new().await, empty());
    let mut job = new_job(1);
    job.spec.files = Some(format!("sha256:{}", "a".repeat(64)));
    fixture.submit(job).await;
    let failing = async || {
        let (digest, bucket) = ("sha256:a".to_owned(), bucket.name().clone());
        Err(ClaimError::NotBrought { digest, bucket, why: "it is missing".to_owned() })
    };
    let failed = claim_bucket(&fixture.store, &bucket, failing).await;
    assert!(matches!(failed, Err(ClaimError::NotBrought { .. })));
    assert!(is_nobodys(&bucket).await && !is_its(&fixture, &bucket).await);
    let n_brought = AtomicUsize::new(0);
    for _ in 0..2 {
        let bring = async || {
            n_brought.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        claim_bucket(&fixture.store, &bucket, bring).await.unwrap();
    }
    assert_eq!(n_brought.load(Ordering::Relaxed), 1);
    assert!(is_its(&fixture, &bucket).await);
}
