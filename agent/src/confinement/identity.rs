//! Who workers are: the agent's own user, or another one by `--worker-user`. Then what the agent does
//! in folders of that user it does with that user's rights: links that lead elsewhere get no further
//! than the user itself.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist, setfsgid, setfsuid};
use thiserror::Error;

use super::entry::Ids;

/// Who workers are.
#[derive(Clone, Debug, Default)]
pub struct Identity(Option<Arc<Other>>);

/// A user that is not the agent's.
#[derive(Debug)]
struct Other {
    name: String,
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    home: PathBuf,
}

/// Why workers cannot be that user.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The agent is no one who may start processes of others.
    #[error(
        "--worker-user {name}: only root can start processes of another user, and this agent runs as \
         user {agent}. Start it as root, or leave --worker-user out and let it run as {name}"
    )]
    NotRoot {
        /// Who was asked for.
        name: String,
        /// Whose the agent is.
        agent: u32,
    },
    /// There is none of that name.
    #[error(
        "--worker-user {name}: this machine has no user of that name; make one: \
         useradd --system --create-home --shell /usr/sbin/nologin {name}"
    )]
    Unknown {
        /// Who was asked for.
        name: String,
    },
    /// It is root, which would protect nothing.
    #[error("--worker-user {name}: this is root itself; name a user that may do less")]
    Root {
        /// Who was asked for.
        name: String,
    },
    /// The system could not say.
    #[error("--worker-user {name}: {error}")]
    Unreadable {
        /// Who was asked for.
        name: String,
        /// What it said.
        error: Errno,
    },
}

impl Identity {
    /// The user of this name.
    ///
    /// # Errors
    /// When there is none, or this process may not act for others.
    pub fn of(name: &str) -> Result<Self, IdentityError> {
        let said = |error| IdentityError::Unreadable { name: name.to_owned(), error };
        if !geteuid().is_root() {
            let agent = geteuid().as_raw();
            return Err(IdentityError::NotRoot { name: name.to_owned(), agent });
        }
        let unknown = || IdentityError::Unknown { name: name.to_owned() };
        let user = User::from_name(name).map_err(said)?.ok_or_else(unknown)?;
        if user.uid.is_root() {
            return Err(IdentityError::Root { name: name.to_owned() });
        }
        let c_name = CString::new(user.name.as_str()).map_err(|_| unknown())?;
        let groups = getgrouplist(&c_name, user.gid).map_err(said)?;
        let (user, group, home) = (user.uid, user.gid, user.dir);
        Ok(Self(Some(Arc::new(Other { name: name.to_owned(), user, group, groups, home }))))
    }

    /// Whether it is not the agent's own.
    pub fn is_another(&self) -> bool {
        self.0.is_some()
    }

