//! Blobs in a bucket that any number of servers share. Their ages are in the database, because a bucket
//! cannot be asked to remove an object only if nobody has found it since.
//!
//! A blob is there if and only if it has a row ([`crate::store::objects`]), and whoever puts, finds or
//! removes one does so in a transaction that writes. These follow one another, so that
//!
//! * who finds a blob has it for a grace: the transaction that takes its row away looks once more at
//!   its age and at what refers to it, and comes before or behind that of the finder, never in between;
//! * a request to remove an object, however late it arrives, removes nothing that is needed: each upload
//!   makes an object of a new name, whose row is gone before the request is made and never comes back;
//! * nothing of an upload is seen before all of it is there and has the digest that it must have: then
//!   its row is written;
//! * no object is forgotten: it is written down before it is sent, and until it is removed. Of a large
//!   one this holds from its first part on; a multipart upload without parts takes no room. What a
//!   server sends that was stopped for hours in the middle of an upload, whose object was given up
//!   meanwhile, that server removes itself; if it is killed in that very moment, one object stays,
//!   which holds no blob.
//!
//! Objects whose blobs are gone stay for as long as a snapshot of the database is read that may still
//! refer to them (a backup, a check). Who reads one says so first, by a lock; an object is removed when
//! nobody held that lock at a moment after its row was taken away: who begins later finds no reference to
//! it.

mod collecting;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::PartId;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc};

use super::bucket::SignedUrl;
use super::{
    Bucket, Opened, Part, UploadError, cut_off, hex as hex_of, hex_digest, run, was_removed,
};
use crate::clock::Clock;
use crate::store::objects::{self, Kept, Loose, Object};
use crate::store::{Store, StoreError};

/// Uploads that are written at the same time; others wait. Each holds two parts in memory.
const WRITTEN_AT_ONCE: usize = 16;

/// How long an upload may say nothing: others wait for its turn.
const SILENCE: Duration = Duration::from_secs(60);

/// How late a request may still arrive that was sent and not answered.
const LATE: Duration = Duration::from_secs(900);

/// Bytes of a part of an upload; what has no more is sent whole.
const PART_BYTES: usize = 8 << 20;

/// Parts of an upload at the most.
const MAX_PARTS: usize = 10_000;

/// So that these hold what is very large, after each so many parts are four times as large, twice.
const PARTS_OF_A_SIZE: usize = 2000;

/// The blobs of a bucket. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    bucket: Bucket,
    store: Store,
    clock: Arc<Clock>,
    turns: Arc<Semaphore>,
}

impl Objects {
    /// The blobs that `store` knows in `bucket`.
    pub fn new(bucket: Bucket, store: Store, clock: Arc<Clock>) -> Self {
        Self { bucket, store, clock, turns: Arc::new(Semaphore::new(WRITTEN_AT_ONCE)) }
    }

    pub(super) async fn put(&self, data: Bytes) -> io::Result<String> {
        let hashed = data.clone();
        let hex = run(move || Ok(hex_digest(&hashed))).await?;
        let digest = format!("sha256:{hex}");
        if data.len() <= PART_BYTES {
            let bytes = data.len() as u64;
            self.send_whole(&hex, data.into(), bytes).await.map_err(io_of)?;
            return Ok(digest);
        }
        if self.find(&digest).await?.is_some() {
            return Ok(digest);
        }
        let (parts, receiver) = mpsc::channel(1);
        let feeding = async move {
            // Whoever does not receive them any more says why.
            let _ = parts.send(Part::Bytes(data)).await;
            let _ = parts.send(Part::End).await;
        };
        let ((), sent) = tokio::join!(feeding, self.receive_new(&hex, Body::new(receiver)));
        sent.map_err(io_of)?;
        Ok(digest)
    }

    pub(super) async fn find(&self, digest: &str) -> io::Result<Option<u64>> {
        let (digest, now) = (digest.to_owned(), self.clock.now());
        self.write(move |tx| Box::pin(async move { objects::find(tx, &digest, now).await })).await
    }

    pub(super) async fn get(&self, digest: &str) -> io::Result<Option<Object>> {
        let digest = digest.to_owned();
        self.store
            .query(|tx| Box::pin(async move { objects::get(tx, &digest).await }))
            .await
            .map_err(of_database)
    }

    pub(super) async fn open_blob(&self, digest: &str) -> io::Result<Opened> {
        self.bucket.open(&self.name_of(digest).await?).await
    }

    pub(super) async fn read(&self, digest: &str) -> io::Result<Bytes> {
        self.bucket.get(&self.name_of(digest).await?).await
    }

