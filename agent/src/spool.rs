//! Outcomes on disk, for as long as no server has accepted them.
//!
//! ```text
//! SPOOL/lock                  held while an agent makes its folder or looks for those of dead ones
//! SPOOL/agent-ID/lock         held while the agent lives
//! SPOOL/agent-ID/N.outcomes   a segment: records of finished elements, in the order of finishing
//! ```
//!
//! An agent whose outcomes are accepted promptly never writes here: its folder is made with the
//! first outcome that has to wait. A segment is removed when all in it is settled. What a dead
//! agent leaves, the next one on the machine delivers ([`crate::inherit`]).

pub mod record;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use protocol::agent::Piece;
use protocol::{AgentId, DatabaseId, LeaseId};
use serde::{Deserialize, Serialize};

use crate::parcel::Parcel;
use crate::scratch::{FOLDER_PREFIX, lock, make_private};
use crate::trees;

/// Bytes at which a segment is full.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How segments end.
pub const SEGMENT_ENDING: &str = ".outcomes";

/// The first record of a segment.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Who holds the leases.
    pub agent: AgentId,
    /// Whose leases these are; `None`: the server did not say.
    pub database: Option<DatabaseId>,
}

/// Every other record; its body is the parcel's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Counts the agent's parcels.
    pub number: u64,
    /// [`Parcel::may_end_job`].
    pub may_end_job: bool,
    /// The piece.
    pub piece: Piece,
}

impl Kept {
    /// The parcel that was kept.
    pub fn parcel(self, body: Vec<u8>) -> Parcel {
        Parcel { piece: self.piece, body: body.into(), may_end_job: self.may_end_job }
    }
}

/// Where a parcel is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: u64,
    /// Where its record begins.
    pub from: u64,
    /// Where the next one does.
    pub to: u64,
}

/// Neighbouring records that are on disk only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The segment.
    pub segment: u64,
    /// Where the first begins.
    pub from: u64,
    /// Where the last ends.
    pub to: u64,
    /// How many records there are.
    pub records: usize,
    /// How many outcomes of each lease.
    pub counts: BTreeMap<LeaseId, usize>,
}

/// Where an agent's outcomes are kept.
#[derive(Clone, Debug)]
pub struct SpoolFolder {
    parent: PathBuf,
    agent: AgentId,
}

impl SpoolFolder {
    /// The folder of `agent` below `parent`, which is there already.
    pub fn new(parent: PathBuf, agent: AgentId) -> Self {
        Self { parent, agent }
    }

    /// The folder that all agents of the machine share.
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// Where it is, once something is kept there.
    pub fn path(&self) -> PathBuf {
        self.parent.join(format!("{FOLDER_PREFIX}{}", self.agent))
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path().join(format!("{number:08}{SEGMENT_ENDING}"))
    }

    /// Reads the first records of a stretch, about `most` bytes, and takes them out of it.
    ///
    /// # Errors
    /// When records that were written cannot be read.
    pub fn read(
        &self,
        stretch: &mut Stretch,
        most: usize,
    ) -> io::Result<Vec<(u64, Place, Parcel)>> {
        let mut reader = record::Reader::open(&self.segment(stretch.segment), stretch.from)?;
        let (mut read, mut size) = (Vec::new(), 0);
        while stretch.from < stretch.to && (size < most || read.is_empty()) {
            let gone = || {
                let text = "what was written there is not there any more";
                io::Error::new(io::ErrorKind::InvalidData, text)
            };
            let (kept, body) = match reader.next::<Kept>().and_then(|kept| kept.ok_or_else(gone)) {
                Ok(kept) => kept,
                // What was read first; then it is tried again.
                Err(_) if !read.is_empty() => break,
                Err(error) => return Err(error),
            };
            let number = kept.number;
            let parcel = kept.parcel(body);
            size += parcel.size();
            let to = reader.position();
            let place = Place { segment: stretch.segment, from: stretch.from, to };
            stretch.from = to;
            stretch.records = stretch.records.saturating_sub(1);
            if let Some(count) = stretch.counts.get_mut(&parcel.piece.lease) {
                *count = count.saturating_sub(parcel.count());
            }
            read.push((number, place, parcel));
        }
        Ok(read)
    }
}

