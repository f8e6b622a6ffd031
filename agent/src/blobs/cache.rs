//! Blobs in files: one copy for all agents of a machine that share a folder, from which workers read them.
//! What was fetched once is there for later jobs, and when the agent is started again.
//!
//! ```text
//! FOLDER/HEX        a blob, by its digest; locked shared by whoever uses it, exclusive by who removes it
//! FOLDER/HEX.lock   locked by the one that fetches it, gone afterwards
//! FOLDER/HEX.part   what has been fetched so far
//! ```
//!
//! Each agent reads a file that it did not fetch once, before it uses it for the first time, and sees whether it is
//! what its name says. So nothing has to be forced to the disk, and a file that lost its end when the machine
//! did is fetched again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use super::name_of;
use crate::blocking::blocking;
use crate::confinement::Identity;
use crate::locks::{self, try_lock, try_lock_open};

/// Bytes that are read of a file at once.
const READ: usize = 1 << 20;

/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// The folder of the blobs.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Who reads them.
    identity: Identity,
    /// Bytes of blobs that are kept while nobody uses them.
    limit: u64,
    /// The files whose bytes this agent has seen, by digest.
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// What tells a file from another that takes its place, and from what was cut off it: device, inode, length.
type Seen = (u64, u64, u64);

/// A blob in a file, which stays there while this lives.
#[derive(Debug)]
pub struct Cached {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    file: Flock<File>,
}

/// The right to fetch a blob. What was fetched is removed with it, unless it is kept.
#[derive(Debug)]
pub struct Turn {
    /// Where to put it.
    pub part: PathBuf,
    lock_path: PathBuf,
    digest: String,
    _lock: Flock<File>,
}

impl Cached {
    /// Whether it is still where workers look for it, and whole: code of jobs may have changed that.
    pub fn is_there(&self) -> bool {
        locks::is_at(&self.file, &self.path)
            && self.file.metadata().is_ok_and(|there| there.len() == self.size)
    }
}

impl Cache {
    /// The cache in `folder`, for workers whose identity this is. Of what nobody uses it keeps `limit` bytes, and at the
    /// most half of the room that the disk has without it.
    ///
    /// # Errors
    /// When the folder cannot be made, or not be reached by workers.
    pub fn open(folder: &Path, identity: Identity, limit: u64) -> io::Result<Self> {
        identity.make_way(folder)?;
        // Workers start elsewhere, so a relative path would not lead them here.
        let folder = folder.canonicalize()?;
        identity.check_way(&folder)?;
        make_room(&folder, None, limit);
        Ok(Self { folder, identity, limit, seen: Mutex::default() })
    }

    /// The blob `sha256:…`, if it is there and whole.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub async fn find(&self, digest: &str) -> io::Result<Option<Cached>> {
        let (path, wanted) = (self.path_of(digest)?, digest.to_owned());
        let (seen, identity) = (self.seen().get(digest).copied(), self.identity.clone());
        let found = blocking(move || find(path, &wanted, seen, &identity)).await?;
        if let Some(found) = &found {
            self.seen().insert(digest.to_owned(), seen_as(&found.file)?);
        }
        Ok(found)
    }

    /// The turn to fetch the blob `sha256:…`. Nothing, after a short pause, when somebody else fetches it or
    /// has done so.
    ///
    /// # Errors
    /// When its lock cannot be had.
    pub async fn turn(&self, digest: &str) -> io::Result<Option<Turn>> {
        let path = self.path_of(digest)?;
        let [part, lock_path] = ["part", "lock"].map(|end| path.with_extension(end));
        let lock = try_lock(&lock_path, FlockArg::LockExclusiveNonblock)?;
        let turn =
            lock.map(|lock| Turn { part, lock_path, digest: digest.to_owned(), _lock: lock });
        // While it was looked for, somebody may have come to the end of it.
        let turn = turn.filter(|_| !path.exists());
        if turn.is_none() {
            sleep(locks::PAUSE).await;
            return Ok(None);
        }
        // Before it is fetched: the disk may be full of what nobody uses.
        let (folder, limit) = (self.folder.clone(), self.limit);
        blocking(move || {
            make_room(&folder, None, limit);
            Ok(turn)
        })
        .await
    }

    /// Bytes of the blob `sha256:…` that whoever fetches it has so far.
    pub fn fetched(&self, digest: &str) -> u64 {
        let part = self.path_of(digest).map(|path| path.with_extension("part"));
        part.and_then(fs::metadata).map_or(0, |part| part.len())
    }

    /// Keeps what was fetched, whose digest has been seen to be right; and removes what was used least
    /// recently until the rest fits.
    ///
    /// # Errors
    /// When the file cannot be put where it belongs.
    pub async fn keep(&self, turn: Turn) -> io::Result<Cached> {
        let path = self.path_of(&turn.digest)?;
        let (identity, limit, folder) = (self.identity.clone(), self.limit, self.folder.clone());
        let digest = turn.digest.clone();
        let kept = blocking(move || {
            identity.let_read(&turn.part)?;
            // Before others see it: whoever makes room would find it unused.
            let file =
                try_lock_open(File::open(&turn.part)?, &turn.part, FlockArg::LockSharedNonblock)?;
            let file = file.ok_or_else(|| io::Error::other("somebody else has locked it"))?;
            fs::rename(&turn.part, &path)?;
            make_room(&folder, Some(&path), limit);
            let size = file.metadata()?.len();
            Ok(Cached { path, size, file })
        });
        let kept = kept.await?;
        let mut seen = self.seen();
        seen.retain(|digest, _| self.path_of(digest).is_ok_and(|path| path.exists()));
        seen.insert(digest, seen_as(&kept.file)?);
        Ok(kept)
    }

    /// Where a blob is. Its digest names a file here and nowhere else.
    fn path_of(&self, digest: &str) -> io::Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| is_name(hex));
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "it is no digest");
        hex.map(|hex| self.folder.join(hex)).ok_or_else(wrong)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        fs::remove_file(&self.part).ok();
        // While it is locked: who has opened it meanwhile finds that it is nobody's.
        fs::remove_file(&self.lock_path).ok();
    }
}

