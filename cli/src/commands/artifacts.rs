//! `farrow artifacts`: the files that a job's elements have left behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use protocol::artifact::{Artifact, is_name};
use protocol::job::Outcome;
use protocol::{JobId, size};
use serde::Serialize;

use super::blobs;
use crate::arguments::job_id;
use crate::client::{CallError, Client, OutcomeQuery};
use crate::connection::Connection;
use crate::delivery::{Sink, WholeFile};
use crate::digest::Digest;
use crate::failure::{Exit, Failure};
use crate::human;
use crate::output::OutputArgs;
use crate::persistence::{Patience, persist};
use crate::screen::Screen;
use crate::wait::unless_interrupted;

const EXAMPLES: &str = "\
Examples:
  farrow map --runtime command --artifacts -- sh -c 'gzip -c {} > $FARROW_ARTIFACTS/{}.gz' ::: *.csv
  farrow artifacts 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42
  farrow artifacts 019aab1e-7c3f-7a51-9d7e-5b2f0c6a1d42 --to results

Elements of a job that was submitted with --artifacts leave files behind in the folder named by the
variable FARROW_ARTIFACTS. Without --to they are listed; with it each is written to
FOLDER/INDEX/NAME, where INDEX is that of its element, from 0. What is there already and the same is
not fetched again; what is there and different stays, unless --force.
";

/// List or fetch the files that the elements of a job have left behind
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Artifacts {
    /// The job
    #[arg(value_parser = job_id)]
    id: JobId,
    /// Write them to a folder, which is made as needed
    #[arg(long, env = "FARROW_TO", value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Replace files that are there and different
    #[arg(long, requires = "to")]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// A file of an element.
#[derive(Debug, Serialize)]
struct Listed {
    /// The element's index, from 0.
    index: u64,
    #[serde(flatten)]
    artifact: Artifact,
    /// Where it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Whether it had to be fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<bool>,
}

impl Artifacts {
    /// Lists them, or fetches them.
    pub async fn run(self) -> Result<(), Failure> {
        let client = Client::new(&self.connection)?;
        let screen = Screen::plain();
        let mut listed = Vec::new();
        let reading = persist(&screen, Patience::Brief, async || {
            listed = list(&client, self.id).await?;
            Ok(())
        });
        reading.await?;
        if let Some(folder) = &self.to {
            let fetching = self.fetch_all(&client, &screen, folder, &mut listed);
            unless_interrupted(fetching, &screen, "give the command again for the rest").await?;
        }
        if listed.is_empty() && !self.output.json {
            screen.note("no element has left files behind, or none of them has ended yet");
        }
        self.output.print(&listed, |listed| listed.iter().map(line).collect())
    }

    async fn fetch_all(
        &self,
        client: &Client,
        screen: &Screen,
        folder: &Path,
        listed: &mut [Listed],
    ) -> Result<(), Failure> {
        // What is in the way is told before anything is fetched.
        for one in &mut *listed {
            let file = place(folder, one.index, &one.artifact.name)?;
            let new = !is_there(&file, &one.artifact)?;
            if new && !self.force && fs::symlink_metadata(&file).is_ok() {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("{} is there already, and is another file", file.display()),
                )
                .remedy("give --force to replace such files, or another folder by --to"));
            }
            (one.file, one.new) = (Some(file), Some(new));
        }
        for one in listed {
            if let (Some(file), Some(true)) = (&one.file, one.new) {
                fetch(client, screen, &one.artifact, file).await?;
            }
        }
        Ok(())
    }
}

async fn list(client: &Client, job: JobId) -> Result<Vec<Listed>, CallError> {
    let mut listed = Vec::new();
    let mut lines = client.outcomes(job, OutcomeQuery::default()).await?;
    while let Some(line) = lines.next().await? {
        let Ok(Outcome { index, artifacts, .. }) = serde_json::from_str(&line) else { continue };
        let of_element = artifacts.into_iter();
        listed.extend(of_element.map(|artifact| Listed { index, artifact, file: None, new: None }));
    }
    Ok(listed)
}