/// What an agent keeps on disk. Its folder is removed when dropped, if nothing in it is wanted.
#[derive(Debug)]
pub struct Spool {
    folder: SpoolFolder,
    /// Held from the first outcome on.
    lock: Option<Flock<File>>,
    /// How many records of each segment are not settled.
    segments: BTreeMap<u64, usize>,
    open: Option<Segment>,
    next: u64,
    segment_bytes: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    length: u64,
    database: Option<DatabaseId>,
}

impl Spool {
    /// A spool that holds nothing yet.
    pub fn new(folder: SpoolFolder) -> Self {
        let segments = BTreeMap::new();
        Self { folder, lock: None, segments, open: None, next: 0, segment_bytes: SEGMENT_BYTES }
    }

    /// Where it is.
    pub fn folder(&self) -> &SpoolFolder {
        &self.folder
    }

    /// How many records are kept.
    pub fn records(&self) -> usize {
        self.segments.values().sum()
    }

    /// Writes parcels of leases of `database`, flushed to the disk: where each is.
    ///
    /// # Errors
    /// When they cannot be written, as on a full disk; then none is kept.
    pub fn keep(
        &mut self,
        parcels: &[(u64, Arc<Parcel>)],
        database: Option<DatabaseId>,
    ) -> io::Result<Vec<(u64, Place)>> {
        if parcels.is_empty() {
            return Ok(Vec::new());
        }
        let mut segment = self.segment_for(database)?;
        match append(&mut segment, parcels) {
            Ok(places) => {
                *self.segments.entry(segment.number).or_default() += places.len();
                self.open = Some(segment);
                Ok(places)
            }
            Err(error) => {
                // What was written of it is given back to the full disk; else another segment is
                // begun, for nothing is read behind a record that is not whole.
                if segment.file.set_len(segment.length).is_ok() {
                    self.open = Some(segment);
                }
                Err(error)
            }
        }
    }