    /// Its name, if it is not the agent's own.
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref().map(|other| other.name.as_str())
    }

    /// In numbers, if it is not the agent's own.
    pub fn ids(&self) -> Option<Ids> {
        let other = self.0.as_deref()?;
        let groups = other.groups.iter().map(|group| group.as_raw()).collect();
        Some(Ids { user: other.user.as_raw(), group: other.group.as_raw(), groups })
    }

    /// What its processes know it by.
    pub fn variables(&self) -> Vec<(&'static str, &std::ffi::OsStr)> {
        let Some(other) = self.0.as_deref() else { return Vec::new() };
        let name = other.name.as_ref();
        vec![("HOME", other.home.as_os_str()), ("USER", name), ("LOGNAME", name)]
    }

    /// Does `work` with this user's rights over files. It may take a while: not for tasks.
    ///
    /// # Errors
    /// When this process cannot act for that user.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Some(other) = self.0.as_deref() else { return Ok(work()) };
        // The kernel knows these rights by thread, so this one is for nothing else.
        let acted = thread::scope(|scope| {
            let acting = move || other.become_in_this_thread().map(|()| work());
            thread::Builder::new().spawn_scoped(scope, acting)?.join().map_err(io_error)
        });
        acted?
    }

    /// Makes a folder, and those above it that are missing, through which workers may go, but in which
    /// they see and change nothing. One that is there already stays as it is.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn make_way(&self, folder: &Path) -> io::Result<()> {
        if !self.is_another() {
            return DirBuilder::new().recursive(true).mode(0o700).create(folder);
        }
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.make_way(parent)?;
        }
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Whatever the umask took away.
            made => made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o711))),
        }
    }

    /// Sees whether workers can come to a folder.
    ///
    /// # Errors
    /// When they cannot, with what to do.
    pub fn check_way(&self, folder: &Path) -> io::Result<()> {
        let Some(name) = self.name() else { return Ok(()) };
        let inside = folder.join(".");
        self.act(|| fs::metadata(&inside))?.map(drop).map_err(|error| {
            let story = format!(
                "the workers' user {name} cannot come there ({error}); each folder on its way must let \
                 that user through, as by chmod o+x"
            );
            io::Error::new(error.kind(), story)
        })
    }

    /// Lets workers, and nobody else, go through a folder of the agent's.
    ///
    /// # Errors
    /// When its owner or mode cannot be changed.
    pub fn let_through(&self, folder: &Path) -> io::Result<()> {
        self.show(folder, 0o710)
    }

    /// Lets workers, and nobody else, read a file of the agent's, or see what is in a folder.
    ///
    /// # Errors
    /// When its owner or mode cannot be changed.
    pub fn let_read(&self, path: &Path) -> io::Result<()> {
        self.show(path, if path.is_dir() { 0o750 } else { 0o640 })
    }

    fn show(&self, path: &Path, mode: u32) -> io::Result<()> {
        let Some(other) = self.0.as_deref() else { return Ok(()) };
        lchown(path, None, Some(other.group.as_raw()))?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Makes pipes the workers' own, by either end: who opens them once more by `/dev/fd`, as R does and
    /// scripts that write to `/dev/stderr`, is asked for rights like with any file.
    ///
    /// # Errors
    /// When an owner cannot be changed.
    pub fn give_pipes<const N: usize>(&self, ends: [&OwnedFd; N]) -> io::Result<()> {
        let Some(other) = self.0.as_deref() else { return Ok(()) };
        let (user, group) = (Some(other.user.as_raw()), Some(other.group.as_raw()));
        ends.into_iter().try_for_each(|end| fchown(end, user, group))
    }

    /// Makes a folder and all in it the workers' own. None of them may be running there.
    ///
    /// # Errors
    /// When an owner cannot be changed.
    pub fn give(&self, folder: &Path) -> io::Result<()> {
        let Some(other) = self.0.as_deref() else { return Ok(()) };
        let (user, group) = (Some(other.user.as_raw()), Some(other.group.as_raw()));
        each(folder, &mut |path| lchown(path, user, group))
    }

    /// Makes what is the workers' own in a folder the agent's, for workers to read. None of them may
    /// be running there any more.
    ///
    /// # Errors
    /// When an owner or mode cannot be changed.
    pub fn take_back(&self, folder: &Path) -> io::Result<()> {
        let Some(other) = self.0.as_deref() else { return Ok(()) };
        each(folder, &mut |path| other.take_back(path))
    }
}

impl Other {
    fn become_in_this_thread(&self) -> io::Result<()> {
        let groups: Vec<libc::gid_t> = self.groups.iter().map(|group| group.as_raw()).collect();
        #[expect(
            unsafe_code,
            reason = "the call itself changes this thread alone, the library's all threads; it reads \
                      as many numbers as it is told"
        )]
        let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        Errno::result(done)?;
        setfsgid(self.group);
        setfsuid(self.user);
        // They fail without a word; asked again they say what is in force.
        let is_done = setfsgid(self.group) == self.group && setfsuid(self.user) == self.user;
        let refused =
            || io::Error::other(format!("this process cannot act for user {}", self.name));
        is_done.then_some(()).ok_or_else(refused)
    }

    /// What is not this user's, as a link to a file of somebody else, stays what it is.
    fn take_back(&self, path: &Path) -> io::Result<()> {
        let there = fs::symlink_metadata(path)?;
        if there.uid() != self.user.as_raw() {
            return Ok(());
        }
        let (owner, group) = (Some(geteuid().as_raw()), Some(self.group.as_raw()));
        if !there.is_file() && !there.is_dir() {
            return lchown(path, owner, group);
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if file.metadata()?.uid() != self.user.as_raw() {
            return Ok(());
        }
        fchown(&file, owner, group)?;
        file.set_permissions(Permissions::from_mode(readable(there.mode())))
    }
}