fn find(
    path: PathBuf,
    digest: &str,
    seen: Option<Seen>,
    identity: &Identity,
) -> io::Result<Option<Cached>> {
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Whoever has it locked is about to remove it.
    let Some(file) = try_lock_open(file, &path, FlockArg::LockSharedNonblock)? else {
        return Ok(None);
    };
    // Its last use, by which the oldest is found.
    file.set_modified(locks::file_time()).ok();
    if seen != Some(seen_as(&file)?) {
        if digest_of(&file)? != digest {
            tracing::warn!(file = %path.display(), "a blob in the cache is damaged; it is fetched again");
            drop(file);
            // Unless somebody else has done so, and what is there now is used.
            remove_unused(&path)?;
            return Ok(None);
        }
        // The agent that has fetched it may have had workers of another user.
        identity.let_read(&path)?;
    }
    let size = file.metadata()?.len();
    Ok(Some(Cached { path, size, file }))
}

fn digest_of(mut file: &File) -> io::Result<String> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; READ]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(name_of(digest)),
            length => digest.update(&buffer[..length]),
        }
    }
}

fn seen_as(file: &File) -> io::Result<Seen> {
    file.metadata().map(|there| (there.dev(), there.ino(), there.len()))
}

fn is_name(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A blob on disk.
#[derive(Debug)]
struct Stored {
    path: PathBuf,
    used: Option<SystemTime>,
    bytes: u64,
}

/// Removes the blobs that were used least recently until the others fit, and what dead agents had half
/// fetched; never one that is in use, nor `newest`.
pub(super) fn make_room(folder: &Path, newest: Option<&Path>, limit: u64) {
    let stored = stored(folder);
    let total: u64 = stored.iter().map(|one| one.bytes).sum();
    let free = statvfs(folder)
        .map_or(u64::MAX, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    let limit = limit.min(free.saturating_add(total) / 2);
    for path in surplus(stored, newest, limit) {
        if let Err(error) = remove_unused(&path) {
            tracing::warn!(file = %path.display(), %error, "an old blob cannot be removed");
        }
    }
    remove_half_fetched(folder);
}

/// Removes a file unless somebody uses it.
fn remove_unused(path: &Path) -> io::Result<()> {
    match lock_to_remove(path)? {
        Some(_lock) => fs::remove_file(path),
        None => Ok(()),
    }
}

/// Locks a file that nobody else has locked. It is opened for writing, without which some file systems over
/// the network give no such lock.
fn lock_to_remove(path: &Path) -> io::Result<Option<Flock<File>>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => try_lock_open(opened?, path, FlockArg::LockExclusiveNonblock),
    }
}

fn stored(folder: &Path) -> Vec<Stored> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let blobs = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_name));
    blobs
        .filter_map(|entry| {
            let there = entry.metadata().ok()?;
            Some(Stored { path: entry.path(), used: there.modified().ok(), bytes: there.len() })
        })
        .collect()
}

/// Those to be removed.
fn surplus(mut stored: Vec<Stored>, newest: Option<&Path>, limit: u64) -> Vec<PathBuf> {
    let is_newest = |one: &Stored| Some(&*one.path) == newest;
    stored.sort_by_key(|one| (!is_newest(one), std::cmp::Reverse(one.used)));
    let mut total = 0_u64;
    let is_surplus = |one: &Stored| {
        total = total.saturating_add(one.bytes);
        !is_newest(one) && total > limit
    };
    stored.into_iter().filter(is_surplus).map(|one| one.path).collect()
}