    /// Notes that records are settled, by segment, and removes what is of no use any more.
    pub fn settle(&mut self, settled: BTreeMap<u64, usize>) {
        for (number, records) in settled {
            let Some(left) = self.segments.get_mut(&number) else { continue };
            *left = left.saturating_sub(records);
            if *left > 0 {
                continue;
            }
            self.segments.remove(&number);
            self.open.take_if(|open| open.number == number);
            let path = self.folder.segment(number);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "cannot remove reported outcomes");
            }
        }
    }

    /// The segment to write to: the open one, or a new one.
    fn segment_for(&mut self, database: Option<DatabaseId>) -> io::Result<Segment> {
        let fits =
            |open: &mut Segment| open.length < self.segment_bytes && open.database == database;
        if let Some(open) = self.open.take_if(fits) {
            return Ok(open);
        }
        if self.lock.is_none() {
            self.lock = Some(make_folder(&self.folder)?);
        }
        let number = self.next;
        self.next += 1;
        let path = self.folder.segment(number);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let opening = Opening { agent: self.folder.agent, database };
        let begun = record::write(&mut file, &opening, b"")
            .and_then(|length| sync_folder(&self.folder.path()).map(|()| length));
        match begun {
            Ok(length) => Ok(Segment { number, file, length, database }),
            Err(error) => {
                fs::remove_file(&path).ok();
                Err(error)
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Its folder is there for as long as it is locked.
        if self.lock.is_some() && self.segments.is_empty() {
            remove(&self.folder.path());
        }
    }
}

/// Makes the folder that agents share, and sees whether files can be written there.
///
/// # Errors
/// When they cannot.
pub fn open(parent: &Path) -> io::Result<PathBuf> {
    make_private(parent)?;
    lock(parent, FlockArg::LockExclusive)?;
    parent.canonicalize()
}

fn append(segment: &mut Segment, parcels: &[(u64, Arc<Parcel>)]) -> io::Result<Vec<(u64, Place)>> {
    segment.file.seek(SeekFrom::Start(segment.length))?;
    let mut writer = BufWriter::with_capacity(1 << 20, &segment.file);
    let mut places = Vec::with_capacity(parcels.len());
    let mut from = segment.length;
    for (number, parcel) in parcels {
        let (piece, may_end_job) = (parcel.piece.clone(), parcel.may_end_job);
        let kept = Kept { number: *number, may_end_job, piece };
        let to = from + record::write(&mut writer, &kept, &parcel.body)?;
        places.push((*number, Place { segment: segment.number, from, to }));
        from = to;
    }
    writer.flush()?;
    drop(writer);
    segment.file.sync_data()?;
    segment.length = from;
    Ok(places)
}

/// Makes an agent's folder, locked from the start: whoever looks for dead agents waits meanwhile.
fn make_folder(folder: &SpoolFolder) -> io::Result<Flock<File>> {
    let _turn = lock(&folder.parent, FlockArg::LockExclusive)?;
    make_private(&folder.path())?;
    let held = lock(&folder.path(), FlockArg::LockExclusiveNonblock)?;
    sync_folder(&folder.parent)?;
    Ok(held)
}

/// Makes what was created in a folder outlive the loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a folder of outcomes.
pub fn remove(folder: &Path) {
    if let Err(error) = trees::remove(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove reported outcomes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parcel::tests::finished;

    fn parcels(range: std::ops::Range<u64>) -> Vec<(u64, Arc<Parcel>)> {
        let lease = LeaseId::new();
        let parcel = |n| (n, Arc::new(Parcel::of(finished(lease, n, &["value"]))));
        range.map(parcel).collect()
    }

    fn spool() -> (Spool, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Spool::new(SpoolFolder::new(folder.path().to_owned(), AgentId::new())), folder)
    }

    fn numbers(spool: &Spool, segment: u64) -> Vec<u64> {
        let mut reader = record::Reader::open(&spool.folder.segment(segment), 0).unwrap();
        let (opening, _) = reader.next::<Opening>().unwrap().unwrap();
        assert_eq!(opening.agent, spool.folder.agent);
        std::iter::from_fn(|| reader.next::<Kept>().unwrap()).map(|(kept, _)| kept.number).collect()
    }

    #[test]
    fn a_segment_is_removed_when_all_in_it_is_settled_and_a_full_one_is_followed_by_another() {
        let (mut spool, _folder) = spool();
        spool.segment_bytes = 1;
        for range in [0..2, 2..3] {
            spool.keep(&parcels(range), None).unwrap();
        }
        assert_eq!((numbers(&spool, 0), numbers(&spool, 1)), (vec![0, 1], vec![2]));
        spool.settle(BTreeMap::from([(0, 1)]));
        assert!(spool.folder.segment(0).exists());
        spool.settle(BTreeMap::from([(0, 1), (1, 1)]));
        assert!(!spool.folder.segment(0).exists() && !spool.folder.segment(1).exists());
        spool.keep(&parcels(3..4), None).unwrap();
        assert_eq!(numbers(&spool, 2), [3]);
    }

    #[test]
    fn leases_of_another_database_go_to_another_segment() {
        let (mut spool, _folder) = spool();
        for database in [None, Some(DatabaseId::new())] {
            spool.keep(&parcels(0..1), database).unwrap();
        }
        let mut reader = record::Reader::open(&spool.folder.segment(1), 0).unwrap();
        assert!(reader.next::<Opening>().unwrap().unwrap().0.database.is_some());
    }

    #[test]
    fn after_a_write_that_failed_what_follows_can_be_read() {
        let (mut spool, _folder) = spool();
        spool.keep(&parcels(0..1), None).unwrap();
        // Half a record, as a disk leaves that is full.
        let open = spool.open.as_mut().unwrap();
        open.file.write_all(&[1, 2, 3, 4, 5]).unwrap();
        spool.keep(&parcels(1..2), None).unwrap();
        assert_eq!(numbers(&spool, 0), [0, 1]);
    }

    #[test]
    fn a_disk_that_is_full_is_told_of_and_used_again_when_there_is_room() {
        let (mut spool, _folder) = spool();
        spool.keep(&parcels(0..1), None).unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        spool.open.as_mut().unwrap().file = full;
        assert!(spool.keep(&parcels(1..2), None).is_err());
        assert_eq!(spool.records(), 1);
        spool.keep(&parcels(2..3), None).unwrap();
        assert_eq!((numbers(&spool, 0), numbers(&spool, 1)), (vec![0], vec![2]));
    }

    #[test]
    fn a_folder_is_nobodys_once_its_agent_is_gone_and_is_left_while_it_is_wanted() {
        let (mut spool, folder) = spool();
        spool.keep(&parcels(0..1), None).unwrap();
        let path = spool.folder.path();
        assert!(lock(&path, FlockArg::LockExclusiveNonblock).is_err());
        drop(spool);
        assert!(lock(&path, FlockArg::LockExclusiveNonblock).is_ok());
        assert_eq!(open(folder.path()).unwrap(), folder.path().canonicalize().unwrap());
    }
}
