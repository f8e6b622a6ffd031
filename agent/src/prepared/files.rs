//! A job's `files`: a tar.gz, unpacked so that nothing of it lies, or leads, out of its folder.
//!
//! Every folder on the way to an entry must be a real one, and every link must be relative, with
//! `..` at its beginning alone and no more of them than lead to the folder itself. So wherever a
//! link stands it leads to a place inside, and so does a link to that place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use protocol::files::link_stays_inside;
use tar::{Archive, Entry, EntryType};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Why an archive was not unpacked.
#[derive(Debug, Error)]
pub enum FilesError {
    /// It is none, or is damaged.
    #[error("the blob cannot be read as a tar.gz: {0}")]
    Unreadable(io::Error),
    /// It holds what would lie or lead elsewhere.
    #[error("the archive holds {what} `{}`; pack relative paths without `..` only", path.display())]
    Leaves {
        /// What kind of entry.
        what: &'static str,
        /// Its path, or where it leads.
        path: PathBuf,
    },
    /// It holds what is neither file, folder nor link.
    #[error("the archive holds `{}`, which is neither file, folder nor link", .0.display())]
    Special(PathBuf),
    /// The system could not write something.
    #[error("`{}` cannot be unpacked on the agent: {error}", path.display())]
    NotWritten {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The thread that unpacks broke.
    #[error("unpacking broke off: {0}")]
    Broken(String),
}

/// Unpacks a tar.gz into `folder`, which is there and empty, and removes it. `stop` ends it before
/// its end.
///
/// # Errors
/// When it is damaged, holds what is not to be unpacked, or the disk has no room for it.
pub async fn unpack(
    archive: PathBuf,
    folder: PathBuf,
    stop: CancellationToken,
) -> Result<(), FilesError> {
    let unpacking = spawn_blocking(move || {
        let file = File::open(&archive).map_err(FilesError::Unreadable)?;
        unpack_now(BufReader::new(file), &folder, &stop)?;
        fs::remove_file(&archive).map_err(|error| FilesError::NotWritten { path: archive, error })
    });
    unpacking.await.unwrap_or_else(|panic| Err(FilesError::Broken(panic.to_string())))
}

fn unpack_now(
    archive: impl Read,
    folder: &Path,
    stop: &CancellationToken,
) -> Result<(), FilesError> {
    let bytes = Stoppable { bytes: MultiGzDecoder::new(archive), stop };
    let mut archive = Archive::new(bytes);
    for entry in archive.entries().map_err(FilesError::Unreadable)? {
        unpack_entry(&mut entry.map_err(FilesError::Unreadable)?, folder)?;
    }
    Ok(())
}

fn unpack_entry(entry: &mut Entry<'_, impl Read>, folder: &Path) -> Result<(), FilesError> {
    let kind = entry.header().entry_type();
    // What `git archive` puts first.
    if kind == EntryType::XGlobalHeader {
        return Ok(());
    }
    let named = entry.path().map_err(FilesError::Unreadable)?.into_owned();
    let path = inside(&named, "the path")?;
    let target = match kind {
        EntryType::Symlink | EntryType::Link => {
            let link = entry.link_name().map_err(FilesError::Unreadable)?;
            link.map(|link| link.into_owned()).unwrap_or_default()
        }
        EntryType::Regular
        | EntryType::Continuous
        | EntryType::GNUSparse
        | EntryType::Directory => PathBuf::new(),
        _ => return Err(FilesError::Special(named)),
    };
    let not_written = |error| FilesError::NotWritten { path: named.clone(), error };
    if kind == EntryType::Directory {
        return make_folders(folder, &path).map(drop).map_err(not_written);
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default();
    let place = make_folders(folder, parent).map_err(not_written)?.join(name);
    make_room(&place).map_err(not_written)?;
    match kind {
        EntryType::Symlink => {
            check_link(&target, parent.components().count())?;
            symlink(&target, &place).map_err(not_written)
        }
        EntryType::Link => {
            let target = inside(&target, "a link to")?;
            link_hard(folder, &target, &place).map_err(not_written)
        }
        _ => write_file(entry, &place).map_err(not_written),
    }
}

/// The path without what means nothing in it, if it does not leave.
fn inside(path: &Path, what: &'static str) -> Result<PathBuf, FilesError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(FilesError::Leaves { what, path: path.to_owned() }),
        }
    }
    Ok(clean)
}

/// Whether a symbolic link that stands `depth` folders deep stays inside.
fn check_link(target: &Path, depth: usize) -> Result<(), FilesError> {
    match link_stays_inside(target, depth) {
        true => Ok(()),
        false => Err(FilesError::Leaves { what: "a symbolic link to", path: target.to_owned() }),
    }
}