    pub(super) async fn signed_url(&self, digest: &str) -> io::Result<Option<SignedUrl>> {
        self.bucket.signed_url(&self.name_of(digest).await?).await
    }

    /// The object of a blob that must be there.
    async fn name_of(&self, digest: &str) -> io::Result<String> {
        let object = self.get(digest).await?;
        object.map(|object| object.name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes the parts of an upload. Says whether the blob was not there before.
    pub(super) async fn receive(
        &self,
        hex: &str,
        parts: mpsc::Receiver<Part>,
    ) -> Result<bool, UploadError> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        let digest = format!("sha256:{hex}");
        let mut body = Body::new(parts);
        if self.find(&digest).await?.is_none() {
            return self.receive_new(hex, body).await;
        }
        while !body.fill(PART_BYTES).await?.is_empty() {}
        body.must_be(hex)?;
        // Its age counts from the end of the upload.
        self.find(&digest).await?.map(|_| false).ok_or_else(was_removed)
    }

    /// Writes the parts of an upload that is not there. Says whether it still was not at its end.
    async fn receive_new(&self, hex: &str, mut body: Body) -> Result<bool, UploadError> {
        let first = body.fill(PART_BYTES).await?;
        if body.is_at_end() {
            body.must_be(hex)?;
            return self.send_whole(hex, PutPayload::from_iter(first), body.size).await;
        }
        let name = Bucket::new_name(hex);
        let upload = self.bucket.begin(&name).await?;
        if let Err(error) = self.begin(&name, &upload).await {
            // It has no parts. If it cannot be given up either, it takes no room.
            let _ = self.bucket.abort(&name, &upload).await;
            return Err(error.into());
        }
        match self.send_parts(hex, &name, &upload, first, &mut body).await {
            Ok(()) => self.keep(&name, hex, body.size).await,
            Err(error) => {
                self.give_up(&name, Duration::ZERO).await;
                self.clear(Loose { name, upload: Some(upload) }).await;
                Err(error)
            }
        }
    }

    /// Sends what is not large, unless it is there. Says whether it was not.
    async fn send_whole(
        &self,
        hex: &str,
        data: PutPayload,
        bytes: u64,
    ) -> Result<bool, UploadError> {
        let (name, digest) = (Bucket::new_name(hex), format!("sha256:{hex}"));
        let (begun, now) = (name.clone(), self.clock.now());
        let found = self
            .write(move |tx| {
                Box::pin(async move { objects::find_or_begin(tx, &digest, &begun, now).await })
            })
            .await?;
        if found.is_some() {
            return Ok(false);
        }
        if let Err(error) = self.bucket.put(&name, data).await {
            // It may have arrived and not been answered, or arrive yet.
            self.give_up(&name, LATE).await;
            return Err(error.into());
        }
        self.keep(&name, hex, bytes).await
    }

    /// Sends a large body, each part while the next one comes in, and makes an object of them if it
    /// is the one.
    async fn send_parts(
        &self,
        hex: &str,
        name: &str,
        upload: &str,
        first: Vec<Bytes>,
        body: &mut Body,
    ) -> Result<(), UploadError> {
        let (mut sent, mut part): (Vec<PartId>, _) = (Vec::new(), first);
        while !part.is_empty() {
            let number = sent.len();
            if number == MAX_PARTS {
                return Err(UploadError::TooLarge(body.size));
            }
            let sending = self.bucket.put_part(name, upload, number, PutPayload::from_iter(part));
            let (id, next) = tokio::join!(sending, body.fill(part_bytes(number + 1)));
            sent.push(id?);
            part = next?;
        }
        body.must_be(hex)?;
        Ok(self.bucket.complete(name, upload, sent).await?)
    }

    async fn begin(&self, name: &str, upload: &str) -> io::Result<()> {
        let (name, upload, now) = (name.to_owned(), upload.to_owned(), self.clock.now());
        self.write(move |tx| {
            Box::pin(async move { objects::begin(tx, &name, Some(&upload), now).await })
        })
        .await
    }

    /// Lets an object that is whole hold the blob. Says whether there was none before.
    async fn keep(&self, name: &str, hex: &str, bytes: u64) -> Result<bool, UploadError> {
        let (object, digest, now) = (name.to_owned(), format!("sha256:{hex}"), self.clock.now());
        let kept = self
            .write(move |tx| {
                Box::pin(async move { objects::keep(tx, &object, &digest, bytes, now).await })
            })
            .await?;
        if kept == Kept::Now {
            return Ok(true);
        }
        self.clear(Loose { name: name.to_owned(), upload: None }).await;
        match kept {
            Kept::Now | Kept::Before => Ok(false),
            Kept::TooLate => Err(UploadError::Interrupted("it took too long".to_owned())),
        }
    }

    /// Dooms an object whose upload has failed, to be removed in a while.
    async fn give_up(&self, name: &str, wait: Duration) {
        let (object, since) = (name.to_owned(), self.clock.now() + collecting::millis(wait));
        let doomed = self
            .write(move |tx| Box::pin(async move { objects::give_up(tx, &object, since).await }))
            .await;
        if let Err(error) = doomed {
            // A collector takes it for broken off, later.
            tracing::warn!(name, %error, "an upload that failed is cleared away later");
        }
    }

    /// Removes a doomed object, and forgets it. If it cannot be removed now, a collector does it.
    async fn clear(&self, loose: Loose) {
        if let Err(error) = self.remove(vec![loose]).await {
            tracing::warn!(%error, "an object that is not needed stays for now");
        }
    }

    /// Removes doomed objects and forgets them.
    async fn remove(&self, doomed: Vec<Loose>) -> io::Result<()> {
        let (mut names, mut failed) = (Vec::with_capacity(doomed.len()), Ok(()));
        for Loose { name, upload } in doomed {
            let aborted = match upload {
                Some(upload) => self.bucket.abort(&name, &upload).await,
                None => Ok(()),
            };
            match aborted {
                Ok(()) => names.push(name),
                // One that cannot be aborted keeps no other.
                Err(error) => failed = Err(error),
            }
        }
        self.bucket.remove(&names).await?;
        self.write(move |tx| Box::pin(async move { objects::forget(tx, &names).await })).await?;
        failed
    }

    async fn write<T, F>(&self, operation: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(
                &'a mut crate::store::db::Tx<'_>,
            ) -> futures::future::BoxFuture<'a, Result<T, StoreError>>
            + Send
            + 'static,
    {
        self.store.write(operation).await.map_err(of_database)
    }
}

fn io_of(error: UploadError) -> io::Error {
    match error {
        UploadError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// A database that does not answer may do so later, and what asks for a blob is to ask again.
fn of_database(error: StoreError) -> io::Error {
    let kind = match error {
        StoreError::Unavailable(_) | StoreError::Closed => io::ErrorKind::NotConnected,
        StoreError::Full(_) => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Bytes of the part of this number. All parts of an upload are alike up to 16 GB, as some storage
/// wants it; all that there can be make some 800 GB, and two of them are never more than 256 MiB.
fn part_bytes(number: usize) -> usize {
    PART_BYTES << (2 * (number / PARTS_OF_A_SIZE).min(2))
}

/// The body of an upload, hashed as it comes in.
struct Body {
    parts: mpsc::Receiver<Part>,
    /// What has come and is not taken yet.
    rest: Bytes,
    hasher: Sha256,
    size: u64,
    has_ended: bool,
}

impl Body {
    fn new(parts: mpsc::Receiver<Part>) -> Self {
        Self { parts, rest: Bytes::new(), hasher: Sha256::new(), size: 0, has_ended: false }
    }

    /// Takes the next `n` bytes, less at the end.
    async fn fill(&mut self, n: usize) -> Result<Vec<Bytes>, UploadError> {
        let (mut taken, mut missing) = (Vec::new(), n);
        while missing > 0 {
            if self.rest.is_empty() && !self.receive().await? {
                break;
            }
            let some = self.rest.split_to(missing.min(self.rest.len()));
            missing -= some.len();
            taken.push(some);
        }
        // Whether something follows decides how it is sent.
        while self.rest.is_empty() && self.receive().await? {}
        Ok(taken)
    }

    /// Waits for more; `false`: that was all.
    async fn receive(&mut self) -> Result<bool, UploadError> {
        if self.has_ended {
            return Ok(false);
        }
        let received = tokio::time::timeout(SILENCE, self.parts.recv()).await.map_err(|_| {
            UploadError::Interrupted(format!("nothing came for {} s", SILENCE.as_secs()))
        })?;
        match received {
            Some(Part::Bytes(bytes)) => {
                self.hasher.update(&bytes);
                self.size += bytes.len() as u64;
                self.rest = bytes;
            }
            Some(Part::End) => self.has_ended = true,
            None => return Err(cut_off()),
        }
        Ok(!self.has_ended)
    }

    fn is_at_end(&self) -> bool {
        self.has_ended && self.rest.is_empty()
    }

    fn must_be(&self, hex: &str) -> Result<(), UploadError> {
        let found = hex_of(&self.hasher.clone().finalize());
        if found == hex { Ok(()) } else { Err(UploadError::Mismatch(found)) }
    }
}

#[cfg(test)]
mod tests;
