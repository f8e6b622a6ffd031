//! The folders in which workers work.
//!
//! ```text
//! SCRATCH/lock                held while an agent makes its folder
//! SCRATCH/blobs/              large constants, of all agents that share the folder (`blobs/cache.rs`)
//! SCRATCH/agent-ID/lock       held while the agent lives
//! SCRATCH/agent-ID/scripts/   the runtimes' scripts
//! SCRATCH/agent-ID/N/work     working directory of worker N, as new for each job
//! SCRATCH/agent-ID/N/tmp/     its TMPDIR, gone with it
//! SCRATCH/agent-ID/N/scratch    its FARROW_SCRATCH, emptied as often as `work`
//! SCRATCH/agent-ID/N/artifacts  its FARROW_ARTIFACTS, for jobs that ask for it; then both are emptied for
//!                             each element
//! ```
//!
//! Whatever an agent that was killed left behind, the next one on the machine removes; so it knows that
//! that one is dead.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use protocol::AgentId;
use tokio::task::spawn_blocking;

use crate::confinement::Identity;
use crate::runtimes;
use crate::trees;

/// How folders of agents are called, before their ids.
pub const FOLDER_PREFIX: &str = "agent-";

/// The folder of one agent; removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Who works in it.
    identity: Identity,
    next_worker: AtomicU64,
    /// Agents that were found dead.
    dead: Vec<AgentId>,
    lock: Mutex<Flock<File>>,
}

impl Scratch {
    /// Makes the folder of `agent` under `parent`, for workers whose identity this is, and removes
    /// those of agents that are dead.
    ///
    /// # Errors
    /// When folders or files cannot be made there, or workers cannot reach them.
    pub fn create(parent: &Path, agent: AgentId, identity: Identity) -> io::Result<Self> {
        identity.make_way(parent)?;
        // Agents that start together do so one by one, else one would take another's folder, made
        // but not locked yet, for a dead agent's.
        let _turn = lock(parent, FlockArg::LockExclusive)?;
        let dead = remove_abandoned(parent);
        // Workers start elsewhere, so a relative path would not lead them to their script.
        let folder = parent.canonicalize()?.join(format!("{FOLDER_PREFIX}{agent}"));
        let lock = Mutex::new(lock_anew(&folder, &identity)?);
        let scratch = Self { folder, identity, next_worker: AtomicU64::new(0), dead, lock };
        scratch.write_scripts()?;
        scratch.identity.check_way(&scratch.scripts())?;
        Ok(scratch)
    }

    fn write_scripts(&self) -> io::Result<()> {
        let scripts = self.scripts();
        make_private(&scripts)?;
        self.identity.let_read(&scripts)?;
        for (name, source) in runtimes::SCRIPTS {
            fs::write(scripts.join(name), source)?;
            self.identity.let_read(&scripts.join(name))?;
        }
        Ok(())
    }

    /// Makes anew what workers start with, if somebody has taken it away: who empties folders of temporary files does not
    /// know that an agent lives. Says whether something was gone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn restore(&self) -> io::Result<bool> {
        // Of workers that start together one sees to it.
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let scripts = self.scripts();
        if runtimes::SCRIPTS.iter().all(|(name, _)| scripts.join(name).exists()) {
            return Ok(false);
        }
        match lock_anew(&self.folder, &self.identity) {
            Ok(anew) => *lock = anew,
            // It is still there, and held by this agent.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.write_scripts()?;
        Ok(true)
    }

    /// The agents that had not removed their folders: nobody holds their locks, so they are dead. Nobody
    /// finds them again: if this agent dies before it has told the server, their leases run out.
    pub fn dead(&self) -> &[AgentId] {
        &self.dead
    }

    /// Where the runtimes' scripts are.
    pub fn scripts(&self) -> PathBuf {
        self.folder.join("scripts")
    }

    /// Has R compile its scripts, which saves each worker the time in the middle of its first elements.
    ///
    /// # Errors
    /// When that cannot be done: workers read the scripts as they are.
    pub async fn compile_r(&self) -> io::Result<()> {
        for (made, to) in runtimes::r::compile(&self.scripts()).await? {
            self.identity.let_read(&made)?;
            fs::rename(made, to)?;
        }
        Ok(())
    }

