//! The folders of prepared environments, shared by all agents that use the same cache.
//!
//! An environment is used under a shared lock and made or removed under an exclusive one, so that
//! no two agents make it at once and nobody removes it from under another. The kernel drops the
//! locks of an agent that dies, once the scripts that it ran are gone; what it left half made has no
//! `ready`, and is made anew.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::blocking::blocking;
use crate::confinement::Identity;
use crate::locks::{self, try_lock};
use crate::trees;

/// Environments kept that nobody uses.
const KEPT: usize = 32;
/// Bytes of environments kept that nobody uses.
const KEPT_BYTES: u64 = 20 << 30;

/// The folder of all environments.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Who prepares and uses what is in it.
    identity: Identity,
}

/// An environment that is there, and stays while this lives.
#[derive(Debug)]
pub struct Use {
    /// Where it is.
    pub folder: PathBuf,
    _lock: Flock<File>,
}

/// The right to make an environment, or to remove it.
#[derive(Debug)]
pub struct Turn {
    /// Where it is, or will be.
    pub folder: PathBuf,
    lock: Flock<File>,
    identity: Identity,
}

/// The folders in which an environment is made.
const PARTS: [&str; 5] = ["files", "r", "python", "bin", "tmp"];

impl Cache {
    /// The cache in `folder`, for those whose identity this is.
    ///
    /// # Errors
    /// When the folder cannot be made, or not be reached by them.
    pub fn open(folder: &Path, identity: Identity) -> io::Result<Self> {
        identity.make_way(folder)?;
        // Scripts and workers run elsewhere, so a relative path would not lead them here.
        let folder = folder.canonicalize()?;
        identity.check_way(&folder)?;
        Ok(Self { folder, identity })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The environment of this name, if it is whole.
    ///
    /// # Errors
    /// When its lock cannot be had.
    pub async fn find(&self, name: &str) -> io::Result<Option<Use>> {
        let folder = self.folder.join(name);
        if !is_ready(&folder) {
            return Ok(None);
        }
        let lock = self.lock_shared(name).await?;
        // It may have been removed before it was locked.
        let ready = File::open(ready(&folder)).and_then(|ready| {
            // The time of its last use, by which the oldest is found.
            ready.set_modified(locks::file_time())
        });
        Ok(ready.is_ok().then_some(Use { folder, _lock: lock }))
    }

    /// The turn to make the environment of this name. Nothing, after a short pause, when somebody
    /// else makes it, or has made it and uses it.
    ///
    /// # Errors
    /// When its lock cannot be had.
    pub async fn turn(&self, name: &str) -> io::Result<Option<Turn>> {
        let path = lock_path(&self.folder, name);
        let Some(lock) = try_lock(&path, FlockArg::LockExclusiveNonblock)? else {
            sleep(locks::PAUSE).await;
            return Ok(None);
        };
        let identity = self.identity.clone();
        Ok(Some(Turn { folder: self.folder.join(name), lock, identity }))
    }

    /// Removes the environments that were used least recently until the others fit, and what was
    /// left half made; never one that is in use, nor `newest`.
    pub async fn evict(&self, newest: &str) {
        let (folder, newest) = (self.folder.clone(), newest.to_owned());
        let evict = move || {
            for name in surplus(&stored(&folder), &newest) {
                match try_lock(&lock_path(&folder, &name), FlockArg::LockExclusiveNonblock) {
                    Ok(Some(lock)) => remove_locked(&folder, &name, &lock),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(name, %error, "cannot lock an old environment"),
                }
            }
        };
        spawn_blocking(evict).await.ok();
    }

    async fn lock_shared(&self, name: &str) -> io::Result<Flock<File>> {
        let path = lock_path(&self.folder, name);
        loop {
            if let Some(lock) = try_lock(&path, FlockArg::LockSharedNonblock)? {
                return Ok(lock);
            }
            sleep(locks::PAUSE).await;
        }
    }
}

impl Turn {
    /// Whether it is whole.
    pub fn is_ready(&self) -> bool {
        is_ready(&self.folder)
    }

    /// What makes it the only one, until nobody has it open any more.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// Begins anew, whatever was left here.
    ///
    /// # Errors
    /// When folders cannot be removed or made.
    pub async fn clear(&self) -> io::Result<()> {
        let (folder, identity) = (self.folder.clone(), self.identity.clone());
        blocking(move || {
            take_away(&folder)?;
            PARTS.iter().try_for_each(|name| make_private(&folder.join(name)))?;
            identity.let_through(&folder)
        })
        .await
    }

    /// Lets those write in it who prepare it, until it is finished.
    ///
    /// # Errors
    /// When it cannot be given to them.
    pub async fn give(&self) -> io::Result<()> {
        let (folder, identity) = (self.folder.clone(), self.identity.clone());
        blocking(move || PARTS.iter().try_for_each(|name| identity.give(&folder.join(name)))).await
    }

    /// Declares it whole.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn finish(&self) -> io::Result<()> {
        let (folder, identity) = (self.folder.clone(), self.identity.clone());
        blocking(move || {
            trees::remove(&folder.join("tmp"))?;
            let left = PARTS.iter().map(|name| folder.join(name));
            left.filter(|part| part.is_dir()).try_for_each(|part| identity.take_back(&part))?;
            fs::write(ready(&folder), size_of(&folder).to_string())
        })
        .await
    }

    /// Removes it.
    pub async fn remove(&self) {
        let folder = self.folder.clone();
        blocking(move || {
            remove(&folder);
            Ok(())
        })
        .await
        .ok();
    }
}

/// An environment on disk.
#[derive(Debug)]
struct Stored {
    name: String,
    /// When it was used last; nothing if it is not whole.
    used: Option<SystemTime>,
    bytes: u64,
}