/// Removes what was fetched in part by agents that are not there any more.
fn remove_half_fetched(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let locks = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "lock"));
    for lock_path in locks {
        if let Ok(Some(_lock)) = lock_to_remove(&lock_path) {
            fs::remove_file(lock_path.with_extension("part")).ok();
            fs::remove_file(&lock_path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::digest_of as digest_of_bytes;
    use super::*;

    fn open(folder: &Path, limit: u64) -> Cache {
        Cache::open(folder, Identity::default(), limit).unwrap()
    }

    /// Has it fetched what is `bytes`; its digest.
    async fn fetch(cache: &Cache, bytes: &[u8]) -> String {
        let digest = digest_of_bytes(bytes);
        let turn = cache.turn(&digest).await.unwrap().unwrap();
        fs::write(&turn.part, bytes).unwrap();
        drop(cache.keep(turn).await.unwrap());
        digest
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_fetched_is_found_by_all_and_one_fetches_it() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| open(folder.path(), 1 << 20));
        let digest = digest_of_bytes(b"x");
        assert!(one.find(&digest).await.unwrap().is_none());
        let turn = one.turn(&digest).await.unwrap().unwrap();
        assert!(other.turn(&digest).await.unwrap().is_none(), "one fetches it");
        fs::write(&turn.part, b"x").unwrap();
        assert_eq!(one.fetched(&digest), 1);
        one.keep(turn).await.unwrap();
        for cache in [&one, &other] {
            let found = cache.find(&digest).await.unwrap().unwrap();
            assert_eq!((fs::read(&found.path).unwrap(), found.size), (b"x".to_vec(), 1));
            assert!(cache.turn(&digest).await.unwrap().is_none(), "nobody fetches it again");
        }
        assert_eq!(names(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_turn_that_comes_to_nothing_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        let turn = cache.turn(&digest_of_bytes(b"x")).await.unwrap().unwrap();
        fs::write(&turn.part, b"half").unwrap();
        drop(turn);
        assert_eq!(names(folder.path()), 0);
        assert!(cache.turn(&digest_of_bytes(b"x")).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_used_least_recently_makes_room_and_what_is_used_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 25);
        let mut blobs = Vec::new();
        for (second, content) in (1..).zip([b"a", b"b", b"c"]) {
            let digest = fetch(&cache, &content.repeat(10)).await;
            let found = cache.find(&digest).await.unwrap().unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            found.file.set_modified(time).unwrap();
            blobs.push((digest, found));
        }
        let is_there = |at: usize| blobs[at].1.is_there();
        assert_eq!([0, 1, 2].map(is_there), [true; 3], "all are in use");
        let (first, _) = blobs.remove(0);
        fetch(&cache, b"d").await;
        assert!(cache.find(&first).await.unwrap().is_none());
        assert!(blobs.iter().all(|(_, used)| used.is_there()));
    }

    #[tokio::test]
    async fn what_is_damaged_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let digest = fetch(&open(folder.path(), 1 << 20), b"whole").await;
        // As after a crash of the machine, before an agent that is started then.
        let again = open(folder.path(), 1 << 20);
        let path = again.path_of(&digest).unwrap();
        fs::write(&path, b"who").unwrap();
        assert!(again.find(&digest).await.unwrap().is_none());
        assert!(!path.exists());
        fetch(&again, b"whole").await;
        let found = again.find(&digest).await.unwrap().unwrap();
        assert!(found.is_there());
        // By a job, under the agent that has seen it whole.
        fs::write(&path, b"who").unwrap();
        assert!(!found.is_there());
        drop(found);
        assert!(again.find(&digest).await.unwrap().is_none());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_damaged_is_not_removed_while_somebody_uses_what_took_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        let digest = fetch(&cache, b"whole").await;
        let used = cache.find(&digest).await.unwrap().unwrap();
        remove_unused(&used.path).unwrap();
        assert!(used.is_there());
        drop(used);
        remove_unused(&cache.path_of(&digest).unwrap()).unwrap();
        assert_eq!(names(folder.path()), 0);
    }

    #[tokio::test]
    async fn a_smaller_limit_holds_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        fetch(&open(folder.path(), 1 << 20), b"large").await;
        open(folder.path(), 4);
        assert_eq!(names(folder.path()), 0);
    }

    #[tokio::test]
    async fn what_dead_agents_had_half_fetched_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        let path = cache.path_of(&digest_of_bytes(b"left")).unwrap();
        fs::write(path.with_extension("part"), b"le").unwrap();
        fs::write(path.with_extension("lock"), b"").unwrap();
        fetch(&cache, b"x").await;
        assert_eq!(names(folder.path()), 1);
    }

    #[tokio::test]
    async fn what_is_no_digest_names_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), 1 << 20);
        for digest in ["sha256:../../etc/passwd", "sha256:", "md5:0", &"a".repeat(64)] {
            assert!(cache.find(digest).await.is_err(), "{digest}");
        }
    }
}