/// The mode with which a group may do all that the owner may, but write; and nobody gains rights by it.
fn readable(mode: u32) -> u32 {
    let owner = mode & 0o700;
    owner | (owner & 0o500) >> 3 | mode & 0o005
}

/// Does something with a folder and all that is in it, the innermost first. Links are not followed.
fn each(path: &Path, what: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            each(&entry?.path(), what)?;
        }
    }
    what(path)
        .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))
}

fn io_error(_panic: Box<dyn std::any::Any + Send>) -> io::Error {
    io::Error::other("the thread that acts for the workers' user broke")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The user `nobody`, if this test may act for it.
    fn nobody() -> Option<Identity> {
        match Identity::of("nobody") {
            Ok(nobody) => Some(nobody),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn owner_and_mode(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.uid(), metadata.mode() & 0o7777)
    }

    #[test]
    fn who_cannot_be_a_worker_is_told_why() {
        if !geteuid().is_root() {
            let error = Identity::of("nobody").unwrap_err();
            assert!(matches!(error, IdentityError::NotRoot { .. }), "{error}");
            return;
        }
        let error = Identity::of("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("no user of that name"), "{error}");
        assert!(matches!(Identity::of("root"), Err(IdentityError::Root { .. })));
    }

    #[test]
    fn modes_lose_what_is_dangerous() {
        assert_eq!(readable(0o4777), 0o755);
        assert_eq!(readable(0o100_600), 0o640);
        assert_eq!(readable(0o700), 0o750);
    }

    #[test]
    fn what_is_done_for_the_workers_is_done_with_their_rights() {
        let Some(nobody) = nobody() else { return };
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let [own, secret] = ["own", "secret"].map(|name| folder.path().join(name));
        fs::create_dir(&own).unwrap();
        fs::write(&secret, "x").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        nobody.give(&own).unwrap();
        symlink(&secret, own.join("link")).unwrap();
        let tried = nobody.act(|| {
            fs::write(own.join("mine"), "x").unwrap();
            [fs::write(own.join("link"), "y"), fs::read(&secret).map(drop)]
        });
        let denied = tried.unwrap().map(|result| result.map_err(|error| error.kind()));
        assert_eq!(denied, [Err(io::ErrorKind::PermissionDenied); 2]);
        assert_eq!(owner_and_mode(&own.join("mine")).0, nobody.ids().unwrap().user);
        // Other threads are as they were.
        assert_eq!(fs::read_to_string(&secret).unwrap(), "x");
    }

    #[test]
    fn a_prepared_folder_is_given_and_taken_back() {
        let Some(nobody) = nobody() else { return };
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        let foreign = folder.path().join("foreign");
        fs::create_dir(&inner).unwrap();
        fs::write(&foreign, "x").unwrap();
        fs::set_permissions(&foreign, Permissions::from_mode(0o600)).unwrap();
        let file = inner.join("file");
        fs::write(&file, "x").unwrap();
        nobody.give(&inner).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o4700)).unwrap();
        fs::hard_link(&foreign, inner.join("hard")).unwrap();
        symlink(&foreign, inner.join("soft")).unwrap();
        assert_ne!(owner_and_mode(&file).0, 0);
        nobody.take_back(&inner).unwrap();
        assert_eq!(owner_and_mode(&file), (0, 0o750), "no program that runs as root");
        assert_eq!(owner_and_mode(&foreign), (0, 0o600), "what a link leads to is not opened");
        assert_eq!(owner_and_mode(&inner.join("soft")).0, 0);
        let read = nobody.act(|| fs::write(&file, "y").map_err(|error| error.kind()));
        assert_eq!(read.unwrap(), Err(io::ErrorKind::PermissionDenied));
    }
}