fn stored(folder: &Path) -> Vec<Stored> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .map(|entry| {
            let ready = ready(&entry.path());
            let used = fs::metadata(&ready).and_then(|ready| ready.modified()).ok();
            let bytes = fs::read_to_string(&ready).ok().and_then(|bytes| bytes.parse().ok());
            let name = entry.file_name().to_string_lossy().into_owned();
            Stored { name, used, bytes: bytes.unwrap_or_default() }
        })
        .collect()
}

/// Those to be removed.
fn surplus(stored: &[Stored], newest: &str) -> Vec<String> {
    let mut latest_first: Vec<&Stored> = stored.iter().collect();
    latest_first.sort_by_key(|stored| (stored.name != newest, std::cmp::Reverse(stored.used)));
    let mut total = 0_u64;
    let is_surplus = |(rank, stored): &(usize, &Stored)| {
        total = total.saturating_add(stored.bytes);
        stored.name != newest && (*rank >= KEPT || total > KEPT_BYTES || stored.used.is_none())
    };
    latest_first
        .into_iter()
        .enumerate()
        .filter(is_surplus)
        .map(|(_, one)| one.name.clone())
        .collect()
}

/// Removes an environment and its lock; whoever waits for that lock notices.
fn remove_locked(folder: &Path, name: &str, _lock: &Flock<File>) {
    let environment = folder.join(name);
    tracing::info!(folder = %environment.display(), "removing a prepared environment");
    fs::remove_file(ready(&environment)).ok();
    remove(&environment);
    fs::remove_file(lock_path(folder, name)).ok();
}

fn lock_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.lock"))
}

fn ready(folder: &Path) -> PathBuf {
    folder.join("ready")
}

/// Jobs may have removed what was there.
fn is_ready(folder: &Path) -> bool {
    ready(folder).exists() && folder.join("files").is_dir()
}

fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Bytes on disk of all files in a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        // Links are not followed.
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { size_of(&entry.path()) } else { metadata.blocks() * 512 })
    });
    sizes.sum()
}

/// Removes a folder such that the place is free at once, whoever may be writing there.
fn take_away(folder: &Path) -> io::Result<()> {
    let aside = folder.with_extension("old");
    remove(&aside);
    match fs::rename(folder, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    remove(&aside);
    Ok(())
}

fn remove(folder: &Path) {
    if let Err(error) = trees::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a prepared environment");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    fn stored(name: &str, used: Option<u64>, bytes: u64) -> Stored {
        let used = used.map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        Stored { name: name.to_owned(), used, bytes }
    }

    #[test]
    fn the_least_recently_used_and_the_half_made_are_surplus() {
        let mut all: Vec<Stored> =
            (0..KEPT as u64 + 2).map(|at| stored(&format!("of {at}"), Some(at), 1)).collect();
        all.push(stored("half made", None, 0));
        let mut gone = surplus(&all, "of 0");
        gone.sort();
        assert_eq!(gone, ["half made", "of 1", "of 2"], "the newest stays whatever its time");
        let large = [stored("a", Some(2), KEPT_BYTES), stored("b", Some(1), 1)];
        assert_eq!(surplus(&large, "a"), ["b"]);
        assert_eq!(surplus(&large, "b"), ["a"]);
    }

    #[tokio::test]
    async fn what_is_used_is_neither_made_anew_nor_removed() {
        let parent = tempfile::tempdir().unwrap();
        let [one, other] =
            [(); 2].map(|()| Cache::open(parent.path(), Identity::default()).unwrap());
        assert!(one.find("x").await.unwrap().is_none());
        let turn = one.turn("x").await.unwrap().unwrap();
        turn.clear().await.unwrap();
        assert!(other.turn("x").await.unwrap().is_none(), "one makes it");
        turn.finish().await.unwrap();
        drop(turn);
        let used = one.find("x").await.unwrap().unwrap();
        assert!(other.find("x").await.unwrap().is_some(), "many use it");
        assert!(other.turn("x").await.unwrap().is_none());
        let lock = || try_lock(&lock_path(parent.path(), "x"), FlockArg::LockExclusiveNonblock);
        assert!(lock().unwrap().is_none(), "it cannot be removed");
        drop(used);
        remove_locked(parent.path(), "x", &lock().unwrap().unwrap());
        assert!(other.find("x").await.unwrap().is_none());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_job_has_removed_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let cache = Cache::open(parent.path(), Identity::default()).unwrap();
        let turn = cache.turn("x").await.unwrap().unwrap();
        turn.clear().await.unwrap();
        turn.finish().await.unwrap();
        fs::remove_dir(turn.folder.join("files")).unwrap();
        assert!(!turn.is_ready());
        drop(turn);
        assert!(cache.find("x").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_still_being_written_is_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let cache = Cache::open(parent.path(), Identity::default()).unwrap();
        let turn = cache.turn("x").await.unwrap().unwrap();
        turn.clear().await.unwrap();
        let (files, stop) = (turn.folder.join("files"), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                fs::write(files.join(number.to_string()), "").ok();
            }
        });
        for _ in 0..100 {
            turn.clear().await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn what_was_left_half_made_is_cleared() {
        let parent = tempfile::tempdir().unwrap();
        let cache = Cache::open(parent.path(), Identity::default()).unwrap();
        fs::create_dir_all(parent.path().join("x/files/left")).unwrap();
        assert!(cache.find("x").await.unwrap().is_none());
        let turn = cache.turn("x").await.unwrap().unwrap();
        turn.clear().await.unwrap();
        assert_eq!(fs::read_dir(turn.folder.join("files")).unwrap().count(), 0);
    }
}