    /// Makes the folders of a new worker.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn worker(&self) -> io::Result<WorkerScratch> {
        let number = self.next_worker.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(number.to_string());
        let scratch = WorkerScratch(Arc::new(Folder { folder, identity: self.identity.clone() }));
        let folders = [scratch.work(), scratch.tmp(), scratch.scratch(), scratch.artifacts()];
        folders.iter().try_for_each(|folder| make_private(folder))?;
        // It stays the agent's: workers change what is in theirs, but cannot put others in their place.
        self.identity.let_through(&scratch.0.folder)?;
        folders.iter().try_for_each(|folder| self.identity.give(folder))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The folders of one worker; removed when dropped, or when what is being done in them is done.
#[derive(Debug)]
pub struct WorkerScratch(Arc<Folder>);

/// A folder that is removed when dropped.
#[derive(Debug)]
struct Folder {
    folder: PathBuf,
    identity: Identity,
}

impl WorkerScratch {
    /// The working directory.
    pub fn work(&self) -> PathBuf {
        self.0.folder.join("work")
    }

    /// The folder for temporary files. It is not emptied between jobs: R keeps its own there for
    /// as long as it runs.
    pub fn tmp(&self) -> PathBuf {
        self.0.folder.join("tmp")
    }

    /// The folder for what elements need only while they run.
    pub fn scratch(&self) -> PathBuf {
        self.0.scratch()
    }

    /// The folder for what elements leave behind.
    pub fn artifacts(&self) -> PathBuf {
        self.0.artifacts()
    }

    /// Who works in them.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Makes the folders for what elements write empty ones.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn empty_for_element(&self) -> io::Result<()> {
        let scratch = Arc::clone(&self.0);
        let emptied =
            spawn_blocking(move || scratch.identity.act(|| scratch.empty_for_element())?);
        emptied.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// Removes all that is in the working directory and in those of elements, however much, and
    /// copies into the working directory what is in the folder `original`, if there is one, without
    /// holding up others while it does.
    ///
    /// # Errors
    /// When something cannot be removed or copied.
    pub async fn renew_work(&self, original: Option<PathBuf>) -> io::Result<()> {
        // As most jobs leave them. To look takes less than to wake up a thread, which is waited for.
        if original.is_none()
            && [self.work(), self.scratch(), self.artifacts()].iter().all(is_as_new)
        {
            return Ok(());
        }
        let (scratch, work) = (Arc::clone(&self.0), self.work());
        let renewed = spawn_blocking(move || {
            // Not to be removed while it is filled.
            let renew = || {
                trees::empty(&work)?;
                scratch.empty_for_element()?;
                original.map_or(Ok(()), |original| trees::copy(&original, &work))
            };
            scratch.identity.act(renew)?
        });
        renewed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// Removes the folders, without holding up others.
    pub async fn remove(self) {
        spawn_blocking(move || drop(self)).await.ok();
    }
}

impl Folder {
    fn scratch(&self) -> PathBuf {
        self.folder.join("scratch")
    }

    fn artifacts(&self) -> PathBuf {
        self.folder.join("artifacts")
    }

