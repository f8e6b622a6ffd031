//! Where a value goes: to standard output, or to a file that is there only when it is whole.

use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::Encoding;
use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure};

/// The help of commands that print values.
pub const OUTPUT_HELP: &str = "\
Output:
  Each element's value is printed as JSON on a line of its own, in the order of the elements; of
  elements with names as NAME<TAB>JSON. What a command printed stands there as it printed it, unless
  --output json. A call's value is one JSON document, and so is, with --json, any value. The values
  of --variant walk are not printed. Progress, messages and what elements print while they run go
  to standard error.
  With --encoding rds, pickle or bytes the value is written as it is, to --out or where standard
  output is redirected: that of a call bare, so that readRDS() or pickle.load() read the file; that
  of a map as frames, which can be the --file of a next map.
";

/// Where a value goes.
#[derive(Args, Clone, Debug)]
pub struct Delivery {
    /// Print JSON: the whole value as one document
    #[arg(long, env = "FARROW_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
    /// Write the value to a file, which is there only once it is whole
    #[arg(short, long, env = "FARROW_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
}

impl Delivery {
    /// Refuses, before any work, what could not be delivered after it.
    pub fn check(&self, encoding: Encoding) -> Result<(), Failure> {
        if let Some(file) = &self.out {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) {
                return Err(Failure::usage(format!(
                    "--out {}: there is no such folder",
                    file.display()
                )));
            }
        }
        if encoding == Encoding::Json {
            return Ok(());
        }
        let name = encoding.as_str();
        if self.json {
            return Err(Failure::usage(format!("a value of encoding {name} is no JSON document"))
                .remedy("leave --json away; `farrow outcomes --json` has such values in base64"));
        }
        if self.out.is_none() && io::stdout().is_terminal() {
            return Err(Failure::usage(format!(
                "a value of encoding {name} is nothing for a terminal"
            ))
            .remedy(
                "give --out FILE, or redirect standard output; or --detach and fetch it later",
            ));
        }
        Ok(())
    }

    /// What to write to.
    pub fn open(&self) -> Result<Sink, Failure> {
        let Some(path) = &self.out else { return Ok(Sink::Stdout(io::stdout())) };
        // A device or a pipe is written to as it is.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return File::create(path)
                .map(Sink::Device)
                .map_err(|error| cannot_write(path, &error));
        }
        WholeFile::create(path).map(Sink::File)
    }
}

/// What a value is written to.
pub enum Sink {
    /// Standard output.
    Stdout(io::Stdout),
    /// A device or a pipe.
    Device(File),
    /// A file.
    File(WholeFile),
}

impl Sink {
    /// Says that all was written.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(_) | Self::Device(_) => Ok(()),
            Self::File(file) => file.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(output) => output.write(bytes),
            Self::Device(output) => output.write(bytes),
            Self::File(file) => file.partial.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(output) => output.flush(),
            Self::Device(output) => output.flush(),
            Self::File(file) => file.partial.flush(),
        }
    }
}

/// A file that appears under its name only once it is whole. Meanwhile it stands beside, under a
/// name that no other file has; dropped before its end, it is gone.
pub struct WholeFile {
    partial: NamedTempFile,
    path: PathBuf,
}

impl WholeFile {
    /// Begins to write a file.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let partial = tempfile::Builder::new()
            .prefix(".farrow-")
            .suffix(".partial")
            // As any new file: the umask takes away what is not to be.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(|error| cannot_write(path, &error))?;
        Ok(Self { partial, path: path.to_owned() })
    }

    fn finish(self) -> Result<(), Failure> {
        let named = self.partial.persist(&self.path);
        named.map(drop).map_err(|failed| cannot_write(&self.path, &failed.error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(json: bool, out: Option<&Path>) -> Delivery {
        Delivery { json, out: out.map(Path::to_owned) }
    }

    #[test]
    fn what_cannot_be_delivered_is_refused_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("value");
        assert!(delivery(false, Some(&file)).check(Encoding::Rds).is_ok());
        let refused =
            |delivery: Delivery| format!("{:?}", delivery.check(Encoding::Rds).unwrap_err());
        assert!(refused(delivery(true, Some(&file))).contains("leave --json away"));
        assert!(refused(delivery(false, Some(&file.join("x")))).contains("no such folder"));
    }

    #[test]
    fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let mut sink = delivery(false, Some(&path)).open().unwrap();
        sink.write_all(b"x").unwrap();
        assert!(!path.exists());
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let never_whole = delivery(false, Some(&folder.path().join("other"))).open().unwrap();
        drop(never_whole);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn whoever_writes_the_same_file_writes_all_of_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let theirs = folder.path().join("value.partial");
        fs::write(&theirs, "theirs").unwrap();
        let open = || delivery(false, Some(&path)).open().unwrap();
        let (mut one, mut other) = (open(), open());
        one.write_all(b"value").unwrap();
        other.write_all(b"val").unwrap();
        one.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"value");
        other.write_all(b"ue").unwrap();
        other.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"value");
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        let ordinary = fs::metadata(&theirs).unwrap().permissions();
        assert_eq!(fs::metadata(&path).unwrap().permissions(), ordinary);
    }

    #[test]
    fn a_file_that_cannot_get_its_name_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        let sink = delivery(false, Some(&path)).open().unwrap();
        fs::create_dir(&path).unwrap();
        let failure = format!("{:?}", sink.finish().unwrap_err());
        assert!(failure.contains("cannot write") && failure.contains("/value"), "{failure}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
