//! Where a value goes: to standard output, or to a file that is there only when it is whole.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::FalseyValueParser;
use protocol::job::Encoding;

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
        Ok(match &self.out {
            None => Sink::Stdout(io::stdout()),
            Some(path) => Sink::File(WholeFile::create(path)?),
        })
    }
}

/// What a value is written to.
pub enum Sink {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file.
    File(WholeFile),
}

impl Sink {
    /// Says that all was written.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(_) => Ok(()),
            Self::File(file) => file.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Stdout(output) => output.write(bytes),
            Sink::File(file) => file.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Stdout(output) => output.flush(),
            Sink::File(file) => file.file.flush(),
        }
    }
}

/// A file that appears under its name only once it is whole.
pub struct WholeFile {
    file: File,
    path: PathBuf,
    /// Where it stands meanwhile; nowhere else if it is a device or a pipe, or is whole.
    partial: Option<PathBuf>,
}

impl WholeFile {
    /// Begins to write a file.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        // A device or a pipe is written to as it is.
        let is_special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let partial = (!is_special).then(|| beside(path));
        match File::create(partial.as_deref().unwrap_or(path)) {
            Ok(file) => Ok(Self { file, path: path.to_owned(), partial }),
            Err(error) => Err(cannot_write(path, &error)),
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        match self.partial.take() {
            Some(partial) => {
                fs::rename(partial, &self.path).map_err(|error| cannot_write(&self.path, &error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // What is not whole is of no use; that it may stay is no second failure.
            fs::remove_file(partial).ok();
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
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
}
