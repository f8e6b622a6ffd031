//! Blobs in a bucket: whole or not at all, once, and there for whoever finds them, whatever fails.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutResult, Result as Done,
};

use super::*;
use crate::blobs::{Blobs, Kept as Place, Removed, Uploaded};
use crate::collector::collect;
use crate::store::snapshot::Snapshot;
use crate::store::tests::{Fixture, new_job};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A bucket in memory that can be told to fail.
#[derive(Debug, Default)]
struct Failing {
    memory: InMemory,
    /// Whether the next requests that write are answered with an error, done or not.
    does_fail: AtomicBool,
}

impl Failing {
    fn answer<T>(&self, done: Done<T>) -> Done<T> {
        match self.does_fail.load(Ordering::Relaxed) {
            true => Err(object_store::Error::Generic { store: "test", source: "no".into() }),
            false => done,
        }
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, key: &Key, data: PutPayload, options: PutOptions) -> Done<PutResult> {
        self.answer(self.memory.put_opts(key, data, options).await)
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> Done<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Done<GetResult> {
        self.memory.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Done<Key>>) -> BoxStream<'static, Done<Key>> {
        match self.answer(Ok(())) {
            Ok(()) => self.memory.delete_stream(keys),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Done<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Done<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Done<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Failing {
    async fn create_multipart(&self, key: &Key) -> Done<MultipartId> {
        self.memory.create_multipart(key).await
    }

    async fn put_part(
        &self,
        key: &Key,
        id: &MultipartId,
        number: usize,
        data: PutPayload,
    ) -> Done<PartId> {
        self.answer(self.memory.put_part(key, id, number, data).await)
    }

    async fn complete_multipart(
        &self,
        key: &Key,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Done<PutResult> {
        self.answer(self.memory.complete_multipart(key, id, parts).await)
    }

    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Done<()> {
        // As S3 answers when there is none.
        self.memory.abort_multipart(key, id).await.map_err(|error| object_store::Error::NotFound {
            path: key.to_string(),
            source: error.into(),
        })
    }
}

struct World {
    remote: Arc<Failing>,
    clock: Arc<Clock>,
    blobs: Blobs,
    fixture: Fixture,
}

impl World {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let (remote, clock) = (Arc::new(Failing::default()), Arc::new(Clock::start_at(0)));
        let bucket = Bucket::of(remote.clone());
        let objects = Objects::new(bucket, fixture.store.clone(), Arc::clone(&clock));
        Self { remote, clock, blobs: Place::Bucket(objects).into(), fixture }
    }

    /// Names of the objects in the bucket.
    async fn objects(&self) -> Vec<String> {
        let all = self.remote.memory.list(None);
        all.map(|object| object.unwrap().location.to_string()).collect().await
    }

    fn pass(&self, time: Duration) {
        self.clock.not_before(self.clock.now() + collecting::millis(time));
    }

    async fn collect(&self) -> Removed {
        collect(&self.fixture.store, &self.blobs, DAY).await.unwrap()
    }

    async fn put(&self, text: &str) -> String {
        self.blobs.put(Bytes::copy_from_slice(text.as_bytes())).await.unwrap()
    }

    async fn refer_to(&self, digest: &str) {
        let mut job = new_job(1);
        job.spec.files = Some(digest.to_owned());
        self.fixture.submit(job).await;
    }

    async fn upload(
        &self,
        digest: &str,
        body: &[u8],
        at_once: usize,
    ) -> Result<Uploaded, UploadError> {
        self.blobs.upload(digest, cut(body, at_once), u64::MAX).await
    }
}

fn cut(body: &[u8], at_once: usize) -> impl Stream<Item = Result<Bytes, String>> + use<> {
    let parts: Vec<_> = body.chunks(at_once).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    stream::iter(parts)
}

fn digest_of(body: &[u8]) -> String {
    format!("sha256:{}", hex_digest(body))
}

/// Two parts and a bit.
fn large() -> Vec<u8> {
    (0..2 * PART_BYTES + 5).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[tokio::test]
async fn what_was_put_is_got_and_stored_once() {
    let world = World::new().await;
    let digest = world.put("farrow").await;
    assert_eq!(world.put("farrow").await, digest);
    assert_eq!(world.blobs.get(&digest).await.unwrap(), "farrow");
    assert_eq!(world.blobs.size(&digest).await.unwrap(), Some(6));
    let objects = world.objects().await;
    assert_eq!(objects.len(), 1);
    let hex = &digest["sha256:".len()..];
    assert!(objects[0].starts_with(&format!("some/where/{}/{hex}.", &hex[..2])), "{objects:?}");
    let other = digest_of(b"other");
    assert_eq!(world.blobs.size(&other).await.unwrap(), None);
    assert_eq!(world.blobs.get(&other).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_is_large_goes_in_parts_and_comes_back_as_it_was() {
    let world = World::new().await;
    let body = large();
    let digest = digest_of(&body);
    for is_new in [true, false] {
        let uploaded = world.upload(&digest, &body, 700_001).await.unwrap();
        assert_eq!(uploaded, Uploaded { size: body.len() as u64, is_new });
    }
    assert_eq!(world.blobs.get(&digest).await.unwrap(), body);
    // By way of a stream, and by a thread.
    let opened = world.blobs.open_blob(&digest).await.unwrap();
    assert_eq!(opened.digest(async |_| Ok(())).await.unwrap().0, hex_digest(&body));
    let (mut reader, size) = world.blobs.reader(&digest).await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        io::Read::read_to_end(&mut reader, &mut read).map(|_| read)
    });
    assert_eq!((read.await.unwrap().unwrap(), size), (body.clone(), body.len() as u64));

    let world = World::new().await;
    assert_eq!(world.blobs.put(body.clone().into()).await.unwrap(), digest);
    assert_eq!(world.blobs.get(&digest).await.unwrap(), body);
}

#[tokio::test]
async fn exactly_one_part_is_sent_whole_and_nothing_is_sent_of_what_is_empty() {
    let world = World::new().await;
    for body in [vec![7; PART_BYTES], Vec::new()] {
        let digest = digest_of(&body);
        assert!(world.upload(&digest, &body, 1 << 20).await.unwrap().is_new);
        assert_eq!(world.blobs.get(&digest).await.unwrap(), body);
    }
    assert_eq!(world.objects().await.len(), 2);
}

#[tokio::test]
async fn a_broken_or_wrong_upload_leaves_nothing() {
    let world = World::new().await;
    let body = large();
    for body in [&b"farrow"[..], &body] {
        let digest = digest_of(body);
        let mut other = body.to_vec();
        other[0] ^= 1;
        let wrong = world.upload(&digest, &other, 1 << 20).await;
        assert!(matches!(wrong, Err(UploadError::Mismatch(found)) if found == hex_digest(&other)));
        let limit = body.len() as u64 - 1;
        let too_large = world.blobs.upload(&digest, cut(body, 1 << 20), limit).await;
        assert!(matches!(too_large, Err(UploadError::TooLarge(_))));
        let broken = cut(body, 1 << 20).chain(stream::iter([Err("gone".to_owned())]));
        let broken = world.blobs.upload(&digest, broken, u64::MAX).await;
        assert!(matches!(broken, Err(UploadError::Interrupted(why)) if why == "gone"));
        assert_eq!(world.blobs.find(&digest).await.unwrap(), None);
    }
    assert_eq!(world.objects().await, Vec::<String>::new());
    let loose = world.fixture.store.read(|tx| {
        Box::pin(async move { tx.all("select name from loose_objects", Vec::new()).await })
    });
    assert_eq!(loose.await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_digest_cannot_leave_the_prefix() {
    let world = World::new().await;
    let outside = format!("sha256:../{}", "a".repeat(61));
    assert_eq!(world.blobs.get(&outside).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_is_old_and_not_referred_to_is_removed_from_the_bucket() {
    let world = World::new().await;
    let (old, needed, found) =
        (world.put("old").await, world.put("needed").await, world.put("found").await);
    world.refer_to(&needed).await;
    world.pass(2 * DAY);
    assert_eq!(world.blobs.find(&found).await.unwrap(), Some(5));
    let young = world.put("young").await;
    assert_eq!(world.collect().await, Removed { n: 1, bytes: 3 });
    assert_eq!(world.blobs.find(&old).await.unwrap(), None);
    for digest in [&needed, &found, &young] {
        world.blobs.get(digest).await.unwrap();
    }
    assert_eq!(world.objects().await.len(), 3);
    // It can be put again.
    world.put("old").await;
    assert_eq!(world.blobs.get(&old).await.unwrap(), "old");
}

#[tokio::test]
async fn an_upload_that_the_bucket_fails_is_cleared_away_when_it_can_be() {
    let world = World::new().await;
    let body = large();
    for body in [&b"farrow"[..], &body] {
        world.remote.does_fail.store(true, Ordering::Relaxed);
        let digest = digest_of(body);
        let failed = world.upload(&digest, body, 1 << 20).await;
        assert!(matches!(failed, Err(UploadError::Io(_))), "{failed:?}");
        assert_eq!(world.blobs.find(&digest).await.unwrap(), None);
        world.remote.does_fail.store(false, Ordering::Relaxed);
    }
    // The small one has arrived though the answer said that it has not.
    assert_eq!(world.objects().await.len(), 1);
    world.collect().await;
    assert_eq!(world.objects().await.len(), 1, "the request may be on its way yet");
    world.pass(LATE);
    world.collect().await;
    assert_eq!(world.objects().await.len(), 0);
}

#[tokio::test]
async fn what_a_killed_server_has_left_is_removed_in_the_end() {
    let world = World::new().await;
    let (name, bucket) = (Bucket::new_name("ab"), Bucket::of(world.remote.clone()));
    let begun = name.clone();
    let upload = bucket.begin(&name).await.unwrap();
    bucket.put_part(&name, &upload, 0, Bytes::from("part").into()).await.unwrap();
    let id = upload.clone();
    world
        .fixture
        .store
        .write(move |tx| Box::pin(async move { objects::begin(tx, &begun, Some(&id), 0).await }))
        .await
        .unwrap();
    world.collect().await;
    world.pass(2 * DAY);
    world.collect().await;
    let late = bucket.put_part(&name, &upload, 1, Bytes::from("late").into()).await;
    assert!(late.is_err(), "the upload was not aborted");
}

#[tokio::test]
async fn a_snapshot_keeps_what_it_may_refer_to() {
    let world = World::new().await;
    if world.fixture.store.shared().is_some() {
        return;
    }
    let digest = world.put("old").await;
    let object = world.objects().await;
    world.pass(2 * DAY);
    let mut snapshot = Snapshot::open(world.fixture._folder.path()).await.unwrap();
    let reading = snapshot.keep_objects().await.unwrap();
    assert_eq!(world.collect().await.n, 1);
    // The blob is gone; who reads the snapshot reads its bytes still.
    assert_eq!(world.blobs.find(&digest).await.unwrap(), None);
    assert_eq!(world.objects().await, object);
    drop(reading);
    world.collect().await;
    assert_eq!(world.objects().await, Vec::<String>::new());
}

#[test]
fn the_parts_there_can_be_hold_what_is_very_large_and_take_little_memory() {
    let total: u64 = (0..MAX_PARTS).map(|number| part_bytes(number) as u64).sum();
    assert!(total > 800 << 30, "{total}");
    assert_eq!(part_bytes(PARTS_OF_A_SIZE - 1), PART_BYTES);
    assert_eq!(part_bytes(MAX_PARTS), 128 << 20);
}

/// Many put, find, refer and forget while several collect: what is referred to is in the bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_blob_that_was_found_and_referred_to_is_never_missing() {
    let world = Arc::new(World::new().await);
    let stop = tokio_util::sync::CancellationToken::new();
    let collectors: Vec<_> = (0..2)
        .map(|_| {
            let (world, stop) = (Arc::clone(&world), stop.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.is_cancelled() {
                    n += world.collect().await.n;
                    tokio::task::yield_now().await;
                }
                n
            })
        })
        .collect();
    let mut referred = Vec::new();
    for round in 0..80_u32 {
        // A few of the same again and again: old ones are found while they are collected.
        let text = format!("payload {}", round % 7);
        let digest = digest_of(text.as_bytes());
        if world.blobs.find(&digest).await.unwrap().is_none() {
            world.put(&text).await;
        }
        match round % 5 {
            0 => {
                world.refer_to(&digest).await;
                referred.push(digest);
            }
            // A day passes, in which all become old.
            _ => world.pass(DAY),
        }
    }
    stop.cancel();
    let mut n = 0;
    for collector in collectors {
        n += collector.await.unwrap();
    }
    for digest in referred {
        world.blobs.get(&digest).await.unwrap();
    }
    assert!(n > 0, "nothing was collected");
}
