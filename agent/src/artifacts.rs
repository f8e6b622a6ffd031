//! Artifacts: the files that an element has left in its folder. Each becomes a blob before the outcome
//! that lists it is reported.
//!
//! What is read is what is below the folder, however quickly code of jobs changes it meanwhile: every
//! step into it is by its own descriptor and follows no link. A path that is looked up as a whole could
//! be led elsewhere, to what the agent may read and no worker may, such as `/proc/self/environ`.

mod folder;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use protocol::Problem;
use protocol::agent::Condition;
use protocol::artifact::{Artifact, MOST_ARTIFACTS};
use protocol::job::ElementError;
use protocol::size;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use self::folder::Found;
use crate::blobs::{self, Blobs};
use crate::confinement::Identity;
use crate::report::TOO_LARGE;

/// How often a file is read that changes while it is sent.
const MOST_READINGS: usize = 3;
/// Names of what is left out that are told.
const TOLD: usize = 10;

/// Where an element's artifacts are, and how much they may be.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// Who writes there.
    pub identity: Identity,
    /// Bytes of all files together at the most.
    pub most_bytes: u64,
}

/// What became of an element's files.
#[derive(Debug, Default)]
pub struct Collected {
    /// Those that are blobs now, by their names.
    pub artifacts: Vec<Artifact>,
    /// Which were left out, and why, if any were.
    pub left_out: Option<Condition>,
}

/// A file as it was read.
struct Reading {
    file: File,
    digest: String,
    bytes: u64,
}

/// What stands in the folder and is no artifact.
#[derive(Debug, Default)]
struct LeftOut {
    told: Vec<String>,
    n: usize,
}

/// Puts every regular file of an element's folder as a blob.
///
/// # Errors
/// When they are too many or too large, or the server will not have one: then none is an artifact.
pub async fn collect(place: Place, blobs: &Blobs) -> Result<Collected, ElementError> {
    let Found { mut files, mut left_out } = run(&place, folder::find).await.map_err(|error| {
        not_kept(format!("the folder FARROW_ARTIFACTS cannot be read: {error}"))
    })?;
    if files.len() > MOST_ARTIFACTS {
        return Err(too_large(format!(
            "the element left more than {MOST_ARTIFACTS} files in FARROW_ARTIFACTS, which is the most \
             that are kept: pack them into one, as by tar"
        )));
    }
    check_sum(&place, files.iter().map(|(_, bytes)| bytes).sum())?;
    files.sort();
    let (mut artifacts, mut sum) = (Vec::with_capacity(files.len()), 0);
    for (name, _) in files {
        let left = place.most_bytes.saturating_sub(sum);
        match keep(&place, &name, left, blobs).await? {
            Ok(artifact) => {
                sum += artifact.bytes;
                artifacts.push(artifact);
            }
            Err(why) => left_out.add(&name, &why),
        }
    }
    Ok(Collected { artifacts, left_out: left_out.condition() })
}

/// Puts a file as a blob; or says why it is left out.
async fn keep(
    place: &Place,
    name: &str,
    left: u64,
    blobs: &Blobs,
) -> Result<Result<Artifact, String>, ElementError> {
    for _ in 0..MOST_READINGS {
        let wanted = name.to_owned();
        let reading = run(place, move |folder| {
            folder::open(folder, &wanted).and_then(|file| read(file, left))
        });
        let Reading { file, digest, bytes } = match reading.await {
            Ok(reading) => reading,
            Err(error) => return Ok(Err(error.to_string())),
        };
        check_sum(place, place.most_bytes - left + bytes)?;
        match blobs.keep(&digest, Arc::new(file), bytes).await {
            Ok(()) => return Ok(Ok(Artifact { name: name.to_owned(), digest, bytes })),
            // What was sent is not what was read before.
            Err(Problem { status: 400 | 422, .. }) => {}
            Err(problem) if problem.status == TOO_LARGE => {
                let detail = problem.detail;
                return Err(too_large(format!("the artifact `{name}` is too large: {detail}")));
            }
            Err(problem) => {
                return Err(not_kept(format!(
                    "the server does not take the artifact `{name}`: {problem}"
                )));
            }
        }
    }
    Ok(Err("it changes while it is read".to_owned()))
}

/// Reads a file to its end, but not much beyond `most` bytes.
fn read(mut file: File, most: u64) -> io::Result<Reading> {
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    let mut part = vec![0; 1 << 17];
    while bytes <= most {
        let n = match file.read(&mut part) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        digest.update(&part[..n]);
        bytes += n as u64;
    }
    Ok(Reading { file, digest: blobs::name_of(digest), bytes })
}

/// Does something with the folder, with the rights of who writes there, without holding up others.
async fn run<T: Send + 'static>(
    place: &Place,
    work: impl FnOnce(&std::path::Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = place.clone();
    let done = spawn_blocking(move || place.identity.act(|| work(&place.folder))?);
    done.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn check_sum(place: &Place, sum: u64) -> Result<(), ElementError> {
    if sum <= place.most_bytes {
        return Ok(());
    }
    Err(too_large(format!(
        "the files in FARROW_ARTIFACTS are larger than the {} that the agent keeps of an element \
         (--max-artifacts)",
        size::of(place.most_bytes)
    )))
}

fn too_large(message: String) -> ElementError {
    ElementError { kind: "ArtifactsTooLarge".to_owned(), ..not_kept(message) }
}

fn not_kept(message: String) -> ElementError {
    ElementError {
        kind: "ArtifactsNotKept".to_owned(),
        message,
        call: None,
        traceback: Vec::new(),
        fatal: false,
    }
}

/// A remark of the agent's on an element's artifacts.
pub fn remark(message: String) -> Condition {
    Condition { kind: "ArtifactsLeftOut".to_owned(), message, call: None }
}

impl LeftOut {
    fn add(&mut self, name: &str, why: &str) {
        self.n += 1;
        if self.told.len() < TOLD {
            let name: String = name.chars().take(200).collect();
            self.told.push(format!("`{name}` ({why})"));
        }
    }

    fn condition(self) -> Option<Condition> {
        let rest = self.n.checked_sub(self.told.len()).filter(|rest| *rest > 0);
        let rest = rest.map(|rest| format!("and {rest} more"));
        let told: Vec<String> = self.told.into_iter().chain(rest).collect();
        (!told.is_empty()).then(|| remark(format!("no artifacts: {}", told.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_as_far_as_there_is_room() {
        assert_eq!(LeftOut::default().condition(), None);
        let mut left_out = LeftOut::default();
        left_out.add("a", "a symbolic link");
        let told = left_out.condition().unwrap().message;
        assert_eq!(told, "no artifacts: `a` (a symbolic link)");
        let mut left_out = LeftOut::default();
        (0..TOLD + 2).for_each(|n| left_out.add(&n.to_string(), "no"));
        let told = left_out.condition().unwrap().message;
        assert!(told.ends_with("`9` (no), and 2 more"), "{told}");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read_to_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        io::copy(&mut io::repeat(0).take(1 << 20), &mut file).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let read = read(file, 1).unwrap();
        assert!(1 < read.bytes && read.bytes < 1 << 20);
    }
}
