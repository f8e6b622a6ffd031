//! The folder in which a job's function works, packed: the same files give the same bytes, so that
//! the server and its agents know them when they come again.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use protocol::files::link_stays_inside;
use protocol::size;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use tempfile::NamedTempFile;

use crate::blob::Blob;
use crate::digest::Digest;
use crate::failure::{Exit, Failure};
use crate::human;

/// What is never packed: it is large, changes with every look, and no function needs it.
const LEFT_OUT: &str = ".git";

/// A folder, packed.
#[derive(Debug)]
pub struct Packed {
    /// The tar.gz.
    pub blob: Blob,
    /// What was packed, in words.
    pub story: String,
}

/// Packs a folder; a file must be a tar.gz already.
pub fn pack(path: &Path) -> Result<Packed, Failure> {
    let wrong = |error: &io::Error| Failure::usage(format!("--files {}: {error}", path.display()));
    match fs::metadata(path).map_err(|error| wrong(&error))?.is_dir() {
        true => pack_folder(path),
        false => {
            check_gzip(path).map_err(|error| wrong(&error).remedy("give a folder, or a tar.gz"))?;
            let blob = Blob::of_file(path).map_err(|error| wrong(&error))?;
            let story = format!("files: {}, {}", path.display(), size::of(blob.size));
            Ok(Packed { blob, story })
        }
    }
}

fn check_gzip(path: &Path) -> io::Result<()> {
    let mut magic = [0; 2];
    let read = File::open(path)?.read_exact(&mut magic);
    match read.is_ok() && magic == [0x1f, 0x8b] {
        true => Ok(()),
        false => Err(io::Error::other("is neither a folder nor compressed by gzip")),
    }
}

fn pack_folder(folder: &Path) -> Result<Packed, Failure> {
    let wrong = |path: &Path, error: &io::Error| {
        Failure::usage(format!("--files: {}: {error}", path.display()))
    };
    let cannot_write = |error: io::Error| {
        Failure::new(Exit::Failed, format!("cannot write a temporary file: {error}"))
            .remedy("is there room in its folder? TMPDIR names another")
    };
    let (file, temporary) = NamedTempFile::new().map_err(cannot_write)?.into_parts();
    let mut archive = Archive::new(Hashing::new(BufWriter::new(file)));
    for path in entries(folder).map_err(|(path, error)| wrong(&path, &error))? {
        archive.append(folder, &path).map_err(|error| wrong(&folder.join(&path), &error))?;
    }
    let (n_files, n_bytes) = (archive.n_files, archive.n_bytes);
    let (digest, size) = archive.finish().map_err(cannot_write)?;
    let story = format!(
        "files: {}, {} in {}, packed to {}",
        folder.display(),
        size::of(n_bytes),
        human::count(n_files, "file"),
        size::of(size)
    );
    Ok(Packed { blob: Blob::of_temporary(temporary, digest, size), story })
}

/// What is in a folder, at any depth, relative to it and sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut entries = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        let at = folder.join(&inside);
        for entry in fs::read_dir(&at).map_err(|error| (at.clone(), error))? {
            let entry = entry.map_err(|error| (at.clone(), error))?;
            if entry.file_name() == LEFT_OUT {
                continue;
            }
            let path = inside.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| (entry.path(), error))?;
            if kind.is_dir() {
                folders.push(path.clone());
            }
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

/// A tar.gz that is being written: no times, no owners, and of rights only whether a file can be
/// run.
struct Archive<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    n_files: u64,
    n_bytes: u64,
}

impl<W: Write> Archive<W> {
    fn new(output: W) -> Self {
        let gzip = GzBuilder::new().write(output, Compression::default());
        Self { tar: tar::Builder::new(gzip), n_files: 0, n_bytes: 0 }
    }