/// Where a file goes. Its name was chosen by code of the job, and checked by an agent and a server: what
/// they missed stops here.
fn place(folder: &Path, index: u64, name: &str) -> Result<PathBuf, Failure> {
    match is_name(name) {
        true => Ok(folder.join(index.to_string()).join(name)),
        false => Err(Failure::new(
            Exit::Failed,
            format!("element {index} has left a file {name:?}, which would lead out of the folder"),
        )
        .remedy("nothing was written; `farrow blobs get` fetches a file by its digest")),
    }
}

/// Whether a file is there and is this one.
fn is_there(file: &Path, artifact: &Artifact) -> Result<bool, Failure> {
    let same_size = fs::symlink_metadata(file)
        .is_ok_and(|there| there.is_file() && there.len() == artifact.bytes);
    if !same_size {
        return Ok(false);
    }
    let read = File::open(file).and_then(Digest::of_reader);
    let (digest, _) = read.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot read {}: {error}", file.display()))
    })?;
    Ok(digest.to_string() == artifact.digest)
}

async fn fetch(
    client: &Client,
    screen: &Screen,
    artifact: &Artifact,
    file: &Path,
) -> Result<(), Failure> {
    let digest: Digest = artifact.digest.parse().map_err(|why| {
        Failure::new(Exit::Failed, format!("the digest of {:?} is {why}", artifact.name))
    })?;
    make_folder(file).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot make the folder of {}: {error}", file.display()))
    })?;
    blobs::fetch(client, screen, &digest, || WholeFile::create(file).map(Sink::File)).await
}

fn make_folder(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

fn line(listed: &Listed) -> String {
    let Listed { index, artifact, file, new } = listed;
    let size = size::of(artifact.bytes);
    match file {
        Some(file) => {
            let was_there = if *new == Some(true) { "" } else { ", was there" };
            format!("{} ({size}{was_there})\n", file.display())
        }
        None => format!("{index:<10}  {size:>10}  {}\n", artifact.name),
    }
}

/// A few names of artifacts, in one line.
pub fn named(artifacts: &[Artifact]) -> String {
    const SHOWN: usize = 3;
    let names = artifacts.iter().take(SHOWN).map(|artifact| artifact.name.as_str());
    let shown = names.collect::<Vec<_>>().join(", ");
    match artifacts.len().saturating_sub(SHOWN) {
        0 => shown,
        _ => format!("{}: {shown}, …", human::count(artifacts.len() as u64, "file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(name: &str, bytes: &[u8]) -> Artifact {
        let digest = Digest::of_bytes(bytes).to_string();
        Artifact { name: name.to_owned(), digest, bytes: bytes.len() as u64 }
    }

    #[test]
    fn no_file_leads_out_of_its_folder() {
        let folder = Path::new("to");
        assert_eq!(place(folder, 7, "a/b").unwrap(), Path::new("to/7/a/b"));
        for name in ["../b", "/etc/passwd", "a/../../b", ""] {
            assert!(place(folder, 7, name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_there_if_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("link"));
        let wanted = artifact("a", b"abc");
        assert!(!is_there(&file, &wanted).unwrap());
        for (bytes, there) in [(b"abc".as_slice(), true), (b"abd", false), (b"abcd", false)] {
            fs::write(&file, bytes).unwrap();
            assert_eq!(is_there(&file, &wanted).unwrap(), there);
        }
        fs::write(&file, b"abc").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(!is_there(&link, &wanted).unwrap());
    }

    #[test]
    fn many_files_are_counted_and_few_named() {
        let artifacts: Vec<_> = (0..4).map(|n| artifact(&format!("{n}.png"), b"")).collect();
        assert_eq!(named(&artifacts[..2]), "0.png, 1.png");
        assert_eq!(named(&artifacts), "4 files: 0.png, 1.png, 2.png, …");
    }
}