    /// To be called with the workers' rights.
    fn empty_for_element(&self) -> io::Result<()> {
        renew(&self.scratch())?;
        renew(&self.artifacts())
    }
}

/// Whether this is a folder, no link to one, that its owner can use, and nothing is in it.
fn is_as_new(folder: &PathBuf) -> bool {
    let is_usable = |there: Metadata| there.is_dir() && there.permissions().mode() & 0o700 == 0o700;
    fs::symlink_metadata(folder).is_ok_and(is_usable)
        && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Makes a folder an empty one. Where there is none any more, one is made; a link that was put in its
/// place is removed, and what it leads to stays.
fn renew(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(there) if there.is_dir() => trees::empty(folder),
        Ok(_) => fs::remove_file(folder).and_then(|()| make_private(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_private(folder),
        Err(error) => Err(error),
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Where scratch folders go unless told otherwise: the user's cache folder, or, for users without
/// a home, the system's folder for temporary files. Root's is closed to all others, so workers of
/// another user have the system's.
pub fn default_parent(is_another_user: bool) -> PathBuf {
    if is_another_user {
        return PathBuf::from("/var/cache/farrow");
    }
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    cache.map_or_else(
        || std::env::temp_dir().join(format!("farrow-{}", nix::unistd::getuid())),
        |cache| cache.join("farrow"),
    )
}

/// Makes a folder that only this user can read.
///
/// # Errors
/// When that cannot be done.
pub fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the folder of an agent, and takes its lock.
fn lock_anew(folder: &Path, identity: &Identity) -> io::Result<Flock<File>> {
    make_private(folder)?;
    identity.let_through(folder)?;
    lock(folder, FlockArg::LockExclusiveNonblock)
}

/// Takes the lock of a folder.
///
/// # Errors
/// When somebody else has it, or it cannot be made.
pub fn lock(folder: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = File::create(folder.join("lock"))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

/// Removes the folders of agents whose lock nobody holds any more. Says whose they were.
fn remove_abandoned(parent: &Path) -> Vec<AgentId> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut dead = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)) else {
            continue;
        };
        if lock(&entry.path(), FlockArg::LockExclusiveNonblock).is_ok() {
            tracing::info!(folder = %entry.path().display(), "removing what a dead agent left");
            remove(&entry.path());
            dead.extend(id.parse::<AgentId>());
        }
    }
    dead
}

fn remove(folder: &Path) {
    if let Err(error) = trees::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a scratch folder");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[tokio::test]
    async fn a_working_directory_is_emptied_and_all_is_removed_in_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), AgentId::new(), Identity::default()).unwrap();
        let worker = scratch.worker().unwrap();
        fs::create_dir(worker.work().join("sub")).unwrap();
        fs::write(worker.work().join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", worker.work().join("link")).unwrap();
        worker.renew_work(None).await.unwrap();
        assert_eq!(fs::read_dir(worker.work()).unwrap().count(), 0);
        worker.renew_work(Some(scratch.scripts())).await.unwrap();
        assert!(worker.work().join(runtimes::SCRIPTS[0].0).exists());
        assert!(scratch.scripts().join(runtimes::SCRIPTS[0].0).exists());
        worker.remove().await;
        drop(scratch);
        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().flatten().collect();
        assert!(matches!(&left[..], [lock] if lock.file_name() == "lock"), "{left:?}");
    }

    #[tokio::test]
    async fn each_folder_that_a_job_has_changed_is_made_as_new() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), AgentId::new(), Identity::default()).unwrap();
        let worker = scratch.worker().unwrap();
        let folders = [worker.work(), worker.scratch(), worker.artifacts()];
        for folder in &folders {
            fs::write(folder.join("file"), "x").unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o500)).unwrap();
            worker.renew_work(None).await.unwrap();
            assert_as_new(folder);
            fs::set_permissions(folder, Permissions::from_mode(0o500)).unwrap();
            worker.renew_work(None).await.unwrap();
            assert_as_new(folder);
        }
        for folder in [worker.scratch(), worker.artifacts()] {
            fs::remove_dir(&folder).unwrap();
            std::os::unix::fs::symlink(worker.tmp(), &folder).unwrap();
            worker.renew_work(None).await.unwrap();
            assert_as_new(&folder);
        }
    }

    fn assert_as_new(folder: &Path) {
        let there = fs::symlink_metadata(folder).unwrap();
        assert!(there.is_dir() && there.permissions().mode() & 0o700 == 0o700, "{there:?}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_folders_of_elements_are_made_new_and_links_in_their_place_are_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(parent.path(), AgentId::new(), Identity::default()).unwrap();
        let worker = scratch.worker().unwrap();
        let precious = parent.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        fs::write(worker.scratch().join("file"), "x").unwrap();
        fs::remove_dir(worker.artifacts()).unwrap();
        std::os::unix::fs::symlink(&precious, worker.artifacts()).unwrap();
        for _ in 0..2 {
            worker.empty_for_element().await.unwrap();
            for folder in [worker.scratch(), worker.artifacts()] {
                assert!(fs::symlink_metadata(&folder).unwrap().is_dir());
                assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
            }
            fs::remove_dir(worker.artifacts()).unwrap();
        }
        assert!(precious.join("file").exists());
    }

    #[test]
    fn what_the_dead_left_is_removed_and_the_living_are_spared() {
        let parent = tempfile::tempdir().unwrap();
        let living = Scratch::create(parent.path(), AgentId::new(), Identity::default()).unwrap();
        let (id, unnamed) = (AgentId::new(), parent.path().join("agent-of-no-id"));
        let dead = parent.path().join(format!("agent-{id}"));
        for folder in [&dead, &unnamed] {
            fs::create_dir(folder).unwrap();
        }
        let next = Scratch::create(parent.path(), AgentId::new(), Identity::default()).unwrap();
        assert!(!dead.exists() && !unnamed.exists());
        assert!(living.scripts().exists());
        assert_eq!((next.dead(), living.dead()), (&[id][..], &[][..]));
    }
}