/// Makes the folders of a clean path below `folder`, none of which may be a link.
fn make_folders(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut place = folder.to_owned();
    for component in path.components() {
        place.push(component);
        match fs::symlink_metadata(&place) {
            Ok(there) if there.is_dir() => {}
            Ok(_) => return Err(io::Error::other("what lies on its way is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&place)?,
            Err(error) => return Err(error),
        }
    }
    Ok(place)
}

/// Removes what an earlier entry has put there, so that nothing is written through a link.
fn make_room(place: &Path) -> io::Result<()> {
    match fs::symlink_metadata(place) {
        Ok(there) if there.is_dir() => Err(io::Error::other("a folder has the same name")),
        Ok(_) => fs::remove_file(place),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn link_hard(folder: &Path, target: &Path, place: &Path) -> io::Result<()> {
    let parent = make_folders(folder, target.parent().unwrap_or(Path::new("")))?;
    let target = parent.join(target.file_name().unwrap_or_default());
    if !fs::symlink_metadata(&target)?.is_file() {
        return Err(io::Error::other("it is a link to what is no file"));
    }
    fs::hard_link(target, place)
}

fn write_file(entry: &mut Entry<'_, impl Read>, place: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?;
    io::copy(entry, &mut file)?;
    set_times_and_mode(&file, entry)
}

/// As packed, but never such that the agent could not remove it, nor with another's rights.
fn set_times_and_mode(file: &File, entry: &Entry<'_, impl Read>) -> io::Result<()> {
    let mode = entry.header().mode().unwrap_or(0o600) & 0o777 | 0o600;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let seconds = entry.header().mtime().unwrap_or_default();
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    // A time that the file system cannot hold is of no importance.
    time.map(|time| file.set_modified(time)).transpose().ok();
    Ok(())
}

/// Bytes that end with an error once they are of no use any more.
struct Stoppable<'a, R> {
    bytes: R,
    stop: &'a CancellationToken,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("it was stopped"));
        }
        self.bytes.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, Header};

    use super::*;

    type Packer = Builder<GzEncoder<Vec<u8>>>;

    /// Puts an entry in whose names are what they are: the crate would refuse to pack some.
    fn add(packer: &mut Packer, kind: EntryType, path: &str, link: &str, bytes: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_000_000);
        header.set_cksum();
        packer.append(&header, bytes).unwrap();
    }

    fn unpacked(pack: impl FnOnce(&mut Packer)) -> (tempfile::TempDir, Result<(), FilesError>) {
        let mut packer = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        pack(&mut packer);
        let archive = packer.into_inner().unwrap().finish().unwrap();
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("files")).unwrap();
        let stop = CancellationToken::new();
        let result = unpack_now(&archive[..], &parent.path().join("files"), &stop);
        (parent, result)
    }

    #[test]
    fn files_folders_and_links_are_unpacked() {
        let (parent, result) = unpacked(|packer| {
            add(packer, EntryType::XGlobalHeader, "pax_global_header", "", b"9 a=b\n");
            add(packer, EntryType::Directory, "./a/", "", b"");
            add(packer, EntryType::Regular, "a/b/run.sh", "", b"old");
            add(packer, EntryType::Regular, "a/b/run.sh", "", b"echo");
            add(packer, EntryType::Symlink, "a/b/up", "../../a", b"");
            add(packer, EntryType::Link, "hard", "a/b/run.sh", b"");
        });
        result.unwrap();
        let files = parent.path().join("files");
        assert_eq!(fs::read(files.join("a/b/up/b/run.sh")).unwrap(), b"echo");
        assert_eq!(fs::read(files.join("hard")).unwrap(), b"echo");
        let metadata = fs::metadata(files.join("a/b/run.sh")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o755);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(metadata.modified().unwrap(), time);
    }

    #[test]
    fn nothing_lies_or_leads_out_of_the_folder() {
        for (kind, path, link) in [
            (EntryType::Regular, "../x", ""),
            (EntryType::Regular, "a/../../x", ""),
            (EntryType::Regular, "/tmp/x", ""),
            (EntryType::Directory, "..", ""),
            (EntryType::Symlink, "x", "/etc"),
            (EntryType::Symlink, "x", ".."),
            (EntryType::Symlink, "a/x", "../../y"),
            (EntryType::Symlink, "a/x", "b/.."),
            (EntryType::Link, "x", "/etc/passwd"),
            (EntryType::Link, "x", "../outside"),
            (EntryType::Char, "x", ""),
            (EntryType::Block, "x", ""),
            (EntryType::Fifo, "x", ""),
        ] {
            let (parent, result) = unpacked(|packer| add(packer, kind, path, link, b""));
            let error = result.unwrap_err();
            let is_meant = matches!(error, FilesError::Leaves { .. } | FilesError::Special(_));
            assert!(is_meant, "{kind:?} {path} {link}: {error}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn nothing_is_written_or_linked_through_a_link() {
        let (_parent, result) = unpacked(|packer| {
            add(packer, EntryType::Directory, "a", "", b"");
            add(packer, EntryType::Symlink, "link", "a", b"");
            add(packer, EntryType::Regular, "link/x", "", b"x");
        });
        assert!(result.unwrap_err().to_string().contains("no folder"));
        let (parent, result) = unpacked(|packer| {
            add(packer, EntryType::Regular, "a", "", b"first");
            add(packer, EntryType::Symlink, "link", "a", b"");
            add(packer, EntryType::Regular, "link", "", b"second");
        });
        result.unwrap();
        assert_eq!(fs::read(parent.path().join("files/a")).unwrap(), b"first");
        let (_parent, result) = unpacked(|packer| {
            add(packer, EntryType::Symlink, "link", "a", b"");
            add(packer, EntryType::Link, "x", "link", b"");
        });
        assert!(result.is_err());
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none_and_a_stop_stops() {
        let parent = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let error = unpack_now(&b"not a tar.gz"[..], parent.path(), &stop).unwrap_err();
        assert!(error.to_string().contains("tar.gz"), "{error}");
        let mut packer = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        add(&mut packer, EntryType::Regular, "x", "", b"x");
        let archive = packer.into_inner().unwrap().finish().unwrap();
        unpack_now(&archive[..], parent.path(), &stop).unwrap();
        stop.cancel();
        assert!(unpack_now(&archive[..], parent.path(), &stop).is_err());
        let cut = &archive[..archive.len() / 2];
        assert!(unpack_now(cut, parent.path(), &CancellationToken::new()).is_err());
    }
}