    fn append(&mut self, folder: &Path, path: &Path) -> io::Result<()> {
        let full = folder.join(path);
        let metadata = fs::symlink_metadata(&full)?;
        let mut header = header(&metadata);
        if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, path, io::empty())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&full)?;
            check_link(path, &target)?;
            header.set_entry_type(EntryType::Symlink);
            self.tar.append_link(&mut header, path, target)
        } else if metadata.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            self.n_files += 1;
            self.n_bytes += metadata.len();
            let size = metadata.len();
            // A file that grows or shrinks meanwhile would break what follows it.
            let mut reader = File::open(&full)?.take(size);
            self.tar.append_data(&mut header, path, &mut reader)?;
            match reader.limit() {
                0 => Ok(()),
                _ => Err(io::Error::other("became shorter while it was packed")),
            }
        } else {
            Err(io::Error::other("is neither a file, a folder nor a link; leave it out"))
        }
    }
}

impl<W: Write> Archive<Hashing<W>> {
    fn finish(self) -> io::Result<(Digest, u64)> {
        self.tar.into_inner()?.finish()?.finish()
    }
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    let runs = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    header.set_mode(if runs { 0o755 } else { 0o644 });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// An agent unpacks no link that may lead out of the folder; it is told here, before the upload.
fn check_link(link: &Path, target: &Path) -> io::Result<()> {
    match link_stays_inside(target, link.components().count().saturating_sub(1)) {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "is a link to {}, which agents refuse; make it relative, with .. at its beginning \
             only and no further up than the folder",
            target.display()
        ))),
    }
}

/// A writer that hashes and counts what passes.
struct Hashing<W> {
    output: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(output: W) -> Self {
        Self { output, hash: Sha256::new(), size: 0 }
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.output.flush()?;
        Ok((Digest::finish(self.hash), self.size))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.output.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use flate2::read::GzDecoder;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("lib/.git")).unwrap();
        fs::create_dir_all(at(".git")).unwrap();
        for (name, text) in [
            ("b.R", "b"),
            ("a.R", "aa"),
            (".Rprofile", "p"),
            ("lib/run", "#!"),
            (".git/x", "x"),
            ("lib/.git/x", "x"),
        ] {
            fs::write(at(name), text).unwrap();
        }
        fs::set_permissions(at("lib/run"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("../a.R", at("lib/link")).unwrap();
        folder
    }

    fn digest(folder: &Path) -> Digest {
        pack(folder).unwrap().blob.digest
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (one, other) = (folder(), folder());
        let old = File::open(one.path().join("a.R")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest(one.path()), digest(other.path()));
        fs::write(other.path().join("a.R"), "ab").unwrap();
        assert_ne!(digest(one.path()), digest(other.path()));
    }

    #[test]
    fn all_but_git_is_packed() {
        let folder = folder();
        let packed = pack(folder.path()).unwrap();
        assert!(packed.story.contains("in 4 files"), "{}", packed.story);
        let body = packed.blob.read().unwrap();
        assert_eq!(Digest::of_bytes(&body), packed.blob.digest);
        let mut archive = tar::Archive::new(GzDecoder::new(&body[..]));
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), link)
        });
        let entries: Vec<_> = entries.collect();
        let expected = [
            (".Rprofile", 0o644, None),
            ("a.R", 0o644, None),
            ("b.R", 0o644, None),
            ("lib", 0o755, None),
            ("lib/link", 0o755, Some("../a.R")),
            ("lib/run", 0o755, None),
        ];
        let expected =
            expected.map(|(name, mode, link)| (name.to_owned(), mode, link.map(str::to_owned)));
        assert_eq!(entries, expected);
    }

    #[test]
    fn links_that_agents_refuse_are_refused_before() {
        for (link, target) in
            [("out", "/etc/passwd"), ("lib/up", "../../a.R"), ("round", "lib/../a.R")]
        {
            let folder = folder();
            symlink(target, folder.path().join(link)).unwrap();
            let failure = format!("{:?}", pack(folder.path()).unwrap_err());
            assert!(failure.contains(link) && failure.contains("agents refuse"), "{failure}");
        }
    }

    #[test]
    fn a_file_must_be_gzip() {
        let folder = folder();
        let failure = format!("{:?}", pack(&folder.path().join("a.R")).unwrap_err());
        assert!(failure.contains("neither a folder nor"), "{failure}");
        assert!(pack(&folder.path().join("none")).is_err());
    }
}
