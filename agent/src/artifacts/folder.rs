//! What is below a folder in which others may change anything at any time.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, open as open_path, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use protocol::artifact::{self, MOST_ARTIFACTS};

use super::LeftOut;

/// Entries that are looked at, folders and all that is left out among them.
const MOST_ENTRIES: usize = 100 * MOST_ARTIFACTS;

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Without waiting, should it have become a pipe.
const FILE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// What stands in a folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The regular files, by their names below it, and their sizes. One more than are kept if there
    /// are too many.
    pub files: Vec<(String, u64)>,
    /// What else is there.
    pub left_out: LeftOut,
}

/// Finds all that is below `folder`. Nothing is there if it is a folder no more.
///
/// # Errors
/// When it cannot be read.
pub(super) fn find(folder: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let root = match open_path(folder, FOLDER, Mode::empty()) {
        Ok(root) => root,
        Err(nix::errno::Errno::ENOENT) => return Ok(found),
        Err(_) if !folder.symlink_metadata()?.is_dir() => {
            found.left_out.add("FARROW_ARTIFACTS", "it is a folder no more");
            return Ok(found);
        }
        Err(error) => return Err(error.into()),
    };
    let (mut folders, mut n_entries) = (vec![String::new()], 0);
    while let Some(inner) = folders.pop() {
        let read = open_folder(&root, &inner).and_then(|opened| {
            look_into(&opened, &inner, &mut found, &mut folders, &mut n_entries)
        });
        if let Err(error) = read {
            found.left_out.add(&inner, &error.to_string());
        }
        if found.files.len() > MOST_ARTIFACTS {
            break;
        }
    }
    Ok(found)
}

fn look_into(
    folder: &OwnedFd,
    prefix: &str,
    found: &mut Found,
    folders: &mut Vec<String>,
    n_entries: &mut usize,
) -> io::Result<()> {
    let mut entries = Dir::from_fd(folder.try_clone()?)?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *n_entries += 1;
        if *n_entries > MOST_ENTRIES {
            return Err(io::Error::other("too many entries"));
        }
        let path = below(prefix, name);
        match (kind_of(folder, name), path) {
            (_, Err(path)) => found.left_out.add(&path, "its name is too long or not UTF-8"),
            (Ok((SFlag::S_IFDIR, _)), Ok(path)) => folders.push(path),
            (Ok((SFlag::S_IFREG, bytes)), Ok(path)) => {
                found.files.push((path, bytes));
                if found.files.len() > MOST_ARTIFACTS {
                    return Ok(());
                }
            }
            (Ok((SFlag::S_IFLNK, _)), Ok(path)) => found.left_out.add(&path, "a symbolic link"),
            (Ok(_), Ok(path)) => found.left_out.add(&path, "no regular file"),
            // It is gone again.
            (Err(_), Ok(_)) => {}
        }
    }
    Ok(())
}

/// The name of an entry of the folder `prefix`; or about what it is, if it is none for an artifact.
fn below(prefix: &str, name: &CStr) -> Result<String, String> {
    let join = |name: &str| match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    };
    match name.to_str().map(join) {
        Ok(path) if artifact::is_name(&path) => Ok(path),
        Ok(path) => Err(path),
        Err(_) => Err(join(&name.to_string_lossy())),
    }
}

/// What an entry is, and its size. A link is a link.
fn kind_of(folder: &OwnedFd, name: &CStr) -> io::Result<(SFlag, u64)> {
    let there = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
    Ok((kind, u64::try_from(there.st_size).unwrap_or(0)))
}

/// Opens the regular file `name` below `folder`.
///
/// # Errors
/// When it is none any more, or cannot be read; when the name is none of a place below.
pub(super) fn open(folder: &Path, name: &str) -> io::Result<File> {
    if !artifact::is_name(name) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let root = open_path(folder, FOLDER, Mode::empty())?;
    let (inner, last) = name.rsplit_once('/').unwrap_or(("", name));
    let folder = open_folder(&root, inner)?;
    let file = File::from(openat(&folder, last, FILE, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("no regular file")) }
}

/// Goes down from `root` step by step.
fn open_folder(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let mut folder = root.as_fd().try_clone_to_owned()?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder = openat(&folder, part, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn regular_files_are_found_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("artifacts");
        fs::create_dir_all(folder.join("a/b/empty")).unwrap();
        fs::write(parent.path().join("secret"), "secret").unwrap();
        fs::write(folder.join("one"), "1").unwrap();
        fs::write(folder.join("a/b/two"), "22").unwrap();
        fs::hard_link(folder.join("one"), folder.join("a/hard")).unwrap();
        symlink("../secret", folder.join("file")).unwrap();
        symlink("..", folder.join("a/up")).unwrap();
        nix::unistd::mkfifo(&folder.join("pipe"), Mode::S_IRWXU).unwrap();
        fs::write(folder.join(OsStr::from_bytes(b"\xff")), "").unwrap();
        let Found { mut files, left_out } = find(&folder).unwrap();
        files.sort();
        let expected = [("a/b/two", 2), ("a/hard", 1), ("one", 1)];
        assert_eq!(files, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert_eq!(left_out.n, 4, "{left_out:?}");
        for name in ["file", "a/up/secret", "a/up/one", "pipe", "gone", "../secret", "a"] {
            assert!(open(&folder, name).is_err(), "{name}");
        }
        assert!(open(&folder, "a/b/two").is_ok());
    }

    #[test]
    fn a_folder_that_is_a_link_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let [real, link] = ["real", "link"].map(|name| parent.path().join(name));
        fs::create_dir(&real).unwrap();
        fs::write(real.join("secret"), "secret").unwrap();
        symlink(&real, &link).unwrap();
        let found = find(&link).unwrap();
        assert_eq!((found.files.len(), found.left_out.n), (0, 1));
        assert!(open(&link, "secret").is_err());
        let found = find(&parent.path().join("gone")).unwrap();
        assert_eq!((found.files.len(), found.left_out.n), (0, 0));
    }

    #[test]
    fn no_more_files_are_looked_at_than_needed() {
        let folder = tempfile::tempdir().unwrap();
        (0..MOST_ARTIFACTS + 20)
            .for_each(|n| fs::write(folder.path().join(n.to_string()), "").unwrap());
        assert_eq!(find(folder.path()).unwrap().files.len(), MOST_ARTIFACTS + 1);
    }
}
