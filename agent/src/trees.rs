//! Whole trees of files, copied and removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// How often the removal of a folder is tried.
const MOST_ROUNDS: usize = 100;

/// Copies all that is in the folder `from` into the folder `to`, with modes, times and links, both
/// symbolic and hard. What is neither file, folder nor link is left out: a pipe would be waited for
/// without end. Where the file system can share blocks, that costs none.
///
/// # Errors
/// When something cannot be read or written: what, and why.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    copy_all(from, to, &mut BTreeMap::new())
}

/// Copies of files that have several names, by device and number of the original.
type Linked = BTreeMap<(u64, u64), PathBuf>;

fn copy_all(from: &Path, to: &Path, linked: &mut Linked) -> io::Result<()> {
    for entry in fs::read_dir(from).map_err(|error| at(from, &error))? {
        let original = entry?.path();
        let place = to.join(original.file_name().unwrap_or_default());
        copy_one(&original, &place, linked)?;
    }
    Ok(())
}

fn copy_one(original: &Path, place: &Path, linked: &mut Linked) -> io::Result<()> {
    let said = |error| at(original, &error);
    let metadata = fs::symlink_metadata(original).map_err(said)?;
    if metadata.is_dir() {
        // What is to be read only is that once it is full.
        DirBuilder::new().mode(0o700).create(place).map_err(said)?;
        copy_all(original, place, linked)?;
        File::open(place).and_then(|folder| set_time_and_mode(&folder, &metadata)).map_err(said)
    } else if metadata.is_symlink() {
        fs::read_link(original).and_then(|target| symlink(target, place)).map_err(said)
    } else if metadata.is_file() {
        copy_file(original, place, &metadata, linked).map_err(said)
    } else {
        Ok(())
    }
}

fn copy_file(
    original: &Path,
    place: &Path,
    metadata: &Metadata,
    linked: &mut Linked,
) -> io::Result<()> {
    if metadata.nlink() > 1 {
        let file = (metadata.dev(), metadata.ino());
        if let Some(first) = linked.get(&file) {
            return fs::hard_link(first, place);
        }
        linked.insert(file, place.to_owned());
    }
    fs::copy(original, place)?;
    // By times compilers and interpreters see what is out of date.
    set_time_and_mode(&File::open(place)?, metadata)
}

fn set_time_and_mode(copy: &File, original: &Metadata) -> io::Result<()> {
    copy.set_modified(original.modified()?)?;
    copy.set_permissions(original.permissions())
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// Removes a folder and all that is in it, if it is there: also folders that forbid it, and what
/// somebody who is just being killed still writes there.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    for _ in 0..MOST_ROUNDS {
        match fs::remove_dir_all(folder).map_err(|error| error.kind()) {
            Ok(()) | Err(io::ErrorKind::NotFound) => return Ok(()),
            // Root is forbidden nothing by modes, and is not to be led astray by links that others
            // put there meanwhile.
            Err(io::ErrorKind::PermissionDenied) if !geteuid().is_root() => open(folder),
            Err(io::ErrorKind::DirectoryNotEmpty) => {}
            Err(_) => break,
        }
    }
    fs::remove_dir_all(folder)
}

/// Removes all that is in a folder, but not the folder.
///
/// # Errors
/// When something cannot be removed.
pub fn empty(folder: &Path) -> io::Result<()> {
    let is_open = fs::metadata(folder)?.permissions().mode() & 0o700 == 0o700;
    if !is_open {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Lets us read, enter and change a folder and all folders in it, as far as they are ours: what is
/// not, the removal will tell. Links are not followed.
fn open(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o700)).ok();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_copy_has_the_modes_times_and_links_of_its_original() {
        let parent = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| parent.path().join(name));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/run"), "text").unwrap();
        fs::set_permissions(from.join("a/b/run"), Permissions::from_mode(0o555)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::open(from.join("a/b/run")).unwrap().set_modified(time).unwrap();
        fs::hard_link(from.join("a/b/run"), from.join("hard")).unwrap();
        symlink("a/b", from.join("soft")).unwrap();
        symlink("nowhere", from.join("dangling")).unwrap();
        nix::unistd::mkfifo(&from.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::set_permissions(from.join("a/b"), Permissions::from_mode(0o500)).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("soft/run")).unwrap(), "text");
        assert_eq!((mode(&to.join("a/b")), mode(&to.join("hard"))), (0o500, 0o555));
        let [run, hard, original] = [to.join("a/b/run"), to.join("hard"), from.join("hard")]
            .map(|path| fs::metadata(path).unwrap());
        assert_eq!(run.modified().unwrap(), time);
        assert_eq!(run.ino(), hard.ino());
        assert_ne!(run.ino(), original.ino());
        assert_eq!(fs::read_link(to.join("dangling")).unwrap(), Path::new("nowhere"));
        assert!(!to.join("pipe").exists());
        for folder in [&from, &to] {
            remove(folder).unwrap();
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_copied_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let error = copy(&parent.path().join("absent"), parent.path()).unwrap_err();
        assert!(error.to_string().contains("absent`"), "{error}");
    }

    #[test]
    fn folders_that_forbid_it_are_opened_but_not_those_that_links_lead_to() {
        let parent = tempfile::tempdir().unwrap();
        let [inner, other] = ["outer/inner", "other"].map(|name| parent.path().join(name));
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir(&other).unwrap();
        symlink(&other, inner.join("link")).unwrap();
        for folder in [&inner, &parent.path().join("outer"), &other] {
            fs::set_permissions(folder, Permissions::from_mode(0o500)).unwrap();
        }
        // By itself, since those who run tests as root are forbidden nothing.
        open(&parent.path().join("outer"));
        assert_eq!((mode(&inner), mode(&other)), (0o700, 0o500));
        fs::set_permissions(&inner, Permissions::from_mode(0o500)).unwrap();
        empty(&parent.path().join("outer")).unwrap();
        assert_eq!(fs::read_dir(parent.path().join("outer")).unwrap().count(), 0);
        assert!(other.exists());
        remove(&parent.path().join("outer")).unwrap();
        remove(&parent.path().join("outer")).unwrap();
    }
}
